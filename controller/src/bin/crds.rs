//! Writes `manifests/crds/` from the configuration kinds' types.

use linnet_controller::{compile, resource};
use std::{error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds"),
        PathBuf::from,
    );
    fs::create_dir_all(&directory)?;
    for (file, definition) in compile::definitions() {
        fs::write(directory.join(file), resource::manifest(&definition)?)?;
    }
    Ok(())
}
