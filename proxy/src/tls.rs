//! Mutual TLS between sidecars: configurations made once a certificate, and the
//! check that a peer is who discovery promised.

use crate::{
    error::Error,
    io::{
        Rewind,
        tls::{Client, Server},
    },
    origination::Hello,
};
use linnet_mesh::{SpiffeId, protocol::MeshProtocol};
use rustls::pki_types::ServerName;
use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;

/// Longest wait for a peer's part of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer whose certificate chain has been verified and whose identity is known;
/// only [`Tls::accept`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedPeer(pub(crate) SpiffeId, Domain);

/// Whose trust domain a peer is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    /// The workload's own, by any of its names.
    Own,
    /// Another one, which is trusted too.
    Federated,
}

impl VerifiedPeer {
    /// Reports whether the peer is of another trust domain.
    pub(crate) fn is_federated(&self) -> bool {
        self.1 == Domain::Federated
    }
}

/// A data thread's TLS.
pub(crate) struct Tls {
    certificates: linnet_workload::Handle,
    own_ips: Vec<IpAddr>,
    cached: RefCell<Option<(u64, Rc<Configs>)>>,
}

struct Configs {
    own: Arc<linnet_workload::Workload>,
    server: Arc<rustls::ServerConfig>,
    http1: Arc<rustls::ClientConfig>,
    /// For HTTP/1.1 over streams, or without them where the peer is older.
    shared: Arc<rustls::ClientConfig>,
    http2: Arc<rustls::ClientConfig>,
    opaque: Arc<rustls::ClientConfig>,
}

impl Tls {
    /// Of a pod with these addresses.
    pub(crate) fn new(certificates: linnet_workload::Handle, own_ips: &[IpAddr]) -> Self {
        Self {
            certificates,
            own_ips: own_ips.to_vec(),
            cached: RefCell::default(),
        }
    }

    /// The identity of this workload, once it has one.
    pub(crate) fn identity(&self) -> Option<SpiffeId> {
        self.certificates.current().map(|own| own.id().clone())
    }

    /// Whether an address is the pod's own.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        self.own_ips.contains(&ip)
    }

    fn configs(&self) -> Option<Rc<Configs>> {
        let generation = self.certificates.generation();
        if let Some((cached, configs)) = &*self.cached.borrow()
            && *cached == generation
        {
            return Some(configs.clone());
        }
        let own = self.certificates.current()?;
        let client = |protocols: &[MeshProtocol]| {
            let names: Vec<_> = protocols.iter().map(|protocol| protocol.alpn()).collect();
            own.client_config(&names)
        };
        let configs = Rc::new(Configs {
            server: own.server_config(&MeshProtocol::ALL.map(MeshProtocol::alpn), true),
            http1: client(&[MeshProtocol::Http1]),
            shared: client(&[MeshProtocol::Shared, MeshProtocol::Http1]),
            http2: client(&[MeshProtocol::Http2]),
            opaque: client(&[MeshProtocol::Opaque]),
            own,
        });
        *self.cached.borrow_mut() = Some((generation, configs.clone()));
        Some(configs)
    }

    /// Accepts a mesh peer.
    pub(crate) async fn accept(
        &self,
        stream: Rewind<TcpStream>,
    ) -> io::Result<(Server<TcpStream>, VerifiedPeer, MeshProtocol)> {
        let configs = self
            .configs()
            .ok_or_else(|| io::Error::other(Error::NoCertificate))?;
        let accept = Server::accept(configs.server.clone(), stream);
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await??;
        let session = stream.session();
        let peer = linnet_runtime::tls::peer_identity(session)
            .ok_or_else(|| io::Error::other("the peer's certificate names no mesh identity"))?;
        let protocol = session
            .alpn_protocol()
            .and_then(MeshProtocol::from_alpn)
            .ok_or_else(|| io::Error::other("the peer agreed on no protocol of the mesh"))?;
        let domain = if configs.own.is_of_own_domain(&peer) {
            Domain::Own
        } else {
            Domain::Federated
        };
        Ok((stream, VerifiedPeer(peer, domain), protocol))
    }

    /// Makes a connection mutual TLS, to exactly the expected peer.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        expected: &SpiffeId,
        protocol: MeshProtocol,
    ) -> Result<Client<TcpStream>, Error> {
        let configs = self.configs().ok_or(Error::NoCertificate)?;
        let config = match protocol {
            MeshProtocol::Shared => &configs.shared,
            MeshProtocol::Http1 => &configs.http1,
            MeshProtocol::Http2 => &configs.http2,
            MeshProtocol::Opaque => &configs.opaque,
        };
        let refused = |reason: String| Error::MutualTls {
            address,
            expected: expected.clone(),
            reason,
        };
        // By address: no name goes over the wire, and a session is only ever
        // resumed with the pod that gave it.
        let name = ServerName::IpAddress(address.ip().into());
        let connect = Client::connect(config.clone(), name, stream);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(_) => return Err(refused("no answer to the handshake".to_owned())),
        };
        match linnet_runtime::tls::peer_identity(stream.session()) {
            Some(peer) if configs.own.is_expected(&peer, expected) => Ok(stream),
            Some(peer) => Err(refused(format!("it is {peer}"))),
            None => Err(refused("it has no mesh identity".to_owned())),
        }
    }

    /// Makes a connection TLS of the application's own kind.
    ///
    /// # Errors
    /// What the handshake failed at.
    pub(crate) async fn originate(
        &self,
        stream: TcpStream,
        hello: Hello,
    ) -> Result<Client<TcpStream>, String> {
        let connect = Client::connect(hello.config, hello.name, stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer to the handshake".to_owned()),
        }
    }
}
