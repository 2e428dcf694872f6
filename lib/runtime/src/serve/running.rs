//! The requests of a connection that are running, by when they began.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

/// A connection's requests. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Running(Arc<Mutex<Began>>);

#[derive(Debug, Default)]
struct Began {
    requests: BTreeSet<(Instant, u64)>,
    next: u64,
}

/// A request that is running until this is dropped.
#[derive(Debug)]
pub(super) struct Request {
    running: Running,
    key: (Instant, u64),
}

impl Running {
    /// Notes that a request begins.
    pub(super) fn begin(&self) -> Request {
        let mut began = self.lock();
        began.next += 1;
        let key = (Instant::now(), began.next);
        began.requests.insert(key);
        Request {
            running: self.clone(),
            key,
        }
    }

    /// Returns when the oldest of those that are running began.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.lock().requests.first().map(|(began, _)| *began)
    }

    fn lock(&self) -> MutexGuard<'_, Began> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.running.lock().requests.remove(&self.key);
    }
}
