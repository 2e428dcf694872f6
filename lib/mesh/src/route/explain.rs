//! Why a request takes the rule that it takes, in words.
//!
//! Nothing here decides: a rule's mismatch is what the data path itself went by
//! ([`RequestMatch::mismatch`](super::RequestMatch::mismatch)).

mod filters;
#[cfg(test)]
mod tests;

pub use filters::Words;

use super::{HeaderMatch, HttpRoutes, HttpRule, QueryMatch, RequestParts, StringMatch};
use crate::field;

/// A condition that does not hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mismatch<'a> {
    /// On the path.
    Path(&'a StringMatch),
    /// On the method.
    Method(&'a StringMatch),
    /// On the authority.
    Authority(&'a StringMatch),
    /// On the scheme.
    Scheme(&'a StringMatch),
    /// On a header.
    Header(&'a HeaderMatch),
    /// On the query parameter of this name.
    Query(&'a str, &'a QueryMatch),
}

/// What became of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered<'a> {
    /// Its place among the rules, from 0.
    pub position: usize,
    /// The rule.
    pub rule: &'a HttpRule,
    /// For each of its matches the condition that does not hold; empty: the
    /// rule matches.
    pub mismatches: Vec<Mismatch<'a>>,
}

impl HttpRoutes {
    /// The rules that were looked at, in order: those that do not match, and
    /// the one that does, if any.
    pub fn explain<'a>(&'a self, request: &RequestParts<'_>) -> Vec<Considered<'a>> {
        let mut considered = Vec::new();
        for (position, rule) in self.rules.iter().enumerate() {
            let matches = rule.matches(request);
            let mismatches = if matches {
                Vec::new()
            } else {
                let entries = rule.matches.iter();
                entries
                    .filter_map(|entry| entry.mismatch(request))
                    .collect()
            };
            considered.push(Considered {
                position,
                rule,
                mismatches,
            });
            if matches {
                break;
            }
        }
        considered
    }
}

impl Considered<'_> {
    /// Whether the rule matches.
    pub fn matches(&self) -> bool {
        self.mismatches.is_empty()
    }
}

impl Mismatch<'_> {
    /// What the rule wants and the request has instead:
    /// `header x-user is absent, rule wants = "vip"`.
    pub fn words(&self, request: &RequestParts<'_>) -> String {
        let differs = |what: &str, is: &str, wanted: &StringMatch| {
            format!("{what} is {is:?}, rule wants {wanted}")
        };
        match *self {
            Self::Path(wanted) => differs("path", request.path, wanted),
            Self::Method(wanted) => differs("method", request.method.as_str(), wanted),
            Self::Authority(wanted) => differs("authority", request.authority, wanted),
            Self::Scheme(wanted) => differs("scheme", request.scheme(), wanted),
            Self::Header(wanted) => header_words(wanted, request),
            Self::Query(name, wanted) => {
                let is = match QueryMatch::value(name, request.query) {
                    Some(value) => format!("is {value:?}"),
                    None => "is absent".to_owned(),
                };
                let wanted = match wanted {
                    QueryMatch::Present => "it".to_owned(),
                    QueryMatch::Value(value) => value.to_string(),
                };
                format!("query parameter {name} {is}, rule wants {wanted}")
            }
        }
    }
}

fn header_words(wanted: &HeaderMatch, request: &RequestParts<'_>) -> String {
    let is = match field::joined(request.headers, &wanted.name) {
        None => "is absent".to_owned(),
        Some(value) => match str::from_utf8(&value) {
            Ok(text) => format!("is {text:?}"),
            Err(_) => format!("is \"{}\", which is not UTF-8", value.escape_ascii()),
        },
    };
    let wants = match (&wanted.value, wanted.negate) {
        (None, false) => "it".to_owned(),
        (None, true) => "none".to_owned(),
        (Some(value), false) => value.to_string(),
        (Some(value), true) => format!("anything but {value}"),
    };
    format!("header {} {is}, rule wants {wants}", wanted.name)
}
