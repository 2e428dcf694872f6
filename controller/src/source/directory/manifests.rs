//! The manifests of a directory, and what changes when one of them does.

use crate::{
    manifest,
    object::{Object, ObjectRef},
    source::Change,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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

/// What is known of each file. An edit costs what it touches, however many
/// other files there are.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// The last good objects of each file.
    files: BTreeMap<PathBuf, Vec<Object>>,
    /// The files that an object stands in; the first counts.
    holders: HashMap<ObjectRef, BTreeSet<PathBuf>>,
    problems: BTreeMap<String, String>,
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
        // What was in force of each object that the files hold, or held.
        let mut before: BTreeMap<ObjectRef, Option<Object>> = BTreeMap::new();
        for path in paths {
            let origin = origin(path);
            match read(path) {
                Ok(objects) => {
                    self.replace(
                        path,
                        objects.unwrap_or_default(),
                        &mut before,
                        &mut problems,
                    );
                    problems.remove(&origin);
                }
                Err(reason) => {
                    tracing::warn!("{origin}: {reason}; the file's last good objects stay");
                    problems.insert(origin, reason);
                }
            }
        }
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for (reference, old) in before {
            problems.extend(self.duplicates(&reference));
            match self.in_force(&reference) {
                None if old.is_some() => gone.push(Change::Delete(reference)),
                Some(new) if old.as_ref() != Some(new) => changed.push(Change::Apply(new.clone())),
                _ => {}
            }
        }
        gone.extend(changed);
        gone.extend(self.problem_changes(problems));
        gone
    }

    /// Puts a file's objects in the place of those that it held. Notes what was
    /// in force of all of them, and takes back what was said of duplicates.
    fn replace(
        &mut self,
        path: &Path,
        objects: Vec<Object>,
        before: &mut BTreeMap<ObjectRef, Option<Object>>,
        problems: &mut BTreeMap<String, String>,
    ) {
        let old = self.files.get(path).into_iter().flatten();
        let touched: BTreeSet<_> = old.chain(&objects).map(Object::reference).collect();
        for reference in &touched {
            for (origin, _) in self.duplicates(reference) {
                problems.remove(&origin);
            }
            if !before.contains_key(reference) {
                before.insert(reference.clone(), self.in_force(reference).cloned());
            }
            if let Some(holders) = self.holders.get_mut(reference) {
                holders.remove(path);
            }
        }
        for object in &objects {
            let holders = self.holders.entry(object.reference()).or_default();
            holders.insert(path.to_owned());
        }
        for reference in &touched {
            if self.holders.get(reference).is_some_and(BTreeSet::is_empty) {
                self.holders.remove(reference);
            }
        }
        if objects.is_empty() {
            self.files.remove(path);
        } else {
            self.files.insert(path.to_owned(), objects);
        }
    }

    /// Where an object stands, that which counts first.
    fn places(&self, reference: &ObjectRef) -> impl Iterator<Item = (&Path, &Object)> {
        let paths = self.holders.get(reference).into_iter().flatten();
        paths
            .filter_map(|path| Some((path, self.files.get(path)?)))
            .flat_map(|(path, objects)| objects.iter().map(move |object| (path.as_path(), object)))
            .filter(move |(_, object)| object.is(reference))
    }

    fn in_force(&self, reference: &ObjectRef) -> Option<&Object> {
        self.places(reference).next().map(|(_, object)| object)
    }

    /// The problems of an object that stands in several places.
    fn duplicates(&self, reference: &ObjectRef) -> BTreeMap<String, String> {
        let mut places = self.places(reference);
        let Some((owner, _)) = places.next() else {
            return BTreeMap::new();
        };
        let owner = origin(owner);
        places
            .map(|(path, _)| {
                let place = format!("{}: {reference}{DUPLICATE}", origin(path));
                (place, format!("{owner} has it too, and counts"))
            })
            .collect()
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
    manifest::parse_yaml(&text, &origin(path)).map(Some)
}
