//! The manifests of a directory, and what changes when one of them does.

use crate::{
    object::{self, Object, ObjectRef},
    source::Change,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Larger files are no manifests.
const LARGEST: u64 = 16 << 20;

/// Whether a file holds manifests, by its name.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let known = path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension == *known)
    });
    known && !hidden
}

/// What is known of each file, and what has been told of all.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// The last good objects of each file.
    files: BTreeMap<PathBuf, Vec<Object>>,
    problems: BTreeMap<String, String>,
    told: BTreeMap<ObjectRef, Object>,
}

impl Manifests {
    /// Looks at every file of a directory.
    pub(super) fn read_all(&mut self, directory: &Path) -> Vec<Change> {
        let mut paths: BTreeSet<PathBuf> = self.files.keys().cloned().collect();
        match std::fs::read_dir(directory) {
            Ok(entries) => paths.extend(
                entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| is_manifest(path)),
            ),
            Err(error) => {
                tracing::warn!(
                    "configuration directory {}: {error}; its last state stays",
                    directory.display()
                );
                return Vec::new();
            }
        }
        let paths: Vec<_> = paths.into_iter().collect();
        self.read(&paths)
    }

    /// Looks at some files.
    pub(super) fn read(&mut self, paths: &[PathBuf]) -> Vec<Change> {
        let mut problems = self.problems.clone();
        for path in paths {
            let origin = origin(path);
            match read(path) {
                Ok(Some(objects)) => {
                    self.files.insert(path.clone(), objects);
                    problems.remove(&origin);
                }
                Ok(None) => {
                    self.files.remove(path);
                    problems.remove(&origin);
                }
                Err(reason) => {
                    tracing::warn!("{origin}: {reason}; the file's last good objects stay");
                    problems.insert(origin, reason);
                }
            }
        }
        let objects = self.objects(&mut problems);
        let mut changes = self.difference(&objects);
        self.told = objects;
        changes.extend(self.problem_changes(problems));
        changes
    }

    /// All objects; of one that stands in several files, the first counts.
    fn objects(&self, problems: &mut BTreeMap<String, String>) -> BTreeMap<ObjectRef, Object> {
        let mut objects = BTreeMap::new();
        let mut owners: BTreeMap<ObjectRef, String> = BTreeMap::new();
        problems.retain(|origin, _| !origin.ends_with(DUPLICATE));
        for (path, file) in &self.files {
            let origin = origin(path);
            for object in file {
                let reference = object.reference();
                if let Some(owner) = owners.get(&reference) {
                    problems.insert(
                        format!("{origin}: {reference}{DUPLICATE}"),
                        format!("{owner} has it too, and counts"),
                    );
                } else {
                    owners.insert(reference.clone(), origin.clone());
                    objects.insert(reference, object.clone());
                }
            }
        }
        objects
    }

    fn difference(&self, objects: &BTreeMap<ObjectRef, Object>) -> Vec<Change> {
        let gone = self
            .told
            .keys()
            .filter(|reference| !objects.contains_key(*reference))
            .map(|reference| Change::Delete(reference.clone()));
        let changed = objects
            .iter()
            .filter(|(reference, object)| self.told.get(*reference) != Some(*object))
            .map(|(_, object)| Change::Apply(object.clone()));
        gone.chain(changed).collect()
    }

    fn problem_changes(&mut self, problems: BTreeMap<String, String>) -> Vec<Change> {
        let solved = self
            .problems
            .keys()
            .filter(|origin| !problems.contains_key(*origin))
            .map(|origin| Change::Problem {
                origin: origin.clone(),
                reason: None,
            });
        let new = problems
            .iter()
            .filter(|(origin, reason)| self.problems.get(*origin) != Some(*reason))
            .map(|(origin, reason)| Change::Problem {
                origin: origin.clone(),
                reason: Some(reason.clone()),
            });
        let changes = solved.chain(new).collect();
        self.problems = problems;
        changes
    }
}

/// Ends the origin of a problem with an object that stands in several files.
const DUPLICATE: &str = " (again)";

fn origin(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The objects of a file; `None`: there is no such file.
fn read(path: &Path) -> Result<Option<Vec<Object>>, String> {
    let text = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(meta) if meta.is_dir() => return Ok(None),
        Ok(meta) if meta.len() > LARGEST => {
            return Err(format!("is larger than {LARGEST} bytes"));
        }
        _ => std::fs::read_to_string(path).map_err(|error| error.to_string())?,
    };
    object::parse_yaml(&text, &origin(path)).map(Some)
}
