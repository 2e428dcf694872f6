//! An API server in memory: one Secret, one webhook configuration, namespaces.
//!
//! Writes are conditional as in the real one, and watches deliver changes, so
//! what is tested is the conversation and not a script of it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) const SECRET: &str = "linnet-injector-tls";
pub(crate) const CONFIGURATION: &str = "linnet-injector";

#[derive(Clone)]
pub(crate) struct ApiServer {
    objects: Arc<Mutex<Objects>>,
    /// The version of the last write; watches wait for it.
    version: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) secret: Option<Value>,
    pub(crate) configuration: Option<Value>,
    pub(crate) namespaces: BTreeMap<String, Value>,
    /// What clients wrote, in order.
    pub(crate) writes: Vec<String>,
    /// Refuse access to the Secret.
    pub(crate) forbidden: bool,
    /// Answer so many writes of the Secret with a conflict.
    pub(crate) conflicts: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Secret,
    Configuration,
    Namespaces,
}

impl ApiServer {
    pub(crate) fn new() -> Self {
        Self {
            objects: Arc::default(),
            version: watch::Sender::new(1),
        }
    }

    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.router(), "linnet-system")
    }

    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    /// Changes objects as another client would; watches see it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Objects, u64)) {
        let version = *self.version.borrow() + 1;
        change(&mut self.objects(), version);
        self.version.send_replace(version);
    }

    /// Waits until the objects are as wished.
    pub(crate) async fn until(&self, wished: impl Fn(&Objects) -> bool) {
        let mut version = self.version.subscribe();
        let limit = std::time::Duration::from_secs(20);
        let waited = tokio::time::timeout(limit, async {
            while !wished(&self.objects()) {
                version.changed().await.unwrap();
            }
        });
        waited.await.expect("the objects never became as wished");
    }

    pub(crate) fn install_configuration(&self) {
        self.change(|objects, version| {
            let webhook = |name: &str| {
                json!({
                    "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "clientConfig": {"service": {"name": "linnet-injector", "namespace": "linnet-system", "path": "/inject"}},
                })
            };
            objects.configuration = Some(json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": CONFIGURATION, "resourceVersion": version.to_string()},
                "webhooks": [webhook("namespace.injector.linnet.io"), webhook("pod.injector.linnet.io")],
            }));
        });
    }

    fn router(&self) -> Router {
        let secrets = "/api/v1/namespaces/linnet-system/secrets";
        let configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        Router::new()
            .route("/version", get(version))
            .route(
                secrets,
                get(async |State(api): State<Self>, query| api.list(Kind::Secret, query))
                    .post(create_secret),
            )
            .route(
                &format!("{secrets}/{SECRET}"),
                get(async |State(api): State<Self>| api.read(Kind::Secret)).put(replace_secret),
            )
            .route(
                configurations,
                get(async |State(api): State<Self>, query| api.list(Kind::Configuration, query)),
            )
            .route(
                &format!("{configurations}/{CONFIGURATION}"),
                get(async |State(api): State<Self>| api.read(Kind::Configuration))
                    .patch(patch_configuration),
            )
            .route(
                "/api/v1/namespaces",
                get(async |State(api): State<Self>, query| api.list(Kind::Namespaces, query)),
            )
            .with_state(self.clone())
    }

    fn items(&self, kind: Kind) -> Vec<Value> {
        let objects = self.objects();
        match kind {
            Kind::Secret => objects.secret.iter().cloned().collect(),
            Kind::Configuration => objects.configuration.iter().cloned().collect(),
            Kind::Namespaces => objects.namespaces.values().cloned().collect(),
        }
    }

    fn read(&self, kind: Kind) -> Response {
        if matches!(kind, Kind::Secret) && self.objects().forbidden {
            return status(403, "Forbidden");
        }
        match self.items(kind).pop() {
            Some(object) => Json(object).into_response(),
            None => status(404, "NotFound"),
        }
    }

    fn list(&self, kind: Kind, Query(query): Query<BTreeMap<String, String>>) -> Response {
        if query.get("watch").is_some_and(|watch| watch == "true") {
            return self.watch(kind);
        }
        if !matches!(kind, Kind::Namespaces) && !query.contains_key("fieldSelector") {
            // By-name permissions cover a list only if it selects by name.
            return status(403, "Forbidden");
        }
        let version = self.version.borrow().to_string();
        Json(json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": self.items(kind)}))
            .into_response()
    }

    /// After each change, all objects of the kind: more than the real one sends,
    /// and what a client must bear.
    fn watch(&self, kind: Kind) -> Response {
        let changes = self.version.subscribe();
        let lines = futures_util::stream::unfold(
            (self.clone(), changes),
            move |(api, mut changes)| async move {
                changes.changed().await.ok()?;
                let events = api.items(kind).into_iter();
                let events = events
                    .map(|object| json!({"type": "MODIFIED", "object": object}).to_string() + "\n");
                let text: String = events.collect();
                Some((Ok::<_, Infallible>(text), (api, changes)))
            },
        );
        Body::from_stream(lines).into_response()
    }
}

async fn version() -> Json<Value> {
    Json(json!({
        "major": "1", "minor": "34", "gitVersion": "v1.34.4", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux/amd64",
    }))
}

async fn create_secret(State(api): State<ApiServer>, Json(secret): Json<Value>) -> Response {
    if api.objects().secret.is_some() {
        return status(409, "AlreadyExists");
    }
    store_secret(&api, "create", secret)
}

async fn replace_secret(State(api): State<ApiServer>, Json(secret): Json<Value>) -> Response {
    let current = api.objects().secret.clone();
    let version = |secret: &Value| secret["metadata"]["resourceVersion"].clone();
    if current.as_ref().map(version) != Some(version(&secret)) {
        return status(409, "Conflict");
    }
    store_secret(&api, "replace", secret)
}

fn store_secret(api: &ApiServer, verb: &str, mut secret: Value) -> Response {
    if api.objects().conflicts > 0 {
        api.objects().conflicts -= 1;
        return status(409, "Conflict");
    }
    api.change(|objects, version| {
        secret["metadata"]["resourceVersion"] = json!(version.to_string());
        objects.secret = Some(secret.clone());
        objects.writes.push(format!("{verb} secret"));
    });
    Json(secret).into_response()
}

async fn patch_configuration(
    State(api): State<ApiServer>,
    Json(patch): Json<json_patch::Patch>,
) -> Response {
    let mut configuration = api.objects().configuration.clone().unwrap_or_default();
    if json_patch::patch(&mut configuration, &patch).is_err() {
        return status(422, "Invalid");
    }
    api.change(|objects, version| {
        configuration["metadata"]["resourceVersion"] = json!(version.to_string());
        objects.configuration = Some(configuration.clone());
        objects.writes.push("patch configuration".to_owned());
    });
    Json(configuration).into_response()
}

fn status(code: u16, reason: &str) -> Response {
    let body = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}
