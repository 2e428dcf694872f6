//! Tests that cross crates, grouped by what they cost to run. The folders
//! beside this one hold them; see `Cargo.toml` for the features that gate the
//! costly ones.
