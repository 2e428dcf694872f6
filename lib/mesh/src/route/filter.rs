//! What a rule does to a request and its response on their way: rewriting the
//! path and authority, editing headers.
//!
//! Everything acts on a head in place; a query string is always kept.

use super::{Answer, Backend, Cors, Fault, RetryPolicy, Share, StringMatch};
use crate::{
    regexes::{Budget, Regex, RegexError},
    target::escaped,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::HOST,
    uri::{Authority, PathAndQuery},
};
use std::time::Duration;

/// What a rule does besides choosing a backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Who may call from a browser.
    pub cors: Option<Cors>,
    /// Answered here instead of by a backend.
    pub answer: Option<Answer>,
    /// Faults to inject.
    pub fault: Option<Fault>,
    /// A new path or authority.
    pub rewrite: Option<Rewrite>,
    /// Header edits.
    pub headers: HeaderFilters,
    /// How long the exchange may take, until the last of the response.
    pub timeout: Option<Duration>,
    /// When a request is sent again; `None`: [`RetryPolicy::DEFAULT`].
    pub retry: Option<RetryPolicy>,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
}

/// A backend that gets copies of requests, and whose answers are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// The backend; its weight and headers mean nothing.
    pub backend: Backend,
    /// Of which share of the requests.
    pub share: Share,
}

/// Edits of both heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderFilters {
    /// Of the request.
    pub request: HeaderEdits,
    /// Of the response.
    pub response: HeaderEdits,
}

/// Edits of a head, in this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Headers to take away.
    pub remove: Vec<HeaderName>,
    /// Headers to replace; `host` means the authority.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Values to append.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// A new path, authority, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The path.
    pub path: Option<PathRewrite>,
    /// The authority.
    pub authority: Option<Authority>,
}

/// How a path changes.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// Puts text in the place of the matched prefix, or of the whole path where
    /// the rule matched it exactly or by a regular expression. A rule that
    /// looks at no path matches by the prefix `/`.
    Matched(String),
    /// This path, whatever was matched.
    Full(String),
    /// Replaces every match of a regular expression; `\1` stands for a group.
    Regex {
        /// The expression, as compiled.
        regex: Regex,
        /// What stands in its place.
        substitution: String,
    },
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Matched(a), Self::Matched(b)) | (Self::Full(a), Self::Full(b)) => a == b,
            (
                Self::Regex {
                    regex: a,
                    substitution: to_a,
                },
                Self::Regex {
                    regex: b,
                    substitution: to_b,
                },
            ) => a == b && to_a == to_b,
            _ => false,
        }
    }
}

/// A request that can't be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rewritten path {0:?} is not a path")]
pub struct RewriteError(String);

impl PathRewrite {
    /// A rewrite by regular expression that came from a controller, which has counted it
    /// for its resource.
    ///
    /// # Errors
    /// A pattern that is invalid, or too large when compiled.
    pub fn regex(pattern: &str, substitution: &str) -> Result<Self, RegexError> {
        Self::regex_within(pattern, substitution, &mut Budget::of_resource())
    }

    /// A rewrite by regular expression, compiled within a budget.
    ///
    /// # Errors
    /// A pattern that is invalid, or too large when compiled.
    pub fn regex_within(
        pattern: &str,
        substitution: &str,
        budget: &mut Budget,
    ) -> Result<Self, RegexError> {
        Ok(Self::Regex {
            regex: budget.replace(pattern)?,
            substitution: substitution.to_owned(),
        })
    }

    /// The new path for `path`, which the rule matched by `matched`.
    pub fn rewritten(&self, matched: Option<&StringMatch>, path: &str) -> String {
        let new = match self {
            Self::Matched(text) => {
                let text = match matched {
                    // It ends before the slash that the rest begins with.
                    Some(StringMatch::Segments(_)) => text.trim_end_matches('/'),
                    _ => text,
                };
                format!("{text}{}", behind(matched, path))
            }
            Self::Full(text) => text.clone(),
            Self::Regex {
                regex,
                substitution,
            } => regex.replace_all(path, |new, group| substitute(substitution, group, new)),
        };
        if new.starts_with('/') {
            new
        } else {
            format!("/{new}")
        }
    }
}

