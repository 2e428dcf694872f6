//! Where objects come from. Whatever the source, the index sees one stream of
//! changes, each with the moment it was seen.

pub mod directory;
pub mod kubernetes;

use crate::{
    compile::KeySource,
    object::{Kind, Object, ObjectRef},
};
use linnet_mesh::authentication::Jwk;
use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};
use tokio::sync::mpsc;

/// What fetching keys has come to.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyFetch {
    /// The keys, or why there are no new ones.
    pub keys: Result<Arc<[Jwk]>, String>,
    /// Which of them are not used, and why.
    pub notes: Vec<String>,
}

/// A change and when it was seen.
#[derive(Debug)]
pub struct Event {
    /// When, for measuring.
    pub seen: Instant,
    /// When, for the wire.
    pub seen_at: SystemTime,
    /// The change.
    pub change: Change,
}

/// A change.
#[derive(Debug)]
pub enum Change {
    /// An object as it is now.
    Apply(Object),
    /// An object is gone.
    Delete(ObjectRef),
    /// A place (a file) from which nothing can be taken, and why; its last
    /// good objects stay. `None`: it is fine again.
    Problem {
        /// The place.
        origin: String,
        /// What is wrong with it.
        reason: Option<String>,
    },
    /// What fetching an issuer's keys has come to.
    Keys(KeySource, KeyFetch),
    /// All that was there at the start has been told.
    Synced,
}

impl Change {
    /// Whether verdicts on resources can differ after it: those of a cluster's
    /// constant comings and goings can't.
    pub fn is_judged(&self) -> bool {
        let kind = match self {
            Self::Apply(object) => object.reference().kind,
            Self::Delete(reference) => reference.kind,
            Self::Problem { .. } | Self::Keys(..) | Self::Synced => return true,
        };
        !matches!(kind, Kind::Pod | Kind::EndpointSlice)
    }
}

/// The way from a source to the index. It waits while the index is busy, so a
/// burst never piles up in memory.
#[derive(Clone, Debug)]
pub struct Sink(mpsc::Sender<Event>);

/// Changes on their way at most.
const CAPACITY: usize = 1024;

/// A sink and what comes out of it.
pub fn channel() -> (Sink, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    (Sink(sender), receiver)
}

impl Sink {
    /// Hands a change on.
    ///
    /// # Errors
    /// Nobody listens any more: the controller is going down.
    pub async fn send(&self, change: Change) -> Result<(), Closed> {
        let event = Event {
            seen: Instant::now(),
            seen_at: SystemTime::now(),
            change,
        };
        self.0.send(event).await.map_err(|_| Closed)
    }
}

/// The index is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the controller is shutting down")]
pub struct Closed;
