//! A policy's condition on a path. Its value is compared with each reading of a request
//! in that reading's own form: `/a%2Fb` with the path as it was sent, `/a/b` with the
//! path after `%2F` is decoded.
//!
//! What a wildcard leaves open is not touched: a segment that `*` may continue has no
//! parameters yet and is no dot segment.

use super::{MAX_READINGS, Reading, Step, Steps, explore};
use crate::authorization::pattern::{Invalid, Pattern};
use std::{borrow::Cow, fmt, str::FromStr};

/// A condition on a path.
#[derive(Clone, Debug, PartialEq)]
pub struct PathPattern {
    /// The condition as the policy writes it.
    written: Pattern,
    /// The steps that change the value.
    relevant: Steps,
    /// The value after each set of these steps; empty where none changes it.
    forms: Vec<(Steps, Pattern)>,
}

/// Where a value's text stands in the paths that fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Whole,
    Start,
    End,
    Template,
}

impl PathPattern {
    /// Returns the steps that change the value.
    pub(in crate::authorization) const fn relevant(&self) -> Steps {
        self.relevant
    }

    /// Reports whether a reading, which these steps made, fits.
    pub fn matches(&self, path: &str, steps: Steps) -> bool {
        if self.forms.is_empty() {
            return self.written == Pattern::Present || self.written.matches(path);
        }
        let steps = steps.within(self.relevant);
        let mut forms = self.forms.iter().filter(|(of, _)| *of == steps);
        forms.any(|(_, form)| form.matches(path))
    }
}

impl FromStr for PathPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let written = Pattern::path(text)?;
        let (literal, place) = match &written {
            Pattern::Exact(text) => (text.clone(), Place::Whole),
            Pattern::Prefix(text) => (text.clone(), Place::Start),
            Pattern::Suffix(text) => (text.clone(), Place::End),
            Pattern::Template(_) => (text.to_owned(), Place::Template),
            Pattern::Present => (String::new(), Place::Whole),
        };
        let relevant = relevant(&literal, place).ok_or_else(|| too_many(text))?;
        let mut forms = Vec::new();
        if relevant != Steps::NONE {
            let made = explore(&literal, &STEPS, relevant, |step, text| {
                place.apply(step, text)
            });
            for Reading { text: made, steps } in made.map_err(|_| too_many(text))? {
                forms.push((steps, place.pattern(&made)?));
            }
        }
        Ok(Self {
            written,
            relevant,
            forms,
        })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(f)
    }
}

fn too_many(text: &str) -> Invalid {
    Invalid::Readings(text.to_owned())
}

/// The steps that change a policy's value.
const STEPS: [Step; 8] = [
    Step::Backslash,
    Step::Unreserved,
    Step::Slashes,
    Step::Decode,
    Step::Dots,
    Step::EncodedDots,
    Step::Merge,
    Step::Parameters,
];

/// Returns the steps that change a text, or what others make of it. `None`: they make
/// too much of it.
fn relevant(text: &str, place: Place) -> Option<Steps> {
    let mut relevant = Steps::NONE;
    let mut found = vec![(Cow::Borrowed(text), Steps::NONE)];
    let mut at = 0;
    while let Some((text, decoded)) = found.get(at).cloned() {
        for step in STEPS {
            let Some(made) = place.apply(step, &text) else {
                continue;
            };
            let mut after = decoded;
            if step == Step::Decode {
                after = decoded.and(step);
                relevant = relevant.or(after);
            } else {
                relevant = relevant.and(step);
            }
            if found
                .iter()
                .any(|(known, of)| *known == made && *of == after)
            {
                continue;
            }
            if found.len() == 2 * MAX_READINGS {
                return None;
            }
            found.push((made.into(), after));
        }
        at += 1;
    }
    Some(relevant)
}

impl Place {
    fn apply(self, step: Step, text: &str) -> Option<String> {
        let by_segment = matches!(step, Step::Dots | Step::EncodedDots | Step::Parameters);
        match self {
            Self::Start if by_segment => {
                let (whole, open) = text.split_at(text.rfind('/')? + 1);
                step.apply(whole).map(|made| made + open)
            }
            Self::End if by_segment => None,
            Self::Template => step.apply(text).filter(|made| {
                let operators = |text: &str| text.matches(['{', '}', '*']).count();
                made.starts_with('/') && operators(made) == operators(text)
            }),
            _ => step.apply(text),
        }
    }

    fn pattern(self, text: &str) -> Result<Pattern, Invalid> {
        Ok(match self {
            Self::Whole => Pattern::Exact(text.to_owned()),
            Self::Start => Pattern::Prefix(text.to_owned()),
            Self::End => Pattern::Suffix(text.to_owned()),
            Self::Template => Pattern::path(text)?,
        })
    }
}
