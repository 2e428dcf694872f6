//! The texts and addresses that policies compare with, checked on their way in.
//!
//! A `*` where it means nothing is an error rather than a letter: a policy that
//! silently matches nothing protects nobody.

use crate::SpiffeId;
use ipnet::IpNet;
use std::{fmt, net::IpAddr, str::FromStr};

/// A value that a policy can't hold, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Nothing to compare with.
    #[error("is empty; leave it out, or write \"*\" for any value")]
    Empty,
    /// A wildcard in the middle.
    #[error("{0:?} has a \"*\" where it means nothing; it may stand first, last, or alone")]
    Wildcard(String),
    /// A path template.
    #[error(
        "{0:?} is not a path template: {{*}} and {{**}} are whole segments, {{**}} is the last of them, and there is no other \"*\""
    )]
    Template(String),
    /// An address block.
    #[error("{0:?} is not an address or a CIDR block, as 10.0.0.1 or 10.0.0.0/8")]
    Block(String),
    /// A path with too many readings.
    #[error(
        "{0:?} can be read in more than 16 ways, so no request could be compared with it; write it without escapes, \"//\" and dot segments"
    )]
    Readings(String),
    /// A port.
    #[error("{0:?} is not a port; ports go from 1 to 65535")]
    Port(String),
    /// A service account.
    #[error("{0:?} is not a service account, as \"name\" or \"namespace/name\", without wildcards")]
    ServiceAccount(String),
    /// A header's name.
    #[error("{0:?} is not a header's name")]
    Header(String),
    /// A claim.
    #[error(
        "{0:?} names no claim; write request.auth.claims[name], or [name][inner] for a nested one"
    )]
    Claim(String),
}

/// Values of which one must fit, and values of which none may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<T> {
    /// One of these; empty: whatever.
    pub any: Vec<T>,
    /// None of these.
    pub none: Vec<T>,
}

impl<T> Default for Match<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

impl<T> Match<T> {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Reports whether what fits by `fits` satisfies the demand. An attribute that is
    /// not there fits nothing.
    pub(super) fn holds(&self, fits: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&fits)) && !self.none.iter().any(&fits)
    }

    /// The same where applications read an attribute in different ways: `surely` is
    /// what fits in each, `possibly` what fits in one. What is not sure is never to the
    /// caller's advantage.
    pub(super) fn holds_for(
        &self,
        denies: bool,
        surely: impl Fn(&T) -> bool,
        possibly: impl Fn(&T) -> bool,
    ) -> bool {
        if denies {
            (self.any.is_empty() || self.any.iter().any(possibly)) && !self.none.iter().any(surely)
        } else {
            (self.any.is_empty() || self.any.iter().any(surely)) && !self.none.iter().any(possibly)
        }
    }
}

/// A condition on text. A tenant may write very many, so one takes three words and its
/// text, however short that is.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// The same text.
    Exact(Box<str>),
    /// `x*`
    Prefix(Box<str>),
    /// `*x`
    Suffix(Box<str>),
    /// `*`: any text. Where it may be empty, [`Pattern::fits_present`] counts that too.
    Present,
    /// A path template with `{*}` and `{**}`.
    Template(Box<Template>),
}

/// A path template: `{*}` is one segment, `{**}` is any rest.
#[derive(Clone, Debug)]
pub struct Template {
    text: Box<str>,
    /// What stands before `{**}`, or all.
    segments: Box<[Segment]>,
    /// What stands behind `{**}`, with the slash before it.
    end: Option<Box<str>>,
}

#[derive(Clone, Debug)]
enum Segment {
    Literal(Box<str>),
    /// `{*}`
    Any,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b))
            | (Self::Prefix(a), Self::Prefix(b))
            | (Self::Suffix(a), Self::Suffix(b)) => a == b,
            (Self::Present, Self::Present) => true,
            (Self::Template(a), Self::Template(b)) => a.text == b.text,
            _ => false,
        }
    }
}

impl Eq for Pattern {}

impl FromStr for Pattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::Empty);
        }
        if text == "*" {
            return Ok(Self::Present);
        }
        let (rest, pattern) = if let Some(rest) = text.strip_suffix('*') {
            (rest, Self::Prefix(rest.into()))
        } else if let Some(rest) = text.strip_prefix('*') {
            (rest, Self::Suffix(rest.into()))
        } else {
            (text, Self::Exact(text.into()))
        };
        if rest.contains('*') {
            return Err(Invalid::Wildcard(text.to_owned()));
        }
        Ok(pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
            Self::Template(template) => f.write_str(&template.text),
        }
    }
}

