//! The stream to the controller: subscribes, applies, acknowledges, and comes
//! back when it breaks.
//!
//! A message that can't be decoded is refused as a whole, with its reason; the
//! state before it stays in force.

use super::{Command, Directory};
use hyper_util::rt::TokioIo;
use linnet_discovery::{DecodeError, Target, Update, limits, proto};
use linnet_mesh::SpiffeId;
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpStream, sync::mpsc, time::Instant};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Wait after the first failure, and the longest, before the next attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Wait after the first failure of a start: the workload waits for its configuration.
const START_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a controller that vanished without a word.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the controller is and who is asking.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `host:port`.
    pub(crate) address: String,
    /// Who the controller must be.
    pub(crate) controller: SpiffeId,
    pub(crate) pod: String,
}

/// Follows the controller until the process ends.
pub(crate) async fn run(
    settings: Settings,
    certificates: linnet_workload::Handle,
    directory: Arc<Directory>,
    mut commands: mpsc::Receiver<Command>,
) {
    let early = dialed_meanwhile(&settings.address, certificates.wait()).await;
    let early = Early::new(Mutex::new(early));
    let mut backoff = START_BACKOFF;
    loop {
        let mut answered = None;
        let stream = Stream {
            settings: &settings,
            directory: &directory,
            early: &early,
        };
        let error = match stream
            .follow(&certificates, &mut commands, &mut answered)
            .await
        {
            Ok(never) => match never {},
            Err(error) => error,
        };
        directory.set_away(true);
        backoff = after(backoff, answered.map(|since| since.elapsed()));
        tracing::warn!(
            controller = settings.address, %error, retry_in = ?backoff,
            "the discovery stream broke; what was learnt stays in force"
        );
        // Half fixed, half drawn: proxies that lost one controller don't return
        // as one.
        tokio::time::sleep(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

/// The wait after a stream that has lived for so long since its first message; `None`: it had
/// none. Where a message is what breaks streams, the next one does it again, so only a stream
/// that has lived for a while begins anew.
fn after(backoff: Duration, lived: Option<Duration>) -> Duration {
    match lived {
        None => backoff,
        Some(lived) if lived < LONGEST_BACKOFF => backoff.max(FIRST_BACKOFF),
        Some(_) => FIRST_BACKOFF,
    }
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("connecting: {}", with_causes(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("the controller ended the stream")]
    Ended,
    #[error("targets came and went faster than the controller was asked; all are asked for again")]
    Behind,
    #[error("{0} is not host:port")]
    Address(String),
}

/// tonic's own text says only that the transport failed.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The connection of the first stream, until that takes it.
type Early = Arc<Mutex<Option<TcpStream>>>;

struct Stream<'a> {
    settings: &'a Settings,
    directory: &'a Directory,
    early: &'a Early,
}

impl Stream<'_> {
    async fn follow(
        &self,
        certificates: &linnet_workload::Handle,
        commands: &mut mpsc::Receiver<Command>,
        answered: &mut Option<Instant>,
    ) -> Result<std::convert::Infallible, StreamError> {
        let channel = connect(self.settings, certificates, self.early).await?;
        let (messages, receiver) = mpsc::channel(64);
        // What piled up while there was no stream is part of `targets`.
        self.directory.take_behind();
        while commands.try_recv().is_ok() {}
        self.greet(&messages).await?;
        let mut client = proto::discovery_client::DiscoveryClient::new(channel)
            .max_decoding_message_size(64 << 20);
        let mut updates = client
            .stream(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        loop {
            tokio::select! {
                message = updates.message() => {
                    let message = message?.ok_or(StreamError::Ended)?;
                    answered.get_or_insert_with(Instant::now);
                    self.directory.set_away(false);
                    let acknowledgement = self.receive(message);
                    send(&messages, proto::proxy_message::Kind::Acknowledgement(acknowledgement)).await?;
                }
                Some(command) = commands.recv() => {
                    let mut batch = vec![command];
                    while let Ok(command) = commands.try_recv() {
                        batch.push(command);
                    }
                    if self.directory.take_behind() {
                        return Err(StreamError::Behind);
                    }
                    for kind in requests(batch) {
                        send(&messages, kind).await?;
                    }
                }
            }
        }
    }

    async fn greet(&self, messages: &mpsc::Sender<proto::ProxyMessage>) -> Result<(), StreamError> {
        use proto::proxy_message::Kind;
        let hello = proto::Hello {
            pod: self.settings.pod.clone(),
            proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        send(messages, Kind::Hello(hello)).await?;
        for targets in self.directory.targets().chunks(limits::TARGETS_OF_MESSAGE) {
            let targets = targets.iter().map(Into::into).collect();
            send(messages, Kind::Subscribe(proto::Targets { targets })).await?;
        }
        Ok(())
    }

    fn receive(&self, message: proto::ControllerMessage) -> proto::Acknowledgement {
        let version = message.version;
        let updates: Result<Vec<Update>, DecodeError> =
            message.updates.into_iter().map(Update::decode).collect();
        let error = match updates {
            Ok(updates) => {
                self.directory.apply(updates);
                String::new()
            }
            Err(error) => {
                tracing::error!(version, %error, "refused a configuration; the last good one stays");
                let mut text = error.to_string();
                limits::cut(&mut text, limits::ERROR);
                text
            }
        };
        proto::Acknowledgement { version, error }
    }
}

async fn send(
    messages: &mpsc::Sender<proto::ProxyMessage>,
    kind: proto::proxy_message::Kind,
) -> Result<(), StreamError> {
    let message = proto::ProxyMessage { kind: Some(kind) };
    messages.send(message).await.map_err(|_| StreamError::Ended)
}

/// Messages for runs of commands of the same kind, in their order, each of as many
/// targets as a message may have.
fn requests(commands: Vec<Command>) -> Vec<proto::proxy_message::Kind> {
    use proto::proxy_message::Kind;
    let mut kinds: Vec<Kind> = Vec::new();
    for command in commands {
        let full = |last: &proto::Targets| last.targets.len() >= limits::TARGETS_OF_MESSAGE;
        let one = |target: &Target| proto::Targets {
            targets: vec![target.into()],
        };
        match (command, kinds.last_mut()) {
            (Command::Subscribe(target), Some(Kind::Subscribe(last))) if !full(last) => {
                last.targets.push((&target).into());
            }
            (Command::Unsubscribe(target), Some(Kind::Unsubscribe(last))) if !full(last) => {
                last.targets.push((&target).into());
            }
            (Command::Subscribe(target), _) => kinds.push(Kind::Subscribe(one(&target))),
            (Command::Unsubscribe(target), _) => kinds.push(Kind::Unsubscribe(one(&target))),
        }
    }
    kinds
}

async fn connect(
    settings: &Settings,
    certificates: &linnet_workload::Handle,
    early: &Early,
) -> Result<Channel, StreamError> {
    let origin = format!("http://{}", settings.address);
    let endpoint = Endpoint::from_shared(origin)
        .map_err(|_| StreamError::Address(settings.address.clone()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let settings = settings.clone();
    let (certificates, early) = (certificates.clone(), early.clone());
    let connector = tower::service_fn(move |_: http::Uri| {
        let (settings, certificates) = (settings.clone(), certificates.clone());
        let early = early.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            open(&settings, &certificates, early)
                .await
                .map(TokioIo::new)
        }
    });
    Ok(endpoint.connect_with_connector(connector).await?)
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to the controller while the certificate is still on its way: its name alone
/// may take several round trips. `None`: it could not be reached, or the certificate
/// took so long that the controller has given the connection up.
async fn dialed_meanwhile(
    address: &str,
    certificate: impl Future<Output = impl Sized>,
) -> Option<TcpStream> {
    let dialing = async {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, dial(address)).await;
        stream.ok()?.ok().map(|stream| (stream, Instant::now()))
    };
    let (dialed, _) = tokio::join!(dialing, certificate);
    let (stream, when) = dialed?;
    (when.elapsed() < CONNECT_TIMEOUT).then_some(stream)
}

async fn open(
    settings: &Settings,
    certificates: &linnet_workload::Handle,
    early: Option<TcpStream>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let workload = certificates
        .current()
        .ok_or_else(|| io::Error::other("no certificate yet"))?;
    let stream = match early {
        Some(stream) => stream,
        None => dial(&settings.address).await?,
    };
    let name = rustls::pki_types::ServerName::IpAddress(stream.peer_addr()?.ip().into());
    let connector = TlsConnector::from(workload.client_config(&[b"h2"]));
    let stream = connector.connect(name, stream).await?;
    let peer = linnet_runtime::tls::peer_identity(stream.get_ref().1);
    if peer.as_ref() == Some(&settings.controller) {
        Ok(stream)
    } else {
        Err(io::Error::other(format!(
            "{} is {}, not the controller {}",
            settings.address,
            peer.map_or_else(|| "nobody".to_owned(), |id| id.to_string()),
            settings.controller
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::proxy_message::Kind;

    #[test]
    fn streams_that_break_after_a_message_come_back_ever_later() {
        let mut backoff = START_BACKOFF;
        let mut waits = Vec::new();
        for _ in 0..8 {
            backoff = after(backoff, Some(Duration::from_millis(20)));
            waits.push(backoff.as_millis());
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(after(backoff, None), LONGEST_BACKOFF);
        assert_eq!(after(backoff, Some(LONGEST_BACKOFF)), FIRST_BACKOFF);
    }

    #[test]
    fn no_message_has_more_targets_than_a_controller_takes() {
        let target = |number: u16| Target::Address(([10, 0, 0, 1], number).into());
        let most = u16::try_from(limits::TARGETS_OF_MESSAGE).unwrap();
        let subscribe = (0..2 * most + 1).map(|number| Command::Subscribe(target(number)));
        let unsubscribe = (0..most + 1).map(|number| Command::Unsubscribe(target(number)));
        let mut lengths = Vec::new();
        for kind in requests(subscribe.chain(unsubscribe).collect()) {
            lengths.push(match &kind {
                Kind::Subscribe(targets) => targets.targets.len(),
                Kind::Unsubscribe(targets) => 1000 + targets.targets.len(),
                other => panic!("{other:?}"),
            });
            let message = proto::ProxyMessage { kind: Some(kind) };
            assert_eq!(limits::check(&message), Ok(()));
        }
        assert_eq!(lengths, [512, 512, 1, 1512, 1001]);
    }
}
