# shellcheck shell=bash
# The components' configuration files, written anew for each cluster.

configuration_make() {
    mkdir -p "$CONFIGURATION/cni"
    kubeconfig_write admin "$KUBECONFIG_FILE"
    # Under sudo, it is for whoever asked.
    chown "${SUDO_UID:-0}:${SUDO_GID:-0}" "$KUBECONFIG_FILE" "$ROOT/target"
    kubeconfig_write "system:node:$NODE_NAME" "$CONFIGURATION/kubelet.kubeconfig"
    kubeconfig_write system:kube-controller-manager "$CONFIGURATION/controller-manager.kubeconfig"
    kubeconfig_write system:kube-scheduler "$CONFIGURATION/scheduler.kubeconfig"
    kubeconfig_write system:kube-proxy "$CONFIGURATION/proxy.kubeconfig"
    kubeconfig_write coredns "$CONFIGURATION/coredns.kubeconfig"
    containerd_configuration >"$CONFIGURATION/containerd.toml"
    cni_configuration >"$CONFIGURATION/cni/10-linnet.conflist"
    kubelet_configuration >"$CONFIGURATION/kubelet.yaml"
    proxy_configuration >"$CONFIGURATION/proxy.yaml"
    coredns_configuration >"$CONFIGURATION/Corefile"
    dns_objects >"$CONFIGURATION/dns.yaml"
    audit_policy >"$CONFIGURATION/audit-policy.yaml"
    printf '%s %s\n' "$HOST_ADDRESS" "$HOST_NAME" >"$STATE/hosts"
    : >"$CONFIGURATION/resolv.conf"
}

# Layers by overlayfs where the checkout's disk allows it, else by copies.
snapshotter() {
    local probe="$STATE/overlay-probe" kind=native
    mkdir -p "$probe"/{lower,upper,work,merged}
    if mount -t overlay overlay -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" \
        "$probe/merged" 2>/dev/null; then
        umount "$probe/merged"
        kind=overlayfs
    fi
    rm -rf --one-file-system "$probe"
    printf '%s\n' "$kind"
}

# Without CAP_SYS_RESOURCE, runc can't lower oom_score_adj and dies: restricted.
containerd_configuration() {
    cat <<EOF
version = 2
root = "$STATE/containerd"
state = "$RUN/containerd"
[grpc]
  address = "$CONTAINERD_SOCKET"
[plugins."io.containerd.internal.v1.opt"]
  path = "$STATE/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$CONFIGURATION/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$(snapshotter)"
EOF
}

cni_configuration() {
    cat <<EOF
{
  "cniVersion": "1.0.0",
  "name": "linnet",
  "plugins": [
    {
      "type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "$RUN/addresses",
        "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
EOF
}

kubelet_configuration() {
    cat <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
cgroupDriver: cgroupfs
# Mounted ConfigMaps follow their source within this, not within a minute.
syncFrequency: 10s
failCgroupV1: false
failSwapOn: false
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $PKI/ca.crt}
authorization: {mode: Webhook}
clusterDNS: [$DNS_SERVICE_ADDRESS]
clusterDomain: $CLUSTER_DOMAIN
resolvConf: $CONFIGURATION/resolv.conf
podLogsDir: $STATE/pods
maxPods: 250
serializeImagePulls: false
# Imported images can't be pulled again: never collect them.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
EOF
}

# Conntrack's sysctls belong to the machine and may be read-only: left alone.
proxy_configuration() {
    cat <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $POD_CIDR
hostnameOverride: $NODE_NAME
clientConnection: {kubeconfig: $CONFIGURATION/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOF
}

# Names outside of the cluster are answered from target/cluster/hosts alone.
coredns_configuration() {
    cat <<EOF
.:53 {
    bind $NODE_ADDRESS
    errors
    ready $NODE_ADDRESS:8181
    hosts $STATE/hosts {
        ttl 5
        fallthrough
    }
    kubernetes $CLUSTER_DOMAIN in-addr.arpa ip6.arpa {
        kubeconfig $CONFIGURATION/coredns.kubeconfig
        ttl 5
    }
    cache 5
    loadbalance
}
EOF
}

# CoreDNS is a process on the node, so its Service has no selector.
dns_objects() {
    cat <<EOF
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: $DNS_SERVICE_ADDRESS
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-node, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints:
- addresses: [$NODE_ADDRESS]
  conditions: {ready: true}
ports:
- {name: dns, port: 53, protocol: UDP}
- {name: dns-tcp, port: 53, protocol: TCP}
EOF
}

# Every call of the mesh's own services, and nobody else's: `just rights` holds
# them against what their roles allow.
audit_policy() {
    cat <<EOF
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:linnet-system"]
- level: None
EOF
}
