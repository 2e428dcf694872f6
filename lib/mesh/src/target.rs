//! Targets of requests with bytes that RFC 3986 does not allow, and that clients send all the
//! same: `http::Uri` holds some of them only percent-encoded.
//!
//! Whatever compares or rewrites a target may have the escaped form: to a server it is the
//! same. What is forwarded as it came is so by whoever still has it.

use std::fmt::Write as _;

/// Reports whether `http::Uri` takes a byte of ASCII in a path, or in a query, only escaped.
const fn is_odd(character: char, in_query: bool) -> bool {
    match character {
        '<' | '>' => true,
        '"' => in_query,
        '`' => !in_query,
        _ => false,
    }
}

/// Returns a target, or a path, as `http::Uri` takes it: what it does not hold is
/// percent-encoded, and so is each byte outside of ASCII where the whole is not UTF-8.
/// Control characters, blanks and `#` stay: they are in no target.
pub fn escaped(target: &[u8]) -> String {
    let mut made = String::with_capacity(target.len() + 16);
    let mut in_query = false;
    let mut push = |character: char, escapes: bool| {
        if escapes || is_odd(character, in_query) {
            // Writing to a String cannot fail.
            let _ = write!(made, "%{:02X}", u32::from(character));
        } else {
            in_query |= character == '?';
            made.push(character);
        }
    };
    match str::from_utf8(target) {
        Ok(text) => text.chars().for_each(|character| push(character, false)),
        // A byte is the character of its number in Latin-1.
        Err(_) => target
            .iter()
            .for_each(|byte| push(char::from(*byte), !byte.is_ascii())),
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::uri::PathAndQuery;

    /// Of every byte at each place: what the library takes is left, what it refuses is
    /// escaped, and what no target has stays refused.
    #[test]
    fn a_uri_takes_every_byte_once_it_is_escaped() {
        for byte in 0..=255_u8 {
            for place in ["/a", "/a?b="] {
                let target = [place.as_bytes(), &[byte]].concat();
                let made = escaped(&target);
                let taken = PathAndQuery::try_from(made.as_str());
                let taken = taken.is_ok_and(|taken| taken.as_str() == made);
                let is_none = byte.is_ascii_control() || matches!(byte, b' ' | b'#');
                assert_eq!(taken, !is_none, "{byte:#x} in {place}");
                let direct = PathAndQuery::try_from(&target[..]);
                if direct.is_ok_and(|direct| direct.as_str().as_bytes() == target) {
                    assert_eq!(made.as_bytes(), target);
                }
            }
        }
    }

    #[test]
    fn text_stays_and_other_bytes_are_escaped() {
        for (target, made) in [
            (&b"/a?q=up{job=\"x\"}"[..], "/a?q=up{job=%22x%22}"),
            (b"/<\"?\"`<", "/%3C\"?%22`%3C"),
            ("/caf\u{e9}".as_bytes(), "/caf\u{e9}"),
            (b"/caf\xe9?\xc3\xa9", "/caf%E9?%C3%A9"),
            (b"/%3C?a?`", "/%3C?a?`"),
        ] {
            assert_eq!(escaped(target), made);
        }
    }
}
