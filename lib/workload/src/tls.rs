//! TLS configurations of a workload: 1.3 only, both sides verified.
//!
//! Resumption is on. What it shares, tickets' keys and the client's cache,
//! belongs to one certificate, and sessions of servers that demand a client
//! certificate are kept apart from those that do not: a resumed session is not
//! verified again.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::aws_lc_rs,
    server::ProducesTickets,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use linnet_runtime::tls::provider;

use super::{Error, Workload, sessions::Sessions, verifier};

/// A connection takes one at most, and brings one.
const TICKETS_PER_CONNECTION: usize = 1;

/// What all configurations of one certificate share.
pub(super) struct Shared {
    server: Arc<verifier::Server>,
    client_optional: ClientAuth,
    client_required: ClientAuth,
    /// One value for all configurations: rustls resumes a session only with the
    /// very verifier and credentials it was made with.
    credentials: Arc<SingleCertAndKey>,
    sessions: Resumption,
}

struct ClientAuth {
    verifier: Arc<verifier::Client>,
    tickets: Arc<dyn ProducesTickets>,
}

impl ClientAuth {
    fn new(trust: &Arc<verifier::Trust>, mandatory: bool) -> Result<Self, Error> {
        Ok(Self {
            verifier: Arc::new(verifier::Client::new(trust, mandatory)?),
            tickets: aws_lc_rs::Ticketer::new()?,
        })
    }
}

impl Shared {
    pub(super) fn new(
        trust: &Arc<verifier::Trust>,
        certified: &Arc<CertifiedKey>,
    ) -> Result<Self, Error> {
        Ok(Self {
            server: Arc::new(verifier::Server::new(trust)),
            client_optional: ClientAuth::new(trust, false)?,
            client_required: ClientAuth::new(trust, true)?,
            credentials: Arc::new(SingleCertAndKey::from(certified.clone())),
            sessions: Resumption::store(Arc::new(Sessions::default())),
        })
    }
}

impl Workload {
    /// For accepting connections. Where a client certificate is not required,
    /// one that is presented must still be good. Make it once per certificate,
    /// not per connection.
    pub fn server_config(&self, alpn: &[&[u8]], require_client: bool) -> Arc<ServerConfig> {
        let auth = if require_client {
            &self.tls.client_required
        } else {
            &self.tls.client_optional
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("aws-lc-rs has cipher suites for TLS 1.3")
            .with_client_cert_verifier(auth.verifier.clone())
            .with_cert_resolver(self.tls.credentials.clone());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.ticketer = auth.tickets.clone();
        config.send_tls13_tickets = TICKETS_PER_CONNECTION;
        config.max_early_data_size = 0;
        Arc::new(config)
    }

    /// For opening connections. Make it once per certificate, not per
    /// connection. The server's identity is verified to be of the mesh; that it
    /// is the expected one is for the caller to check by
    /// [`peer_identity`](super::peer_identity). The server name only keys the
    /// session cache.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("aws-lc-rs has cipher suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(self.tls.server.clone())
            .with_client_cert_resolver(self.tls.credentials.clone());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = self.tls.sessions.clone();
        config.enable_early_data = false;
        Arc::new(config)
    }
}
