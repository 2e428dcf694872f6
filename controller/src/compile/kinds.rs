//! The table of configuration kinds. Whatever the controller has to know of a kind besides
//! what its resources mean stands here once: watches, parsing, CustomResourceDefinitions,
//! limits and compiling go by it. Tests compare the lists in `manifests/base/` with it. A
//! new kind is an entry of this table, a file in `resource/` and a file here in `compile/`.

use super::{
    Compiled, Context, Note, authorization_policy, destination_rule,
    limits::{Charge, Limits, MIRRORS, RULES, SUBSET_NAME},
    mesh_policy, peer_authentication, request_authentication, route, telemetry, virtual_service,
};
use crate::{
    object::{Configuration, Kind},
    resource,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, api::ApiResource, core::GroupVersionKind};
use linnet_mesh::{names, regexes::Budget};

/// Whether a kind's resources belong to namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceScope {
    /// Each belongs to a namespace.
    Namespaced,
    /// Each belongs to the whole cluster.
    Cluster,
}

/// Where a resource's verdict is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// `status.conditions`, as Istio has them.
    Conditions,
    /// `status.parents`, as the Gateway API has them: a wrong resource is accepted by the
    /// API server and told so there.
    Parents,
}

/// What compiling a resource works with.
pub(super) struct Compilation<'a> {
    configuration: &'a Configuration,
    context: &'a Context,
    notes: &'a mut Vec<Note>,
    regexes: &'a mut Budget,
}

/// Compiles a resource, or says what keeps it from taking force.
type Compile = fn(Compilation<'_>) -> Result<Compiled, Vec<Note>>;

/// Returns what applies in place of a resource.
type StandIn = fn(&Configuration) -> Option<Compiled>;

/// A configuration kind.
pub struct ConfigurationKind {
    /// Its name among the controller's kinds.
    pub kind: Kind,
    /// Its API group.
    pub group: &'static str,
    /// The versions that may be written. The first is the one that the controller asks for,
    /// and the one that the API server stores where the definition is ours.
    pub versions: &'static [&'static str],
    /// Its name in URLs, role rules and webhook rules.
    pub plural: &'static str,
    /// Whether its resources belong to namespaces.
    pub scope: ResourceScope,
    /// Where verdicts on its resources are written.
    pub status: StatusKind,
    /// Its definition in one version. `None`: the Gateway API's project publishes it.
    definition: Option<fn() -> CustomResourceDefinition>,
    compile: Compile,
    /// Returns what applies in place of a resource that cannot be compiled and never could,
    /// so that nothing is open that the resource was written to close.
    stand_in: Option<StandIn>,
    pub(super) limits: Limits,
}

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";

