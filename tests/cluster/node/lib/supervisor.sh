# shellcheck shell=bash
# The one process of the machine that the node hangs on: `unshare`, parent of the
# node's process namespace. When it ends, the kernel ends whatever runs in there,
# container shims included, and its mounts go with the last of them.

# started_at PID: when the process was started, in ticks since boot; with it a
# recorded pid can't be taken for another process that got the number later.
started_at() {
    local stat
    stat=$(<"/proc/$1/stat") || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- $stat
    printf '%s\n' "${20}"
}

supervisor_alive() {
    local pid started
    read -r pid started <"$RUN/supervisor" || return 1
    [[ $(started_at "$pid" 2>/dev/null) == "$started" ]]
} 2>/dev/null

supervisor_start() {
    local pid
    setsid nsenter --net="/run/netns/$NETNS" \
        unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        "$NODE/supervise" </dev/null >"$LOGS/supervise" 2>&1 9>&- &
    pid=$!
    disown
    printf '%s %s\n' "$pid" "$(started_at "$pid")" >"$RUN/supervisor"
}

supervisor_stop() {
    local pid
    supervisor_alive || return 0
    read -r pid _ <"$RUN/supervisor"
    kill -TERM "$pid"
    wait_gone 30 "the node's process $pid" supervisor_alive
    wait_gone 30 "a process of the node" node_processes
}

# The processes whose network namespace is the node's: all that the node started,
# except for the pods', which end with the same process namespace.
node_processes() {
    [[ -e /run/netns/$NETNS ]] && [[ -n $(ip netns pids "$NETNS") ]]
}

# For wait_for: nothing is left to wait for when the node has ended.
require_running() {
    supervisor_alive && return
    tail -n 8 "$LOGS/supervise" >&2
    fail "the node ended while it was started; see $LOGS"
}
