//! Simulated proxies: each a gRPC stream over its own mutual TLS connection, with
//! a certificate of its own, that decodes and acknowledges as a sidecar does.

use crate::{Failure, credentials::Credentials, world};
use hyper_util::rt::TokioIo;
use linnet_discovery::{
    Target, Update,
    proto::{self, discovery_client::DiscoveryClient, proxy_message::Kind},
};
use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Instant,
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

pub(crate) const PROXIES: usize = 1000;
pub(crate) const SUBSCRIPTIONS: usize = 20;

/// A message that a proxy has acknowledged.
pub(crate) struct Acknowledged {
    pub(crate) at: Instant,
    /// The services whose routes it told: the name of the first rule.
    pub(crate) routes: Vec<(Arc<str>, String)>,
}

/// All proxies' acknowledgements.
pub(crate) struct Fleet {
    pub(crate) acknowledgements: mpsc::UnboundedReceiver<Acknowledged>,
}

/// The services that a proxy asks for: each service has as many subscribers as
/// each proxy has subscriptions.
fn wanted(proxy: usize) -> impl Iterator<Item = usize> {
    (0..SUBSCRIPTIONS)
        .map(move |n| (proxy + n * (world::SERVICES / SUBSCRIPTIONS + 3)) % world::SERVICES)
}

impl Fleet {
    /// Connects all, one after the other, and waits until each knows its services.
    pub(crate) async fn connect(
        controller: SocketAddr,
        credentials: &Credentials,
    ) -> Result<Self, Failure> {
        let (sender, acknowledgements) = mpsc::unbounded_channel();
        let mut fleet = Self { acknowledgements };
        for number in 0..PROXIES {
            connect(number, controller, credentials, sender.clone()).await?;
        }
        let mut known = 0;
        while known < PROXIES * SUBSCRIPTIONS {
            known += fleet.next().await?.routes.len();
        }
        Ok(fleet)
    }

    /// The next acknowledgement; an error if none comes in a long time.
    pub(crate) async fn next(&mut self) -> Result<Acknowledged, Failure> {
        let patience = std::time::Duration::from_secs(20);
        let next = tokio::time::timeout(patience, self.acknowledgements.recv()).await;
        next.map_err(|_| "no proxy acknowledges anything any more")?
            .ok_or_else(|| "all streams have ended".into())
    }
}

async fn connect(
    number: usize,
    controller: SocketAddr,
    credentials: &Credentials,
    acknowledged: mpsc::UnboundedSender<Acknowledged>,
) -> Result<(), Failure> {
    let workload = credentials.workload(&world::namespace(number), &world::name(number))?;
    let tls = workload.client_config(&[b"h2"]);
    let connector = tower::service_fn(move |_: http::Uri| {
        let connector = TlsConnector::from(tls.clone());
        async move {
            let stream = TcpStream::connect(controller).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::from(controller.ip());
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let channel = Endpoint::from_static("http://controller")
        .connect_with_connector(connector)
        .await?;
    let (messages, receiver) = mpsc::channel(4);
    let hello = Kind::Hello(proto::Hello {
        pod: world::pod(number, 0),
        proxy_version: "bench".to_owned(),
    });
    send(&messages, hello).await?;
    let targets = wanted(number)
        .map(|service| SocketAddrV4::new(world::cluster_ip(service), 80).into())
        .map(|address| (&Target::Address(address)).into())
        .collect();
    send(&messages, Kind::Subscribe(proto::Targets { targets })).await?;
    let mut client = DiscoveryClient::new(channel);
    let updates = client.stream(ReceiverStream::new(receiver)).await?;
    let mut updates = updates.into_inner();
    tokio::spawn(async move {
        while let Ok(Some(message)) = updates.message().await {
            let version = message.version;
            let routes = routes(message);
            let acknowledgement = proto::Acknowledgement {
                version,
                error: String::new(),
            };
            if send(&messages, Kind::Acknowledgement(acknowledgement))
                .await
                .is_err()
            {
                return;
            }
            let at = Instant::now();
            if acknowledged.send(Acknowledged { at, routes }).is_err() {
                return;
            }
        }
    });
    Ok(())
}

async fn send(messages: &mpsc::Sender<proto::ProxyMessage>, kind: Kind) -> Result<(), Failure> {
    let message = proto::ProxyMessage { kind: Some(kind) };
    Ok(messages.send(message).await?)
}

/// Converts all of a message, as a sidecar does, and picks out the routes.
fn routes(message: proto::ControllerMessage) -> Vec<(Arc<str>, String)> {
    let updates = message.updates.into_iter();
    updates
        .filter_map(|update| match Update::decode(update) {
            Ok(Update::Service(service)) => {
                let rule = service.http.as_ref()?.rules.first()?.name.clone()?;
                Some((service.key.name.clone(), rule))
            }
            _ => None,
        })
        .collect()
}
