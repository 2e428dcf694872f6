//! Manifests from files, directories and standard input.

use super::Error;
use linnet_controller::analysis::Input;
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Reads all of them; a directory with everything below it.
pub(super) fn read(paths: &[PathBuf], namespace: &str) -> Result<Input, Error> {
    let mut input = Input::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(failed(path))?;
            input.add_yaml(&text, "standard input", namespace);
        } else if path.is_dir() {
            let mut files = Vec::new();
            collect(path, &mut files)?;
            if files.is_empty() {
                return Err(Error::NoFiles(path.display().to_string()));
            }
            for file in files {
                add(&mut input, &file, namespace)?;
            }
        } else {
            add(&mut input, path, namespace)?;
        }
    }
    Ok(input)
}

fn add(input: &mut Input, path: &Path, namespace: &str) -> Result<(), Error> {
    let bytes = fs::read(path).map_err(failed(path))?;
    let origin = path.display().to_string();
    match String::from_utf8(bytes) {
        Ok(text) => input.add_yaml(&text, &origin, namespace),
        Err(_) => input.problem(&origin, "content", "is not text in UTF-8"),
    }
    Ok(())
}

/// The manifests of a directory in the order of their names. Hidden ones and
/// links to directories are passed by: a link may lead back up.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let entries = fs::read_dir(directory).map_err(failed(directory))?;
    let mut entries = entries
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed(directory))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let kind = entry.file_type().map_err(failed(&path))?;
        if hidden {
            continue;
        }
        if kind.is_dir() {
            collect(&path, files)?;
        } else if path.is_file() && is_manifest(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension == *known)
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Read { path, source }
}
