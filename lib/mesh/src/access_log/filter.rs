//! Which requests and connections an access log is to have, as an expression.
//!
//! The part of CEL that access logs are filtered with: Envoy's attributes,
//! compared with literals, under `&&`, `||` and `!`. What is more than that is
//! refused as a whole when it is read, never taken for something else. As in
//! CEL, what a request does not have leaves an expression undecided, unless the
//! other side of `&&` or `||` decides it alone.

mod read;

use crate::regexes::Regex;
use http::HeaderName;
use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr, time::Duration};

/// An expression that was understood.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    root: Expression,
    headers: Vec<HeaderName>,
}

/// An expression that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotUnderstood(String);

/// What an expression can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `response.code`.
    ResponseCode,
    /// `response.grpc_status`.
    GrpcStatus,
    /// `response.size`, bytes of the body.
    ResponseSize,
    /// `request.size`, bytes of the body.
    RequestSize,
    /// `request.duration`.
    Duration,
    /// `request.method`.
    Method,
    /// `request.path`, with its query.
    Path,
    /// `request.url_path`, without.
    UrlPath,
    /// `request.query`.
    Query,
    /// `request.host`.
    Host,
    /// `request.protocol`: `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    Protocol,
    /// `request.headers['…']`, also `request.id`, `request.useragent` and
    /// `request.referer`: the header of [`Filter::headers`] with this number.
    Header(usize),
    /// `connection.mtls`.
    Mtls,
    /// `connection.uri_san_peer_certificate`: the peer's identity.
    PeerIdentity,
    /// `connection.uri_san_local_certificate`: the own identity.
    OwnIdentity,
    /// `source.address`.
    SourceAddress,
    /// `upstream.address`.
    UpstreamAddress,
}

/// What an attribute is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Number(i64),
    /// A text.
    Text(Cow<'a, str>),
    /// Yes or no.
    Bool(bool),
    /// A period.
    Duration(Duration),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

#[derive(Clone, Debug)]
enum Expression {
    And(Box<[Expression; 2]>),
    Or(Box<[Expression; 2]>),
    Not(Box<Expression>),
    Constant(bool),
    Has(Attribute),
    Is(Attribute),
    Compare(Attribute, Operator, Value<'static>),
    In(Attribute, Vec<Value<'static>>),
    Starts(Attribute, String),
    Ends(Attribute, String),
    Contains(Attribute, String),
    Matches(Attribute, Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Operator {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::AtMost => ordering.is_le(),
            Self::More => ordering.is_gt(),
            Self::AtLeast => ordering.is_ge(),
        }
    }

    /// The same, with the sides swapped.
    const fn swapped(self) -> Self {
        match self {
            Self::Less => Self::More,
            Self::AtMost => Self::AtLeast,
            Self::More => Self::Less,
            Self::AtLeast => Self::AtMost,
            same => same,
        }
    }
}

impl Value<'_> {
    /// `None`: of different kinds.
    fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(a), Value::Number(b)) => Some(a.cmp(b)),
            (Self::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

impl Filter {
    /// Whether the log is to have it; `value` says what an attribute is, `None`
    /// where there is none. What stays undecided is not written, as in Envoy.
    pub fn holds<'a>(&self, value: &dyn Fn(Attribute) -> Option<Value<'a>>) -> bool {
        self.root.evaluate(value) == Some(true)
    }

    /// The headers that it asks for.
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Expression {
    fn evaluate<'a>(&self, value: &dyn Fn(Attribute) -> Option<Value<'a>>) -> Option<bool> {
        let text = |attribute: &Attribute, test: &dyn Fn(&str) -> bool| match value(*attribute)? {
            Value::Text(text) => Some(test(&text)),
            _ => None,
        };
        match self {
            Self::And(sides) => match (sides[0].evaluate(value), sides[1].evaluate(value)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(sides) => match (sides[0].evaluate(value), sides[1].evaluate(value)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Not(inner) => inner.evaluate(value).map(|held| !held),
            Self::Constant(constant) => Some(*constant),
            Self::Has(attribute) => Some(value(*attribute).is_some()),
            Self::Is(attribute) => match value(*attribute)? {
                Value::Bool(known) => Some(known),
                _ => None,
            },
            Self::Compare(attribute, operator, literal) => {
                let ordering = value(*attribute)?.compare(literal)?;
                Some(operator.holds(ordering))
            }
            Self::In(attribute, literals) => {
                let known = value(*attribute)?;
                let equal = |literal: &Value<'_>| known.compare(literal) == Some(Ordering::Equal);
                Some(literals.iter().any(equal))
            }
            Self::Starts(attribute, part) => text(attribute, &|text| text.starts_with(part)),
            Self::Ends(attribute, part) => text(attribute, &|text| text.ends_with(part)),
            Self::Contains(attribute, part) => text(attribute, &|text| text.contains(part)),
            Self::Matches(attribute, regex) => text(attribute, &|text| regex.is_match(text)),
        }
    }
}

impl FromStr for Filter {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Self, NotUnderstood> {
        let mut headers = Vec::new();
        let root = read::expression(text, &mut headers)?;
        Ok(Self {
            text: text.to_owned(),
            root,
            headers,
        })
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
