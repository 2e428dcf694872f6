# shellcheck shell=bash
# Keeps the node's traces inside its mount namespace: the fixed paths that its
# parts insist on are in-memory here, the machine's own are not touched.

isolate() {
    local path
    for path in /run/netns /run/containerd /var/lib/kubelet /var/log/containers /var/lib/cni; do
        mkdir -p "$path"
        mount -t tmpfs -o mode=755 tmpfs "$path"
    done
    # The kubelet sets these for the whole machine; let it set copies.
    mkdir -p "$STATE/sysctl"
    for path in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
        kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
        if [[ -e /proc/sys/$path ]]; then
            cat "/proc/sys/$path" >"$STATE/sysctl/${path//\//.}"
            mount --bind "$STATE/sysctl/${path//\//.}" "/proc/sys/$path"
        fi
    done
}
