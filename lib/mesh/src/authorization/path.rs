//! The readings of a path, so that a policy cannot be walked around by another
//! spelling of the same path.
//!
//! Servers disagree about what a path is. Each decodes, merges and resolves in an
//! order of its own. This module makes every path that [`Step`]s in any order, any
//! number of times, make of a target: what a common server takes it for is among
//! them. The policies are asked about each. A path on which no step has an effect
//! has one reading, and costs one scan.

mod pattern;
mod step;

pub use pattern::PathPattern;
pub use step::Step;

use std::{borrow::Cow, fmt, str::FromStr};

/// The most readings that a request may have. The targets of ordinary clients have
/// one or two, an encoded URL in a path has up to ten.
pub const MAX_READINGS: usize = 16;

/// The most bytes of all readings together. What it takes to find them is bounded by
/// this: 16 readings of 2 KiB, or two of 16 KiB, which is longer than what common
/// servers take for a request line.
pub const MAX_BYTES: usize = 32 * 1024;

/// The most bytes of all pairs of a reading and a form of the policies' values.
const MAX_BYTES_OF_PAIRS: usize = 8 * MAX_BYTES;

/// The most pairs of a reading and a form of the policies' values. Forms are made of
/// the policies' own values, so only their author reaches this with fewer readings
/// than [`MAX_READINGS`].
const MAX_PAIRS: usize = 512;

/// Which readings of a path count: Istio's `pathNormalization`, by its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathNormalization {
    /// `DEFAULT`: every reading that a common server takes.
    #[default]
    All,
    /// `NONE`: the path as it was sent.
    None,
    /// `BASE`: also with dot segments resolved, `\` as `/`, and unreserved characters
    /// decoded.
    Base,
    /// `MERGE_SLASHES`: `BASE`, also with slashes merged.
    MergeSlashes,
    /// `DECODE_AND_MERGE_SLASHES`: `MERGE_SLASHES`, also with `%2F` and `%5C` decoded.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    /// Every value.
    pub const EACH: [Self; 5] = [
        Self::All,
        Self::None,
        Self::Base,
        Self::MergeSlashes,
        Self::DecodeAndMergeSlashes,
    ];

    /// Returns the name in Istio's `MeshConfig`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "DEFAULT",
            Self::None => "NONE",
            Self::Base => "BASE",
            Self::MergeSlashes => "MERGE_SLASHES",
            Self::DecodeAndMergeSlashes => "DECODE_AND_MERGE_SLASHES",
        }
    }

    /// Returns the steps that servers may take with a path.
    pub const fn steps(self) -> &'static [Step] {
        use Step::{
            Authority, Backslash, Cut, Decode, Dots, EncodedDots, Merge, Parameters, Root, Slashes,
            Unreserved,
        };
        match self {
            Self::All => &[
                Dots,
                EncodedDots,
                Merge,
                Decode,
                Slashes,
                Backslash,
                Parameters,
                Authority,
                Cut,
                Root,
            ],
            Self::None => &[],
            Self::Base => &[Dots, EncodedDots, Backslash, Unreserved, Root],
            Self::MergeSlashes => &[Dots, EncodedDots, Merge, Backslash, Unreserved, Root],
            Self::DecodeAndMergeSlashes => &[
                Dots,
                EncodedDots,
                Merge,
                Slashes,
                Backslash,
                Unreserved,
                Root,
            ],
        }
    }
}

impl fmt::Display for PathNormalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that `pathNormalization` does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a path normalization; use DEFAULT, NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES"
)]
pub struct UnknownNormalization(String);

impl FromStr for PathNormalization {
    type Err = UnknownNormalization;

    fn from_str(text: &str) -> Result<Self, UnknownNormalization> {
        Self::EACH
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| UnknownNormalization(text.to_owned()))
    }
}

/// Steps that were taken, in whatever order: a policy's value is compared with a
/// reading after the same steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Steps(u16);

impl Steps {
    /// No step.
    pub const NONE: Self = Self(0);

