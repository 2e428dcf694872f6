# shellcheck shell=bash
# Builds Kubernetes and CoreDNS from their Go modules, once per version, into
# the cache. A build lands under its final name only when it is complete.

go_mod_minimum=1.25

require_go() {
    local version
    command -v go >/dev/null ||
        fail "Go $go_mod_minimum or newer is needed to build Kubernetes; install it (https://go.dev/dl) and put it on PATH"
    version=$(go env GOVERSION)
    version=${version#go}
    [[ $(printf '%s\n%s\n' "$go_mod_minimum" "$version" | sort -V | head -n 1) == "$go_mod_minimum" ]] ||
        fail "Go $version is too old to build Kubernetes; $go_mod_minimum or newer is needed (https://go.dev/dl)"
}

# cache_entry NAME VERSION SOURCE-FOLDER: the cache folder for these sources.
cache_entry() {
    local sum
    sum=$(cd "$3" && cat -- *.mod *.sum *.go | sha256sum | cut -c 1-8)
    printf '%s/%s-%s-%s\n' "$CACHE" "$1" "$2" "$sum"
}

# go_build SOURCE-FOLDER DESTINATION LDFLAGS PACKAGE...
go_build() (
    local source=$1 destination=$2 ldflags=$3 partial="$2.partial"
    shift 3
    rm -rf "$partial"
    mkdir -p "$partial"
    cd "$source" || exit
    GOWORK=off CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w $ldflags" \
        -o "$partial/" "$@"
    mv "$partial" "$destination"
)

build_kubernetes() {
    local source="$NODE/kubernetes" version="k8s.io/component-base/version" command
    local packages=()
    KUBERNETES_BIN=$(cache_entry kubernetes "$KUBERNETES_VERSION" "$source")
    [[ -d $KUBERNETES_BIN ]] && return
    require_go
    say "building Kubernetes $KUBERNETES_VERSION (minutes, once) into $KUBERNETES_BIN"
    for command in "${KUBERNETES_COMMANDS[@]}"; do
        packages+=("k8s.io/kubernetes/cmd/$command")
    done
    go_build "$source" "$KUBERNETES_BIN" \
        "-X $version.gitVersion=v$KUBERNETES_VERSION -X $version.gitMajor=1 -X $version.gitMinor=34" \
        "${packages[@]}"
}

build_coredns() {
    local source="$NODE/coredns"
    COREDNS_BIN=$(cache_entry coredns "$COREDNS_VERSION" "$source")
    [[ -d $COREDNS_BIN ]] && return
    require_go
    say "building CoreDNS $COREDNS_VERSION into $COREDNS_BIN"
    go_build "$source" "$COREDNS_BIN" "" .
}
