use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use axum::body::Body;
use futures_util::future::join_all;
use serde_json::json;
use tower::ServiceExt;

use super::*;
use crate::{
    InjectionConfig,
    namespaces::{Fresh, Namespaces},
    webhook::{PATH, Webhook},
};

/// An API server that counts, and a watch.
#[derive(Clone)]
struct Cluster {
    lookups: Lookups,
    namespaces: Arc<Mutex<BTreeMap<String, Labels>>>,
    watched: Arc<Mutex<BTreeSet<String>>>,
    reads: Arc<AtomicUsize>,
    most_at_a_time: Arc<AtomicUsize>,
}

impl Cluster {
    fn new() -> Self {
        let namespaces = Arc::<Mutex<BTreeMap<String, Labels>>>::default();
        let (reads, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let running = Arc::new(AtomicUsize::new(0));
        let lookups = {
            let (namespaces, reads, most) = (namespaces.clone(), reads.clone(), most.clone());
            Lookups::new(Box::new(move |name| {
                let (namespaces, running, most) =
                    (namespaces.clone(), running.clone(), most.clone());
                reads.fetch_add(1, SeqCst);
                let name = name.to_owned();
                async move {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    let found = namespaces.lock().unwrap().get(&name).cloned();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    running.fetch_sub(1, SeqCst);
                    Ok(found)
                }
                .boxed()
            }))
        };
        Self {
            lookups,
            namespaces,
            watched: Arc::default(),
            reads,
            most_at_a_time: most,
        }
    }

    fn label(&self, name: &str, value: &str) {
        let labels = [("istio-injection".to_owned(), value.to_owned())].into();
        self.namespaces
            .lock()
            .unwrap()
            .insert(name.to_owned(), labels);
    }

    /// Sends that many reviews at once; returns their statuses, each once.
    async fn review(&self, count: usize, namespace: impl Fn(usize) -> String) -> BTreeSet<u16> {
        let router = Webhook::new(InjectionConfig::default(), Arc::new(self.clone())).router();
        let reviews = (0..count).map(|number| {
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
                "uid": "u", "operation": "CREATE", "namespace": namespace(number),
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "object": {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}},
            }});
            let request = http::Request::post(PATH).body(Body::from(review.to_string()));
            router.clone().oneshot(request.unwrap())
        });
        // No more than one address may have at a time.
        let reviews: Vec<_> = reviews.collect();
        let mut statuses = BTreeSet::new();
        let mut reviews = reviews.into_iter().peekable();
        while reviews.peek().is_some() {
            let some: Vec<_> = reviews.by_ref().take(200).collect();
            let answers = join_all(some).await.into_iter();
            statuses.extend(answers.map(|answer| answer.unwrap().status().as_u16()));
        }
        statuses
    }

    fn reads(&self) -> usize {
        self.reads.swap(0, SeqCst)
    }
}

impl Namespaces for Cluster {
    fn cached(&self, name: &str) -> Option<Labels> {
        let watched = self.watched.lock().unwrap();
        watched.contains(name).then(Labels::default)
    }

    fn fresh<'a>(&'a self, name: &'a str) -> Fresh<'a> {
        let is_known = self.cached(name).is_some();
        Box::pin(self.lookups.fresh(name, is_known))
    }
}

#[tokio::test(start_paused = true)]
async fn reviews_of_unknown_namespaces_cost_the_api_server_little() {
    let cluster = Cluster::new();
    let equal = cluster.review(1000, |_| "nowhere".to_owned()).await;
    assert_eq!((equal, cluster.reads()), ([503].into(), 1));
    let began = Instant::now();
    let distinct = cluster
        .review(1000, |number| format!("nowhere-{number}"))
        .await;
    let earned = began.elapsed().as_secs_f64() * UNKNOWN.1;
    let reads = cluster.reads();
    assert_eq!(distinct, [503].into());
    assert!(reads as f64 <= UNKNOWN.0 + earned + 1.0, "{reads}");
    assert!(cluster.most_at_a_time.load(SeqCst) <= AT_A_TIME);
    // What is no name is not asked for at all.
    tokio::time::sleep(Duration::from_secs(10)).await;
    for odd in ["a/../../secrets", "A", "-a", &"x".repeat(64), "a?b", "a.b"] {
        assert_eq!(
            cluster.review(2, |_| odd.to_owned()).await,
            [503].into(),
            "{odd}"
        );
    }
    assert_eq!(cluster.reads(), 0);
    // Nothing of it is kept.
    let state = cluster.lookups.0.state();
    assert!(state.names.is_empty() && state.absent.len() <= ABSENT.1);
}

#[tokio::test(start_paused = true)]
async fn reviews_of_one_known_namespace_share_reads_that_begin_after_they_came() {
    let cluster = Cluster::new();
    let began = Instant::now();
    cluster.label("shop", "disabled");
    cluster.watched.lock().unwrap().insert("shop".to_owned());
    assert_eq!(
        cluster.review(1000, |_| "shop".to_owned()).await,
        [200].into()
    );
    let (reads, took) = (cluster.reads(), began.elapsed());
    // Sixteen are judged at a time, so at least eight share a read.
    assert!(reads <= 1000 / 8 + 8, "{reads}");
    let most = (took.as_millis() / COUNTS.as_millis() + 1) * AT_A_TIME as u128;
    assert!(reads as u128 <= most, "{reads} in {took:?}");
    // A read is under way when the label changes: who comes now hears of the change.
    let before = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.fresh("shop").await }
    });
    tokio::task::yield_now().await;
    assert_eq!(cluster.reads(), 1);
    cluster.label("shop", "enabled");
    let (first, second) = tokio::join!(cluster.fresh("shop"), cluster.fresh("shop"));
    let value = |labels: Result<Labels, Unavailable>| labels.unwrap()["istio-injection"].clone();
    assert_eq!(value(before.await.unwrap()), "disabled");
    assert_eq!(
        (value(first), value(second)),
        ("enabled".into(), "enabled".into())
    );
    assert_eq!(cluster.reads(), 1, "both by one read");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_was_asked_for_too_early_is_found_once_it_is_there() {
    let cluster = Cluster::new();
    assert_eq!(cluster.review(5, |_| "new".to_owned()).await, [503].into());
    cluster.label("new", "enabled");
    // The watch may be faster than the memory of its absence.
    cluster.watched.lock().unwrap().insert("new".to_owned());
    assert_eq!(cluster.review(5, |_| "new".to_owned()).await, [200].into());
    cluster.watched.lock().unwrap().clear();
    cluster.label("other", "enabled");
    assert_eq!(
        cluster.review(5, |_| "other".to_owned()).await,
        [200].into()
    );
    // Whoever goes away before the answer leaves nothing behind.
    let gone = tokio::time::timeout(Duration::from_millis(5), cluster.fresh("other"));
    assert!(gone.await.is_err());
    assert!(cluster.lookups.0.state().names.is_empty());
}
