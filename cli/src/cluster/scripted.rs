//! An API server for tests: it holds objects, answers reads and lists, and
//! records every change that is asked for.

use super::Cluster;
use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

/// The server, before and after a test.
#[derive(Clone)]
pub(crate) struct ApiServer {
    version: (String, String),
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Objects by the path that they are read from.
    objects: BTreeMap<String, Value>,
    changes: Vec<String>,
}

impl ApiServer {
    pub(crate) fn new() -> Self {
        Self {
            version: ("1".to_owned(), "34".to_owned()),
            state: Arc::default(),
        }
    }

    pub(crate) fn version(mut self, major: &str, minor: &str) -> Self {
        self.version = (major.to_owned(), minor.to_owned());
        self
    }

    /// Adds an object, or a text, at the path that it is read from.
    pub(crate) fn with(self, path: &str, object: Value) -> Self {
        self.state
            .lock()
            .unwrap()
            .objects
            .insert(path.to_owned(), object);
        self
    }

    /// What was asked for besides reading, in order: `DELETE /api/v1/…`.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.state.lock().unwrap().changes.clone()
    }

    pub(crate) async fn cluster(&self) -> Cluster {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let response = server.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let client = Client::new(service, "default");
        Cluster::with_client(client, "https://scripted".to_owned())
            .await
            .unwrap()
    }

    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        // The log of a container's predecessor is a text of its own.
        let previous = request
            .uri()
            .query()
            .is_some_and(|q| q.contains("previous=true"));
        let path = request.uri().path();
        let path = &format!("{path}{}", if previous { "?previous" } else { "" });
        let mut state = self.state.lock().unwrap();
        if path == "/version" {
            let (major, minor) = &self.version;
            let text = [
                "gitVersion",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
                "platform",
            ];
            let mut info: Value = text
                .into_iter()
                .map(|field| (field.to_owned(), json!("")))
                .collect();
            info["major"] = json!(major);
            info["minor"] = json!(minor);
            return respond(StatusCode::OK, &info);
        }
        match *request.method() {
            Method::GET => match state.objects.get(path.as_str()) {
                Some(Value::String(text)) => Response::new(Body::from(text.clone().into_bytes())),
                Some(object) => respond(StatusCode::OK, object),
                None if is_collection(path) => {
                    respond(StatusCode::OK, &state.list(path, request.uri().query()))
                }
                None => not_found(path),
            },
            Method::DELETE => {
                state.changes.push(format!("DELETE {path}"));
                match state.objects.remove(path) {
                    Some(_) => respond(
                        StatusCode::OK,
                        &json!({"kind": "Status", "status": "Success"}),
                    ),
                    None => not_found(path),
                }
            }
            ref method => {
                state.changes.push(format!("{method} {path}"));
                let object =
                    json!({"apiVersion": "v1", "kind": "Any", "metadata": {"name": "any"}});
                respond(StatusCode::OK, &object)
            }
        }
    }
}

impl State {
    /// Objects of a kind, in one namespace or (a path without one) in all.
    fn list(&self, path: &str, query: Option<&str>) -> Value {
        let (group, kind) = path.rsplit_once('/').unwrap_or_default();
        let wanted = query.and_then(selector);
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(object_path, _)| {
                let Some((collection, _)) = object_path.rsplit_once('/') else {
                    return false;
                };
                let everywhere = collection.starts_with(&format!("{group}/namespaces/"))
                    && !group.contains("/namespaces/")
                    && collection.ends_with(&format!("/{kind}"));
                collection == path || everywhere
            })
            .map(|(_, object)| object)
            .filter(|object| {
                wanted.as_ref().is_none_or(|(key, value)| {
                    object["metadata"]["labels"][key].as_str() == Some(value)
                })
            })
            .collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
    }
}

/// `labelSelector=key%3Dvalue` as key and value.
fn selector(query: &str) -> Option<(String, String)> {
    let text = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("labelSelector="))?;
    let text = text.replace("%3D", "=").replace("%2F", "/");
    let (key, value) = text.split_once('=')?;
    Some((key.to_owned(), value.to_owned()))
}

/// A path that ends in a resource's plural, not in a name.
fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let after_version = if parts.first() == Some(&"api") { 2 } else { 3 };
    let rest = parts.get(after_version..).unwrap_or_default();
    matches!(rest, [_] | ["namespaces", _, _])
}

fn not_found(path: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{path} not found"), "reason": "NotFound", "code": 404,
    });
    respond(StatusCode::NOT_FOUND, &status)
}

fn respond(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(serde_json::to_vec(body).unwrap()))
        .unwrap()
}
