//! Protocols: what an application speaks, and what sidecars agree on by ALPN.

/// What a port speaks, as far as anybody declared it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Nobody said: detect it.
    #[default]
    Detect,
    /// HTTP: version 1.1, or version 2 where a client begins with its preface.
    Http1,
    /// HTTP/2 with prior knowledge, gRPC included.
    Http2,
    /// Bytes that are not looked at.
    Opaque,
}

impl AppProtocol {
    /// What a Service port declares by `appProtocol` (KEP-2255, and Kubernetes'
    /// own `kubernetes.io/*` values) or, failing that, by Istio's port naming
    /// (`<protocol>[-<suffix>]`).
    pub fn declared(app_protocol: Option<&str>, port_name: Option<&str>) -> Self {
        let word = app_protocol
            .or_else(|| port_name.map(|name| name.split('-').next().unwrap_or(name)))
            .unwrap_or_default()
            .to_ascii_lowercase();
        match word.as_str() {
            "http" | "kubernetes.io/ws" => Self::Http1,
            "http2" | "grpc" | "grpc-web" | "kubernetes.io/h2c" => Self::Http2,
            "tcp" | "mongo" | "mysql" | "redis" => Self::Opaque,
            _ => Self::Detect,
        }
    }

    /// Reports whether a port was declared to speak HTTP.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2)
    }

    /// Returns what a port speaks that two Services declare: HTTP if either says so, since
    /// what is then looked at passes no policy unseen; else what the first says.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Detect, _) => other,
            (Self::Opaque, Self::Http1 | Self::Http2) => other,
            _ => self,
        }
    }
}

/// What sidecars speak inside mutual TLS, told by ALPN (RFC 7301). Names that no
/// application uses, so that an inbound proxy knows a mesh hello from an
/// application's own TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MeshProtocol {
    /// Many streams over the connection, each of them HTTP/1.1.
    Shared,
    /// HTTP/1.1, one connection for each request at a time: what sidecars spoke
    /// before there was [`MeshProtocol::Shared`].
    Http1,
    /// HTTP/2.
    Http2,
    /// The application's bytes as they are.
    Opaque,
}

impl MeshProtocol {
    /// All of them, the preferred one of a client's several first.
    pub const ALL: [Self; 4] = [Self::Shared, Self::Http1, Self::Http2, Self::Opaque];

    /// The ALPN protocol name.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Shared => b"linnet/shared",
            Self::Http1 => b"linnet/http1",
            Self::Http2 => b"linnet/http2",
            Self::Opaque => b"linnet/opaque",
        }
    }

    /// The protocol of an ALPN name, if it is the mesh's.
    pub fn from_alpn(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.alpn() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_protocol_prefers_the_field_over_the_name() {
        assert_eq!(
            AppProtocol::declared(Some("grpc"), Some("tcp")),
            AppProtocol::Http2
        );
        assert_eq!(
            AppProtocol::declared(Some("kubernetes.io/h2c"), None),
            AppProtocol::Http2
        );
        assert_eq!(
            AppProtocol::declared(None, Some("grpc-web")),
            AppProtocol::Http2
        );
        assert_eq!(
            AppProtocol::declared(None, Some("tcp-db")),
            AppProtocol::Opaque
        );
        assert_eq!(
            AppProtocol::declared(None, Some("http")),
            AppProtocol::Http1
        );
        assert_eq!(
            AppProtocol::declared(None, Some("https")),
            AppProtocol::Detect
        );
        assert_eq!(AppProtocol::declared(None, None), AppProtocol::Detect);
    }

    #[test]
    fn http_wins_where_two_services_declare_one_port() {
        use AppProtocol::{Detect, Http1, Http2, Opaque};
        for (first, second, both) in [
            (Detect, Detect, Detect),
            (Detect, Opaque, Opaque),
            (Opaque, Detect, Opaque),
            (Opaque, Http1, Http1),
            (Http1, Opaque, Http1),
            (Opaque, Http2, Http2),
            (Http2, Http1, Http2),
            (Detect, Http1, Http1),
        ] {
            assert_eq!(first.or(second), both, "{first:?} {second:?}");
        }
    }

    #[test]
    fn alpn_names_lead_back() {
        for protocol in MeshProtocol::ALL {
            assert_eq!(MeshProtocol::from_alpn(protocol.alpn()), Some(protocol));
        }
        assert_eq!(MeshProtocol::from_alpn(b"h2"), None);
    }
}
