//! What a connection to a port is read as: HTTP, or bytes that are relayed.
//!
//! A port that a Service declares to speak HTTP speaks it or is refused, whoever calls and
//! whatever comes first, after however long a pause: what is relayed is seen by no policy, and
//! brings whatever identity it likes. Where nobody declared anything, but a policy or a token
//! speaks of HTTP, bytes are relayed only if no HTTP server would take them for a request.
//! The pod owner's annotation of opaque ports goes before all of this.

use super::{Arrival, Caller, ended, write};
use crate::{
    detect::{Expected, Finding, Hello},
    error::Error,
    http::serve::HttpVersion,
    io::Rewind,
    outbound::ConnectionError,
    sniff::{self, Sniffed, sniff},
    stream::{self, Stream},
    telemetry::Flags,
    thread::FirstSpeaker,
};
use bytes::Bytes;
use linnet_discovery::Target;
use linnet_mesh::{AppProtocol, Inbound, MtlsMode};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWriteExt},
    net::TcpStream,
};

impl Arrival {
    /// Returns what the port is known to speak.
    pub(super) fn expected(&self, inbound: &Inbound) -> Expected {
        if self.thread.shared.opaque_ports.contains(&self.port) {
            return Expected::Bytes;
        }
        let policies = inbound.authorization.as_ref();
        let by_http = inbound.authentication.is_some()
            || policies.is_some_and(|policies| policies.go_by_http());
        match inbound.port(self.port).map(|port| port.protocol) {
            Some(AppProtocol::Http1 | AppProtocol::Http2) => Expected::Http,
            Some(AppProtocol::Opaque) => Expected::Bytes,
            Some(AppProtocol::Detect) | None if by_http => Expected::PerhapsHttp,
            Some(AppProtocol::Detect) | None => Expected::Anything,
        }
    }

