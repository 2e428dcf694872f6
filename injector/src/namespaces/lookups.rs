//! Reads of single namespaces, so few that no review makes the API server work much.
//!
//! Whoever reaches the webhook can name any namespace. So reads of one name go one after
//! the other, and all reviews that wait for one share the next. A read that has begun
//! before a review came is not that review's: the namespace may have been labelled
//! since. Few reads go on at a time. A name that no namespace has is remembered for a
//! moment ([`ABSENT`]), and names that nobody has seen have a budget ([`UNKNOWN`]).

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

use super::{Labels, Unavailable};

/// Reads at a time, and how long each counts at least: so there are 80 a second at most.
const AT_A_TIME: usize = 4;
const COUNTS: Duration = Duration::from_millis(50);
/// How long a name without a namespace is remembered, and how many names are.
const ABSENT: (Duration, usize) = (Duration::from_secs(3), 1024);
/// Reads of names that the watch does not know: at once, and a second from then on. A
/// namespace that was just made is known to the watch within milliseconds.
const UNKNOWN: (f64, f64) = (40.0, 10.0);

/// The answer to one read: the labels, or `None` where there is no such namespace.
pub(super) type Read = Pin<Box<dyn Future<Output = Result<Option<Labels>, String>> + Send>>;

/// Reads a namespace from the API server.
pub(super) type Reader = Box<dyn Fn(&str) -> Read + Send + Sync>;

type Answer = Result<Labels, String>;
type Waiting = Shared<BoxFuture<'static, Answer>>;

/// See the module.
#[derive(Clone)]
pub(super) struct Lookups(Arc<Inner>);

struct Inner {
    read: Reader,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    /// By name: the read that has not begun, and what lets reads of the name go one
    /// after the other. No longer than there are reviews that wait.
    names: HashMap<String, Name>,
    /// Names without a namespace, the oldest first, and when that was found.
    absent: HashMap<String, Instant>,
    oldest: VecDeque<(Instant, String)>,
    /// Reads that are left of the budget for unknown names, and since when.
    left: (f64, Instant),
}

#[derive(Default)]
struct Name {
    /// Held by those who wait for it.
    waiting: Option<WeakShared<BoxFuture<'static, Answer>>>,
    turn: Turn,
}

/// Lets reads of one name go one after the other.
type Turn = Arc<tokio::sync::Mutex<()>>;

impl Lookups {
    pub(super) fn new(read: Reader) -> Self {
        Self(Arc::new(Inner {
            read,
            permits: Arc::new(Semaphore::new(AT_A_TIME)),
            state: Mutex::new(State {
                names: HashMap::new(),
                absent: HashMap::new(),
                oldest: VecDeque::new(),
                left: (UNKNOWN.0, Instant::now()),
            }),
        }))
    }

    /// Returns a namespace's labels as they are now or were after this was called.
    /// `is_known` says that the watch has seen the namespace.
    ///
    /// # Errors
    /// There is no such namespace, the API server can't be asked, or too many unknown
    /// names were asked for.
    pub(super) async fn fresh(&self, name: &str, is_known: bool) -> Result<Labels, Unavailable> {
        let answer = match self.join(name, is_known) {
            Ok(waiting) => waiting.await,
            Err(reason) => Err(reason),
        };
        answer.map_err(|reason| Unavailable {
            name: name.to_owned(),
            reason,
        })
    }

    /// Joins the next read of a name.
    fn join(&self, name: &str, is_known: bool) -> Result<Waiting, String> {
        if !is_a_name(name) {
            return Err("no namespace can have this name".to_owned());
        }
        let mut state = self.0.state();
        if is_known {
            state.absent.remove(name);
        } else if state.is_absent(name) {
            return Err(absent());
        }
        let waiting = state.names.get(name).and_then(|name| name.waiting.as_ref());
        if let Some(waiting) = waiting.and_then(WeakShared::upgrade) {
            return Ok(waiting);
        }
        if !is_known && !state.names.contains_key(name) {
            state.spend()?;
        }
        let entry = state.names.entry(name.to_owned()).or_default();
        let reading = Reading {
            inner: self.0.clone(),
            name: name.to_owned(),
            turn: entry.turn.clone(),
        };
        let waiting = reading.read().boxed().shared();
        entry.waiting = waiting.downgrade();
        Ok(waiting)
    }
}

/// One read. It leaves nothing behind, also when everybody who waits has gone away.
struct Reading {
    inner: Arc<Inner>,
    name: String,
    turn: Turn,
}

impl Reading {
    /// Reads the name once it is its turn. From then on reviews wait for another read.
    async fn read(self) -> Answer {
        let _turn = self.turn.clone().lock_owned().await;
        // The semaphore is never closed.
        let permit = self.inner.permits.clone().acquire_owned().await;
        let until = Instant::now() + COUNTS;
        {
            let mut state = self.inner.state();
            if let Some(entry) = state.names.get_mut(&self.name) {
                entry.waiting = None;
            }
            if state.is_absent(&self.name) {
                return Err(absent());
            }
        }
        let answer = (self.inner.read)(&self.name).await;
        tokio::spawn(async move {
            sleep_until(until).await;
            drop(permit);
        });
        if matches!(answer, Ok(None)) {
            self.inner.state().note_absent(&self.name);
        }
        answer?.ok_or_else(absent)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        let entry = state.names.get(&self.name);
        // The map's own, and this one's: there is no other read of the name.
        if entry.is_some_and(|entry| Arc::strong_count(&entry.turn) <= 2) {
            state.names.remove(&self.name);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_absent(&self, name: &str) -> bool {
        let found = self.absent.get(name);
        found.is_some_and(|found| found.elapsed() < ABSENT.0)
    }

    fn note_absent(&mut self, name: &str) {
        let now = Instant::now();
        while let Some((found, oldest)) = self.oldest.front()
            && (found.elapsed() >= ABSENT.0 || self.oldest.len() >= ABSENT.1)
        {
            if self.absent.get(oldest) == Some(found) {
                self.absent.remove(oldest);
            }
            self.oldest.pop_front();
        }
        self.absent.insert(name.to_owned(), now);
        self.oldest.push_back((now, name.to_owned()));
    }

    /// Spends one read of the budget for unknown names.
    fn spend(&mut self) -> Result<(), String> {
        let (left, since) = self.left;
        let earned = since.elapsed().as_secs_f64() * UNKNOWN.1;
        let left = (left + earned).min(UNKNOWN.0);
        self.left = (left, Instant::now());
        if left < 1.0 {
            return Err("too many unknown namespaces were asked for; ask again".to_owned());
        }
        self.left.0 -= 1.0;
        Ok(())
    }
}

fn absent() -> String {
    "there is no such namespace".to_owned()
}

/// Reports whether a namespace can have a name: a DNS label, as Kubernetes has it. Others
/// would only make another path of the request.
fn is_a_name(name: &str) -> bool {
    let of_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(of_label) && !name.starts_with('-')
}

#[cfg(test)]
mod tests;
