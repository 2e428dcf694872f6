//! The part of kustomize that Linnet's manifests use: `resources` (files and
//! folders), `labels` (metadata only) and JSON 6902 `patches` by target.
//!
//! Stricter than kustomize: a field beyond these is an error, never ignored, and
//! so is a patch without a target, which kustomize would pass over.

use crate::object::Object;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The text of a file, by its path from the root of the manifests.
pub(crate) type Read<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("manifest {0} does not exist")]
    Missing(String),
    #[error("manifest {path}")]
    Yaml {
        path: String,
        #[source]
        source: serde_norway::Error,
    },
    #[error("manifest {path}: document {position} has no apiVersion, kind and metadata.name")]
    NotAnObject { path: String, position: usize },
    #[error("manifest {path}: {object} is there twice")]
    Twice { path: String, object: String },
    #[error("manifest {path}: patches[{position}]: nothing matches its target")]
    NoTarget { path: String, position: usize },
    #[error("manifest {path}: patches[{position}] needs either `patch` or `path`")]
    NoPatch { path: String, position: usize },
    #[error("manifest {path}: patches[{position}] on {object}")]
    Patch {
        path: String,
        position: usize,
        object: String,
        #[source]
        source: json_patch::PatchError,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    labels: Vec<Labels>,
    #[serde(default)]
    patches: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    pairs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    target: Target,
    patch: Option<String>,
    path: Option<String>,
}

/// What an absent field says nothing about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    kind: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
}

impl Target {
    fn matches(&self, object: &Object) -> bool {
        let same = |wanted: &Option<String>, actual: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == actual)
        };
        same(&self.kind, object.kind())
            && same(&self.name, object.name())
            && same(&self.namespace, object.namespace())
    }
}

/// Renders the kustomization in a folder.
///
/// # Errors
/// The first thing that is wrong with it or with what it names.
pub(crate) fn build(read: &Read<'_>, folder: &str) -> Result<Vec<Object>, Error> {
    let path = format!("{folder}/kustomization.yaml");
    let text = read(&path).ok_or_else(|| Error::Missing(path.clone()))?;
    let kustomization: Kustomization =
        serde_norway::from_str(&text).map_err(|source| yaml(&path, source))?;
    let mut objects = Vec::new();
    for resource in &kustomization.resources {
        let resource = join(folder, resource);
        if resource.ends_with(".yaml") {
            objects.extend(documents(read, &resource)?);
        } else {
            objects.extend(build(read, &resource)?);
        }
    }
    refuse_duplicates(&path, &objects)?;
    for (position, patch) in kustomization.patches.iter().enumerate() {
        apply(read, folder, (&path, position), patch, &mut objects)?;
    }
    for labels in &kustomization.labels {
        for (key, value) in &labels.pairs {
            objects
                .iter_mut()
                .for_each(|object| object.label(key, value));
        }
    }
    Ok(objects)
}

fn apply(
    read: &Read<'_>,
    folder: &str,
    (path, position): (&str, usize),
    patch: &Patch,
    objects: &mut [Object],
) -> Result<(), Error> {
    let path = path.to_owned();
    let text = match (&patch.patch, &patch.path) {
        (Some(inline), None) => inline.clone(),
        (None, Some(file)) => {
            let file = join(folder, file);
            read(&file).ok_or(Error::Missing(file))?
        }
        _ => return Err(Error::NoPatch { path, position }),
    };
    let operations: json_patch::Patch =
        serde_norway::from_str(&text).map_err(|source| yaml(&path, source))?;
    let mut matched = false;
    for object in objects
        .iter_mut()
        .filter(|object| patch.target.matches(object))
    {
        matched = true;
        let reference = object.reference();
        json_patch::patch(object.value_mut(), &operations).map_err(|source| Error::Patch {
            path: path.clone(),
            position,
            object: reference.to_string(),
            source,
        })?;
    }
    if matched {
        Ok(())
    } else {
        Err(Error::NoTarget { path, position })
    }
}

fn documents(read: &Read<'_>, path: &str) -> Result<Vec<Object>, Error> {
    let text = read(path).ok_or_else(|| Error::Missing(path.to_owned()))?;
    let mut objects = Vec::new();
    for (position, document) in serde_norway::Deserializer::from_str(&text).enumerate() {
        let value = Value::deserialize(document).map_err(|source| yaml(path, source))?;
        if value.is_null() {
            continue;
        }
        objects.push(Object::new(value).ok_or_else(|| Error::NotAnObject {
            path: path.to_owned(),
            position,
        })?);
    }
    Ok(objects)
}

fn refuse_duplicates(path: &str, objects: &[Object]) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    for object in objects {
        let reference = object.reference().to_string();
        if !seen.insert(reference.clone()) {
            return Err(Error::Twice {
                path: path.to_owned(),
                object: reference,
            });
        }
    }
    Ok(())
}

fn yaml(path: &str, source: serde_norway::Error) -> Error {
    Error::Yaml {
        path: path.to_owned(),
        source,
    }
}

/// `relative` from `folder`, without `.` and `..`.
fn join(folder: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in relative.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {x: 1}}";

    fn build_with(kustomization: &str) -> Result<Vec<Object>, Error> {
        let head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";
        let read = |path: &str| match path {
            "top/kustomization.yaml" => Some(format!("{head}{kustomization}")),
            "base/kustomization.yaml" => Some(format!("{head}resources: [pod.yaml]")),
            "base/pod.yaml" => Some(format!("# a comment\n---\n{POD}\n---\n")),
            _ => None,
        };
        build(&read, "top")
    }

    #[test]
    fn resources_are_followed_through_folders() {
        let objects = build_with("resources: [../base]").unwrap();
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0].reference().to_string(), "Pod a");
    }

    #[test]
    fn a_patch_changes_what_its_target_names() {
        let objects = build_with(
            "resources: [../base]\npatches:\n- target: {kind: Pod}\n  patch: |-\n    - {op: replace, path: /spec/x, value: 2}",
        )
        .unwrap();
        assert_eq!(objects[0].value()["spec"]["x"], 2);
    }

    #[test]
    fn labels_are_added_to_metadata() {
        let objects = build_with("resources: [../base]\nlabels: [{pairs: {a: b}}]").unwrap();
        assert_eq!(objects[0].value()["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn mistakes_are_errors_that_name_the_file() {
        for (kustomization, expected) in [
            (
                "resources: [../none]",
                "none/kustomization.yaml does not exist",
            ),
            ("images: []", "top/kustomization.yaml"),
            ("resources: [../base, ../base]", "Pod a is there twice"),
            (
                "resources: [../base]\npatches: [{target: {kind: Job}, patch: '[]'}]",
                "patches[0]: nothing matches",
            ),
            (
                "resources: [../base]\npatches: [{target: {kind: Pod}}]",
                "patches[0] needs either",
            ),
            (
                "resources: [../base]\npatches: [{target: {kind: Pod}, patch: '[{op: test, path: /spec/x, value: 5}]'}]",
                "patches[0] on Pod a",
            ),
        ] {
            let error = build_with(kustomization).unwrap_err().to_string();
            assert!(error.contains(expected), "{kustomization}: {error}");
        }
    }
}