    /// Waits until a connection that is relayed would be looked at for HTTP, where it was not
    /// as it began. `greeted`: the server spoke first.
    pub(super) async fn is_http_now(&self, began: Expected, greeted: bool) {
        let mut changes = self.thread.directory().inbound_changes();
        loop {
            let now = self.expected(&self.thread.directory().inbound());
            let over = match now {
                Expected::Http => true,
                Expected::PerhapsHttp => began != Expected::PerhapsHttp && !greeted,
                Expected::Bytes | Expected::Anything => false,
            };
            if over {
                return;
            }
            if changes.changed().await.is_err() {
                // The directory is gone, and with it all that could say otherwise.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Serves a port that takes plaintext, and mesh connections unless disabled.
    pub(super) async fn serve_any(
        self: &Rc<Self>,
        mut client: TcpStream,
        mode: MtlsMode,
        expected: Expected,
    ) -> Result<(), ConnectionError> {
        let caller = Caller::Unknown(None);
        let sniffed = match self.look(&mut client, expected, &caller).await {
            Ok(sniffed) => sniffed,
            Err(error) => {
                stream::abort(&client);
                return Err(error);
            }
        };
        match sniffed {
            Sniffed::Client(Finding::Tls(Hello { mesh: Some(_), .. }), bytes, _)
                if mode == MtlsMode::Permissive =>
            {
                self.serve_mesh(Rewind::new(bytes, client), expected).await
            }
            sniffed => {
                let client = |bytes| Stream::Plain(Rewind::new(bytes, client));
                self.serve_sniffed(sniffed, client, expected, caller).await
            }
        }
    }

    /// Serves a mesh connection whose peer says that it speaks no HTTP.
    pub(super) async fn serve_opaque(
        self: &Rc<Self>,
        mut client: Stream,
        expected: Expected,
        caller: Caller,
    ) -> Result<(), ConnectionError> {
        if !expected.is_http_in_doubt() {
            return Box::pin(self.relay(client, Bytes::new(), None, caller, expected)).await;
        }
        let sniffed = match self.look(&mut client, expected, &caller).await {
            Ok(sniffed) => sniffed,
            Err(error) => {
                match error {
                    ConnectionError::Mesh(Error::Connect { .. }) => client.abort(),
                    ConnectionError::Mesh(_) | ConnectionError::Io(_) => client.break_off(),
                }
                return Err(error);
            }
        };
        let client = |bytes: Bytes| match bytes.is_empty() {
            true => client,
            false => Stream::Rewound(Box::new(Rewind::new(bytes, client))),
        };
        self.serve_sniffed(sniffed, client, expected, caller).await
    }

    /// Waits for a client's first bytes, or its application's.
    ///
    /// # Errors
    /// The client is to be reset: the application can't be reached, or resets.
    async fn look<R: AsyncRead + Unpin>(
        &self,
        client: &mut R,
        expected: Expected,
        caller: &Caller,
    ) -> Result<Sniffed, ConnectionError> {
        let patience = match self.thread.first_speaker(&Target::Address(self.app)) {
            Some(FirstSpeaker::Server) => Duration::ZERO,
            Some(FirstSpeaker::Client) => sniff::CLIENT_SPEAKS,
            None => sniff::UNKNOWN,
        };
        let open = self.open_for_silent(caller, expected);
        match Box::pin(sniff(client, patience, expected, open)).await? {
            Sniffed::Unreachable(error) => Err(error.into()),
            Sniffed::Reset(error) => Err(error.into()),
            sniffed => Ok(sniffed),
        }
    }

    /// Opens the application while a client is silent, if the client may have that.
    async fn open_for_silent(&self, caller: &Caller, expected: Expected) -> Result<Stream, Error> {
        if expected.is_http_in_doubt() {
            // Each request of one that connected ahead of time is asked about by itself.
            self.admitted(caller).await;
        } else if !self.admits(caller) {
            // It may yet turn out to be HTTP, or a mesh peer.
            tokio::time::sleep(super::HELLO_TIMEOUT).await;
            let verdict = self.authorize_connection(caller);
            let line = self.line(&verdict);
            if let Some(denied) = verdict.denied {
                let source = self.source(caller).await;
                let parties = self.parties(caller, source);
                write(line, &parties, &ended(Flags::UAEX));
                return Err(denied);
            }
        }
        self.open().await
    }

    /// Waits until the policies let the caller have a connection that is not HTTP.
    async fn admitted(&self, caller: &Caller) {
        let mut changes = self.thread.directory().inbound_changes();
        while !self.admits(caller) {
            if changes.changed().await.is_err() {
                // The directory is gone, and with it all that could allow.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Serves what a connection turned out to be. `client`: the connection behind the bytes
    /// that were read from it.
    async fn serve_sniffed(
        self: &Rc<Self>,
        sniffed: Sniffed,
        client: impl FnOnce(Bytes) -> Stream,
        expected: Expected,
        caller: Caller,
    ) -> Result<(), ConnectionError> {
        let target = Target::Address(self.app);
        match sniffed {
            Sniffed::Client(finding, bytes, upstream) => {
                self.thread.remember(&target, FirstSpeaker::Client);
                let client = client(bytes);
                if let Some(version) = version(&finding, expected) {
                    self.serve_own(client, version, caller).await;
                    return Ok(());
                }
                let caller = match (caller, finding) {
                    (Caller::Unknown(_), Finding::Tls(hello)) => {
                        Caller::Unknown(hello.server_name.map(Arc::from))
                    }
                    (caller, _) => caller,
                };
                Box::pin(self.relay(client, Bytes::new(), upstream, caller, expected)).await
            }
            Sniffed::Server(greeting, upstream) => {
                if !greeting.is_empty() {
                    self.thread.remember(&target, FirstSpeaker::Server);
                }
                let client = client(Bytes::new());
                Box::pin(self.relay(client, greeting, Some(upstream), caller, expected)).await
            }
            Sniffed::Unreachable(error) => Err(error.into()),
            Sniffed::Reset(error) => Err(error.into()),
            // As an end, not as a failure.
            Sniffed::Closed => Ok(client(Bytes::new()).shutdown().await?),
        }
    }
}

/// Returns the version of HTTP that a connection is served as; `None`: it is relayed.
fn version(finding: &Finding, expected: Expected) -> Option<HttpVersion> {
    match (expected, finding) {
        (Expected::Bytes, _) => None,
        (_, Finding::Http2) => Some(HttpVersion::Http2),
        // What is no HTTP is refused by whoever reads it.
        (_, Finding::Http1) | (Expected::Http, _) => Some(HttpVersion::Http1),
        (Expected::Anything | Expected::PerhapsHttp, Finding::Tls(_) | Finding::Opaque) => None,
    }
}
