# shellcheck shell=bash
# The cluster's own authority, the API server's certificates, the key that signs
# service-account tokens, and one bearer token for each component.

certificates_make() {
    mkdir -p "$PKI"
    chmod 700 "$PKI"
    new_key "$PKI/ca.key"
    openssl req -x509 -new -key "$PKI/ca.key" -subj /CN=linnet-test-cluster -days 30 -out "$PKI/ca.crt" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>>"$LOGS/openssl"
    sign apiserver /CN=kube-apiserver serverAuth "$(apiserver_names)"
    sign kubelet-client /O=system:masters/CN=kube-apiserver clientAuth DNS:kube-apiserver
    openssl genrsa -out "$PKI/service-account.key" 2048 2>>"$LOGS/openssl"
    tokens_make
}

apiserver_names() {
    printf 'DNS:%s,' kubernetes kubernetes.default kubernetes.default.svc \
        "kubernetes.default.svc.$CLUSTER_DOMAIN" localhost
    printf 'IP:%s,IP:%s,IP:127.0.0.1\n' "$API_SERVICE_ADDRESS" "$NODE_ADDRESS"
}

new_key() {
    openssl ecparam -genkey -name prime256v1 -noout -out "$1" 2>>"$LOGS/openssl"
}

# sign NAME SUBJECT EXTENDED-KEY-USAGE SUBJECT-ALT-NAMES
sign() {
    new_key "$PKI/$1.key"
    openssl req -new -key "$PKI/$1.key" -subj "$2" -out "$PKI/$1.csr" 2>>"$LOGS/openssl"
    openssl x509 -req -in "$PKI/$1.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -days 30 \
        -set_serial "0x$(openssl rand -hex 16)" -out "$PKI/$1.crt" 2>>"$LOGS/openssl" \
        -extfile <(printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$3" "$4")
}

# Token, user, uid, groups; the API server reads the file, kubeconfigs quote it.
tokens_make() {
    (
        umask 077
        token_line admin system:masters
        token_line "system:node:$NODE_NAME" system:nodes
        token_line system:kube-controller-manager ''
        token_line system:kube-scheduler ''
        token_line system:kube-proxy ''
        token_line coredns system:masters
    ) >"$PKI/tokens.csv"
    chmod 600 "$PKI/tokens.csv"
}

token_line() {
    printf '%s,%s,%s,"%s"\n' "$(openssl rand -hex 24)" "$1" "$1" "$2"
}

# kubeconfig_write USER FILE: credentials of one user of tokens.csv.
kubeconfig_write() {
    local token
    token=$(awk -F, -v user="$1" '$2 == user { print $1 }' "$PKI/tokens.csv")
    (
        umask 077
        cat >"$2" <<EOF
apiVersion: v1
kind: Config
current-context: linnet-cluster
clusters:
- name: linnet-cluster
  cluster:
    server: https://$NODE_ADDRESS:$API_PORT
    certificate-authority-data: $(base64 -w 0 "$PKI/ca.crt")
contexts:
- name: linnet-cluster
  context: {cluster: linnet-cluster, user: "$1"}
users:
- name: "$1"
  user: {token: $token}
EOF
    )
}