/// What of a path stays when its matched part is replaced.
fn behind<'a>(matched: Option<&StringMatch>, path: &'a str) -> &'a str {
    let start = match matched {
        None => 1,
        Some(StringMatch::Prefix(prefix) | StringMatch::Segments(prefix)) => prefix.len(),
        Some(StringMatch::Exact(_) | StringMatch::Regex(_)) => path.len(),
    };
    path.get(start..).unwrap_or_default()
}

/// Adds a substitution to a path. What no path can be as long as is not made.
fn substitute(substitution: &str, group: &dyn Fn(usize) -> Option<String>, new: &mut String) {
    let mut rest = substitution.chars();
    while let Some(character) = rest.next() {
        if new.len() > LONGEST_PATH {
            return;
        }
        if character != '\\' {
            new.push(character);
            continue;
        }
        match rest.next() {
            Some(digit) if digit.is_ascii_digit() => {
                let number = digit as usize - '0' as usize;
                new.push_str(&group(number).unwrap_or_default());
            }
            other => new.extend(other),
        }
    }
}

/// What `http` takes as a path at most, bytes; a longer one is no path.
const LONGEST_PATH: usize = u16::MAX as usize;

impl Rewrite {
    /// Rewrites a request's target. `sent`: the path that the rule matched, where the URI has
    /// it escaped.
    ///
    /// # Errors
    /// A path that is none any more; the request is left as it was.
    pub fn apply(
        &self,
        matched: Option<&StringMatch>,
        sent: Option<&str>,
        uri: &mut Uri,
        headers: &mut HeaderMap,
    ) -> Result<(), RewriteError> {
        // Not `*` of OPTIONS, nor CONNECT's authority form.
        if let Some(path) = &self.path
            && uri.path().starts_with('/')
        {
            let path = match sent {
                None => path.rewritten(matched, uri.path()),
                Some(sent) => escaped(path.rewritten(matched, sent).as_bytes()),
            };
            set_path(uri, path)?;
        }
        if let Some(authority) = &self.authority {
            set_authority(uri, headers, authority);
        }
        Ok(())
    }
}

fn set_path(uri: &mut Uri, mut path: String) -> Result<(), RewriteError> {
    if let Some(query) = uri.query() {
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    let made = PathAndQuery::try_from(path.as_str()).map_err(|_| RewriteError(path))?;
    parts.path_and_query = Some(made);
    // The other parts were a URI's already.
    if let Ok(made) = Uri::from_parts(parts) {
        *uri = made;
    }
    Ok(())
}

/// HTTP/2 and absolute-form requests name it in the URI, others in `Host`.
fn set_authority(uri: &mut Uri, headers: &mut HeaderMap, authority: &Authority) {
    let in_uri = uri.authority().is_some();
    if in_uri {
        let mut parts = uri.clone().into_parts();
        parts.authority = Some(authority.clone());
        if let Ok(made) = Uri::from_parts(parts) {
            *uri = made;
        }
    }
    if (!in_uri || headers.contains_key(HOST))
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, value);
    }
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Edits a response's headers, or a request's but for its authority.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// Edits a request's headers; one named `host` is the authority.
    pub fn apply_to_request(&self, uri: &mut Uri, headers: &mut HeaderMap) {
        if self.is_empty() {
            return;
        }
        let set = self.set.iter().rev().find(|(name, _)| name == HOST);
        self.apply(headers);
        let authority = set.and_then(|(_, value)| Authority::try_from(value.as_bytes()).ok());
        if let Some(authority) = authority {
            set_authority(uri, headers, &authority);
            if uri.authority().is_some() {
                headers.remove(HOST);
            }
        }
    }
}

#[cfg(test)]
mod tests;
