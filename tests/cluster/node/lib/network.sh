# shellcheck shell=bash
# The network namespace that the whole cluster lives in, and the machine's way into it.

network_up() {
    ip netns add "$NETNS" || fail "no network namespace can be made; CAP_SYS_ADMIN on the machine is needed"
    ip link add "$HOST_LINK" type veth peer name "$NODE_LINK" netns "$NETNS" ||
        fail "no veth pair can be made; the kernel needs the veth module"
    ip addr add "$HOST_ADDRESS/$NODE_CIDR_BITS" dev "$HOST_LINK"
    ip link set "$HOST_LINK" up
    ip -n "$NETNS" addr add "$NODE_ADDRESS/$NODE_CIDR_BITS" dev "$NODE_LINK"
    ip -n "$NETNS" link set lo up
    ip -n "$NETNS" link set "$NODE_LINK" up
    # The kubelet wants a default route; the machine does not forward what it gets by it.
    ip -n "$NETNS" route add default via "$HOST_ADDRESS"
    ip route add "$POD_CIDR" via "$NODE_ADDRESS"
    ip route add "$SERVICE_CIDR" via "$NODE_ADDRESS"
    bridge_filter_up
    nsenter --net="/run/netns/$NETNS" sysctl -q -w \
        net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1 net.bridge.bridge-nf-call-iptables=1
}

bridge_filter_up() {
    [[ -d /proc/sys/net/bridge ]] || modprobe br_netfilter 2>/dev/null ||
        fail "the kernel has no br_netfilter; Services would not work between pods of one node"
}

# Deleting the namespace deletes both ends of the pair, and the routes with them.
network_down() {
    if [[ -e /run/netns/$NETNS ]]; then
        ip netns delete "$NETNS"
    fi
    # The kernel takes a namespace down in its own time.
    wait_gone 20 "network link $HOST_LINK" link_exists
}

link_exists() {
    ip link show "$HOST_LINK"
}
