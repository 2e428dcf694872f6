# shellcheck shell=bash
# Progress on standard error, and failures that say what to do.

say() {
    printf 'cluster: %s\n' "$*" >&2
}

fail() {
    printf 'cluster: error: %s\n' "$*" >&2
    exit 1
}

require_root() {
    [[ $EUID -eq 0 ]] || fail "root is needed for namespaces, mounts and cgroups; run it by sudo -E or as root"
}
