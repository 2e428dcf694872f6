//! YAML text with any number of manifests.

use super::parse;
use crate::object::Object;
use serde::Deserialize;
use serde_json::Value;

/// The objects in a text; `origin` names it in verdicts.
///
/// # Errors
/// The first document that can't be taken, and why.
pub fn parse_yaml(text: &str, origin: &str) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    for (name, manifests) in documents(text) {
        for manifest in manifests.map_err(|reason| format!("{name}: {reason}"))? {
            let object = parse(manifest, Some(&format!("{origin}, {name}")))
                .map_err(|error| format!("{name}: {error}"))?;
            objects.extend(object);
        }
    }
    Ok(objects)
}

/// A document of a text: its name, and its manifests or why it has none.
pub(crate) type Document = (String, Result<Vec<Value>, String>);

/// The manifests in a text by document, each named `document 1` and so on; a
/// document that is no YAML is the last.
pub(crate) fn documents(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    for (position, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let name = format!("document {}", position + 1);
        let yaml = match serde_norway::Value::deserialize(document) {
            Ok(yaml) => yaml,
            Err(error) => {
                documents.push((name, Err(error.to_string())));
                break;
            }
        };
        documents.push((name, json(yaml).map(items)));
    }
    documents
}

/// The manifests of a `List`, or the one that it is.
fn items(manifest: Value) -> Vec<Value> {
    if manifest.get("kind").and_then(Value::as_str) == Some("List")
        && let Value::Object(mut fields) = manifest
    {
        return match fields.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
    }
    vec![manifest]
}

/// YAML as JSON: keys that look like numbers are the text that was written.
fn json(yaml: serde_norway::Value) -> Result<Value, String> {
    use serde_norway::Value as Yaml;
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => {
            if let Some(value) = number.as_i64() {
                Value::from(value)
            } else if let Some(value) = number.as_u64() {
                Value::from(value)
            } else {
                serde_json::Number::from_f64(number.as_f64().unwrap_or(f64::NAN))
                    .map(Value::Number)
                    .ok_or_else(|| format!("{number} is not a number that JSON knows"))?
            }
        }
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(items) => {
            Value::Array(items.into_iter().map(json).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(fields) => {
            let mut object = serde_json::Map::new();
            for (key, value) in fields {
                let key = match json(key)? {
                    Value::String(text) => text,
                    other @ (Value::Number(_) | Value::Bool(_)) => other.to_string(),
                    other => return Err(format!("{other} can't be a key")),
                };
                object.insert(key, json(value)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => return Err(format!("the tag {} means nothing here", tagged.tag)),
    })
}
