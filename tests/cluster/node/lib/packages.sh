# shellcheck shell=bash
# Debian packages: each is installed only if the file that is wanted of it is missing.

declare -A package_of=(
    [/usr/bin/etcd]=etcd-server
    [/usr/bin/containerd]=containerd
    [/usr/sbin/runc]=runc
    [/usr/lib/cni/bridge]=containernetworking-plugins
    [/usr/sbin/iptables]=iptables
    [/usr/sbin/conntrack]=conntrack
    [/bin/busybox]=busybox-static
    [/sbin/ip]=iproute2
    [/sbin/sysctl]=procps
    [/usr/bin/openssl]=openssl
    [/usr/bin/python3]=python3
    [/usr/bin/nsenter]=util-linux
)

install_packages() {
    local file missing=()
    for file in "${!package_of[@]}"; do
        [[ -e $file ]] || missing+=("${package_of[$file]}")
    done
    if ((${#missing[@]} > 0)); then
        command -v apt-get >/dev/null ||
            fail "this machine has no apt-get; install the equivalents of: ${missing[*]}"
        say "installing ${missing[*]}"
        apt_get update
        without_services apt_get install --no-install-recommends "${missing[@]}"
    fi
    for file in "${!package_of[@]}"; do
        [[ -e $file ]] || fail "$file is missing even though package ${package_of[$file]} is installed"
    done
    # The dynamic busybox can't run in an image of its own.
    if ldd /bin/busybox >/dev/null 2>&1; then
        say "installing busybox-static in place of busybox"
        apt_get install --no-install-recommends busybox-static
    fi
}

# Packages would start etcd and containerd as services of the machine; the node
# runs its own.
without_services() (
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    "$@"
)

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -q "$@" >>"$LOGS/apt-get" 2>&1 ||
        fail "apt-get $* failed; see $LOGS/apt-get"
}
