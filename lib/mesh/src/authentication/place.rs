//! Where a request may have its token.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE},
};
use std::{borrow::Cow, fmt};

/// The scheme of `Authorization` (RFC 6750), in any case.
const BEARER: &str = "Bearer ";
/// The parameter that RFC 6750 names.
const ACCESS_TOKEN: &str = "access_token";

/// Where a request may have its token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A header, behind a prefix.
    Header {
        /// Its name.
        name: HeaderName,
        /// What stands before the token.
        prefix: String,
    },
    /// A parameter of the query.
    Parameter(String),
    /// A cookie.
    Cookie(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, .. } => write!(f, "header {name}"),
            Self::Parameter(name) => write!(f, "parameter {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}

impl Place {
    /// Where tokens are where nobody says: `Authorization: Bearer` and the
    /// parameter `access_token`.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::Header {
                name: AUTHORIZATION,
                prefix: BEARER.to_owned(),
            },
            Self::Parameter(ACCESS_TOKEN.to_owned()),
        ]
    }

    /// All tokens in this place.
    pub(super) fn tokens<'r>(
        &self,
        headers: &'r HeaderMap,
        query: Option<&'r str>,
    ) -> Vec<Cow<'r, str>> {
        match self {
            Self::Header { name, prefix } => {
                let values = headers.get_all(name).iter();
                values
                    .filter_map(|value| behind(prefix, value))
                    .map(|rest| String::from_utf8_lossy(trimmed(rest)))
                    .collect()
            }
            Self::Parameter(name) => {
                let pairs = query.into_iter().flat_map(parameters);
                let named = pairs.filter(|(key, _)| is_read_as(key, name));
                named.map(|(_, value)| decoded(value)).collect()
            }
            Self::Cookie(name) => {
                let cookies = headers.get_all(COOKIE).iter();
                let cookies = cookies.flat_map(|value| value.as_bytes().split(|b| *b == b';'));
                cookies
                    .filter_map(|cookie| cookie_value(cookie, name))
                    .map(String::from_utf8_lossy)
                    .collect()
            }
        }
    }

    /// Takes the token out of the headers.
    pub(super) fn clear(&self, headers: &mut HeaderMap) {
        match self {
            Self::Header { name, prefix } => {
                let kept = |value: &HeaderValue| behind(prefix, value).is_none();
                retain(headers, name, |value| kept(value).then(|| value.clone()));
            }
            Self::Cookie(name) => retain(headers, &COOKIE, |value| without_cookie(value, name)),
            Self::Parameter(_) => {}
        }
    }
}

/// Keeps of a header's values what `edit` makes of them.
fn retain(
    headers: &mut HeaderMap,
    name: &HeaderName,
    edit: impl Fn(&HeaderValue) -> Option<HeaderValue>,
) {
    let kept: Vec<_> = headers.get_all(name).iter().filter_map(edit).collect();
    headers.remove(name);
    for value in kept {
        headers.append(name, value);
    }
}

/// What stands behind a prefix, whose letters may be of any case. Some applications split
/// a header at whatever their language takes for a blank, so any is a prefix's blank.
fn behind<'v>(prefix: &str, value: &'v HeaderValue) -> Option<&'v [u8]> {
    let bytes = value.as_bytes();
    let begin = bytes.iter().position(|byte| !is_blank(*byte))?;
    let bytes = &bytes[begin..];
    let start = bytes.get(..prefix.len())?;
    let mut pairs = start.iter().zip(prefix.as_bytes());
    let same = pairs.all(|(said, byte)| match byte {
        b' ' => is_blank(*said),
        byte => said.eq_ignore_ascii_case(byte),
    });
    same.then(|| &bytes[prefix.len()..])
}

/// Whether a header's byte is a blank to some application: those of Latin-1 are to Python.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x85 | 0xa0)
}

/// A header's value without the blanks around it.
fn trimmed(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|byte| !is_blank(*byte));
    let end = value.iter().rposition(|byte| !is_blank(*byte));
    start
        .zip(end)
        .map_or(&[], |(start, end)| &value[start..=end])
}

/// A query's parameters as all applications read them together: some take `;` for `&`.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&');
    let pairs = pairs.flat_map(|pair| std::iter::once(pair).chain(pair.split(';').skip(1)));
    let pairs = pairs.filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Reports whether some application reads a parameter's name, as it is written, as this
/// one: PHP skips blanks before it, and makes others, dots and brackets underscores.
fn is_read_as(written: &str, name: &str) -> bool {
    let written = decoded(written);
    let written = written.trim();
    written == name || written.replace([' ', '.', '['], "_") == name
}

/// A query without the parameters of these names.
pub(super) fn without_parameters(query: &str, names: &[&str]) -> String {
    let is_named = |pair: &str| {
        let written = pair.split_once('=').map_or(pair, |(name, _)| name);
        names.iter().any(|name| is_read_as(written, name))
    };
    let pairs = query.split('&').filter(|pair| !is_named(pair));
    let pairs = pairs.map(|pair| match pair.split(';').skip(1).any(is_named) {
        false => Cow::Borrowed(pair),
        true => {
            let kept = pair.split(';').filter(|part| !is_named(part));
            Cow::Owned(kept.collect::<Vec<_>>().join(";"))
        }
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// A query's text without its escapes.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escape = digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2)));
        match (byte, escape) {
            (b'%', Some((high, low))) => {
                // Two hexadecimal digits are one byte.
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(*byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The value of a cookie if it is of this name; quotes around it go.
fn cookie_value<'v>(cookie: &'v [u8], name: &str) -> Option<&'v [u8]> {
    let at = cookie.iter().position(|b| *b == b'=')?;
    if cookie[..at].trim_ascii() != name.as_bytes() {
        return None;
    }
    let value = cookie[at + 1..].trim_ascii();
    let quoted = value.strip_prefix(b"\"");
    Some(quoted.and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
}

/// A `Cookie` header without a cookie; `None`: nothing is left of it.
fn without_cookie(value: &HeaderValue, name: &str) -> Option<HeaderValue> {
    let cookies = value.as_bytes().split(|b| *b == b';');
    let kept = cookies.filter(|cookie| cookie_value(cookie, name).is_none());
    let kept: Vec<_> = kept.map(<[u8]>::trim_ascii).collect();
    if kept.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok()
}
