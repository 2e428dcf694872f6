# shellcheck shell=bash
# One cluster a machine, owned by the checkout that brought it up; and one
# command at a time that changes it.

LOCK=/run/linnet-cluster.lock

ownership_take() {
    local owner
    # A command that runs under another one's lock inherits it.
    if [[ ${LINNET_CLUSTER_LOCKED:-} != yes ]]; then
        exec 9>"$LOCK"
        flock --nonblock 9 ||
            fail "another command is bringing the cluster up or down; wait for it"
        export LINNET_CLUSTER_LOCKED=yes
    fi
    # What a checkout left behind that no longer runs is anyone's to remove.
    supervisor_alive || return 0
    owner=$(<"$RUN/owner")
    [[ $owner == "$STATE" ]] ||
        fail "the cluster on this machine belongs to another checkout ($owner); bring it down from there"
}

ownership_record() {
    printf '%s\n' "$STATE" >"$RUN/owner"
}
