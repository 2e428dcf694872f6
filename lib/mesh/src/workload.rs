//! Who a workload is, in the words of Istio's standard metrics.

/// A workload as telemetry names it. Empty text means unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The owner that a person would name: the Deployment, not its ReplicaSet.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// The `app` (or `app.kubernetes.io/name`) label.
    pub app: String,
    /// The `version` (or `app.kubernetes.io/version`) label.
    pub version: String,
    /// The service account.
    pub service_account: String,
    /// Istio's canonical service: a label of that name, else `app`, else the name.
    pub canonical_service: String,
    /// Istio's canonical revision: a label of that name, else `version`, else `latest`.
    pub canonical_revision: String,
    /// The pod's name.
    pub pod: String,
}

impl Workload {
    /// What can be said of a peer of which only the identity is known.
    pub fn from_identity(id: &crate::SpiffeId) -> Self {
        let account = id.service_account().to_owned();
        Self {
            name: account.clone(),
            namespace: id.namespace().to_owned(),
            app: account.clone(),
            service_account: account.clone(),
            canonical_service: account,
            canonical_revision: "latest".to_owned(),
            ..Self::default()
        }
    }

    /// What can be said of a peer of another trust domain. Its namespace is none of this
    /// mesh's, whatever it is called.
    pub fn from_federated_identity(id: &crate::SpiffeId) -> Self {
        Self {
            namespace: String::new(),
            ..Self::from_identity(id)
        }
    }
}
