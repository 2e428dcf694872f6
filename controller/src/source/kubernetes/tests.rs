//! A scripted API server in place of a cluster.

use super::*;
use crate::source;
use axum::body::Body;
use http::{Request, Response};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio_stream::wrappers::ReceiverStream;

type Line = Result<String, Infallible>;

/// Answers lists by plural; a plural without an answer is not installed.
#[derive(Clone, Default)]
struct Cluster {
    lists: HashMap<&'static str, Vec<Value>>,
    /// Where to write the events of a watch, by plural.
    watches: Arc<Mutex<HashMap<String, mpsc::Sender<Line>>>>,
}

impl Cluster {
    fn answer(&self, request: &Request<kube::client::Body>) -> Response<Body> {
        let plural = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let Some(items) = self.lists.get(plural.as_str()) else {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                "status": "Failure", "reason": "NotFound", "code": 404, "message": "no such kind"});
            return Response::builder()
                .status(404)
                .body(Body::from(status.to_string()))
                .unwrap();
        };
        let watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        if watch {
            let (sender, lines) = mpsc::channel(8);
            self.watches.lock().unwrap().insert(plural, sender);
            return Response::new(Body::from_stream(ReceiverStream::new(lines)));
        }
        let list = json!({"kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": "1"}, "items": items});
        Response::new(Body::from(list.to_string()))
    }

    fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let answer = cluster.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        Client::new(service, "default")
    }
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": "1"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}})
}

#[tokio::test]
async fn a_kind_that_is_not_installed_holds_up_nothing() {
    let bad = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "bad", "namespace": "default"},
        "spec": {"hosts": "not a list"}});
    let cluster = Cluster {
        lists: HashMap::from([
            ("services", vec![service("payment")]),
            ("endpointslices", Vec::new()),
            ("pods", Vec::new()),
            ("virtualservices", vec![bad]),
            ("destinationrules", Vec::new()),
            ("peerauthentications", Vec::new()),
        ]),
        ..Cluster::default()
    };
    let (sink, mut events) = source::channel();
    let running = tokio::spawn(run(cluster.client(), sink));
    let mut seen = Vec::new();
    loop {
        match events.recv().await.unwrap().change {
            Change::Apply(object) => seen.push(object.reference().to_string()),
            Change::Synced => break,
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    // What is malformed comes too: its verdict is the compiler's business.
    assert_eq!(
        seen,
        ["Service default/payment", "VirtualService default/bad"]
    );

    let sender = loop {
        if let Some(sender) = cluster.watches.lock().unwrap().remove("services") {
            break sender;
        }
        tokio::task::yield_now().await;
    };
    let event = json!({"type": "DELETED", "object": service("payment")});
    sender.send(Ok(format!("{event}\n"))).await.unwrap();
    match events.recv().await.unwrap().change {
        Change::Delete(reference) => assert_eq!(reference.to_string(), "Service default/payment"),
        other => panic!("{other:?}"),
    }
    running.abort();
}

#[tokio::test]
async fn what_a_new_list_does_not_hold_is_gone() {
    let (sink, mut events) = source::channel();
    let mut watch = Watch {
        kind: Kind::Service,
        sink,
        listed: None,
        known: HashSet::new(),
        fresh: HashSet::new(),
    };
    let of = |name: &str| serde_json::from_value::<core::Service>(service(name)).unwrap();
    let round = |names: &[&str]| {
        let mut events = vec![Event::Init];
        events.extend(names.iter().map(|name| Event::InitApply(of(name))));
        events.push(Event::InitDone);
        events
    };
    for event in round(&["a", "b"]).into_iter().chain(round(&["b"])) {
        watch.take(event, super::service).await.unwrap();
    }
    drop(watch);
    let mut last = None;
    while let Some(event) = events.recv().await {
        last = Some(event.change);
    }
    match last {
        Some(Change::Delete(reference)) => assert_eq!(reference.to_string(), "Service default/a"),
        other => panic!("{other:?}"),
    }
}