impl Pattern {
    /// A condition on a path, which may be a template.
    ///
    /// # Errors
    /// A wildcard or an operator in the wrong place.
    pub fn path(text: &str) -> Result<Self, Invalid> {
        if text.contains(['{', '}']) {
            let template = Template::new(text)?;
            return Ok(Self::Template(Box::new(template)));
        }
        text.parse()
    }

    /// A condition on a principal. What is compared is the SPIFFE ID without
    /// its scheme, so a scheme is left out here too.
    ///
    /// # Errors
    /// A wildcard in the wrong place.
    pub fn principal(text: &str) -> Result<Self, Invalid> {
        text.strip_prefix("spiffe://").unwrap_or(text).parse()
    }

    /// Whether a text fits.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => *text == **exact,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Present => !text.is_empty(),
            Self::Template(template) => template.matches(text),
        }
    }

    /// Reports whether an attribute that is present fits: `*` fits an empty one too.
    pub fn fits_present(&self, text: &str) -> bool {
        matches!(self, Self::Present) || self.matches(text)
    }

    /// Whether a text fits, ASCII case aside.
    pub fn matches_ignoring_case(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        match self {
            Self::Exact(exact) => text.eq_ignore_ascii_case(exact),
            Self::Prefix(prefix) => bytes
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes())),
            Self::Suffix(suffix) => bytes
                .len()
                .checked_sub(suffix.len())
                .is_some_and(|at| bytes[at..].eq_ignore_ascii_case(suffix.as_bytes())),
            Self::Present | Self::Template(_) => self.matches(text),
        }
    }
}

impl Template {
    fn new(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::Template(text.to_owned());
        let rest = text.strip_prefix('/').ok_or_else(invalid)?;
        let (mut segments, mut end) = (Vec::new(), None::<String>);
        for segment in rest.split('/') {
            match (segment, &mut end) {
                ("{*}" | "{**}", Some(_)) => return Err(invalid()),
                ("{*}", None) => segments.push(Segment::Any),
                ("{**}", None) => end = Some(String::new()),
                (literal, _) if literal.contains(['{', '}', '*']) => return Err(invalid()),
                (literal, Some(end)) => {
                    end.push('/');
                    end.push_str(literal);
                }
                (literal, None) => segments.push(Segment::Literal(literal.into())),
            }
        }
        Ok(Self {
            text: text.into(),
            segments: segments.into(),
            end: end.map(String::into_boxed_str),
        })
    }

    /// Whether a path fits. An expression would say the same, and take a thousand times
    /// the memory.
    fn matches(&self, path: &str) -> bool {
        let mut rest = path;
        for segment in self.segments.iter() {
            let Some(behind) = rest.strip_prefix('/') else {
                return false;
            };
            let (own, after) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
            let fits = match segment {
                Segment::Any => !own.is_empty(),
                Segment::Literal(literal) => *own == **literal,
            };
            if !fits {
                return false;
            }
            rest = after;
        }
        match &self.end {
            None => rest.is_empty(),
            Some(end) => {
                let behind = rest.strip_prefix('/');
                behind.is_some_and(|behind| behind.ends_with(&**end))
            }
        }
    }
}

/// A service account of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
}

impl ServiceAccount {
    /// Reads `name`, of the policy's own namespace, or `namespace/name`.
    ///
    /// # Errors
    /// Text that is neither.
    pub fn parse(text: &str, own_namespace: &str) -> Result<Self, Invalid> {
        let (namespace, name) = text.split_once('/').unwrap_or((own_namespace, text));
        let valid = |part: &str| !part.is_empty() && !part.contains(['/', '*']);
        if !valid(namespace) || !valid(name) {
            return Err(Invalid::ServiceAccount(text.to_owned()));
        }
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    pub(super) fn is(&self, identity: Option<&SpiffeId>) -> bool {
        identity.is_some_and(|id| {
            *id.namespace() == *self.namespace && *id.service_account() == *self.name
        })
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Reads an address or a CIDR block.
///
/// # Errors
/// Text that is neither.
pub fn block(text: &str) -> Result<IpNet, Invalid> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| Invalid::Block(text.to_owned()))
}

/// Reads a port.
///
/// # Errors
/// Text that is none.
pub fn port(text: &str) -> Result<u16, Invalid> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Invalid::Port(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
