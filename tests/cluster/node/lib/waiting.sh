# shellcheck shell=bash
# Waiting for a condition, with an end to it.

# wait_for SECONDS WHAT COMMAND...: until the command succeeds. The caller's
# `require_running` gives up earlier, when there is nothing left to wait for.
wait_for() {
    local seconds=$1 what=$2 deadline
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        require_running
        ((SECONDS < deadline)) || fail "$what: not so after $seconds s; see $LOGS"
        sleep 0.2
    done
}

# wait_gone SECONDS WHAT COMMAND...: until the command fails.
wait_gone() {
    local seconds=$1 what=$2 deadline
    shift 2
    deadline=$((SECONDS + seconds))
    while "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "$what is still there after $seconds s"
        sleep 0.1
    done
}
