//! Conditions on text.

use super::Note;
use crate::resource;
use linnet_mesh::{
    regexes::{Budget, RegexError},
    route::{StringMatch, WholeRegex},
};

/// Reads a condition; `None`: it has no field set.
pub(super) fn read(
    condition: &resource::StringMatch,
    path: &str,
    regexes: &mut Budget,
) -> Result<Option<StringMatch>, Note> {
    match (&condition.exact, &condition.prefix, &condition.regex) {
        (None, None, None) => Ok(None),
        (Some(text), None, None) => Ok(Some(StringMatch::Exact(text.clone()))),
        (None, Some(text), None) => Ok(Some(StringMatch::Prefix(text.clone()))),
        (None, None, Some(pattern)) => WholeRegex::within(pattern, regexes)
            .map(|regex| Some(StringMatch::Regex(regex)))
            .map_err(|error| Note::new(format!("{path}.regex"), reason(&error))),
        _ => Err(Note::new(
            path,
            "sets several of exact, prefix and regex; a condition is one of them",
        )),
    }
}

/// Whether a remark only says that something before it was too much already.
pub(super) fn is_spent(note: &Note) -> bool {
    note.text == reason(&RegexError::Spent)
}

/// Why an expression is not taken, for who wrote it.
pub(super) fn reason(error: &RegexError) -> String {
    format!("is not a usable regular expression: {error}")
}
