//! A scripted API server in place of a cluster.

use super::*;
use crate::{
    compile::Context,
    discovery,
    index::Index,
    manifest::parse_yaml,
    source::{self, Change},
};
use axum::body::{Body, to_bytes};
use http::{Method, Request, Response};
use linnet_mesh::TrustDomain;
use serde_json::Value;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

const CLUSTER: &str = "\
apiVersion: v1
kind: Service
metadata: {name: payment}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, generation: 3}
spec:
  parentRefs: [{group: '', kind: Service, name: payment}]
  rules: [{backendRefs: [{name: payment, port: 80}]}]
";

/// One route, its status, and how often a write of it is to fail for another's.
#[derive(Clone)]
struct Cluster {
    route: Arc<Mutex<Value>>,
    conflicts: Arc<Mutex<usize>>,
    writes: watch::Sender<usize>,
}

impl Cluster {
    fn new(conflicts: usize) -> Self {
        let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "default", "generation": 3, "resourceVersion": "1"}});
        Self {
            route: Arc::new(Mutex::new(route)),
            conflicts: Arc::new(Mutex::new(conflicts)),
            writes: watch::Sender::new(0),
        }
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let route = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/r";
        if head.method == Method::GET {
            assert_eq!(head.uri.path(), route);
            return Response::new(Body::from(self.route.lock().unwrap().to_string()));
        }
        assert_eq!(head.method, Method::PATCH);
        assert_eq!(head.uri.path(), format!("{route}/status"));
        let body = to_bytes(Body::new(body), 1 << 20).await.unwrap();
        let patch: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "1");
        {
            let mut conflicts = self.conflicts.lock().unwrap();
            if *conflicts > 0 {
                *conflicts -= 1;
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Failure", "reason": "Conflict", "code": 409, "message": "again"});
                let response = Response::builder().status(409);
                return response.body(Body::from(status.to_string())).unwrap();
            }
        }
        let mut stored = self.route.lock().unwrap();
        stored["status"] = patch["status"].clone();
        self.writes.send_modify(|writes| *writes += 1);
        Response::new(Body::from(stored.to_string()))
    }

    fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let cluster = cluster.clone();
            async move { Ok::<_, Infallible>(cluster.answer(request).await) }
        });
        Client::new(service, "default")
    }
}

async fn hub() -> (Handle, source::Sink) {
    let (sink, events) = source::channel();
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let (handle, _) = discovery::spawn(Index::new(context, TrustDomain::default()), events, ());
    for object in parse_yaml(CLUSTER, "test").unwrap() {
        sink.send(Change::Apply(object)).await.unwrap();
    }
    sink.send(Change::Synced).await.unwrap();
    (handle, sink)
}

#[tokio::test(start_paused = true)]
async fn the_holder_writes_once_whatever_conflicts() {
    let cluster = Cluster::new(2);
    let (handle, _sink) = hub().await;
    let (holds, held) = watch::channel(false);
    let writer = tokio::spawn(write(cluster.client(), handle, held));
    // Time is paused: it passes only when nothing else is left to do.
    sleep(ROUND * 3).await;
    assert_eq!(*cluster.writes.borrow(), 0, "not the holder");

    holds.send_replace(true);
    let mut writes = cluster.writes.subscribe();
    writes.wait_for(|writes| *writes == 1).await.unwrap();
    let stored = cluster.route.lock().unwrap().clone();
    let parent = &stored["status"]["parents"][0];
    assert_eq!(parent["controllerName"], "linnet.io/mesh-controller");
    let conditions: Vec<_> = parent["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| {
            assert_eq!(condition["observedGeneration"], 3);
            let text = |field: &str| condition[field].as_str().unwrap().to_owned();
            [text("type"), text("status"), text("reason")].join(" ")
        })
        .collect();
    assert_eq!(
        conditions,
        ["Accepted True Accepted", "ResolvedRefs True ResolvedRefs"]
    );

    sleep(ROUND * 3).await;
    assert_eq!(*cluster.writes.borrow(), 1, "it says so already");
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_goes_is_told() {
    let cluster = Cluster::new(0);
    let (handle, sink) = hub().await;
    let (_holds, held) = watch::channel(true);
    let writer = tokio::spawn(write(cluster.client(), handle, held));
    let mut writes = cluster.writes.subscribe();
    writes.wait_for(|writes| *writes == 1).await.unwrap();
    let gone = ObjectRef {
        kind: Kind::Service,
        name: crate::object::Name::new("default", "payment"),
    };
    sink.send(Change::Delete(gone)).await.unwrap();
    writes.wait_for(|writes| *writes == 2).await.unwrap();
    let stored = cluster.route.lock().unwrap().clone();
    let conditions = &stored["status"]["parents"][0]["conditions"];
    assert_eq!(conditions[0]["reason"], "NoMatchingParent");
    assert_eq!(conditions[1]["reason"], "BackendNotFound");
    writer.abort();
}
