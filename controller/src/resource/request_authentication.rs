//! `RequestAuthentication` (security.istio.io): whose tokens count.

use super::{PolicyTargetReference, WorkloadSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Says which tokens workloads take; a request without one passes.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "RequestAuthentication",
    plural = "requestauthentications",
    shortname = "ra",
    category = "istio-io",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct RequestAuthenticationSpec {
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
    /// A token is good if one of these takes it.
    #[serde(default)]
    pub jwt_rules: Vec<JwtRule>,
}

/// Which tokens are taken, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// Who signs them: the claim `iss`.
    #[serde(default)]
    pub issuer: String,
    /// For whom they are, one of these: the claim `aud`; none: anybody.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Where the controller fetches the issuer's keys.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// The issuer's keys themselves.
    #[serde(default)]
    pub jwks: Option<String>,
    /// Headers that hold the token; with this, `fromParams` or `fromCookies` the
    /// usual places don't count.
    #[serde(default)]
    pub from_headers: Vec<JwtHeader>,
    /// Parameters of the query that hold it.
    #[serde(default)]
    pub from_params: Vec<String>,
    /// Cookies that hold it.
    #[serde(default)]
    pub from_cookies: Vec<String>,
    /// The header that the application gets the claims in, base64url.
    #[serde(default)]
    pub output_payload_to_header: Option<String>,
    /// The application gets the token too.
    #[serde(default)]
    pub forward_original_token: Option<bool>,
    /// Headers that the application gets single claims in.
    #[serde(default)]
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// How long fetching the keys may take; 5 s by default.
    #[serde(default)]
    pub timeout: Option<String>,
    /// Claims that are lists separated by spaces, besides `scope` and `permission`.
    #[serde(default)]
    pub space_delimited_claims: Vec<String>,
}

/// A header that holds a token.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwtHeader {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What stands before the token.
    #[serde(default)]
    pub prefix: String,
}

/// A header and the claim it gets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimToHeader {
    /// The header.
    #[serde(default)]
    pub header: String,
    /// The claim; a nested one with dots between the names.
    #[serde(default)]
    pub claim: String,
}
