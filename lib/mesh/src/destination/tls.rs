//! `trafficPolicy.tls`: how connections to endpoints are encrypted.

/// How connections to endpoints are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientTls {
    /// Nothing said: mutual TLS with the mesh's certificates where the endpoint
    /// takes it, else plaintext.
    #[default]
    Auto,
    /// `DISABLE`: plaintext. An endpoint that takes nothing but mutual TLS is
    /// not called at all.
    Disable,
    /// `ISTIO_MUTUAL`: mutual TLS with the mesh's certificates. An endpoint
    /// without a sidecar is not called at all.
    IstioMutual,
    /// `SIMPLE`: TLS of the application's own kind.
    Simple(Origination),
    /// `MUTUAL`: the same with a client certificate.
    Mutual {
        /// The server's side.
        server: Origination,
        /// `clientCertificate`: a PEM file in the proxy's container.
        certificate: String,
        /// `privateKey`: likewise.
        private_key: String,
    },
}

impl ClientTls {
    /// Whether it is the mesh's own TLS, where the endpoint takes that.
    pub const fn is_mesh(&self) -> bool {
        matches!(self, Self::Auto | Self::IstioMutual)
    }
}

/// Who a server must prove to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origination {
    /// `sni`; `None`: the service's host name.
    pub sni: Option<String>,
    /// `caCertificates`: a PEM file in the proxy's container; `None`: the
    /// system's roots.
    pub ca_certificates: Option<String>,
    /// `subjectAltNames`: the server's certificate has to name one of them;
    /// empty: the SNI's host.
    pub subject_alt_names: Vec<String>,
    /// `insecureSkipVerify`: nothing is asked of the server's certificate.
    pub insecure_skip_verify: bool,
}
