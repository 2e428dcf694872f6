//! Keeps the ConfigMap with the trust bundle in every namespace but the
//! system's: a sidecar needs it to trust the identity service.
//!
//! Every namespace and not only labelled ones, because a pod may opt in
//! anywhere, and would hang for want of its volume. The control plane's own is
//! identity's to write, and the one that is copied: replicas whose certificates
//! are of different ages write the same.

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt,
    api::{PartialObjectMeta, Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use linnet_mesh::names::{
    CONTROL_PLANE_NAMESPACE, SYSTEM_NAMESPACES, TRUST_BUNDLE_CONFIG_MAP, TRUST_BUNDLE_KEY, label,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// Between two rounds, so that a fight over a ConfigMap does not load the API server.
const PAUSE: Duration = Duration::from_secs(1);
/// After a round in which something failed.
const RETRY: Duration = Duration::from_secs(5);
const FIELD_MANAGER: &str = "linnet-controller";

/// Keeps the ConfigMaps, for as long as it is polled.
pub async fn keep(client: Client, certificate: linnet_workload::Handle) {
    certificate.wait().await;
    let mut keeper = Keeper {
        certificate,
        view: View::default(),
        client: client.clone(),
        told: None,
    };
    let mut observations = Box::pin(observe(client));
    loop {
        let failed = keeper.round().await;
        let next = Instant::now() + PAUSE;
        let retry = async {
            if failed {
                sleep_until(Instant::now() + RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            observation = observations.next() => match observation {
                Some(observation) => keeper.view.take(observation),
                None => return,
            },
            () = retry => {}
        }
        // What else comes before the next round counts in it.
        loop {
            tokio::select! {
                Some(observation) = observations.next() => keeper.view.take(observation),
                () = sleep_until(next) => break,
            }
        }
    }
}

/// What the API server tells.
#[derive(Debug)]
enum Observation {
    Namespaces(Event<PartialObjectMeta<Namespace>>),
    ConfigMaps(Event<ConfigMap>),
}

fn observe(client: Client) -> impl Stream<Item = Observation> {
    let namespaces = watcher(
        Api::<PartialObjectMeta<Namespace>>::all(client.clone()),
        watcher::Config::default(),
    )
    .default_backoff()
    .filter_map(async |event| told("namespaces", event).map(Observation::Namespaces));
    let ours =
        watcher::Config::default().fields(&format!("metadata.name={TRUST_BUNDLE_CONFIG_MAP}"));
    let config_maps = watcher(Api::<ConfigMap>::all(client), ours)
        .default_backoff()
        .filter_map(async |event| told("ConfigMaps", event).map(Observation::ConfigMaps));
    stream::select(namespaces.boxed(), config_maps.boxed())
}

fn told<K>(what: &str, event: watcher::Result<Event<K>>) -> Option<Event<K>> {
    event
        .inspect_err(|error| tracing::warn!("watching {what} for the trust bundle: {error}"))
        .ok()
}

/// What is known of the cluster.
#[derive(Debug, Default)]
struct View {
    /// Namespaces that are to have the bundle.
    namespaces: BTreeSet<String>,
    /// The bundle that each has.
    bundles: BTreeMap<String, Option<String>>,
    /// Both lists have been told whole.
    listed: (bool, bool),
}

impl View {
    fn take(&mut self, observation: Observation) {
        match observation {
            Observation::Namespaces(Event::Init) => {
                self.namespaces.clear();
                self.listed.0 = false;
            }
            Observation::Namespaces(Event::InitDone) => self.listed.0 = true,
            Observation::Namespaces(Event::Apply(namespace) | Event::InitApply(namespace)) => {
                let name = namespace.name_any();
                if namespace.metadata.deletion_timestamp.is_none() && takes_bundle(&name) {
                    self.namespaces.insert(name);
                } else {
                    self.namespaces.remove(&name);
                }
            }
            Observation::Namespaces(Event::Delete(namespace)) => {
                self.namespaces.remove(&namespace.name_any());
            }
            Observation::ConfigMaps(Event::Init) => {
                self.bundles.clear();
                self.listed.1 = false;
            }
            Observation::ConfigMaps(Event::InitDone) => self.listed.1 = true,
            Observation::ConfigMaps(Event::Apply(map) | Event::InitApply(map)) => {
                let bundle = map
                    .data
                    .as_ref()
                    .and_then(|data| data.get(TRUST_BUNDLE_KEY));
                let bundle = bundle.cloned();
                self.bundles
                    .insert(map.namespace().unwrap_or_default(), bundle);
            }
            Observation::ConfigMaps(Event::Delete(map)) => {
                self.bundles.remove(&map.namespace().unwrap_or_default());
            }
        }
    }

    /// The bundle that identity wrote, if it is one of this mesh: whatever else
    /// stands there, the controller's own certificate must hang on a root of it.
    fn source(&self, own: &str) -> Result<String, &'static str> {
        let written = self.bundles.get(CONTROL_PLANE_NAMESPACE).cloned().flatten();
        let written = written.ok_or("identity has not written it yet")?;
        if linnet_workload::have_common_anchor(own, &written) {
            Ok(written)
        } else {
            Err("it has no root that this controller trusts; not copying it")
        }
    }

    /// Namespaces without the bundle, or with another.
    fn wanting(&self, bundle: &str) -> Vec<String> {
        if self.listed != (true, true) {
            return Vec::new();
        }
        self.namespaces
            .iter()
            .filter(|namespace| {
                self.bundles.get(*namespace).and_then(Option::as_deref) != Some(bundle)
            })
            .cloned()
            .collect()
    }
}

fn takes_bundle(namespace: &str) -> bool {
    namespace != CONTROL_PLANE_NAMESPACE && !SYSTEM_NAMESPACES.contains(&namespace)
}

struct Keeper {
    certificate: linnet_workload::Handle,
    view: View,
    client: Client,
    told: Option<&'static str>,
}

impl Keeper {
    /// Writes what is wanting; whether something failed.
    async fn round(&mut self) -> bool {
        let Some(own) = self.certificate.current() else {
            return true;
        };
        if self.view.listed != (true, true) {
            return false;
        }
        let bundle = match self.view.source(own.bundle_pem()) {
            Ok(bundle) => bundle,
            Err(reason) => {
                if self.told != Some(reason) {
                    tracing::warn!(
                        "ConfigMap {CONTROL_PLANE_NAMESPACE}/{TRUST_BUNDLE_CONFIG_MAP}: {reason}"
                    );
                }
                self.told = Some(reason);
                return true;
            }
        };
        self.told = None;
        let mut failed = false;
        for namespace in self.view.wanting(&bundle) {
            match self.write(&namespace, &bundle).await {
                Ok(()) => {
                    tracing::debug!(namespace, "trust bundle written");
                    self.view.bundles.insert(namespace, Some(bundle.clone()));
                }
                Err(error) => {
                    tracing::warn!(
                        "ConfigMap {namespace}/{TRUST_BUNDLE_CONFIG_MAP} can't be written: {error}; \
                         pods with a sidecar can't start there until it is"
                    );
                    failed = true;
                }
            }
        }
        failed
    }

    /// Several replicas may do this at once: they write the same.
    async fn write(&self, namespace: &str, bundle: &str) -> Result<(), kube::Error> {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(TRUST_BUNDLE_CONFIG_MAP.to_owned()),
                namespace: Some(namespace.to_owned()),
                labels: Some(BTreeMap::from([(
                    label::PART_OF.to_owned(),
                    label::PART_OF_LINNET.to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(
                TRUST_BUNDLE_KEY.to_owned(),
                bundle.to_owned(),
            )])),
            ..ConfigMap::default()
        };
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        maps.patch(TRUST_BUNDLE_CONFIG_MAP, &params, &Patch::Apply(&map))
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
