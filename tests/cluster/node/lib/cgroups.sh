# shellcheck shell=bash
# The control groups that the kubelet makes for pods, in every hierarchy.

require_cgroups() {
    [[ -w /sys/fs/cgroup ]] || fail "/sys/fs/cgroup is not writable; the kubelet can't make pods' control groups"
    [[ -z $(pod_cgroups) ]] ||
        fail "this machine already has control groups of a kubelet ($(pod_cgroups | head -n 1)): is another node running on it?"
}

pod_cgroups() {
    find /sys/fs/cgroup -maxdepth 2 -type d -name kubepods
}

cgroups_down() {
    local group
    pod_cgroups | while read -r group; do
        find "$group" -depth -type d -exec rmdir {} +
    done
}
