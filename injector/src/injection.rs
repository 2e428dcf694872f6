//! What every injected sidecar has in common: images, addresses, defaults.

use linnet_mesh::{TrustDomain, names};

use crate::{quantity::Quantity, settings::Resources};

/// The cluster-wide part of injection; a pod's annotations override some of it.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectionConfig {
    /// The sidecar's image.
    pub proxy_image: String,
    /// The redirecting init container's image.
    pub init_image: String,
    /// When the images are pulled.
    pub image_pull_policy: PullPolicy,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// `https://host:port` of the identity service.
    pub identity_url: String,
    /// `host:port` of the controller's discovery service.
    pub discovery_address: String,
    /// Whether sidecars are native (Kubernetes 1.29 and later).
    pub native_sidecar: bool,
    /// The sidecar's resources.
    pub resources: Resources,
    /// The sidecar's log filter; its own default if absent.
    pub proxy_log: Option<String>,
    /// The namespace of the control plane, never injected.
    pub control_plane_namespace: String,
    /// Written to the pod's status annotation.
    pub version: String,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Always.
    Always,
    /// If the node doesn't have it.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }

    /// Reads Kubernetes' spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Always, Self::IfNotPresent, Self::Never]
            .into_iter()
            .find(|policy| policy.as_str() == text)
    }
}

impl InjectionConfig {
    /// The defaults, with the control plane in `namespace`.
    pub fn in_namespace(namespace: &str) -> Self {
        let quantity = |parsed: Result<Quantity, _>| parsed.ok();
        Self {
            proxy_image: "linnet/proxy:dev".to_owned(),
            init_image: "linnet/init:dev".to_owned(),
            image_pull_policy: PullPolicy::default(),
            trust_domain: TrustDomain::default(),
            identity_url: format!(
                "https://linnet-identity.{namespace}.svc:{}",
                names::port::IDENTITY
            ),
            discovery_address: format!(
                "linnet-controller.{namespace}.svc:{}",
                names::port::DISCOVERY
            ),
            native_sidecar: true,
            resources: Resources {
                cpu_request: quantity(Quantity::cpu("10m")),
                memory_request: quantity(Quantity::memory("20Mi")),
                ..Resources::default()
            },
            proxy_log: None,
            control_plane_namespace: namespace.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl Default for InjectionConfig {
    fn default() -> Self {
        Self::in_namespace(names::CONTROL_PLANE_NAMESPACE)
    }
}
