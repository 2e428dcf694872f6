# shellcheck shell=bash disable=SC2034
# What the node is made of and where it lives: versions, folders, addresses.

ROOT=$(cd "$NODE/../../.." && pwd)

# What sudo and cron leave out.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin"

KUBERNETES_VERSION=1.34.4
COREDNS_VERSION=1.14.5
KUBERNETES_COMMANDS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)

# The checkout's disposable state, and the cache that outlives it.
STATE="$ROOT/target/cluster"
LOGS="$STATE/logs"
PKI="$STATE/pki"
CONFIGURATION="$STATE/configuration"
CACHE="${LINNET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/linnet}"
# Sockets need short paths; one cluster a machine, so one fixed folder.
RUN=/run/linnet-cluster

# The network namespace. One end of the veth pair stays on the machine, so that
# kubectl, linnet and tests reach the node, its pods and its services from there.
NETNS=linnet-cluster
HOST_LINK=linnet-host
NODE_LINK=linnet-node
HOST_ADDRESS=198.18.0.254
NODE_ADDRESS=198.18.0.1
NODE_NAME=linnet-node

# From the benchmarking range (RFC 2544), which no real network routes.
NODE_CIDR_BITS=24
POD_CIDR=198.18.64.0/18
SERVICE_CIDR=198.19.0.0/20
API_SERVICE_ADDRESS=198.19.0.1
DNS_SERVICE_ADDRESS=198.19.0.10
CLUSTER_DOMAIN=cluster.local
API_PORT=6443

KUBECONFIG_FILE="$STATE/kubeconfig"
CONTAINERD_SOCKET="$RUN/containerd.sock"
PAUSE_IMAGE=linnet.test/pause:1
BUSYBOX_IMAGE=linnet.test/busybox:1
# A name that pods can look up for the machine outside of the cluster.
HOST_NAME=machine.linnet.test
