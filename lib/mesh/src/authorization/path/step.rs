//! What servers do with a path before they look for what it names, one thing at a
//! time. Each step is idempotent but for [`Step::Decode`], and none makes a path longer
//! than three times its length.

use std::fmt::Write as _;

/// One thing that servers do with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A path begins with `/`.
    Root,
    /// `//host/a` becomes `/a`, as for WHATWG's URL and RFC 3986's references.
    Authority,
    /// `\` becomes `/`.
    Backslash,
    /// What a decoded `?` or `#` begins is no part of the path, nor is a final newline:
    /// the `$` of Python's and Perl's patterns stands before one.
    Cut,
    /// Letters, digits, `-`, `.`, `_` and `~` are decoded.
    Unreserved,
    /// `%2F` and `%5C` are decoded.
    Slashes,
    /// All of ASCII is decoded, and escapes of other bytes are written in one way.
    Decode,
    /// `.` and `..` are resolved as in RFC 3986, 5.2.4: an empty segment is one.
    Dots,
    /// The same, for `%2e` too.
    EncodedDots,
    /// Slashes that follow one another become one.
    Merge,
    /// `;parameters` of each segment are dropped.
    Parameters,
}

impl Step {
    /// The bit of decoding for the second time.
    pub(super) const TWICE: u16 = 1 << 15;

    /// Every step.
    pub const EACH: [Self; 11] = [
        Self::Root,
        Self::Authority,
        Self::Backslash,
        Self::Cut,
        Self::Unreserved,
        Self::Slashes,
        Self::Decode,
        Self::Dots,
        Self::EncodedDots,
        Self::Merge,
        Self::Parameters,
    ];

    /// Returns the step's bit. Both ways to resolve dots are one to a policy's value.
    pub(super) const fn bit(self) -> u16 {
        match self {
            // A policy's value names no host and has no query.
            Self::Root | Self::Authority | Self::Cut => 0,
            Self::Backslash => 1,
            Self::Unreserved => 1 << 1,
            Self::Slashes => 1 << 2,
            Self::Decode => 1 << 3,
            Self::Dots | Self::EncodedDots => 1 << 4,
            Self::Merge => 1 << 5,
            Self::Parameters => 1 << 6,
        }
    }

    /// Takes the step. `None`: it changes nothing.
    pub fn apply(self, path: &str) -> Option<String> {
        let made = match self {
            Self::Root => (!path.starts_with('/')).then(|| format!("/{path}"))?,
            Self::Authority => without_authority(path)?,
            Self::Backslash => path.contains('\\').then(|| path.replace('\\', "/"))?,
            Self::Cut => path
                .contains(['?', '#', '\n'])
                .then(|| without_query(path).trim_end_matches('\n').to_owned())?,
            Self::Unreserved => decode(path, |byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
            })?,
            Self::Slashes => decode(path, |byte| matches!(byte, b'/' | b'\\'))?,
            Self::Decode => decode_all(path)?,
            Self::Dots => resolve(path, |segment| segment)?,
            Self::EncodedDots => resolve(path, decoded_dots)?,
            Self::Merge => merged(path)?,
            Self::Parameters => without_parameters(path)?,
        };
        (made != path).then_some(made)
    }
}

/// Returns a path without query and fragment.
pub(super) fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or(path)
}

fn without_authority(path: &str) -> Option<String> {
    let rest = path.strip_prefix("//")?.trim_start_matches('/');
    let end = rest.find('/').unwrap_or(rest.len());
    let path = &rest[end..];
    Some(if path.is_empty() { "/" } else { path }.to_owned())
}

/// Returns the byte that an escape at the beginning of a text stands for.
fn escaped(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hexadecimal
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Decodes the escapes of ASCII characters that `wanted` names.
fn decode(path: &str, wanted: impl Fn(u8) -> bool) -> Option<String> {
    path.contains('%').then(|| {
        let mut made = String::with_capacity(path.len());
        let mut rest = path;
        while let Some(at) = rest.find('%') {
            made.push_str(&rest[..at]);
            rest = &rest[at..];
            match escaped(rest) {
                Some(byte) if byte.is_ascii() && wanted(byte) => {
                    made.push(char::from(byte));
                    rest = &rest[3..];
                }
                _ => {
                    made.push('%');
                    rest = &rest[1..];
                }
            }
        }
        made.push_str(rest);
        made
    })
}

/// Decodes every escape of ASCII. Other bytes are escaped with capital digits,
/// whichever way they were written.
fn decode_all(path: &str) -> Option<String> {
    if !path.contains('%') && path.is_ascii() {
        return None;
    }
    let mut made = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let length = first.len_utf8();
        let (byte, taken) = match escaped(rest) {
            Some(byte) => (Some(byte), 3),
            None => (None, length),
        };
        match byte {
            Some(byte) if byte.is_ascii() => made.push(char::from(byte)),
            Some(byte) => push_escape(&mut made, byte),
            None if first.is_ascii() => made.push(first),
            None => rest[..length]
                .bytes()
                .for_each(|byte| push_escape(&mut made, byte)),
        }
        rest = &rest[taken..];
    }
    Some(made)
}

fn push_escape(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "%{byte:02X}");
}

fn merged(path: &str) -> Option<String> {
    path.contains("//").then(|| {
        let mut made = String::with_capacity(path.len());
        for character in path.chars() {
            if character != '/' || !made.ends_with('/') {
                made.push(character);
            }
        }
        made
    })
}

fn without_parameters(path: &str) -> Option<String> {
    path.contains(';').then(|| {
        let names = path
            .split('/')
            .map(|segment| segment.split(';').next().unwrap_or(segment));
        names.collect::<Vec<_>>().join("/")
    })
}

fn decoded_dots(segment: &str) -> &str {
    let is_dot = |text: &str| text == "." || text.eq_ignore_ascii_case("%2e");
    let halves = [1, 3]
        .into_iter()
        .filter_map(|at| segment.split_at_checked(at));
    if is_dot(segment) {
        "."
    } else if halves
        .into_iter()
        .any(|(first, second)| is_dot(first) && is_dot(second))
    {
        ".."
    } else {
        segment
    }
}

/// Resolves dot segments. `name`: what a segment is called.
fn resolve(path: &str, name: impl Fn(&str) -> &str) -> Option<String> {
    let is_dots = |segment: &str| matches!(name(segment), "." | "..");
    if !path.split('/').any(is_dots) {
        return None;
    }
    let (root, rest) = match path.strip_prefix('/') {
        Some(rest) => ("/", rest),
        None => ("", path),
    };
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_dots = false;
    for segment in rest.split('/') {
        ends_in_dots = is_dots(segment);
        match name(segment) {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    if ends_in_dots {
        segments.push("");
    }
    Some(format!("{root}{}", segments.join("/")))
}
