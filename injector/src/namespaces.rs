//! Namespaces' labels, from a cache that the API server keeps current.
//!
//! The cache may be a moment behind: a namespace is labelled and its first pod
//! created within milliseconds. The webhook is only called where the API server
//! saw a reason, so a verdict of "nobody asked" is checked against a fresh read. Reads are
//! few, whoever asks ([`lookups`]).

mod lookups;

use std::{collections::BTreeMap, future::Future, pin::Pin};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use linnet_runtime::{drain, readiness};
use lookups::Lookups;

/// A namespace's labels.
pub type Labels = BTreeMap<String, String>;

/// The API server can't say.
#[derive(Debug, thiserror::Error)]
#[error("namespace {name}: its labels can't be read: {reason}")]
pub struct Unavailable {
    /// The namespace.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The answer to [`Namespaces::fresh`].
pub type Fresh<'a> = Pin<Box<dyn Future<Output = Result<Labels, Unavailable>> + Send + 'a>>;

/// Who knows namespaces' labels.
pub trait Namespaces: Send + Sync {
    /// The labels as last seen; `None` for a namespace never seen.
    fn cached(&self, name: &str) -> Option<Labels>;
    /// The labels as they are.
    fn fresh<'a>(&'a self, name: &'a str) -> Fresh<'a>;
}

/// A fixed set, for tests and for one process without a cluster.
impl Namespaces for BTreeMap<String, Labels> {
    fn cached(&self, name: &str) -> Option<Labels> {
        self.get(name).cloned()
    }

    fn fresh<'a>(&'a self, name: &'a str) -> Fresh<'a> {
        let labels = self.get(name).cloned().unwrap_or_default();
        Box::pin(async move { Ok(labels) })
    }
}

/// The cluster's namespaces.
pub struct ClusterNamespaces {
    store: Store<PartialObjectMeta<Namespace>>,
    lookups: Lookups,
}

impl ClusterNamespaces {
    /// Starts watching; `gate` is passed when the first list has come.
    pub fn start(client: Client, gate: readiness::Gate, drain: drain::Watch) -> Self {
        let (store, writer) = reflector::store();
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
        let events = watcher(api, watcher::Config::default())
            .default_backoff()
            .reflect(writer);
        tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    _guard = drain.signaled() => return,
                };
                match event {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::warn!(%error, "watching namespaces failed; trying again");
                    }
                    None => return,
                }
            }
        });
        let synced = store.clone();
        tokio::spawn(async move {
            let _gate = gate;
            // An error means that the watch has ended: the process is ending.
            let _: Result<(), _> = synced.wait_until_ready().await;
        });
        let lookups = Lookups::new(Box::new(move |name| {
            let api: Api<Namespace> = Api::all(client.clone());
            let name = name.to_owned();
            Box::pin(async move {
                let found = api.get_metadata_opt(&name).await;
                let found = found.map_err(|error| error.to_string())?;
                Ok(found.map(|namespace| namespace.metadata.labels.unwrap_or_default()))
            })
        }));
        Self { store, lookups }
    }
}

impl Namespaces for ClusterNamespaces {
    fn cached(&self, name: &str) -> Option<Labels> {
        let namespace = self.store.get(&ObjectRef::new(name))?;
        Some(namespace.metadata.labels.clone().unwrap_or_default())
    }

    fn fresh<'a>(&'a self, name: &'a str) -> Fresh<'a> {
        let is_known = self.store.get(&ObjectRef::new(name)).is_some();
        Box::pin(self.lookups.fresh(name, is_known))
    }
}
