//! The Kubernetes API as a source: one watch a kind.
//!
//! A kind whose definition is not installed holds up nothing: it counts as
//! having no objects, and is asked for again from time to time.

use super::{Change, Closed, Sink};
use crate::{
    compile::KINDS,
    manifest,
    object::{EndpointSlice, Kind, Name, Object, ObjectRef},
};
use futures_util::{FutureExt, StreamExt, future::join_all};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::DynamicObject,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use std::{collections::HashSet, convert::Infallible, fmt::Debug, time::Duration};
use tokio::{sync::mpsc, time::sleep};

/// How often a kind that is not installed is asked for.
const NOT_INSTALLED: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(15);

/// Watches a cluster until nobody listens.
pub async fn run(client: Client, sink: Sink) {
    // Each watch drops its sender when it has told all that was there.
    let (listed, mut pending) = mpsc::channel::<Infallible>(1);
    let watch = |kind| Watch {
        kind,
        sink: sink.clone(),
        listed: Some(listed.clone()),
        known: HashSet::new(),
        fresh: HashSet::new(),
    };
    let mut watches = vec![
        watch(Kind::Service)
            .run(Api::<core::Service>::all(client.clone()), service)
            .boxed(),
        watch(Kind::EndpointSlice)
            .run(Api::<discovery::EndpointSlice>::all(client.clone()), slice)
            .boxed(),
        watch(Kind::Pod)
            .run(Api::<core::Pod>::all(client.clone()), pod)
            .boxed(),
        watch(Kind::Node)
            .run(Api::<core::Node>::all(client.clone()), node)
            .boxed(),
        watch(Kind::Namespace)
            .run(Api::<core::Namespace>::all(client.clone()), namespace)
            .boxed(),
    ];
    for entry in &KINDS {
        let api = Api::<DynamicObject>::all_with(client.clone(), &entry.resource());
        watches.push(watch(entry.kind).run(api, configuration).boxed());
    }
    drop(listed);
    let synced = async {
        let _: Option<Infallible> = pending.recv().await;
        // Nobody listens: the watches end too.
        let _ = sink.send(Change::Synced).await;
    };
    tokio::join!(join_all(watches), synced);
}

fn service(service: core::Service) -> Option<Object> {
    Some(Object::Service(service.into()))
}

fn slice(slice: discovery::EndpointSlice) -> Option<Object> {
    EndpointSlice::of(slice).map(Object::EndpointSlice)
}

fn pod(pod: core::Pod) -> Option<Object> {
    Some(Object::Pod(pod.into()))
}

fn node(node: core::Node) -> Option<Object> {
    Some(Object::Node(node.into()))
}

fn namespace(namespace: core::Namespace) -> Option<Object> {
    Some(Object::Namespace(namespace.into()))
}

/// A configuration resource, whatever its spec holds.
fn configuration(resource: DynamicObject) -> Option<Object> {
    let manifest = serde_json::to_value(resource).ok()?;
    match manifest::parse(manifest, None) {
        Ok(object) => object,
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

struct Watch {
    kind: Kind,
    sink: Sink,
    listed: Option<mpsc::Sender<Infallible>>,
    known: HashSet<ObjectRef>,
    /// Of a list that is being read.
    fresh: HashSet<ObjectRef>,
}

impl Watch {
    async fn run<K>(mut self, api: Api<K>, convert: fn(K) -> Option<Object>)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut events = watcher(api, watcher::Config::default()).boxed();
        let mut retry = FIRST_RETRY;
        let mut told_absent = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    retry = FIRST_RETRY;
                    told_absent = false;
                    if self.take(event, convert).await.is_err() {
                        return;
                    }
                }
                Err(error) if is_absent(&error, self.kind) => {
                    if !told_absent {
                        let kind = self.kind.as_str();
                        tracing::info!(
                            "{kind} is not installed in this cluster, or not for us to read"
                        );
                        told_absent = true;
                    }
                    self.fresh.clear();
                    if self.replace().await.is_err() {
                        return;
                    }
                    sleep(NOT_INSTALLED).await;
                }
                Err(error) => {
                    tracing::warn!("watching {}: {error}; trying again", self.kind.as_str());
                    sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }

    async fn take<K>(
        &mut self,
        event: Event<K>,
        convert: fn(K) -> Option<Object>,
    ) -> Result<(), Closed>
    where
        K: Resource,
    {
        match event {
            Event::Init => self.fresh.clear(),
            Event::InitApply(resource) => {
                if let Some(object) = convert(resource) {
                    self.fresh.insert(object.reference());
                    self.sink.send(Change::Apply(object)).await?;
                }
            }
            Event::InitDone => self.replace().await?,
            Event::Apply(resource) => {
                let reference = self.reference(&resource);
                if let Some(object) = convert(resource) {
                    self.known.insert(reference);
                    self.sink.send(Change::Apply(object)).await?;
                } else if self.known.remove(&reference) {
                    self.sink.send(Change::Delete(reference)).await?;
                }
            }
            Event::Delete(resource) => {
                let reference = self.reference(&resource);
                self.known.remove(&reference);
                self.sink.send(Change::Delete(reference)).await?;
            }
        }
        Ok(())
    }

    /// A list has been read: what it did not hold is gone.
    async fn replace(&mut self) -> Result<(), Closed> {
        let fresh = std::mem::take(&mut self.fresh);
        let gone: Vec<_> = self.known.difference(&fresh).cloned().collect();
        for reference in gone {
            self.sink.send(Change::Delete(reference)).await?;
        }
        self.known = fresh;
        self.listed = None;
        Ok(())
    }

    fn reference(&self, resource: &impl Resource) -> ObjectRef {
        let name = resource.meta().name.as_deref().unwrap_or_default();
        ObjectRef {
            kind: self.kind,
            name: Name::new(resource.namespace().unwrap_or_default(), name),
        }
    }
}

/// Whether the API server has no such kind; or does not show it, of a kind that
/// the mesh can do without: nodes only say where pods are.
fn is_absent(error: &watcher::Error, kind: Kind) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    let (InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause)) = error else {
        return false;
    };
    let hidden = |code| code == 403 && kind == Kind::Node;
    matches!(cause, kube::Error::Api(status) if status.code == 404 || hidden(status.code))
}

#[cfg(test)]
mod tests;
