# shellcheck shell=bash
# Images get into the node's containerd from docker-archive tars.

# import_image TAR...
import_image() {
    local tar
    for tar in "$@"; do
        [[ -r $tar ]] || fail "no image archive $tar"
        ctr --address "$CONTAINERD_SOCKET" --namespace k8s.io images import "$tar" >&2
    done
}

containerd_answers() {
    ctr --address "$CONTAINERD_SOCKET" version
}

# The node's own images: the pods' sandbox, and a shell for tests' clients.
import_node_images() {
    local tar="$STATE/busybox.tar"
    "$NODE/busybox-image" "$tar" "$PAUSE_IMAGE" "$BUSYBOX_IMAGE"
    import_image "$tar"
}
