//! Conditions on text.

use super::Note;
use crate::resource;
use linnet_mesh::route::{StringMatch, WholeRegex};

/// Reads a condition; `None`: it has no field set.
pub(super) fn read(
    condition: &resource::StringMatch,
    path: &str,
) -> Result<Option<StringMatch>, Note> {
    match (&condition.exact, &condition.prefix, &condition.regex) {
        (None, None, None) => Ok(None),
        (Some(text), None, None) => Ok(Some(StringMatch::Exact(text.clone()))),
        (None, Some(text), None) => Ok(Some(StringMatch::Prefix(text.clone()))),
        (None, None, Some(pattern)) => WholeRegex::new(pattern)
            .map(|regex| Some(StringMatch::Regex(regex)))
            .map_err(|error| Note::new(format!("{path}.regex"), reason(&error))),
        _ => Err(Note::new(
            path,
            "sets several of exact, prefix and regex; a condition is one of them",
        )),
    }
}

/// The engine draws the pattern over several lines; an error is one line.
pub(super) fn reason(error: &impl ToString) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or(&text).trim();
    format!(
        "is not a usable regular expression: {}",
        last.trim_start_matches("error: ")
    )
}
