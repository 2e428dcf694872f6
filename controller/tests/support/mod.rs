//! A controller on loopback, and a proxy that talks to it.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used
)]

use hyper_util::rt::TokioIo;
use linnet_controller::{Config, Deps, Running, Source};
use linnet_discovery::{
    Target, Update,
    proto::{self, discovery_client::DiscoveryClient, proxy_message::Kind},
};
use linnet_runtime::{drain, readiness::Readiness};
use linnet_workload::{Handle, testing::Authority};
use std::{io, net::SocketAddr, path::Path, time::Duration};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Endpoint};

/// No answer on loopback takes this long; a test that waits for one fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Mesh {
    pub authority: Authority,
    pub directory: tempfile::TempDir,
    pub running: Running,
    pub readiness: Readiness,
    pub drain: drain::Signal,
}

impl Mesh {
    /// A controller on a directory with some manifests.
    pub async fn start(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let authority = Authority::default();
        let (drain, watch) = drain::channel();
        let readiness = Readiness::new();
        let deps = Deps {
            source: Source::Directory(directory.path().to_owned()),
            certificate: Handle::fixed(authority.workload("linnet-system", "linnet-controller")),
            readiness: readiness.clone(),
            drain: watch,
        };
        let running = Config::loopback().build(deps).await.unwrap();
        Self {
            authority,
            directory,
            running,
            readiness,
            drain,
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// A proxy of a service account, whose pod is named like it.
    pub async fn proxy(&self, namespace: &str, account: &str) -> Proxy {
        self.proxy_of_pod(namespace, account, account).await
    }

    pub async fn proxy_of_pod(&self, namespace: &str, account: &str, pod: &str) -> Proxy {
        let proxy = Proxy::connect(
            self.running.discovery_address,
            &self.authority,
            namespace,
            account,
        )
        .await
        .unwrap();
        proxy
            .send(Kind::Hello(proto::Hello {
                pod: pod.to_owned(),
                proxy_version: "test".to_owned(),
            }))
            .await;
        proxy
    }
}

pub struct Proxy {
    sender: mpsc::Sender<proto::ProxyMessage>,
    receiver: Streaming<proto::ControllerMessage>,
    pub last_version: u64,
    pub last_changed_at: u64,
}

impl Proxy {
    pub async fn connect(
        address: SocketAddr,
        authority: &Authority,
        namespace: &str,
        account: &str,
    ) -> Result<Self, Status> {
        let tls = authority
            .workload(namespace, account)
            .client_config(&[b"h2"]);
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let connector = TlsConnector::from(tls.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("controller").map_err(io::Error::other)?;
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        let channel = Endpoint::from_static("http://controller")
            .connect_with_connector(connector)
            .await
            .map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let (sender, receiver) = mpsc::channel(16);
        let response = DiscoveryClient::new(channel)
            .stream(ReceiverStream::new(receiver))
            .await?;
        Ok(Self {
            sender,
            receiver: response.into_inner(),
            last_version: 0,
            last_changed_at: 0,
        })
    }

    pub async fn send(&self, kind: Kind) {
        self.sender
            .send(proto::ProxyMessage { kind: Some(kind) })
            .await
            .unwrap();
    }

    pub async fn subscribe(&self, targets: &[Target]) {
        let targets = targets.iter().map(Into::into).collect();
        self.send(Kind::Subscribe(proto::Targets { targets })).await;
    }

    pub async fn unsubscribe(&self, targets: &[Target]) {
        let targets = targets.iter().map(Into::into).collect();
        self.send(Kind::Unsubscribe(proto::Targets { targets }))
            .await;
    }

    /// The next message, acknowledged, or why the stream ended.
    pub async fn next(&mut self) -> Result<Vec<Update>, Status> {
        let message = timeout(PATIENCE, self.receiver.message())
            .await
            .expect("a message comes in time")?
            .ok_or_else(|| Status::unknown("the stream ended"))?;
        assert!(message.version > self.last_version, "versions grow");
        self.last_version = message.version;
        self.last_changed_at = message.changed_at_micros;
        self.send(Kind::Acknowledgement(proto::Acknowledgement {
            version: message.version,
            error: String::new(),
        }))
        .await;
        Ok(message
            .updates
            .into_iter()
            .map(|update| Update::decode(update).unwrap())
            .collect())
    }

    /// Messages until one carries what is looked for.
    pub async fn until<T>(&mut self, mut look: impl FnMut(&Update) -> Option<T>) -> T {
        loop {
            let updates = self.next().await.unwrap();
            if let Some(found) = updates.iter().find_map(&mut look) {
                return found;
            }
        }
    }
}

pub fn host(text: &str) -> Target {
    Target::Host(text.into())
}
