//! Reads a spec into its type and remembers every field that the type has no
//! room for: none of them may be ignored without a word.

use super::Note;
use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;
use std::fmt::Write as _;

/// Reads a spec; returns the paths of fields that the type does not know.
pub(super) fn read<T: DeserializeOwned>(spec: &Value) -> Result<(T, Vec<String>), Vec<Note>> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(spec, &mut track);
    let read = serde_ignored::deserialize(tracked, |path| {
        unknown.push(format!("spec{}", text(&path)));
    });
    match read {
        Ok(value) => Ok((value, unknown)),
        Err(error) => {
            let path = track.path().to_string();
            let field = match path.as_str() {
                "." => "spec".to_owned(),
                path => format!("spec.{path}"),
            };
            Err(vec![Note::new(field, error.to_string())])
        }
    }
}

fn text(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => {
            let mut text = text(parent);
            // Writing to a String can't fail.
            let _ = write!(text, "[{index}]");
            text
        }
        Path::Map { parent, key } => format!("{}.{key}", text(parent)),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => text(parent),
    }
}
