//! The manifests are embedded: a file added under `manifests/` must rebuild
//! this crate, which the embedding alone would not notice.

fn main() {
    println!("cargo:rerun-if-changed=../manifests");
}
