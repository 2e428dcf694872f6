//! Point 3: STRICT, PERMISSIVE and DISABLE, for the mesh and for a namespace,
//! and the oldest guide's MeshPolicy.

use std::time::Duration;

use linnet_sample::load::Report;

use crate::support::cluster::guide;
use crate::support::load::Caller;
use crate::support::metrics::Metrics;
use crate::support::workload::{BACKEND, MESHED, UNMESHED};
use crate::support::{Cluster, eventually};

/// How long a policy may take to act: far above what is printed, far below what
/// an operator would call broken.
const LIMIT: Duration = Duration::from_secs(15);

const PAYMENT: &str = "payment-service.default:80";
const PAYMENTS: &str = "payments.payments-backend:80";

/// Who calls, and from where.
struct Callers {
    meshed: Caller,
    outsider: Caller,
}

pub(crate) async fn modes_decide_who_may_call(cluster: Cluster) {
    cluster.meshed().await;
    cluster.outsiders().await;
    cluster.backend().await;
    cluster.without_configuration().await;
    let callers = Callers {
        meshed: Caller::client_in(&cluster, MESHED).await,
        outsider: Caller::client_in(&cluster, UNMESHED).await,
    };
    callers.open("no policy", PAYMENT).await;
    callers.open("no policy", PAYMENTS).await;

    let mesh_strict = guide("mesh-strict.yaml");
    cluster.apply(MESHED, &mesh_strict).await;
    callers.closed("mesh-wide STRICT", PAYMENT).await;
    callers.closed("mesh-wide STRICT", PAYMENTS).await;
    every_protocol_is_refused(&cluster, &callers).await;
    // New pods come up only if the kubelet's probes, all three kinds, pass.
    cluster.restart(MESHED, "payment-service-v1").await;
    callers.closed("STRICT, a new pod", PAYMENT).await;

    cluster.apply(MESHED, &in_default("PERMISSIVE")).await;
    callers.open("PERMISSIVE in a STRICT mesh", PAYMENT).await;
    callers.closed("STRICT elsewhere", PAYMENTS).await;
    cluster.delete(MESHED, &mesh_strict).await;
    cluster.delete(MESHED, &in_default("PERMISSIVE")).await;
    callers.open("policies deleted", PAYMENT).await;
    callers.open("policies deleted", PAYMENTS).await;

    namespaces_are_apart(&cluster, &callers).await;
    disable_is_plaintext(&cluster, &callers).await;

    let mesh_policy = guide("meshpolicy.yaml");
    cluster.apply(MESHED, &mesh_policy).await;
    callers.closed("MeshPolicy `mtls: {}`", PAYMENT).await;
    callers.closed("MeshPolicy `mtls: {}`", PAYMENTS).await;
    cluster.delete(MESHED, &mesh_policy).await;
    callers.open("MeshPolicy deleted", PAYMENT).await;
}

impl Callers {
    /// Both get an answer.
    async fn open(&self, when: &str, target: &str) {
        eventually(format!("{when}: {target} is open"), LIMIT, async || {
            let report = self
                .outsider
                .call(&format!(
                    "--count 10 --new-connections --timeout 5s {target}"
                ))
                .await;
            let open = report.failed == 0;
            open.then_some(()).ok_or_else(|| format!("{report:?}"))
        })
        .await;
        let calls = format!("--count 30 --concurrency 3 --new-connections {target}");
        self.outsider.succeeds(&calls).await;
        self.meshed.succeeds(&calls).await;
    }

    /// The outsider's connections are cut before any answer; the meshed caller
    /// notices nothing.
    async fn closed(&self, when: &str, target: &str) {
        eventually(format!("{when}: {target} is closed"), LIMIT, async || {
            let report = self
                .outsider
                .call(&format!(
                    "--count 10 --new-connections --timeout 5s {target}"
                ))
                .await;
            let closed = report.succeeded == 0;
            closed.then_some(()).ok_or_else(|| format!("{report:?}"))
        })
        .await;
        let calls = format!("--count 30 --concurrency 3 --new-connections {target}");
        assert_cut(when, &self.outsider.call(&calls).await);
        self.meshed.succeeds(&calls).await;
    }
}

