//! From a manifest's JSON to an object. Both sources go through here, so a
//! file and the API server are judged alike.

mod yaml;

pub(crate) use yaml::documents;
pub use yaml::parse_yaml;

use crate::{
    compile::{ConfigurationKind, ResourceScope},
    object::{Configuration, EndpointSlice, Kind, Name, Object},
};
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// A manifest that can't be taken, and where it is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {reason}")]
pub struct ParseError {
    /// What the manifest is of, as far as it says.
    pub resource: String,
    /// The field.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
}

const DRY_RUN: &str = "istio.io/dry-run";

/// Takes a manifest. `None`: of a kind that the controller does not look at.
///
/// # Errors
/// A manifest that is not an object, lacks its header or name, or is of one of
/// our kinds and can't be read.
pub fn parse(manifest: Value, origin: Option<&str>) -> Result<Option<Object>, ParseError> {
    if manifest.is_null() {
        return Ok(None);
    }
    let header: Header = typed("manifest", &manifest)?;
    for (field, text) in [("apiVersion", &header.api_version), ("kind", &header.kind)] {
        if text.is_empty() {
            return Err(ParseError {
                resource: "manifest".to_owned(),
                field: field.to_owned(),
                reason: "is missing".to_owned(),
            });
        }
    }
    let (group, version) = header
        .api_version
        .split_once('/')
        .unwrap_or(("", &header.api_version));
    let kind = match (group, header.kind.as_str()) {
        ("", "Service") => Kind::Service,
        ("", "Pod") => Kind::Pod,
        ("", "Node") => Kind::Node,
        ("", "Namespace") => Kind::Namespace,
        ("discovery.k8s.io", "EndpointSlice") => Kind::EndpointSlice,
        (group, name) => match ConfigurationKind::named(group, name) {
            Some(entry) => {
                served(entry, version)?;
                entry.kind
            }
            None => return Ok(None),
        },
    };
    object(kind, manifest, origin)
}

fn served(entry: &ConfigurationKind, version: &str) -> Result<(), ParseError> {
    if entry.versions.contains(&version) {
        return Ok(());
    }
    Err(ParseError {
        resource: entry.kind.as_str().to_owned(),
        field: "apiVersion".to_owned(),
        reason: format!(
            "{}/{version} is not served, use one of: {}",
            entry.group,
            entry.versions.join(", ")
        ),
    })
}

fn object(
    kind: Kind,
    mut manifest: Value,
    origin: Option<&str>,
) -> Result<Option<Object>, ParseError> {
    let meta: ObjectMeta = manifest
        .get("metadata")
        .map(|meta| {
            typed(kind.as_str(), meta).map_err(|error| ParseError {
                field: format!("metadata.{}", error.field),
                ..error
            })
        })
        .transpose()?
        .unwrap_or_default();
    let name = meta.name.unwrap_or_default();
    if name.is_empty() {
        return Err(ParseError {
            resource: kind.as_str().to_owned(),
            field: "metadata.name".to_owned(),
            reason: "is missing".to_owned(),
        });
    }
    let namespace = match scope(kind) {
        ResourceScope::Cluster => String::new(),
        ResourceScope::Namespaced => meta
            .namespace
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
    };
    let name = Name::new(namespace, name);
    let resource = format!("{} {name}", kind.as_str());
    if let Some(meta) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("namespace".to_owned(), Value::from(&*name.namespace));
    }
    Ok(Some(match kind {
        Kind::Service => Object::Service(typed::<core::Service>(&resource, &manifest)?.into()),
        Kind::Pod => Object::Pod(typed::<core::Pod>(&resource, &manifest)?.into()),
        Kind::Node => Object::Node(typed::<core::Node>(&resource, &manifest)?.into()),
        Kind::Namespace => {
            Object::Namespace(typed::<core::Namespace>(&resource, &manifest)?.into())
        }
        Kind::EndpointSlice => {
            let slice = typed::<discovery::EndpointSlice>(&resource, &manifest)?;
            return Ok(EndpointSlice::of(slice).map(Object::EndpointSlice));
        }
        _ => Object::Configuration(Configuration {
            kind,
            name,
            created: meta.creation_timestamp.map_or(0, |time| time.0.as_second()),
            generation: meta.generation.unwrap_or_default(),
            origin: origin.map(str::to_owned),
            dry_run: meta
                .annotations
                .and_then(|mut annotations| annotations.remove(DRY_RUN)),
            spec: spec(&mut manifest),
        }),
    }))
}

fn scope(kind: Kind) -> ResourceScope {
    match kind {
        Kind::Node | Kind::Namespace => ResourceScope::Cluster,
        kind => ConfigurationKind::of(kind).map_or(ResourceScope::Namespaced, |entry| entry.scope),
    }
}

/// The spec, without the nulls: the API server drops them too.
fn spec(manifest: &mut Value) -> Value {
    fn drop_nulls(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|_, field| !field.is_null());
                fields.values_mut().for_each(drop_nulls);
            }
            Value::Array(items) => items.iter_mut().for_each(drop_nulls),
            _ => {}
        }
    }
    let mut spec = manifest.get_mut("spec").map_or(Value::Null, Value::take);
    if spec.is_null() {
        spec = Value::Object(serde_json::Map::new());
    }
    drop_nulls(&mut spec);
    spec
}

fn typed<T: DeserializeOwned>(resource: &str, value: &Value) -> Result<T, ParseError> {
    serde_path_to_error::deserialize(value).map_err(|error| ParseError {
        resource: resource.to_owned(),
        field: error.path().to_string(),
        reason: error.inner().to_string(),
    })
}

#[cfg(test)]
mod tests;
