use super::*;
use crate::source;
use fetch::{Fetcher, Outcome};
use futures_util::{FutureExt, future::BoxFuture};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::time::Instant;
use turns::Turn;

/// Answers hosts of `good`, lets those of `evil` wait, and refuses others at once.
#[derive(Default)]
struct Script {
    /// When which source was asked.
    asked: Mutex<Vec<(Arc<str>, Instant)>>,
    /// How many are waiting, and how many were at most.
    waiting: Mutex<(usize, usize)>,
}

struct Waiting<'a>(&'a Script);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().unwrap().0 -= 1;
    }
}

impl Fetch for Script {
    fn keys<'a>(&'a self, source: &'a KeySource, turn: Arc<Turn>) -> BoxFuture<'a, Outcome> {
        async move {
            let _turn = turn;
            let asked = (source.url.clone(), Instant::now());
            self.asked.lock().unwrap().push(asked);
            if source.url.starts_with("https://good") {
                return Ok((Vec::new(), Vec::new()));
            }
            if source.url.starts_with("https://evil") {
                {
                    let mut waiting = self.waiting.lock().unwrap();
                    *waiting = (waiting.0 + 1, waiting.1.max(waiting.0 + 1));
                }
                let _waiting = Waiting(self);
                sleep(source.timeout).await;
            }
            Err("no answer".to_owned())
        }
        .boxed()
    }
}

impl Script {
    /// When a source was asked, since a time.
    fn times(&self, url: &str, since: Instant) -> Vec<Duration> {
        let asked = self.asked.lock().unwrap();
        let times = asked.iter().filter(|(asked, _)| **asked == *url);
        times.map(|(_, at)| *at - since).collect()
    }
}

fn source(url: String) -> KeySource {
    KeySource {
        url: url.into(),
        openid: false,
        timeout: Duration::from_secs(30),
    }
}

/// Sources of a script, which wants these keys for these namespaces.
fn sources(script: &Arc<Script>) -> Sources {
    sources_of(script.clone())
}

fn sources_of(fetcher: Arc<dyn Fetch>) -> Sources {
    let (sink, mut events) = source::channel();
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    Sources {
        fetcher,
        turns: Arc::default(),
        sink,
        every: EVERY,
        followed: HashMap::new(),
    }
}

fn wanted(wants: impl IntoIterator<Item = (String, &'static str)>) -> KeySources {
    let mut sources = KeySources::new();
    for (url, namespace) in wants {
        let namespaces = sources.entry(source(url)).or_default();
        namespaces.insert(namespace.into());
    }
    sources
}

const GOOD: &str = "https://good.example/keys";

#[tokio::test(start_paused = true)]
async fn urls_that_hang_in_one_namespace_hold_up_no_other() {
    let script = Arc::new(Script::default());
    let mut followed = sources(&script);
    let evil = (0..100).map(|number| (format!("https://evil/{number}"), "evil"));
    let mut all: Vec<_> = evil.collect();
    followed.follow(wanted(all.clone()));
    sleep(Duration::from_secs(100)).await;
    let since = Instant::now();
    // Also where the other namespace names the same source.
    for (url, namespace) in [
        (GOOD, "shop"),
        ("https://good.example/shared", "shop"),
        ("https://good.example/shared", "evil"),
    ] {
        all.push((url.to_owned(), namespace));
    }
    followed.follow(wanted(all));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(script.times(GOOD, since).len(), 1);
    assert_eq!(script.times("https://good.example/shared", since).len(), 1);
    sleep(Duration::from_secs(1000)).await;
    // In all its life, and fetched again in time.
    assert_eq!(script.waiting.lock().unwrap().1, turns::OF_NAMESPACE);
    let times = script.times(GOOD, since);
    assert!((3..=5).contains(&times.len()), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn urls_that_hang_in_many_namespaces_hold_up_a_new_one_for_one_timeout_at_most() {
    const NAMES: [&str; 30] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
        "s", "t", "u", "v", "w", "x", "y", "z", "aa", "bb", "cc", "dd",
    ];
    let script = Arc::new(Script::default());
    let mut followed = sources(&script);
    let evil = NAMES.into_iter().flat_map(|namespace| {
        (0..20).map(move |number| (format!("https://evil/{namespace}/{number}"), namespace))
    });
    let mut all: Vec<_> = evil.collect();
    followed.follow(wanted(all.clone()));
    sleep(Duration::from_secs(3600)).await;
    let since = Instant::now();
    all.push((GOOD.to_owned(), "shop"));
    followed.follow(wanted(all));
    sleep(Duration::from_secs(31)).await;
    let times = script.times(GOOD, since);
    assert_eq!(times.len(), 1, "{times:?}");
}

static LOOKED_UP: AtomicUsize = AtomicUsize::new(0);

/// A name server that never answers.
fn silent(_: String, _: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    LOOKED_UP.fetch_add(1, Relaxed);
    std::future::pending().boxed()
}

/// A look-up takes a thread until it ends, whatever becomes of the fetch that wanted it: so
/// there are no more of them than turns, however often policies change.
#[tokio::test(start_paused = true)]
async fn names_that_hang_take_no_more_look_ups_than_a_namespace_has_turns() {
    let fetcher = Fetcher::resolving(&Settings::default(), silent);
    let mut followed = sources_of(Arc::new(fetcher));
    for round in 0..6 {
        let evil = (0..100).map(|number| (format!("https://evil/{round}/{number}"), "evil"));
        followed.follow(wanted(evil));
        sleep(Duration::from_secs(1000)).await;
        assert_eq!(LOOKED_UP.load(Relaxed), turns::OF_NAMESPACE, "{round}");
    }
    followed.follow(wanted([(GOOD.to_owned(), "shop")]));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(LOOKED_UP.load(Relaxed), turns::OF_NAMESPACE + 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_asked_ever_less_often() {
    let script = Arc::new(Script::default());
    let mut followed = sources(&script);
    let since = Instant::now();
    let url = "https://down.example/keys";
    followed.follow(wanted([(url.to_owned(), "shop")]));
    sleep(Duration::from_secs(3600)).await;
    let times = script.times(url, since);
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mut expected = FIRST_RETRY;
    for pause in &pauses {
        let low = expected.mul_f64(0.89);
        let high = expected.mul_f64(1.11);
        assert!((low..high).contains(pause), "{pauses:?}");
        expected = (expected * 2).min(EVERY);
    }
    assert!(pauses.len() > 10, "{pauses:?}");
}