/// The configuration kinds.
pub static KINDS: [ConfigurationKind; 9] = [
    ConfigurationKind {
        kind: Kind::VirtualService,
        group: NETWORKING,
        versions: &["v1", "v1beta1", "v1alpha3"],
        plural: "virtualservices",
        scope: ResourceScope::Namespaced,
        status: StatusKind::Conditions,
        definition: Some(resource::VirtualService::crd),
        compile: |of| {
            virtual_service::compile(of.configuration, of.context, of.notes, of.regexes)
                .map(Compiled::VirtualService)
        },
        stand_in: None,
        limits: Limits {
            lists: &[
                ("hosts", 1000),
                ("http", RULES),
                ("http[].match", RULES),
                ("http[].mirrors", MIRRORS),
                ("tls", RULES),
                ("tcp", RULES),
            ],
            texts: &[
                ("http[].directResponse.body.string", 64 << 10),
                ("http[].directResponse.body.bytes", 96 << 10),
            ],
            rules: Some(("http", "match")),
            charge: Charge {
                text: 112,
                list: 96,
                entry: 1024,
                object: 448,
            },
        },
    },
    ConfigurationKind {
        kind: Kind::DestinationRule,
        group: NETWORKING,
        versions: &["v1", "v1beta1", "v1alpha3"],
        plural: "destinationrules",
        scope: ResourceScope::Namespaced,
        status: StatusKind::Conditions,
        definition: Some(resource::DestinationRule::crd),
        compile: |of| {
            destination_rule::compile(of.configuration, of.context, of.notes)
                .map(Compiled::DestinationRule)
        },
        stand_in: None,
        limits: Limits {
            lists: &[("subsets", 1000)],
            texts: &[("subsets[].name", SUBSET_NAME)],
            ..Limits::DEFAULT
        },
    },
    ConfigurationKind {
        kind: Kind::PeerAuthentication,
        group: SECURITY,
        versions: &["v1", "v1beta1"],
        plural: "peerauthentications",
        scope: ResourceScope::Namespaced,
        status: StatusKind::Conditions,
        definition: Some(resource::PeerAuthentication::crd),
        compile: |of| {
            peer_authentication::compile(of.configuration, of.notes)
                .map(Compiled::PeerAuthentication)
        },
        stand_in: None,
        limits: Limits::DEFAULT,
    },
    ConfigurationKind {
        kind: Kind::AuthorizationPolicy,
        group: SECURITY,
        versions: &["v1", "v1beta1"],
        plural: "authorizationpolicies",
        scope: ResourceScope::Namespaced,
        status: StatusKind::Conditions,
        definition: Some(resource::AuthorizationPolicy::crd),
        compile: |of| {
            authorization_policy::compile(of.configuration, of.notes)
                .map(Compiled::AuthorizationPolicy)
        },
        stand_in: Some(|configuration| {
            authorization_policy::closed(configuration).map(Compiled::AuthorizationPolicy)
        }),
        limits: Limits {
            lists: &[
                ("rules", 1000),
                ("rules[].from[].source.ipBlocks", 4096),
                ("rules[].from[].source.notIpBlocks", 4096),
                ("rules[].to[].operation.paths", 4096),
            ],
            charge: Charge {
                text: 80,
                list: 64,
                entry: 448,
                object: 64,
            },
            ..Limits::DEFAULT
        },
    },
    ConfigurationKind {
        kind: Kind::RequestAuthentication,
        group: SECURITY,
        versions: &["v1", "v1beta1"],
        plural: "requestauthentications",
        scope: ResourceScope::Namespaced,
        status: StatusKind::Conditions,
        definition: Some(resource::RequestAuthentication::crd),
        compile: |of| {
            request_authentication::compile(of.configuration, of.notes)
                .map(Compiled::RequestAuthentication)
        },
        stand_in: Some(|configuration| {
            let closed = request_authentication::closed(configuration);
            Some(Compiled::RequestAuthentication(closed))
        }),
        limits: Limits {
            texts: &[("jwtRules[].jwks", 256 << 10)],
            charge: Charge {
                text: 96,
                list: 64,
                entry: 512,
                object: 128,
            },
            ..Limits::DEFAULT
        },
    },
    ConfigurationKind {
        kind: Kind::MeshPolicy,
        group: "authentication.istio.io",
        versions: &["v1alpha1"],
        plural: "meshpolicies",
        scope: ResourceScope::Cluster,
        status: StatusKind::Conditions,
        definition: Some(resource::MeshPolicy::crd),
        compile: |of| {
            mesh_policy::compile(of.configuration, of.notes).map(Compiled::PeerAuthentication)
        },
        stand_in: None,
        limits: Limits::DEFAULT,
    },
    ConfigurationKind {
        kind: Kind::Telemetry,
        group: "telemetry.istio.io",
        versions: &["v1", "v1alpha1"],
        plural: "telemetries",
        scope: ResourceScope::Namespaced,
        status: StatusKind::Conditions,
        definition: Some(resource::Telemetry::crd),
        compile: |of| telemetry::compile(of.configuration, of.notes).map(Compiled::Telemetry),
        stand_in: None,
        limits: Limits::DEFAULT,
    },
    ConfigurationKind {
        kind: Kind::HttpRoute,
        group: names::GATEWAY_API_GROUP,
        versions: &["v1", "v1beta1", "v1alpha2"],
        plural: "httproutes",
        scope: ResourceScope::Namespaced,
        status: StatusKind::Parents,
        definition: None,
        compile: |of| {
            route::compile_http(of.configuration, of.notes, of.regexes).map(Compiled::Route)
        },
        stand_in: None,
        limits: ROUTE_LIMITS,
    },
    ConfigurationKind {
        kind: Kind::GrpcRoute,
        group: names::GATEWAY_API_GROUP,
        versions: &["v1", "v1beta1", "v1alpha2"],
        plural: "grpcroutes",
        scope: ResourceScope::Namespaced,
        status: StatusKind::Parents,
        definition: None,
        compile: |of| {
            route::compile_grpc(of.configuration, of.notes, of.regexes).map(Compiled::Route)
        },
        stand_in: None,
        limits: ROUTE_LIMITS,
    },
];

