//! What a sidecar writes down of the requests and connections it has seen.

mod filter;

pub use filter::{Attribute, Filter, NotUnderstood, Value};

use std::{str::FromStr, sync::Arc};

/// Which are written, and how; the default writes denials and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Which.
    pub scope: Scope,
    /// Of a million that were let through, how many are written. What a policy
    /// denies, would deny or audits always is.
    pub sample: u32,
    /// Those that were let through are written if this holds; what a policy
    /// denies, would deny or audits always is.
    pub filter: Option<Arc<Filter>>,
    /// How.
    pub format: Format,
}

/// What a sidecar writes of each direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLogs {
    /// Of what its workload is asked.
    pub server: AccessLog,
    /// Of what its workload asks others.
    pub client: AccessLog,
}

impl From<AccessLog> for AccessLogs {
    /// The same of both.
    fn from(log: AccessLog) -> Self {
        Self {
            client: log.clone(),
            server: log,
        }
    }
}

/// All of a million.
pub const ALL: u32 = 1_000_000;

/// Which requests and connections are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// None.
    Off,
    /// Those that a policy denies, would deny but for its dry run, or audits.
    #[default]
    Denied,
    /// All, at both ends.
    All,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A JSON object.
    #[default]
    Json,
    /// For people.
    Text,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            sample: ALL,
            filter: None,
            format: Format::default(),
        }
    }
}

impl AccessLog {
    /// Whether something is written, if the filter lets it be; `draw` is below
    /// [`ALL`], and only asked for where it counts.
    pub fn writes(&self, noteworthy: bool, draw: impl FnOnce() -> u32) -> bool {
        match self.scope {
            Scope::Off => false,
            Scope::Denied => noteworthy,
            Scope::All => noteworthy || self.sample >= ALL || draw() < self.sample,
        }
    }
}

impl Scope {
    /// The word for it in annotations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Denied => "denied",
            Self::All => "all",
        }
    }
}

impl Format {
    /// The word for it in annotations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

/// Text that is no setting of the access log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?}: write off, denied or all, then as needed ;sample=0.1, ;format=text and, last, \
     ;filter=response.code >= 400{1}"
)]
pub struct Invalid(String, String);

impl FromStr for AccessLog {
    type Err = Invalid;

    /// Reads `off|denied|all[;sample=0.1][;format=json|text][;filter=…]`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid(text.to_owned(), String::new());
        let (settings, filter) = split_filter(text);
        let filter = filter.map(str::parse::<Filter>).transpose();
        let filter = filter.map_err(|error| Invalid(text.to_owned(), format!(" ({error})")))?;
        let mut words = settings.split(';').map(str::trim);
        let scope = match words.next() {
            Some("off") => Scope::Off,
            Some("denied") => Scope::Denied,
            Some("all") => Scope::All,
            _ => return Err(invalid()),
        };
        let mut log = Self {
            scope,
            filter: filter.map(Arc::new),
            ..Self::default()
        };
        for word in words {
            match word.split_once('=') {
                Some(("sample", share)) => log.sample = sample(share).ok_or_else(invalid)?,
                Some(("format", "json")) => log.format = Format::Json,
                Some(("format", "text")) => log.format = Format::Text,
                _ => return Err(invalid()),
            }
        }
        Ok(log)
    }
}

/// The expression, which may have semicolons of its own, goes last.
fn split_filter(text: &str) -> (&str, Option<&str>) {
    let mut semicolons = text.match_indices(';');
    let found = semicolons.find_map(|(at, _)| {
        let expression = text[at + 1..].trim_start().strip_prefix("filter=")?;
        Some((&text[..at], Some(expression.trim())))
    });
    found.unwrap_or((text, None))
}

/// A share between 0 and 1 as so many of a million.
fn sample(share: &str) -> Option<u32> {
    let share: f64 = share.parse().ok()?;
    // Within range and whole after rounding, so nothing is cut off.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..=1.0)
        .contains(&share)
        .then(|| (share * f64::from(ALL)).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_a_whole_or_not_at_all() {
        let all = AccessLog {
            scope: Scope::All,
            sample: 100_000,
            filter: None,
            format: Format::Text,
        };
        assert_eq!("all; sample=0.1; format=text".parse(), Ok(all.clone()));
        let text = "all;sample=0.1;format=text; filter= request.method != ';filter=' ";
        let filter = "request.method != ';filter='".parse().unwrap();
        assert_eq!(
            text.parse(),
            Ok(AccessLog {
                filter: Some(Arc::new(filter)),
                ..all
            })
        );
        assert_eq!("denied".parse(), Ok(AccessLog::default()));
        for bad in [
            "",
            "on",
            "all;sample=1.1",
            "all;sample=-1",
            "all;sample=NaN",
            "all;format=xml",
            "all;x=1",
            "all;",
            "all;filter=",
            "all;filter=response.code",
            "filter=true",
        ] {
            assert!(bad.parse::<AccessLog>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sampling_never_hides_a_denial() {
        let log = |text: &str| text.parse::<AccessLog>().unwrap();
        let never = || -> u32 { panic!("no draw is needed") };
        assert!(!log("off").writes(true, never));
        assert!(log("denied").writes(true, never));
        assert!(!log("denied").writes(false, never));
        assert!(log("all").writes(false, never));
        assert!(log("all;sample=0").writes(true, never));
        assert!(!log("all;sample=0").writes(false, || 0));
        assert!(log("all;sample=0.5").writes(false, || 499_999));
        assert!(!log("all;sample=0.5").writes(false, || 500_000));
    }
}
