//! What an uninstall removes, chosen before anything is.

use crate::{
    cluster::{Cluster, Error},
    object,
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    discovery::{ApiCapabilities, Scope, verbs},
};
use linnet_mesh::{
    ResourceRef,
    names::{self, label},
};
use std::time::Duration;
use tokio::time::Instant;

/// How often the cluster is asked whether something is gone yet.
const POLL: Duration = Duration::from_millis(500);

/// Kinds that install creates, in the order in which they go. `(group, version,
/// kind, namespaced)`
const KINDS: [(&str, &str, &str, bool); 14] = [
    (
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        false,
    ),
    ("apps", "v1", "Deployment", true),
    ("policy", "v1", "PodDisruptionBudget", true),
    ("networking.k8s.io", "v1", "NetworkPolicy", true),
    ("", "v1", "Service", true),
    ("", "v1", "ConfigMap", true),
    ("", "v1", "Secret", true),
    ("coordination.k8s.io", "v1", "Lease", true),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", true),
    ("rbac.authorization.k8s.io", "v1", "Role", true),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        false,
    ),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", false),
    ("", "v1", "ServiceAccount", true),
];
/// What the webhooks' services make for themselves.
const WEBHOOK_SECRETS: [&str; 2] = ["linnet-injector-tls", "linnet-controller-tls"];
const DEFINITION: (&str, &str, &str) = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
/// What every namespace has, and nobody put there.
const FURNITURE: [(&str, &str); 3] = [
    ("ConfigMap", "kube-root-ca.crt"),
    ("ServiceAccount", "default"),
    ("ConfigMap", names::TRUST_BUNDLE_CONFIG_MAP),
];

/// A kind that the cluster serves.
type Kind = (ApiResource, ApiCapabilities);

/// One object to remove.
struct Removal {
    reference: ResourceRef,
    resource: ApiResource,
}

impl Removal {
    fn api(&self, cluster: &Cluster) -> Api<DynamicObject> {
        let client = cluster.client();
        match self.reference.namespace.as_str() {
            "" => Api::all_with(client, &self.resource),
            namespace => Api::namespaced_with(client, namespace, &self.resource),
        }
    }
}

/// All of them, in order, and what stays for a reason worth telling.
pub(super) struct Plan {
    removals: Vec<Removal>,
    /// Resources of users that go with their kind.
    casualties: Vec<ResourceRef>,
    kept: Vec<String>,
}

impl Plan {
    /// Looks at the cluster and chooses.
    pub(super) async fn make(cluster: &Cluster, purge: bool) -> Result<Self, Error> {
        let mut plan = Self {
            removals: Vec::new(),
            casualties: Vec::new(),
            kept: Vec::new(),
        };
        for (group, version, kind, namespaced) in KINDS {
            plan.choose_of_kind(cluster, &resource(group, version, kind), namespaced)
                .await?;
        }
        plan.choose_trust(cluster, purge).await?;
        if purge {
            let (group, version, kind) = DEFINITION;
            plan.choose_of_kind(cluster, &resource(group, version, kind), false)
                .await?;
        }
        let kinds = cluster.kinds().await?;
        plan.count_casualties(cluster, &kinds).await?;
        plan.choose_namespaces(cluster, &kinds, purge).await?;
        Ok(plan)
    }

    /// Resources of users that go with their kind.
    pub(super) fn casualties(&self) -> &[ResourceRef] {
        &self.casualties
    }

    pub(super) fn is_empty(&self) -> bool {
        self.removals.is_empty()
    }

    pub(super) fn removals(&self) -> impl Iterator<Item = &ResourceRef> {
        self.removals.iter().map(|removal| &removal.reference)
    }

    /// What stays, and why.
    pub(super) fn kept(&self) -> &[String] {
        &self.kept
    }

    /// Removes it all; what is gone already is no mistake.
    pub(super) async fn carry_out(&self, cluster: &Cluster) -> Result<usize, Error> {
        let mut removed = 0;
        for removal in &self.removals {
            let api = removal.api(cluster);
            removed += usize::from(cluster.delete(&api, &removal.reference).await?);
        }
        Ok(removed)
    }

