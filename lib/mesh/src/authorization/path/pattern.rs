//! A policy's condition on a path. Its value is compared with each reading of a request
//! in that reading's own form: `/a%2Fb` with the path as it was sent, `/a/b` with the
//! path after `%2F` is decoded.
//!
//! What a wildcard leaves open is not touched: a segment that `*` may continue has no
//! parameters yet and is no dot segment.

use super::{MAX_BYTES, MAX_PAIRS, MAX_READINGS, Reading, Step, Steps, explore};
use crate::authorization::pattern::{Invalid, Pattern};
use std::{borrow::Cow, fmt, str::FromStr};

/// A condition on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// The condition as the policy writes it.
    written: Pattern,
    /// Other forms of it; `None`: no step changes the value, as is the rule.
    forms: Option<Box<Forms>>,
}

/// What steps make of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Forms {
    /// The steps that change the value.
    relevant: Steps,
    /// The place in `values` of the value after each set of these steps.
    after: Box<[(Steps, u8)]>,
    /// Each form once; there are [`MAX_READINGS`] at most.
    values: Box<[Pattern]>,
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
    pub(in crate::authorization) fn relevant(&self) -> Steps {
        self.forms.as_ref().map_or(Steps::NONE, |f| f.relevant)
    }

    /// Reports whether a value may have other forms, at a glance.
    pub fn may_have_forms(text: &str) -> bool {
        let of_steps = |pair: &[u8]| matches!(pair, [b'/', b'/' | b'.']);
        text.starts_with('.')
            || text.contains(['%', '\\', ';'])
            || text.as_bytes().windows(2).any(of_steps)
    }

    /// Returns how many bytes a value's other forms take at most.
    pub fn most_of_forms(text: &str) -> usize {
        let values = MAX_READINGS * size_of::<Pattern>() + MAX_BYTES.min(MAX_READINGS * text.len());
        size_of::<Forms>() + MAX_PAIRS * size_of::<(Steps, u8)>() + values
    }

    /// Reports whether a reading, which these steps made, fits.
    pub fn matches(&self, path: &str, steps: Steps) -> bool {
        let Some(forms) = &self.forms else {
            return matches!(self.written, Pattern::Present) || self.written.matches(path);
        };
        let steps = steps.within(forms.relevant);
        let mut after = forms.after.iter().filter(|(of, _)| *of == steps);
        after.any(|(_, place)| {
            let value = forms.values.get(usize::from(*place));
            value.is_some_and(|value| value.matches(path))
        })
    }
}

impl FromStr for PathPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let written = Pattern::path(text)?;
        let (literal, place) = match &written {
            Pattern::Exact(text) => (&**text, Place::Whole),
            Pattern::Prefix(text) => (&**text, Place::Start),
            Pattern::Suffix(text) => (&**text, Place::End),
            Pattern::Template(_) => (text, Place::Template),
            Pattern::Present => ("", Place::Whole),
        };
        let relevant = relevant(literal, place).ok_or_else(|| too_many(text))?;
        let forms = match relevant {
            Steps::NONE => None,
            relevant => Some(Box::new(Forms::new(literal, place, relevant, text)?)),
        };
        Ok(Self { written, forms })
    }
}

impl Forms {
    fn new(literal: &str, place: Place, relevant: Steps, written: &str) -> Result<Self, Invalid> {
        let made = explore(literal, &STEPS, relevant, |step, text| {
            place.apply(step, text)
        });
        let (mut texts, mut after) = (Vec::<Cow<'_, str>>::new(), Vec::new());
        for Reading { text, steps } in made.map_err(|_| too_many(written))? {
            let known = texts.iter().position(|known| *known == text);
            let position = known.unwrap_or_else(|| {
                texts.push(text);
                texts.len() - 1
            });
            let position = u8::try_from(position).map_err(|_| too_many(written))?;
            after.push((steps, position));
        }
        let values = texts.iter().map(|text| place.pattern(text));
        Ok(Self {
            relevant,
            after: after.into(),
            values: values.collect::<Result<_, _>>()?,
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
            Self::Whole => Pattern::Exact(text.into()),
            Self::Start => Pattern::Prefix(text.into()),
            Self::End => Pattern::Suffix(text.into()),
            Self::Template => Pattern::path(text)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(pattern: &Pattern) -> usize {
        pattern.to_string().len()
    }

    proptest! {
        /// Whoever counts a value before it is compiled counts its other forms.
        #[test]
        fn the_forms_of_a_value_are_foreseen(text in r"[/a.%25cCfFeE;\\]{1,60}\*?") {
            let Ok(value) = text.parse::<PathPattern>() else {
                return Ok(());
            };
            let Some(forms) = value.forms else {
                return Ok(());
            };
            prop_assert!(PathPattern::may_have_forms(&text), "{}", text);
            let taken = size_of::<Forms>()
                + size_of_val(&*forms.after)
                + size_of_val(&*forms.values)
                + forms.values.iter().map(bytes).sum::<usize>();
            prop_assert!(taken <= PathPattern::most_of_forms(&text), "{}: {}", text, taken);
        }
    }
}
