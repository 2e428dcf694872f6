# shellcheck shell=bash
# The node's outward state: is it ready, and what its last steps are.

kubectl() {
    "$STATE/bin/kubectl" --kubeconfig "$KUBECONFIG_FILE" --request-timeout=5s "$@"
}

binaries_link() {
    mkdir -p "$STATE/bin"
    ln -sf "$KUBERNETES_BIN"/* "$COREDNS_BIN"/* "$STATE/bin/"
}

node_ready() {
    [[ $(kubectl get node "$NODE_NAME" \
        -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

default_account_exists() {
    kubectl -n default get serviceaccount default
}

# Through the Service's address, so that it proves kube-proxy too.
dns_answers() {
    busybox nslookup "kubernetes.default.svc.$CLUSTER_DOMAIN" "$DNS_SERVICE_ADDRESS"
}

healthy() {
    supervisor_alive && node_ready && dns_answers
} >/dev/null 2>&1

explain() {
    cat <<EOF
The cluster is up. To use it:
    export KUBECONFIG=$KUBECONFIG_FILE
    export PATH=$STATE/bin:\$PATH
    kubectl get nodes
Pods ($POD_CIDR) and Services ($SERVICE_CIDR) are reachable from this machine; pods
reach this machine as $HOST_NAME ($HOST_ADDRESS). Logs: $LOGS
EOF
}
