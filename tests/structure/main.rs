//! The shape of the house: which crate may use which, and that no circle of imports
//! binds folders together. `just lint` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this whole crate is tests; clippy takes only #[test] functions for such"
)]

mod circles;
mod imports;
mod modules;

use std::path::PathBuf;

/// The workspace's root.
fn root() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}
