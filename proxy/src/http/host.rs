//! Hosts that have one reading, in `Host`, `:authority` and absolute targets (RFC 9112, 3.2).
//!
//! Narrower than RFC 3986 allows: without a user, percent-encoding and sub-delimiters, which
//! some readers decode, cut at or split at, and which no DNS name and no service has. What
//! passes is the same host and port to whoever reads it.

use std::net::Ipv6Addr;

/// Bytes of a DNS name or an IPv4 address.
const NAME: [bool; 256] = {
    let mut name = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let character = byte as u8;
        name[byte] =
            character.is_ascii_alphanumeric() || matches!(character, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    name
};

/// Reports whether a host, with or without a port, has one reading. An empty one has: it
/// names nobody.
pub(crate) fn has_one_reading(host: &[u8]) -> bool {
    let mut before = b'.';
    for (at, &byte) in host.iter().enumerate() {
        if !NAME[usize::from(byte)] {
            return match byte {
                b':' if at > 0 => is_port(&host[at + 1..]),
                b'[' if at == 0 => is_bracketed(host),
                _ => false,
            };
        }
        // A label is not empty, but for the root's behind a final dot.
        if byte == b'.' && before == b'.' {
            return false;
        }
        before = byte;
    }
    true
}

/// Reports whether this is an IPv6 address in brackets, with or without a port.
fn is_bracketed(host: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(&host[1..]) else {
        return false;
    };
    let Some((address, rest)) = text.split_once(']') else {
        return false;
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => is_port(port.as_bytes()),
        None => rest.is_empty(),
    };
    port && address.parse::<Ipv6Addr>().is_ok()
}

/// Reports whether this is a port; none behind a colon is the scheme's own (RFC 3986, 3.2.3).
/// One that begins with a zero is none, or has another spelling.
fn is_port(digits: &[u8]) -> bool {
    let number = |sum: u32, digit: &u8| 10 * sum + u32::from(digit - b'0');
    digits.len() <= 5
        && digits.first() != Some(&b'0')
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0, number) <= u32::from(u16::MAX)
}

/// Reports whether two hosts of a request are the same one, ASCII case and the scheme's own
/// port aside (RFC 9113, 8.3.1).
pub(crate) fn are_same(one: &str, other: &str, scheme: Option<&str>) -> bool {
    let own_port = match scheme {
        Some("https") => ":443",
        _ => ":80",
    };
    let bare = |host: &str| {
        let host = host.strip_suffix(':').unwrap_or(host);
        host.strip_suffix(own_port).unwrap_or(host).len()
    };
    one[..bare(one)].eq_ignore_ascii_case(&other[..bare(other)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use linnet_mesh::field::bare_host;
    use proptest::prelude::*;

    #[test]
    fn hosts_with_one_reading_pass() {
        for host in [
            "",
            "shop",
            "SHOP",
            "shop:80",
            "shop:",
            "shop.",
            "shop.:8080",
            "10.0.0.1:80",
            "a_b-c.d~e",
            "[::1]",
            "[::1]:80",
            "[2001:DB8::1]:",
            "[::ffff:10.0.0.1]",
            "a:65535",
            "10.0.0.1",
            "a.b.c.:1",
        ] {
            assert!(has_one_reading(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn others_are_refused() {
        for host in [
            "a b",
            "a/b",
            "a@b",
            "a:port",
            "[::1",
            "a?b",
            "a\\b",
            "a#b",
            "a,b",
            "a;b",
            "a%61",
            ":80",
            "a:80:80",
            "a:65536",
            "a:000080",
            "a:080",
            "a:0",
            "a:00",
            "[::1]:080",
            "shop..",
            "shop..:80",
            "a..b",
            ".",
            ".a",
            ".:80",
            "a:-1",
            "a:8 0",
            "::1",
            "[::1]80",
            "[::1]:x",
            "[a]",
            "[]",
            "a[::1]",
            "[::1%25eth0]",
            "[fe80::1%eth0]",
            "[v1.a]",
            "a\"b",
            "<a>",
            "{a}",
            "a|b",
            "a^b",
            "a`b",
            "a!b",
            "a$b",
            "a&b",
            "a'b",
            "a(b",
            "a*b",
            "a+b",
            "a=b",
            "user:x@a:80",
            " a",
            "a ",
            "\u{e9}",
            "a\tb",
            "a\0",
            "]",
            "[",
            "a]",
        ] {
            assert!(!has_one_reading(host.as_bytes()), "{host:?}");
        }
    }

    #[test]
    fn the_same_host_is_the_same_with_its_scheme_s_port() {
        for (one, other, scheme, same) in [
            ("shop", "shop", None, true),
            ("shop", "SHOP:80", Some("http"), true),
            ("shop:", "shop", Some("http"), true),
            ("shop:443", "shop", Some("https"), true),
            ("shop:443", "shop", Some("http"), false),
            ("shop:8080", "shop", None, false),
            ("shop.", "shop", None, false),
            ("shop", "admin", None, false),
            ("shop", "", None, false),
        ] {
            assert_eq!(
                are_same(one, other, scheme),
                same,
                "{one} {other} {scheme:?}"
            );
        }
    }

    /// The host and port that one way of reading finds.
    type Read<'a> = (&'a str, &'a str);

    /// RFC 3986, 3.2, naively: what comes before a path, a user up to the last `@`, a port
    /// behind the last colon outside of brackets.
    fn by_rfc(text: &str) -> Read<'_> {
        let end = text.find(['/', '?', '#']).unwrap_or(text.len());
        let host = &text[text[..end].rfind('@').map_or(0, |at| at + 1)..end];
        let from = host.rfind(']').unwrap_or(0);
        match host[from..].rfind(':') {
            Some(colon) => (&host[..from + colon], &host[from + colon + 1..]),
            None => (host, ""),
        }
    }

    /// Careless readers: cut at the first of what looks like an end, the port behind the
    /// first colon.
    fn carelessly(text: &str) -> Read<'_> {
        let text = text
            .split(['\\', ' ', ',', ';', '%', '@', '/'])
            .next()
            .unwrap_or("");
        let from = if text.starts_with('[') {
            text.find(']').unwrap_or(0)
        } else {
            0
        };
        match text[from..].find(':') {
            Some(colon) => (&text[..from + colon], &text[from + colon + 1..]),
            None => (text, ""),
        }
    }

    fn by_http_s_crate(text: &str) -> Option<(String, String)> {
        let authority: http::uri::Authority = text.parse().ok()?;
        let port = authority
            .port()
            .map_or(String::new(), |port| port.to_string());
        Some((authority.host().to_owned(), port))
    }

    proptest! {
        #[test]
        fn whatever_passes_has_one_reading(
            host in r"(\[)?([a-c.:0-9@/?#\\%,; \t\[\]_~-]{0,10}|[::a1.]{0,6})(\])?(:[0-9a]{0,6})?"
        ) {
            if !has_one_reading(host.as_bytes()) {
                return Ok(());
            }
            let (name, port) = by_rfc(&host);
            prop_assert_eq!(carelessly(&host), (name, port), "{}", &host);
            if !host.is_empty() {
                let read = by_http_s_crate(&host).map(|(name, _)| name);
                prop_assert_eq!(read.as_deref(), Some(name), "{}", &host);
            }
            prop_assert!(port.is_empty() || port.parse::<u16>().is_ok(), "{}", &host);
            prop_assert_eq!(bare_host(&host), name.strip_suffix('.').unwrap_or(name));
        }
    }
}
