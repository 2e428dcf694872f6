//! Who may call whom: a breached client cannot reach the "database" of another
//! namespace, by HTTP or by bare TCP, while who is allowed still can.

use linnet_workload::token::Issuer;
use serde_json::json;
use std::time::Duration;

use crate::support::cluster::guide;
use crate::support::command::linnet_succeeds;
use crate::support::load::Caller;
use crate::support::workload::{BACKEND, MESHED};
use crate::support::{Cluster, eventually};

const LIMIT: Duration = Duration::from_secs(15);
const HTTP: &str = "http://payments.payments-backend/";
const TCP: &str = "--protocol tcp payments.payments-backend:9000";

pub(crate) async fn only_the_allowed_reach_the_database(cluster: Cluster) {
    cluster.meshed().await;
    cluster.backend().await;
    cluster.without_configuration().await;
    let client = Caller::client_in(&cluster, MESHED).await;
    for target in [HTTP, TCP] {
        reaches(&client, target, true).await;
    }

    let for_others = guide("payments-backend-callers.yaml");
    cluster.apply(BACKEND, &for_others).await;
    for target in [HTTP, TCP] {
        reaches(&client, target, false).await;
    }
    let report = client.call(&format!("--count 1 {HTTP}")).await;
    assert!(
        report.errors.keys().any(|error| error.contains("403")),
        "denied, but not by a 403: {report:?}"
    );
    the_audit_says_so().await;

    cluster
        .apply(BACKEND, &for_others.replace("sa/checkout", "sa/client"))
        .await;
    for target in [HTTP, TCP] {
        reaches(&client, target, true).await;
    }
    a_telemetry_tells_who_got_through(&cluster, &client).await;
    cluster.delete(BACKEND, &for_others).await;
}

/// Without a restart: the sidecars begin to write what they let through.
async fn a_telemetry_tells_who_got_through(cluster: &Cluster, client: &Caller) {
    cluster.apply(BACKEND, TELEMETRY).await;
    eventually("the audit names who got through", LIMIT, async || {
        client.call(&format!("--count 1 {HTTP}")).await;
        let text = linnet_succeeds(&["audit", "payments", "-n", BACKEND, "--since", "5m"]).await;
        let callers = text.split("\nDenied\n").next().unwrap_or_default();
        let named = callers.contains("spiffe://cluster.local/ns/default/sa/client");
        named.then_some(()).ok_or(text)
    })
    .await;
    cluster.delete(BACKEND, TELEMETRY).await;
}

const TELEMETRY: &str = "apiVersion: telemetry.istio.io/v1alpha1
kind: Telemetry
metadata:
  name: access-log
spec:
  accessLogging:
  - providers:
    - name: envoy
";

/// Sidecars write denials unless they are told otherwise.
async fn the_audit_says_so() {
    eventually("the audit names who was denied", LIMIT, async || {
        let text = linnet_succeeds(&["audit", "payments", "-n", BACKEND, "--since", "5m"]).await;
        let denied = text
            .split_once("\nDenied\n")
            .map_or("", |(_, denied)| denied);
        let all = [
            "spiffe://cluster.local/ns/default/sa/client",
            "no ALLOW rule matched",
            "GET /",
            "tcp",
        ]
        .into_iter()
        .all(|part| denied.contains(part));
        all.then_some(()).ok_or(text)
    })
    .await;
}

/// A token of the right issuer reaches it, and nothing else does.
pub(crate) async fn only_a_token_reaches_the_database(cluster: Cluster) {
    cluster.meshed().await;
    cluster.backend().await;
    cluster.without_configuration().await;
    let client = Caller::client_in(&cluster, MESHED).await;
    let issuer = Issuer::default();
    let policies = with_a_token(&issuer.jwks());
    cluster.apply(BACKEND, &policies).await;
    let with = |issuer: &Issuer| {
        let token = issuer.token("ES256", &json!({"iss": "e2e", "sub": "client"}));
        format!("--header x-jwt:{token} {HTTP}")
    };
    reaches(&client, HTTP, false).await;
    reaches(&client, &with(&issuer), true).await;
    let forged = with(&Issuer::default());
    reaches(&client, &forged, false).await;
    let report = client.call(&format!("--count 1 {forged}")).await;
    assert!(
        report.errors.keys().any(|error| error.contains("401")),
        "denied, but not by a 401: {report:?}"
    );
    cluster.delete(BACKEND, &policies).await;
    reaches(&client, HTTP, true).await;
}

fn with_a_token(jwks: &serde_json::Value) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata:
  name: database-tokens
spec:
  jwtRules:
  - issuer: e2e
    fromHeaders: [{{name: x-jwt}}]
    jwks: '{jwks}'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: database-tokens
spec:
  rules:
  - from:
    - source:
        requestPrincipals: [e2e/client]
"
    )
}

async fn reaches(client: &Caller, target: &str, wanted: bool) {
    let verb = if wanted { "reaches" } else { "is kept from" };
    eventually(format!("the client {verb} {target}"), LIMIT, async || {
        let call = format!("--count 10 --new-connections --timeout 5s {target}");
        let report = client.call(&call).await;
        let all = if wanted {
            report.succeeded
        } else {
            report.failed
        };
        (all == 10)
            .then_some(())
            .ok_or_else(|| format!("{report:?}"))
    })
    .await;
}
