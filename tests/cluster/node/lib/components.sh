# shellcheck shell=bash
# The commands of the node's components, in the order they start.

storage_start() {
    start etcd etcd --name node --data-dir "$STATE/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster node=http://127.0.0.1:2380
    start containerd containerd --config "$CONFIGURATION/containerd.toml"
}

etcd_answers() {
    (exec 3<>/dev/tcp/127.0.0.1/2379)
}

api_start() {
    start kube-apiserver "$STATE/bin/kube-apiserver" \
        --etcd-servers=http://127.0.0.1:2379 \
        --advertise-address="$NODE_ADDRESS" --secure-port="$API_PORT" \
        --service-cluster-ip-range="$SERVICE_CIDR" \
        --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
        --client-ca-file="$PKI/ca.crt" --token-auth-file="$PKI/tokens.csv" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
        --service-account-issuer="https://kubernetes.default.svc.$CLUSTER_DOMAIN" \
        --service-account-key-file="$PKI/service-account.key" \
        --service-account-signing-key-file="$PKI/service-account.key" \
        --kubelet-preferred-address-types=InternalIP \
        --kubelet-client-certificate="$PKI/kubelet-client.crt" --kubelet-client-key="$PKI/kubelet-client.key" \
        --audit-policy-file="$CONFIGURATION/audit-policy.yaml" --audit-log-path="$LOGS/audit.json" \
        --allow-privileged=true --profiling=false
}

api_ready() {
    "$STATE/bin/kubectl" --kubeconfig "$KUBECONFIG_FILE" --request-timeout=2s get --raw /readyz
}

# What gives up soon when there is no API server to talk to.
clients_start() {
    local bin="$STATE/bin"
    start kube-controller-manager "$bin/kube-controller-manager" \
        --kubeconfig="$CONFIGURATION/controller-manager.kubeconfig" --leader-elect=false \
        --use-service-account-credentials --service-account-private-key-file="$PKI/service-account.key" \
        --root-ca-file="$PKI/ca.crt" \
        --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
        --bind-address=127.0.0.1 --profiling=false
    start kube-scheduler "$bin/kube-scheduler" \
        --kubeconfig="$CONFIGURATION/scheduler.kubeconfig" --leader-elect=false \
        --bind-address=127.0.0.1 --profiling=false
    start kubelet "$bin/kubelet" \
        --config="$CONFIGURATION/kubelet.yaml" --kubeconfig="$CONFIGURATION/kubelet.kubeconfig" \
        --root-dir="$STATE/kubelet" --hostname-override="$NODE_NAME" --node-ip="$NODE_ADDRESS"
    start kube-proxy "$bin/kube-proxy" --config="$CONFIGURATION/proxy.yaml"
    start coredns "$bin/coredns" -conf "$CONFIGURATION/Corefile"
}
