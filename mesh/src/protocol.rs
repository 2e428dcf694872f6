//! Protocols: what an application speaks, and what sidecars agree on by ALPN.

/// What a port speaks, as far as anybody declared it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Nobody said: detect it.
    #[default]
    Detect,
    /// HTTP/1.x.
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
            "http2" | "grpc" | "kubernetes.io/h2c" => Self::Http2,
            "tcp" | "mongo" | "mysql" | "redis" => Self::Opaque,
            // HTTP ports carry HTTP/2 too, and `http` names are too often
            // wrong to trust: detection decides.
            _ => Self::Detect,
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
            AppProtocol::Detect
        );
        assert_eq!(AppProtocol::declared(None, None), AppProtocol::Detect);
    }

    #[test]
    fn alpn_names_lead_back() {
        for protocol in MeshProtocol::ALL {
            assert_eq!(MeshProtocol::from_alpn(protocol.alpn()), Some(protocol));
        }
        assert_eq!(MeshProtocol::from_alpn(b"h2"), None);
    }
}
