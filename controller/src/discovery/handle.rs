//! How others reach the hub: commands, and questions that it answers.

use super::{
    convergence::LastChange,
    proxy_status::ProxyStatus,
    stream::{Message, StreamId},
};
use crate::{compile::Verdict, desired_status::DesiredStatus, index::KeySources};
use linnet_discovery::Target;
use linnet_mesh::SpiffeId;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

/// What the hub is asked.
pub(super) enum Command {
    Open(Open),
    Subscribe(StreamId, Vec<Target>),
    Unsubscribe(StreamId, Vec<Target>),
    Acknowledge(StreamId, u64, Option<String>),
    Close(StreamId),
    Verdicts(oneshot::Sender<Vec<Verdict>>),
    KeySources(oneshot::Sender<KeySources>),
    Proxies(oneshot::Sender<Vec<ProxyStatus>>),
    Statuses(oneshot::Sender<Vec<DesiredStatus>>),
    LastChange(oneshot::Sender<Option<LastChange>>),
}

/// A proxy that says who it is.
pub(super) struct Open {
    pub(super) id: StreamId,
    pub(super) identity: SpiffeId,
    pub(super) pod: String,
    pub(super) proxy_version: String,
    /// The pod must be known, and run as that identity.
    pub(super) pod_must_exist: bool,
    pub(super) queue: mpsc::Sender<Message>,
    pub(super) reply: oneshot::Sender<Result<(), Status>>,
    /// Says why the stream ends, once it is let in.
    pub(super) end: oneshot::Sender<Status>,
}

/// The hub has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the controller is shutting down")]
pub struct Stopped;

/// Reaches the hub.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) changes: watch::Receiver<()>,
}

impl Handle {
    pub(super) async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)
    }

    /// For who can't wait: a stream that ends in a destructor.
    pub(super) fn close(&self, id: StreamId) {
        let commands = self.commands.clone();
        match commands.try_send(Command::Close(id)) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(command)) => {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move { commands.send(command).await });
                }
            }
        }
    }

    /// What became of each resource.
    ///
    /// # Errors
    /// The controller is shutting down.
    pub async fn verdicts(&self) -> Result<Vec<Verdict>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Verdicts(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// What resources' statuses are to say.
    ///
    /// # Errors
    /// The controller is shutting down.
    pub async fn statuses(&self) -> Result<Vec<DesiredStatus>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Statuses(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Where issuers' keys are to be fetched.
    ///
    /// # Errors
    /// The controller is shutting down.
    pub async fn key_sources(&self) -> Result<KeySources, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::KeySources(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Tells that statuses may be to say something else.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

    /// The last change that every proxy concerned has heard of, if any was.
    ///
    /// # Errors
    /// The controller is shutting down.
    pub async fn last_change(&self) -> Result<Option<LastChange>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::LastChange(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// The connected proxies.
    ///
    /// # Errors
    /// The controller is shutting down.
    pub async fn proxies(&self) -> Result<Vec<ProxyStatus>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Proxies(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }
}