const ROUTE_LIMITS: Limits = Limits {
    lists: &[
        ("rules", RULES),
        ("rules[].matches", RULES),
        ("rules[].filters", MIRRORS),
    ],
    rules: Some(("rules", "matches")),
    charge: Charge {
        text: 112,
        list: 96,
        entry: 1408,
        object: 256,
    },
    ..Limits::DEFAULT
};

impl ConfigurationKind {
    /// Returns the entry of a kind; `None` for what Kubernetes itself defines.
    pub fn of(kind: Kind) -> Option<&'static Self> {
        KINDS.iter().find(|entry| entry.kind == kind)
    }

    /// Returns the entry of what a manifest's `apiVersion` and `kind` name.
    pub fn named(group: &str, kind: &str) -> Option<&'static Self> {
        let mut kinds = KINDS.iter();
        kinds.find(|entry| entry.group == group && entry.kind.as_str() == kind)
    }

    /// Returns how the API server is asked for resources of this kind.
    pub fn resource(&self) -> ApiResource {
        let version = self.versions[0];
        let gvk = GroupVersionKind::gvk(self.group, version, self.kind.as_str());
        ApiResource::from_gvk_with_plural(&gvk, self.plural)
    }

    /// Reports whether a resource that cannot be compiled closes what it was written to
    /// close. Each sidecar that such a resource is for holds it, whatever the sidecar calls.
    pub fn fails_closed(&self) -> bool {
        self.stand_in.is_some()
    }

    /// Returns what applies in place of a resource that cannot be compiled and never could.
    pub(crate) fn stand_in(configuration: &Configuration) -> Option<Compiled> {
        Self::of(configuration.kind)?.stand_in?(configuration)
    }

    /// Compiles a resource that is within its limits.
    ///
    /// # Errors
    /// Everything that keeps the resource from taking force, by field.
    pub(super) fn compile(
        configuration: &Configuration,
        context: &Context,
        regexes: &mut Budget,
    ) -> Result<(Compiled, Vec<Note>), Vec<Note>> {
        let Some(entry) = Self::of(configuration.kind) else {
            let text = format!("a {} is no configuration", configuration.kind.as_str());
            return Err(vec![Note::new("kind", text)]);
        };
        let mut notes = Vec::new();
        let compiled = (entry.compile)(Compilation {
            configuration,
            context,
            notes: &mut notes,
            regexes,
        })?;
        Ok((compiled, notes))
    }
}

/// Returns the CustomResourceDefinitions of our own, each with the name of its file in
/// `manifests/crds/`.
pub fn definitions() -> Vec<(String, CustomResourceDefinition)> {
    let defined = KINDS
        .iter()
        .filter_map(|entry| Some((entry, entry.definition?)));
    defined
        .map(|(entry, definition)| {
            let file = format!("{}.yaml", entry.plural);
            (file, resource::in_versions(definition(), entry.versions))
        })
        .collect()
}

#[cfg(test)]
mod tests;