    /// Waits until what was removed is gone: a namespace takes its time. What is
    /// still there after `timeout` is returned.
    pub(super) async fn remains(
        &self,
        cluster: &Cluster,
        timeout: Duration,
    ) -> Result<Vec<ResourceRef>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut remains = Vec::new();
            for removal in &self.removals {
                let api = removal.api(cluster);
                if cluster.find(api, &removal.reference.name).await?.is_some() {
                    remains.push(removal.reference.clone());
                }
            }
            if remains.is_empty() || Instant::now() >= deadline {
                return Ok(remains);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn remove(&mut self, object: &DynamicObject, resource: &ApiResource) {
        let reference = object::reference(object, &resource.kind);
        if self.removals().any(|chosen| *chosen == reference) {
            return;
        }
        self.removals.push(Removal {
            reference,
            resource: resource.clone(),
        });
    }

    async fn choose_of_kind(
        &mut self,
        cluster: &Cluster,
        resource: &ApiResource,
        namespaced: bool,
    ) -> Result<(), Error> {
        let client = cluster.client();
        let api: Api<DynamicObject> = if namespaced {
            Api::namespaced_with(client, names::CONTROL_PLANE_NAMESPACE, resource)
        } else {
            Api::all_with(client, resource)
        };
        let wanted = |object: &DynamicObject| {
            let webhooks =
                resource.kind == "Secret" && WEBHOOK_SECRETS.contains(&object::name(object));
            webhooks || is_ours(object) && !is_trust(object, &resource.kind)
        };
        for object in cluster
            .list(api, "")
            .await?
            .iter()
            .filter(|object| wanted(object))
        {
            self.remove(object, resource);
        }
        Ok(())
    }

    /// The root certificate, unless users brought it, and its copies in the
    /// namespaces where pods are injected.
    async fn choose_trust(&mut self, cluster: &Cluster, purge: bool) -> Result<(), Error> {
        let maps = resource("", "v1", "ConfigMap");
        let bundles: Api<DynamicObject> = Api::all_with(cluster.client(), &maps);
        for bundle in cluster.list(bundles, "").await? {
            if is_trust(&bundle, &maps.kind) {
                self.remove(&bundle, &maps);
            }
        }
        let secrets = resource("", "v1", "Secret");
        let api: Api<DynamicObject> =
            Api::namespaced_with(cluster.client(), names::CONTROL_PLANE_NAMESPACE, &secrets);
        let Some(root) = cluster.find(api, names::ROOT_SECRET).await? else {
            return Ok(());
        };
        if purge || is_ours(&root) {
            self.remove(&root, &secrets);
        } else {
            let reference = object::reference(&root, &secrets.kind);
            self.kept
                .push(format!("{reference}: Linnet did not make it"));
        }
        Ok(())
    }

    async fn count_casualties(&mut self, cluster: &Cluster, kinds: &[Kind]) -> Result<(), Error> {
        for (resource, _) in kinds {
            if !self.removes_definition_of(resource) {
                continue;
            }
            let api: Api<DynamicObject> = Api::all_with(cluster.client(), resource);
            let objects = cluster.list(api, "").await?;
            let references = objects
                .iter()
                .map(|object| object::reference(object, &resource.kind));
            self.casualties.extend(references);
        }
        Ok(())
    }

    /// The namespaces that install made, if nobody else put something there.
    async fn choose_namespaces(
        &mut self,
        cluster: &Cluster,
        kinds: &[Kind],
        purge: bool,
    ) -> Result<(), Error> {
        let namespaces = resource("", "v1", "Namespace");
        let api: Api<DynamicObject> = Api::all_with(cluster.client(), &namespaces);
        for name in [names::ISTIO_NAMESPACE, names::CONTROL_PLANE_NAMESPACE] {
            let Some(namespace) = cluster.find(api.clone(), name).await? else {
                continue;
            };
            if !is_ours(&namespace) {
                continue;
            }
            let entirely_ours = purge && name == names::CONTROL_PLANE_NAMESPACE;
            let others = if entirely_ours {
                Vec::new()
            } else {
                self.others_in(cluster, kinds, name).await?
            };
            if others.is_empty() {
                self.remove(&namespace, &namespaces);
            } else {
                let others: Vec<String> = others.iter().map(ToString::to_string).collect();
                self.kept
                    .push(format!("Namespace {name}: it holds {}", others.join(", ")));
            }
        }
        Ok(())
    }

    /// What would be left in a namespace, of any kind that the cluster serves.
    async fn others_in(
        &self,
        cluster: &Cluster,
        kinds: &[Kind],
        namespace: &str,
    ) -> Result<Vec<ResourceRef>, Error> {
        let mut others = Vec::new();
        for (resource, capabilities) in kinds {
            let listable = capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE);
            let gone_by_then = self.removes_definition_of(resource);
            if capabilities.scope != Scope::Namespaced || !listable || gone_by_then {
                continue;
            }
            let api: Api<DynamicObject> =
                Api::namespaced_with(cluster.client(), namespace, resource);
            let objects = cluster.list(api, "").await?;
            let left = objects
                .iter()
                .filter(|object| self.stays(object, &resource.kind));
            others.extend(left.map(|object| object::reference(object, &resource.kind)));
        }
        Ok(others)
    }

    fn removes_definition_of(&self, resource: &ApiResource) -> bool {
        let definition = format!("{}.{}", resource.plural, resource.group);
        self.removals()
            .any(|reference| reference.kind == DEFINITION.2 && reference.name == definition)
    }

    /// Whether an object is somebody else's and goes with nothing that goes.
    fn stays(&self, object: &DynamicObject, kind: &str) -> bool {
        let reference = object::reference(object, kind);
        let owned = object
            .metadata
            .owner_references
            .iter()
            .flatten()
            .next()
            .is_some();
        let furniture = FURNITURE.contains(&(kind, object::name(object)));
        let follows = matches!(
            kind,
            "Event" | "Endpoints" | "EndpointSlice" | "PodMetrics" | "Lease"
        );
        !(owned || furniture || follows || self.removals().any(|removed| *removed == reference))
    }
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(group, version, kind))
}

/// The root certificate, or a copy of it for sidecars.
fn is_trust(object: &DynamicObject, kind: &str) -> bool {
    let name = object::name(object);
    (kind == "Secret" && name == names::ROOT_SECRET)
        || (kind == "ConfigMap" && name == names::TRUST_BUNDLE_CONFIG_MAP)
}

fn is_ours(object: &DynamicObject) -> bool {
    object::label(object, label::PART_OF) == Some(label::PART_OF_LINNET)
}
