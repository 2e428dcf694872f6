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

use std::{fs, path::PathBuf};

/// The workspace's root.
fn root() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

/// Folders of the crates, as the workspace's manifest lists them; a crate of the benches or
/// of one kind of tests is no part of the house.
fn members() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap();
    let members = members.split(']').next().unwrap();
    let members = members.split('"').skip(1).step_by(2);
    let parts =
        members.filter(|folder| !folder.starts_with("benches/") && !folder.starts_with("tests/"));
    parts.map(str::to_owned).collect()
}