/// All failed, at once, by a connection that was cut: no status, no time-out.
fn assert_cut(when: &str, report: &Report) {
    assert_eq!(report.succeeded, 0, "{when}: {report:#?}");
    let cut = |error: &String| !error.contains("status") && error != "timed out";
    assert!(report.errors.keys().all(cut), "{when}: {report:#?}");
    let share = report.duration_seconds / report.requests as f64;
    assert!(share < 1.0, "{when}: refusals are slow: {report:#?}");
}

/// Not only HTTP, and not only by the service's name.
async fn every_protocol_is_refused(cluster: &Cluster, callers: &Callers) {
    let pods = cluster.pod_objects(MESHED, "app=payment-service").await;
    let address = pods[0]
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.clone());
    let address = address.unwrap();
    for (protocol, port) in [
        ("http1", 8080),
        ("http2", 8080),
        ("grpc", 8080),
        ("websocket", 8080),
        ("tls", 8443),
        ("tcp", 9000),
        ("server-first", 2525),
    ] {
        let calls = format!("--count 3 --timeout 3s --protocol {protocol} {address}:{port}");
        let report = callers.outsider.call(&calls).await;
        if protocol == "server-first" {
            // A client that is silent shows no plaintext to cut it off for; what it
            // waits for must not come.
            assert_eq!(report.succeeded, 0, "{protocol}: {report:#?}");
        } else {
            assert_cut(protocol, &report);
        }
        let service = format!("--count 3 --protocol {protocol} payment-service:");
        let port = match port {
            8080 => 80,
            8443 => 443,
            other => other,
        };
        callers.meshed.succeeds(&format!("{service}{port}")).await;
    }
}

/// A namespace's STRICT closes that namespace alone.
async fn namespaces_are_apart(cluster: &Cluster, callers: &Callers) {
    let payments_backend = guide("payments-backend-strict.yaml");
    cluster.apply(MESHED, &payments_backend).await;
    let when = format!("STRICT in {BACKEND}");
    callers.closed(&when, PAYMENTS).await;
    callers.open(&when, PAYMENT).await;
    cluster.delete(MESHED, &payments_backend).await;
    callers.open("policies deleted", PAYMENTS).await;

    let default = guide("namespace-strict.yaml");
    cluster.apply(MESHED, &default).await;
    callers.closed("STRICT in default", PAYMENT).await;
    callers.open("STRICT in default", PAYMENTS).await;
    cluster.delete(MESHED, &default).await;
    callers.open("policies deleted", PAYMENT).await;
}

/// DISABLE: the meshed caller too speaks plaintext, and the metrics say so.
async fn disable_is_plaintext(cluster: &Cluster, callers: &Callers) {
    cluster.apply(MESHED, &in_default("DISABLE")).await;
    let plain = async || {
        let metrics = Metrics::of_app(cluster, MESHED, "payment-service").await;
        let labels = [
            ("reporter", "destination"),
            ("connection_security_policy", "none"),
        ];
        metrics.sum("istio_requests_total", &labels)
    };
    eventually("DISABLE: meshed calls are plaintext", LIMIT, async || {
        let before = plain().await;
        let call = format!("--count 10 {PAYMENT}");
        let report = callers.meshed.call(&call).await;
        let more = plain().await - before;
        let all = more >= 10.0 && report.failed == 0;
        all.then_some(())
            .ok_or_else(|| format!("{more} of 10 were plaintext: {report:?}"))
    })
    .await;
    callers.open("DISABLE", PAYMENT).await;
    cluster.delete(MESHED, &in_default("DISABLE")).await;
    callers.open("policies deleted", PAYMENT).await;
}

/// The guide's policy for a namespace with another mode.
fn in_default(mode: &str) -> String {
    guide("namespace-strict.yaml").replace("STRICT", mode)
}
