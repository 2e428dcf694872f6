//! The gRPC service: one stream a proxy, over mutual TLS.
//!
//! Who the proxy is comes from its certificate; the pod it names must belong
//! to that identity.

use super::{
    handle::{Command, Handle, Open},
    stream::{Message, StreamId},
    wire::{self, Delivery},
};
use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use linnet_discovery::{
    DecodeError, Target, limits,
    proto::{self, proxy_message::Kind},
};
use linnet_mesh::SpiffeId;
use linnet_runtime::{
    drain,
    serve::{Hangup, Peer},
};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status, Streaming};

/// Which proxies are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Those whose pod is known to run as the identity they prove.
    KnownPods,
    /// All that prove an identity; a pod that is known must still run as it.
    /// For directories, which need not describe pods.
    AnyIdentity,
}

/// A proxy has this long to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// A proxy has this long to take something of what it is told, and each time as long again.
const STALL: Duration = Duration::from_secs(60);
/// A proxy whose stream the hub has ended has this long to take what was begun.
const UNCOUNTED: Duration = Duration::from_secs(1);
/// A proxy can be faster than the watch of its pod by this much.
const POD_KNOWN: Duration = Duration::from_secs(10);

/// The gRPC service.
pub struct Server {
    hub: Handle,
    admission: Admission,
    drain: drain::Watch,
    streams: Arc<AtomicU64>,
}

impl Server {
    /// A service on a hub.
    pub fn new(hub: Handle, admission: Admission, drain: drain::Watch) -> Self {
        Self {
            hub,
            admission,
            drain,
            streams: Arc::default(),
        }
    }

    /// The service as a router. Requests must carry their [`Peer`].
    pub fn router(self) -> Router {
        let stream = async |State(server): State<Arc<Self>>, request: Request| match server
            .stream(request)
        {
            Ok(response) => response,
            Err(status) => status.into_http(),
        };
        Router::new()
            .route(wire::STREAM, post(stream))
            .with_state(Arc::new(self))
    }

    fn stream(&self, request: Request) -> Result<Response, Status> {
        let identity = request
            .extensions()
            .get::<Peer>()
            .and_then(|peer| peer.identity.clone())
            .ok_or_else(|| Status::unauthenticated("present a certificate of the mesh"))?;
        let hangup = request.extensions().get::<Hangup>().cloned();
        let (queue, messages) = mpsc::channel(1);
        let (gone, is_gone) = oneshot::channel();
        let delivery = Arc::new(Delivery::default());
        let session = Session {
            id: self.streams.fetch_add(1, Ordering::Relaxed),
            identity,
            hub: self.hub.clone(),
            admission: self.admission,
            queue,
            delivery: delivery.clone(),
        };
        let asked = wire::requests(request.into_body());
        let drain = self.drain.clone();
        tokio::spawn(async move {
            if !session.run(asked, is_gone, drain).await
                && let Some(hangup) = hangup
            {
                hangup.hang_up();
            }
        });
        Ok(wire::response(messages, delivery, gone))
    }
}

struct Session {
    id: StreamId,
    identity: SpiffeId,
    hub: Handle,
    admission: Admission,
    queue: mpsc::Sender<Message>,
    delivery: Arc<Delivery>,
}

/// Why a stream ends.
enum End {
    /// By itself; the hub counts it until nobody holds the response any more.
    Own(Status),
    /// By the hub, which has let go of it.
    Hub(Status),
    /// Nobody holds the response any more.
    Gone,
    /// The proxy has taken nothing for [`STALL`].
    Stalled,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.close(self.id);
    }
}

