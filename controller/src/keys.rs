//! Issuers' keys: fetched where RequestAuthentications say, again from time to
//! time, and told to the index when they change. A proxy never fetches any.
//!
//! What can't be fetched leaves the keys before in force, and is tried again
//! soon, then ever less often; the resource's verdict says so. Servers that let the
//! controller wait hold up nobody's keys but those of the namespace that names them.

mod fetch;
#[cfg(test)]
mod tests;
mod turns;

use crate::{
    compile::KeySource,
    discovery::Handle,
    index::KeySources,
    source::{Change, KeyFetch, Sink},
};
use arc_swap::ArcSwap;
use fetch::{Fetch, Fetcher};
use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use turns::Turns;

/// How often keys are fetched: an issuer that rotates them makes the next one
/// known for longer than this before it signs.
const EVERY: Duration = Duration::from_secs(300);
/// How soon a fetch that failed is tried again; then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(2);

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
    let mut sources = Sources {
        fetcher: Arc::new(Fetcher::new(&settings)),
        turns: Arc::default(),
        sink,
        every: settings.every,
        followed: HashMap::new(),
    };
    let mut changes = handle.changes();
    loop {
        let Ok(wanted) = handle.key_sources().await else {
            return;
        };
        sources.follow(wanted);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The sources whose keys are fetched.
struct Sources {
    fetcher: Arc<dyn Fetch>,
    turns: Arc<Turns>,
    sink: Sink,
    every: Duration,
    followed: HashMap<KeySource, Followed>,
}

struct Followed {
    namespaces: Arc<ArcSwap<BTreeSet<Arc<str>>>>,
    _task: AbortOnDropHandle<()>,
}

impl Sources {
    /// Fetches the keys of these sources and of no others.
    fn follow(&mut self, wanted: KeySources) {
        self.followed
            .retain(|source, _| wanted.contains_key(source));
        for (source, namespaces) in wanted {
            if let Some(known) = self.followed.get(&source) {
                known.namespaces.store(Arc::new(namespaces));
                continue;
            }
            let namespaces = Arc::new(ArcSwap::from_pointee(namespaces));
            let follow = Follow {
                source: source.clone(),
                namespaces: namespaces.clone(),
                fetcher: self.fetcher.clone(),
                turns: self.turns.clone(),
                sink: self.sink.clone(),
                every: self.every,
                failing: Failing::default(),
            };
            let followed = Followed {
                namespaces,
                _task: AbortOnDropHandle::new(tokio::spawn(follow.run())),
            };
            self.followed.insert(source, followed);
        }
    }
}

/// One source of keys.
struct Follow {
    source: KeySource,
    /// Whose policies want the keys.
    namespaces: Arc<ArcSwap<BTreeSet<Arc<str>>>>,
    fetcher: Arc<dyn Fetch>,
    turns: Arc<Turns>,
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

    async fn fetch(&self) -> KeyFetch {
        let namespaces = self.namespaces.load_full();
        let turn = self.turns.next(&namespaces, self.failing.0).await;
        match self.fetcher.keys(&self.source, Arc::new(turn)).await {
            Ok((keys, notes)) => KeyFetch {
                keys: Ok(keys.into()),
                notes,
            },
            Err(error) => KeyFetch {
                keys: Err(error),
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
