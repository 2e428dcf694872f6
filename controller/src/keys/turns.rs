//! Whose keys are fetched next.
//!
//! Fetching waits for servers that tenants name, and those may let it wait. So a namespace
//! has a few turns of its own and can't take another's; and a source whose last fetch
//! failed waits apart from those that answer. A source that several namespaces want is
//! fetched in whichever turn comes first.

use futures_util::future::select_all;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Fetches at a time for one namespace.
pub(super) const OF_NAMESPACE: usize = 2;
/// Fetches at a time of sources that answered the last time, or are new.
const ANSWERING: usize = 24;
/// Fetches at a time of sources that failed the last time.
const FAILING: usize = 8;

#[derive(Debug)]
pub(super) struct Turns {
    namespaces: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
    answering: Arc<Semaphore>,
    failing: Arc<Semaphore>,
}

/// The right to fetch, until it is dropped.
#[derive(Default)]
pub(super) struct Turn {
    _of_namespace: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            namespaces: Mutex::default(),
            answering: Arc::new(Semaphore::new(ANSWERING)),
            failing: Arc::new(Semaphore::new(FAILING)),
        }
    }
}

impl Turns {
    /// Waits for a turn of one of the namespaces.
    pub(super) async fn next(&self, namespaces: &BTreeSet<Arc<str>>, failing: bool) -> Turn {
        let own: Vec<_> = namespaces.iter().map(|name| self.of(name)).collect();
        let of_namespace = if own.is_empty() {
            None
        } else {
            let waits = own.into_iter().map(|own| Box::pin(own.acquire_owned()));
            select_all(waits).await.0.ok()
        };
        let of_all = if failing {
            &self.failing
        } else {
            &self.answering
        };
        Turn {
            _of_namespace: of_namespace,
            // No semaphore here is ever closed.
            _of_all: of_all.clone().acquire_owned().await.ok(),
        }
    }

    fn of(&self, namespace: &Arc<str>) -> Arc<Semaphore> {
        let known = self.namespaces.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        // Who waits or fetches holds the semaphore, by itself or in a permit.
        known.retain(|_, own| Arc::strong_count(own) > 1);
        let new = || Arc::new(Semaphore::new(OF_NAMESPACE));
        known.entry(namespace.clone()).or_insert_with(new).clone()
    }
}