impl Session {
    /// Runs the stream, and returns once nobody holds its response any more, or with
    /// `false` if somebody does for too long: what a proxy has yet to take is memory.
    async fn run(
        self,
        messages: Streaming<proto::ProxyMessage>,
        mut gone: oneshot::Receiver<Infallible>,
        drain: drain::Watch,
    ) -> bool {
        let mut end = None;
        let ended = tokio::select! {
            ended = self.talk(messages, &mut end) => ended,
            _ = &mut gone => End::Gone,
            () = self.stalled() => End::Stalled,
            // The proxy keeps what it has and asks another replica.
            _guard = drain.signaled() => {
                End::Own(Status::unavailable("the controller is shutting down"))
            }
        };
        let (status, patience) = match ended {
            End::Gone => return true,
            End::Stalled => {
                let identity = &self.identity;
                tracing::warn!(%identity, "discovery stream ended: nothing was taken for {STALL:?}");
                return false;
            }
            // The hub does not count it any more.
            End::Hub(status) => {
                end = None;
                (status, UNCOUNTED)
            }
            End::Own(status) => (status, HELLO),
        };
        if status.code() != Code::Ok {
            tracing::info!(identity = %self.identity, "discovery stream ended: {}", status.message());
        }
        let taken = async {
            // The queue may hold a message for a proxy that reads nothing more.
            let _ = self.queue.send(Err(status)).await;
            let _ = (&mut gone).await;
        };
        let displaced = async {
            match &mut end {
                Some(end) => drop(end.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = taken => true,
            () = displaced => false,
            () = sleep(patience) => false,
        }
    }

    /// Reports whether there is something that the proxy has yet to take.
    fn waits_to_be_taken(&self) -> bool {
        self.delivery.is_under_way() || self.queue.capacity() == 0
    }

    /// Returns when the proxy has taken nothing for [`STALL`] of what it is told.
    async fn stalled(&self) {
        let (mut chunks, mut since) = (0, Instant::now());
        loop {
            sleep(STALL / 4).await;
            let taken = self.delivery.chunks();
            if taken != chunks || !self.waits_to_be_taken() {
                (chunks, since) = (taken, Instant::now());
            } else if since.elapsed() >= STALL {
                return;
            }
        }
    }

    /// Serves the stream. `end` says why the hub ends it, once it is let in.
    async fn talk(
        &self,
        messages: Streaming<proto::ProxyMessage>,
        end: &mut Option<oneshot::Receiver<Status>>,
    ) -> End {
        match self.listen(messages, end).await {
            Ok(end) => end,
            Err(status) => End::Own(status),
        }
    }

    async fn listen(
        &self,
        mut messages: Streaming<proto::ProxyMessage>,
        end: &mut Option<oneshot::Receiver<Status>>,
    ) -> Result<End, Status> {
        let first = timeout(HELLO, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message did not come"))??;
        if let Some(first) = &first {
            limits::check(first).map_err(|error| invalid(&error))?;
        }
        let Some(Kind::Hello(hello)) = first.and_then(|message| message.kind) else {
            return Err(Status::invalid_argument(
                "the first message must be a Hello",
            ));
        };
        // On its own, so that it takes no room in a stream that lives for long.
        let end = end.insert(Box::pin(self.open(hello)).await?);
        loop {
            let message = tokio::select! {
                message = messages.message() => message?,
                // The hub lets go of a stream after it says why, or when it stops.
                end = &mut *end => {
                    let reason = end.unwrap_or_else(|_| stopped(super::Stopped));
                    return Ok(End::Hub(reason));
                }
            };
            let Some(message) = message else {
                return Ok(End::Own(Status::ok("the proxy has ended it")));
            };
            limits::check(&message).map_err(|error| invalid(&error))?;
            let command = match message.kind {
                Some(Kind::Subscribe(asked)) => Command::Subscribe(self.id, targets(asked)?),
                Some(Kind::Unsubscribe(asked)) => Command::Unsubscribe(self.id, targets(asked)?),
                Some(Kind::Acknowledgement(ack)) => {
                    let error = (!ack.error.is_empty()).then_some(ack.error);
                    Command::Acknowledge(self.id, ack.version, error)
                }
                Some(Kind::Hello(_)) => {
                    return Err(Status::invalid_argument("a second Hello"));
                }
                // Of a newer proxy: what it asks is not ours to answer.
                None => continue,
            };
            self.hub.send(command).await.map_err(stopped)?;
        }
    }

    /// Waits to be let in. Returns what says why the hub ends the stream.
    async fn open(&self, hello: proto::Hello) -> Result<oneshot::Receiver<Status>, Status> {
        if hello.pod.is_empty() {
            return Err(Status::invalid_argument(
                "Hello.pod: must be the pod's name",
            ));
        }
        let (reply, answer) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let pod = hello.pod.clone();
        let open = Open {
            id: self.id,
            identity: self.identity.clone(),
            pod: hello.pod,
            proxy_version: hello.proxy_version,
            pod_must_exist: self.admission == Admission::KnownPods,
            queue: self.queue.clone(),
            reply,
            end,
        };
        self.hub.send(Command::Open(open)).await.map_err(stopped)?;
        match timeout(POD_KNOWN, answer).await {
            Ok(Ok(admitted)) => admitted.map(|()| ended),
            Ok(Err(_)) => Err(stopped(super::Stopped)),
            Err(_) => Err(Status::permission_denied(format!(
                "there is no pod {pod} in namespace {}",
                self.identity.namespace()
            ))),
        }
    }
}

fn stopped(error: super::Stopped) -> Status {
    Status::unavailable(error.to_string())
}

fn targets(asked: proto::Targets) -> Result<Vec<Target>, Status> {
    asked
        .targets
        .into_iter()
        .map(Target::try_from)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(&error))
}

fn invalid(error: &DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}
