//! `AuthorizationPolicy` (security.istio.io): who may call a workload.

use super::WorkloadSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Says who may call workloads, and what of them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    shortname = "ap",
    category = "istio-io",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// The workloads meant; absent: all of the namespace, or of the mesh where
    /// the namespace is the root.
    #[serde(default)]
    pub selector: Option<WorkloadSelector>,
    /// The Services whose workloads are meant, instead of a selector.
    #[serde(default)]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The same, of one Service.
    #[serde(default)]
    pub target_ref: Option<PolicyTargetReference>,
    /// `ALLOW` (the default), `DENY`, `AUDIT` or `CUSTOM`.
    #[serde(default)]
    pub action: Option<String>,
    /// A request fits if it fits one of these; none: no request does.
    #[serde(default)]
    pub rules: Vec<AuthorizationRule>,
}

/// What a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetReference {
    /// The API group; empty for a Service.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default)]
    pub kind: String,
    /// The name.
    #[serde(default)]
    pub name: String,
    /// The namespace, which must be the policy's own.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// A rule; an empty one fits everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Who calls: one of these.
    #[serde(default)]
    pub from: Option<Vec<AuthorizationFrom>>,
    /// What is called: one of these.
    #[serde(default)]
    pub to: Option<Vec<AuthorizationTo>>,
    /// Further conditions, which must all hold.
    #[serde(default)]
    pub when: Vec<AuthorizationCondition>,
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationFrom {
    /// The caller; each of its fields must fit.
    #[serde(default)]
    pub source: Option<AuthorizationSource>,
}

/// A caller.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationSource {
    /// `<trust domain>/ns/<namespace>/sa/<service account>`.
    #[serde(default)]
    pub principals: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_principals: Vec<String>,
    /// A token's `<issuer>/<subject>`.
    #[serde(default)]
    pub request_principals: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_request_principals: Vec<String>,
    /// Namespaces.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_namespaces: Vec<String>,
    /// `name` or `namespace/name`.
    #[serde(default)]
    pub service_accounts: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_service_accounts: Vec<String>,
    /// Addresses and CIDR blocks of the connection's other end.
    #[serde(default)]
    pub ip_blocks: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_ip_blocks: Vec<String>,
    /// Addresses and CIDR blocks of the original client.
    #[serde(default)]
    pub remote_ip_blocks: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_remote_ip_blocks: Vec<String>,
}

/// What is called.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationTo {
    /// The operation; each of its fields must fit.
    #[serde(default)]
    pub operation: Option<AuthorizationOperation>,
}

/// An operation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationOperation {
    /// Hosts.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_hosts: Vec<String>,
    /// The workload's ports.
    #[serde(default)]
    pub ports: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_ports: Vec<String>,
    /// Methods.
    #[serde(default)]
    pub methods: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_methods: Vec<String>,
    /// Paths, also with `{*}` and `{**}`.
    #[serde(default)]
    pub paths: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_paths: Vec<String>,
}

/// A further condition.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationCondition {
    /// The attribute.
    #[serde(default)]
    pub key: String,
    /// One of these.
    #[serde(default)]
    pub values: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_values: Vec<String>,
}
