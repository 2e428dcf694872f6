//! Whose field names are whose: those that this hop alone sets, and those that may not come
//! behind a body.
//!
//! A client's own spelling of a name that this hop sets is worth nothing, wherever it stands:
//! in the head or in the trailers, with `-` or with what CGI reads as `-`.

use http::{HeaderMap, HeaderName, HeaderValue};
use linnet_mesh::field::reads_as;

/// Fields that this hop sets or frames by, and that have a dash: another spelling of them is
/// theirs to whoever reads names as CGI does.
const OWN: [&str; 8] = [
    "x-forwarded-client-cert",
    "x-envoy-internal",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-expected-rq-timeout-ms",
    "grpc-timeout",
    "content-length",
    "transfer-encoding",
];

/// Fields that frame, route, authorize, modify a request, control a response or describe
/// content are no trailers (RFC 9110, 6.5.1).
const NO_TRAILERS: [&str; 36] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "upgrade",
    "vary",
    "warning",
    "www-authenticate",
    "x-forwarded-for",
    "x-forwarded-host",
];

/// Reports whether a name is another spelling of one that this hop sets or frames by.
pub(crate) fn is_shadow(name: &str) -> bool {
    let odd = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-';
    name.bytes().any(odd) && OWN.iter().any(|own| reads_as(name, own))
}

/// Reports whether a list of tokens has one, in any case.
pub(crate) fn has_token(value: &HeaderValue, token: &str) -> bool {
    tokens(value).any(|said| said.eq_ignore_ascii_case(token.as_bytes()))
}

/// Returns the parts of a value that is a list, whether or not all of it is text.
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let parts = value.as_bytes().split(|byte| *byte == b',');
    parts.map(<[u8]>::trim_ascii)
}

/// Removes other spellings of what this hop sets or frames by.
pub(crate) fn drop_shadows(headers: &mut HeaderMap) {
    drop_those(headers, |name| is_shadow(name.as_str()));
}

/// Reports whether a field may come behind a body.
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    let name = name.as_str();
    !OWN.iter()
        .chain(&NO_TRAILERS)
        .any(|known| reads_as(name, known))
}

/// Removes the fields that may not come behind a body, and those that `owned` names.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, owned: impl Fn(&HeaderName) -> bool) {
    drop_those(trailers, |name| !may_trail(name) || owned(name));
}

fn drop_those(headers: &mut HeaderMap, which: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = headers.keys().filter(|name| which(name)).cloned().collect();
    for name in named {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::found::Found;

    /// Each spelling of a name that differs from it in one of the characters that CGI reads
    /// as a dash, or in all.
    fn spellings(name: &str) -> Vec<String> {
        let mut all = Vec::new();
        for other in ["_", ".", "~", "|", "'"] {
            all.push(name.replace('-', other));
            all.push(name.replacen('-', other, 1));
        }
        all
    }

    #[test]
    fn every_other_spelling_of_an_own_name_is_found_and_dropped() {
        for own in OWN {
            assert!(!is_shadow(own), "{own}");
            for spelling in spellings(own) {
                let mut headers = HeaderMap::new();
                let name: HeaderName = spelling.parse().unwrap();
                headers.insert(name.clone(), HeaderValue::from_static("a"));
                assert!(Found::of(&headers).has(Found::SHADOW), "{spelling}");
                drop_shadows(&mut headers);
                assert!(headers.is_empty(), "{spelling}");
                assert!(!may_trail(&name), "{spelling}");
            }
        }
    }

    #[test]
    fn a_token_is_found_beside_bytes_that_are_no_text() {
        for (value, found) in [
            (&b"close"[..], true),
            (b"keep-alive, Close", true),
            (b"\xe9, close ,x", true),
            (b"close\xe9", false),
            (b"closed", false),
            (b"", false),
        ] {
            let value = HeaderValue::from_bytes(value).unwrap();
            assert_eq!(has_token(&value, "close"), found, "{value:?}");
        }
    }

    #[test]
    fn other_names_stay() {
        for name in [
            "x_tenant",
            "x-forwarded-client-certs",
            "content_lengths",
            "grpc-status",
        ] {
            assert!(!is_shadow(name), "{name}");
            assert!(may_trail(&name.parse().unwrap()), "{name}");
        }
    }
}
