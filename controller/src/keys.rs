//! Issuers' keys: fetched where RequestAuthentications say, again from time to
//! time, and told to the index when they change. A proxy never fetches any.
//!
//! What can't be fetched leaves the keys before in force, and is tried again
//! soon; the resource's verdict says so.

mod fetch;

use crate::{
    compile::KeySource,
    discovery::Handle,
    index::Fetched,
    source::{Change, Sink},
};
use fetch::Fetcher;
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::task::AbortOnDropHandle;

/// How often keys are fetched: an issuer that rotates them makes the next one
/// known for longer than this before it signs.
const EVERY: Duration = Duration::from_secs(300);
/// How soon a fetch that failed is tried again; then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// Fetches at a time.
const AT_ONCE: usize = 8;

/// How keys are fetched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Further roots that servers of keys are verified by, a PEM file.
    pub roots: Option<PathBuf>,
    /// Loopback and link-local addresses may be asked too.
    pub local: bool,
    /// How often.
    pub every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            roots: None,
            local: false,
            every: EVERY,
        }
    }
}

/// Fetches whatever keys are wanted, until the controller stops.
pub(crate) async fn keep(handle: Handle, sink: Sink, settings: Settings) {
    let fetcher = Arc::new(Fetcher::new(&settings));
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut changes = handle.changes();
    let mut followed: HashMap<KeySource, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        let Ok(wanted) = handle.key_sources().await else {
            return;
        };
        followed.retain(|source, _| wanted.contains(source));
        for source in wanted {
            let task = |source: &KeySource| Follow {
                source: source.clone(),
                fetcher: fetcher.clone(),
                turns: turns.clone(),
                sink: sink.clone(),
                every: settings.every,
                failing: Failing::default(),
            };
            let follow = task(&source);
            followed
                .entry(source)
                .or_insert_with(|| AbortOnDropHandle::new(tokio::spawn(follow.run())));
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// One source of keys.
struct Follow {
    source: KeySource,
    fetcher: Arc<Fetcher>,
    turns: Arc<Semaphore>,
    sink: Sink,
    every: Duration,
    failing: Failing,
}

impl Follow {
    async fn run(mut self) {
        let mut told = None;
        let mut retry = FIRST_RETRY;
        loop {
            let fetched = self.fetch().await;
            let failed = fetched.keys.is_err();
            self.failing.set(failed);
            let result = if failed { "failed" } else { "ok" };
            metrics::counter!("linnet_jwks_fetches_total", "result" => result).increment(1);
            if let Err(problem) = &fetched.keys {
                tracing::warn!(source = %self.source, "fetching an issuer's keys: {problem}");
            }
            if told.as_ref() != Some(&fetched) {
                let change = Change::Keys(self.source.clone(), fetched.clone());
                if self.sink.send(change).await.is_err() {
                    return;
                }
                told = Some(fetched);
            }
            let pause = if failed {
                retry.min(self.every)
            } else {
                self.every
            };
            retry = if failed {
                retry.saturating_mul(2)
            } else {
                FIRST_RETRY
            };
            // Not all controllers at once.
            sleep(pause.mul_f64(rand::random_range(0.9..1.1))).await;
        }
    }

    async fn fetch(&self) -> Fetched {
        // The semaphore is never closed; without a turn it goes on all the same.
        let _turn = self.turns.acquire().await;
        match self.fetcher.keys(&self.source).await {
            Ok((keys, notes)) => Fetched {
                keys: Ok(keys.into()),
                notes,
            },
            Err(error) => Fetched {
                keys: Err(error.to_string()),
                notes: Vec::new(),
            },
        }
    }
}

/// Counts a source while its last fetch has failed.
#[derive(Default)]
struct Failing(bool);

impl Failing {
    fn set(&mut self, failed: bool) {
        let gauge = metrics::gauge!("linnet_jwks_failing");
        match (self.0, failed) {
            (false, true) => gauge.increment(1.0),
            (true, false) => gauge.decrement(1.0),
            _ => {}
        }
        self.0 = failed;
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.set(false);
    }
}
