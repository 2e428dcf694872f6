//! Writes what became of resources into their status, by the one replica that
//! holds the Lease.
//!
//! A status is read before it is written, and written only where it says
//! something else; the version that was read goes along, so that nothing of
//! another writer is lost. What was seen to be right is not looked at again
//! until it is to say something else, or the round over everything is due.

use crate::desired_status::{Content, DesiredStatus};
use crate::{
    compile::ConfigurationKind,
    discovery::Handle,
    object::{Kind, ObjectRef},
};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use std::{collections::HashMap, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// Between two looks at what there is to write.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two resources: a flood of edits must not flood the API server.
const SPACING: Duration = Duration::from_millis(10);
/// After a round in which something failed.
const RETRY: Duration = Duration::from_secs(5);
/// After so long everything is looked at again.
const ROUND: Duration = Duration::from_secs(600);
/// Attempts at a status that others write at the same time.
const CONFLICTS: usize = 5;

/// Writes statuses, for as long as it is polled and `held` says so.
pub async fn write(client: Client, handle: Handle, mut held: watch::Receiver<bool>) {
    let mut changes = handle.changes();
    loop {
        if held.wait_for(|held| *held).await.is_err() {
            return;
        }
        let mut writer = Writer {
            client: client.clone(),
            told: HashMap::new(),
            round: Instant::now() + ROUND,
        };
        while *held.borrow() {
            changes.mark_unchanged();
            let Ok(desired) = handle.statuses().await else {
                return;
            };
            let failed = writer.write_all(desired, &held).await;
            let retry = if failed { RETRY } else { ROUND };
            sleep(PAUSE).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = held.changed() => if changed.is_err() { return },
                () = sleep(retry) => {}
            }
        }
    }
}

struct Writer {
    client: Client,
    /// What is known to stand there.
    told: HashMap<ObjectRef, DesiredStatus>,
    /// When all is looked at again.
    round: Instant,
}

impl Writer {
    /// Whether something failed.
    async fn write_all(
        &mut self,
        desired: Vec<DesiredStatus>,
        held: &watch::Receiver<bool>,
    ) -> bool {
        if Instant::now() >= self.round {
            self.told.clear();
            self.round = Instant::now() + ROUND;
        }
        let mut failed = false;
        let mut next = Instant::now();
        let before = std::mem::take(&mut self.told);
        for desired in desired {
            if before.get(&desired.object) == Some(&desired) {
                self.told.insert(desired.object.clone(), desired);
                continue;
            }
            // Nothing of ours is there, nor was.
            let empty = matches!(&desired.content, Content::Parents(parents) if parents.is_empty());
            if !*held.borrow()
                || (empty && !before.contains_key(&desired.object) && desired.generation <= 1)
            {
                continue;
            }
            sleep_until(next).await;
            next = Instant::now() + SPACING;
            match self.write(&desired).await {
                Ok(()) => {
                    self.told.insert(desired.object.clone(), desired);
                }
                Err(error) => {
                    tracing::warn!("the status of {} can't be written: {error}", desired.object);
                    failed = true;
                }
            }
        }
        failed
    }

    async fn write(&self, desired: &DesiredStatus) -> Result<(), kube::Error> {
        let mut conflicts = 0;
        loop {
            match self.attempt(desired).await {
                Err(kube::Error::Api(status)) if status.code == 409 && conflicts < CONFLICTS => {
                    conflicts += 1;
                }
                // Gone meanwhile; so is what there was to say.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                result => return result,
            }
        }
    }

    async fn attempt(&self, desired: &DesiredStatus) -> Result<(), kube::Error> {
        let Some(api) = self.api(desired.object.kind, &desired.object.name.namespace) else {
            return Ok(());
        };
        let name = &*desired.object.name.name;
        let resource = api.get(name).await?;
        if resource.metadata.generation != Some(desired.generation) {
            // It has changed meanwhile; what there is to say of that comes next.
            return Ok(());
        }
        let now = k8s_openapi::jiff::Timestamp::now();
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let Some(status) = desired.over(&resource.data["status"], &now) else {
            return Ok(());
        };
        let patch = json!({
            "metadata": {"resourceVersion": resource.metadata.resource_version},
            "status": status,
        });
        let params = PatchParams::default();
        api.patch_status(name, &params, &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    fn api(&self, kind: Kind, namespace: &str) -> Option<Api<DynamicObject>> {
        let resource = ConfigurationKind::of(kind)?.resource();
        Some(if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        })
    }
}

#[cfg(test)]
mod tests;
