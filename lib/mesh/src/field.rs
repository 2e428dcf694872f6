//! What several readers of a request take for the same name.
//!
//! A policy that looks at one spelling must not be passed by another one. CGI, WSGI and what
//! grew out of them read a header's name with each character besides letters and digits as
//! `_`, so that `x_user` and `x.user` are `x-user` to an application. A host is the same one
//! with or without its port, its final dot and capitals.

use http::{HeaderMap, HeaderName, header::COOKIE};
use std::borrow::Cow;

/// Reports whether some application reads a header's name as `known`: letters and digits are
/// the same, ASCII case aside, and where one name has another character, so has the other.
pub fn reads_as(name: &str, known: &str) -> bool {
    name.len() == known.len()
        && name.bytes().zip(known.bytes()).all(|(a, b)| {
            a.eq_ignore_ascii_case(&b) || !a.is_ascii_alphanumeric() && !b.is_ascii_alphanumeric()
        })
}

/// Returns the value of a header, `None` where it is absent. Several values are joined: by
/// commas (RFC 9110, 5.3), cookies as the one field that HTTP/2 clients cut them from (RFC
/// 9113, 8.2.3).
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let between: &[u8] = match *name {
        COOKIE => b"; ",
        _ => b",",
    };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.extend_from_slice(between);
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}

/// Returns a host without user, port and final dot.
pub fn bare_host(authority: &str) -> &str {
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cgi_makes_equal_are_equal() {
        for name in ["x-user", "x_user", "x.user", "X_User", "x~user", "x|user"] {
            assert!(reads_as(name, "x-user"), "{name}");
        }
        for name in [
            "xuser", "x-use", "x-userr", "x--user", "xauser", "x-u-er", "",
        ] {
            assert!(!reads_as(name, "x-user"), "{name}");
        }
    }

    #[test]
    fn a_bare_host_has_no_port_and_no_final_dot() {
        for (authority, bare) in [
            ("shop", "shop"),
            ("shop:80", "shop"),
            ("shop.:80", "shop"),
            ("shop.", "shop"),
            ("shop:", "shop"),
            ("a@shop:80", "shop"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(bare_host(authority), bare, "{authority}");
        }
    }
}
