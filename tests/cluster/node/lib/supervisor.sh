# shellcheck shell=bash
# The one process that the node hangs on: the first of its process namespace.
# When it ends, the kernel ends whatever runs in there, container shims included,
# before that process is gone; the node's mounts go with the last of them.

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
    [[ $(started_at "$pid") == "$started" ]]
} 2>/dev/null

supervisor_start() {
    local parent pid
    setsid nsenter --net="/run/netns/$NETNS" \
        unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        "$NODE/supervise" </dev/null >"$LOGS/supervise" 2>&1 9>&- &
    parent=$!
    disown
    # `unshare` forks the namespace's first process, or fails and says why.
    until pid=$(pgrep --parent "$parent"); do
        [[ -e /proc/$parent ]] || fail "no namespaces for the node: $(<"$LOGS/supervise")"
        sleep 0.05
    done
    printf '%s %s\n' "$pid" "$(started_at "$pid")" >"$RUN/supervisor"
}

# All state is thrown away, so nothing is asked to end in order.
supervisor_stop() {
    local pid
    supervisor_alive || return 0
    read -r pid _ <"$RUN/supervisor"
    kill -KILL "$pid"
    wait_gone 60 "the node's first process $pid" supervisor_alive
}

# For wait_for: nothing is left to wait for when the node has ended.
require_running() {
    supervisor_alive && return
    tail -n 8 "$LOGS/supervise" >&2
    fail "the node ended while it was started; see $LOGS"
}