    /// Returns these steps and another one. Decoding once more after decoding is a
    /// step of its own.
    #[must_use]
    pub const fn and(self, step: Step) -> Self {
        let once = step.bit();
        if matches!(step, Step::Decode) && self.0 & once != 0 {
            Self(self.0 | Step::TWICE)
        } else {
            Self(self.0 | once)
        }
    }

    /// Returns the steps that are in both.
    #[must_use]
    pub(super) const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the steps that are in one of the two.
    #[must_use]
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A path as a server may understand it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading<'a> {
    /// The path.
    pub(super) text: Cow<'a, str>,
    /// What made it, of what matters to the policies' values.
    pub(super) steps: Steps,
}

/// The readings of one path.
#[derive(Clone, Debug)]
pub(super) enum Readings<'a> {
    /// The path as it was sent.
    One(&'a str),
    /// Several, beginning with the path as it was sent.
    Several(Vec<Reading<'a>>),
    /// More than [`MAX_READINGS`]: as many as that.
    TooMany(Vec<Reading<'a>>),
}

/// Returns the readings of a path. `relevant`: the steps that change a value of the
/// policies.
pub(super) fn readings(
    path: &str,
    normalization: PathNormalization,
    relevant: Steps,
) -> Readings<'_> {
    let (sent, plain) = scan(path);
    if (plain || normalization == PathNormalization::None) && relevant == Steps::NONE {
        return Readings::One(sent);
    }
    let steps = normalization.steps();
    match explore(sent, steps, relevant, Step::apply) {
        Ok(found) if found.len() == 1 => Readings::One(sent),
        Ok(found) => Readings::Several(found),
        Err(found) => Readings::TooMany(found),
    }
}

/// Returns the text of every reading of a path, as many as are looked at.
pub fn texts_of(path: &str) -> Vec<String> {
    match readings(path, PathNormalization::All, Steps::NONE) {
        Readings::One(text) => vec![text.to_owned()],
        Readings::Several(all) | Readings::TooMany(all) => all
            .into_iter()
            .map(|reading| reading.text.into_owned())
            .collect(),
    }
}

/// Takes steps in every order, from `text` on. Fails with what was found so far if
/// these are more than [`MAX_READINGS`], or longer than [`MAX_BYTES`].
fn explore<'a>(
    text: &'a str,
    steps: &[Step],
    relevant: Steps,
    apply: impl Fn(Step, &str) -> Option<String>,
) -> Result<Vec<Reading<'a>>, Vec<Reading<'a>>> {
    let mut found = vec![Reading {
        text: Cow::Borrowed(text),
        steps: Steps::NONE,
    }];
    let (mut texts, mut at) = (1, 0);
    let (mut bytes, mut bytes_of_pairs) = (text.len(), text.len());
    if bytes > MAX_BYTES {
        return Err(found);
    }
    while at < found.len() {
        for step in steps {
            let from = &found[at];
            let steps = from.steps.and(*step).within(relevant);
            let text = match apply(*step, &from.text) {
                Some(made) => Cow::Owned(made),
                None if steps == from.steps => continue,
                None => from.text.clone(),
            };
            let known = |reading: &Reading<'_>| reading.text == text && reading.steps == steps;
            if found.iter().any(known) {
                continue;
            }
            bytes_of_pairs += text.len();
            if found.iter().all(|reading| reading.text != text) {
                texts += 1;
                bytes += text.len();
            }
            if texts > MAX_READINGS
                || bytes > MAX_BYTES
                || bytes_of_pairs > MAX_BYTES_OF_PAIRS
                || found.len() == MAX_PAIRS
            {
                return Err(found);
            }
            found.push(Reading { text, steps });
        }
        at += 1;
    }
    Ok(found)
}

/// Returns a path without query and fragment, and whether no step changes it.
fn scan(path: &str) -> (&str, bool) {
    let mut before = 0;
    let mut plain = true;
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'?' | b'#' => return (&path[..at], plain && path.starts_with('/')),
            b'%' | b'\\' | b';' | 0x80.. => plain = false,
            b'/' | b'.' if before == b'/' => plain = false,
            _ => {}
        }
        before = byte;
    }
    (path, plain && path.starts_with('/'))
}

#[cfg(test)]
mod tests;
