//! Which headers that this hop acts on a head has, found in one walk.
//!
//! A look-up by name hashes the name, and most heads have none of them: to look
//! for each in turn would cost as much as the rest of a hop's work on a head.

use super::field;
use http::HeaderMap;
use linnet_mesh::names;

/// Names of a head; empty: none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found(u16);

impl Found {
    pub(crate) const CONNECTION: Self = Self(1);
    pub(crate) const KEEP_ALIVE: Self = Self(1 << 1);
    pub(crate) const PROXY_CONNECTION: Self = Self(1 << 2);
    pub(crate) const UPGRADE: Self = Self(1 << 3);
    pub(crate) const HOST: Self = Self(1 << 4);
    pub(crate) const CONTENT_TYPE: Self = Self(1 << 5);
    /// A deadline that the caller carries.
    pub(crate) const DEADLINE: Self = Self(1 << 6);
    /// What none but Envoy's own proxies tell each other.
    pub(crate) const INTERNAL: Self = Self(1 << 7);
    /// Some name has several values.
    pub(crate) const REPEATED: Self = Self(1 << 8);
    /// Another spelling of a name that this hop sets.
    pub(crate) const SHADOW: Self = Self(1 << 9);
    /// Which transfer codings the client takes, and whether trailers.
    pub(crate) const TE: Self = Self(1 << 10);
    /// The word of a sidecar that an application has not seen a request.
    pub(crate) const UNDELIVERED: Self = Self(1 << 15);

    /// Walks over a head.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        if headers.len() > headers.keys_len() {
            found = Self::REPEATED;
        }
        for name in headers.keys() {
            let name = name.as_str();
            let one = match name.len() {
                2 if name == "te" => Self::TE,
                4 if name == "host" => Self::HOST,
                7 if name == "upgrade" => Self::UPGRADE,
                10 if name == "connection" => Self::CONNECTION,
                10 if name == "keep-alive" => Self::KEEP_ALIVE,
                12 if name == "content-type" => Self::CONTENT_TYPE,
                12 if name == "grpc-timeout" => Self::DEADLINE,
                16 if name == "proxy-connection" => Self::PROXY_CONNECTION,
                16 if name == "x-envoy-internal" => Self::INTERNAL,
                20 if name == names::header::UNDELIVERED => Self::UNDELIVERED,
                21 if name == "x-envoy-peer-metadata" => Self::INTERNAL,
                23 if name == "x-forwarded-client-cert" => Self::INTERNAL,
                24 if name == "x-envoy-peer-metadata-id" => Self::INTERNAL,
                30 if name == "x-envoy-expected-rq-timeout-ms" => Self::DEADLINE,
                12 | 14 | 16 | 17 | 21 | 23 | 24 | 30 if field::is_shadow(name) => Self::SHADOW,
                _ => continue,
            };
            found.0 |= one.0;
        }
        found
    }

    /// Whether there is this one, or one of these.
    pub(crate) const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }
}

impl std::ops::BitOr for Found {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn each_name_is_found_by_itself() {
        for (name, found) in [
            ("te", Found::TE),
            ("host", Found::HOST),
            ("upgrade", Found::UPGRADE),
            ("connection", Found::CONNECTION),
            ("keep-alive", Found::KEEP_ALIVE),
            ("content-type", Found::CONTENT_TYPE),
            ("grpc-timeout", Found::DEADLINE),
            ("x-envoy-expected-rq-timeout-ms", Found::DEADLINE),
            ("proxy-connection", Found::PROXY_CONNECTION),
            ("x-envoy-internal", Found::INTERNAL),
            ("x-envoy-peer-metadata", Found::INTERNAL),
            ("x-envoy-peer-metadata-id", Found::INTERNAL),
            ("x-forwarded-client-cert", Found::INTERNAL),
            ("x_forwarded_client_cert", Found::SHADOW),
            ("content_length", Found::SHADOW),
            ("content-length", Found::default()),
            (names::header::UNDELIVERED, Found::UNDELIVERED),
            ("accept", Found::default()),
            ("x-other-name", Found::default()),
        ] {
            let mut headers = HeaderMap::new();
            let header = HeaderName::from_static(name);
            headers.append(&header, HeaderValue::from_static("a"));
            assert_eq!(Found::of(&headers), found, "{name}");
            headers.append(&header, HeaderValue::from_static("b"));
            assert_eq!(Found::of(&headers), found | Found::REPEATED, "{name} twice");
        }
    }
}
