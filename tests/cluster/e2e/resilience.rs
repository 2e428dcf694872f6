//! Point 4b: what a DestinationRule and retries do about trouble: a full pool
//! answers at once, a bad pod is ejected and returns, a subset is rolled without
//! a failure, and retries against a dead service stay within their budget. Without
//! any of these, pods that can't serve fail nobody.

use std::cell::Cell;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use linnet_mesh::names::CONTROL_PLANE_NAMESPACE;
use linnet_sample::load::Report;

use crate::support::load::Caller;
use crate::support::metrics::Metrics;
use crate::support::workload::{client, namespace};
use crate::support::{Cluster, eventually};

/// A namespace of this point alone.
const OWN: &str = "resilience";
const LIMIT: Duration = Duration::from_secs(15);
const REQUESTS: &str = "istio_requests_total";
/// Answers of the bad pod, whose own upstream has no endpoint.
const BAD: &str = "status 502 Bad Gateway";
const FULL: &str = "status 503 Service Unavailable";
/// The retry budget: a fifth of the requests, and three a second.
const SHARE: f64 = 0.2;
const RESERVE: f64 = 3.0;

pub(crate) async fn trouble_is_contained(cluster: Cluster) {
    cluster.meshed().await;
    workloads(&cluster).await;
    let client = Caller::client_in(&cluster, OWN).await;
    full_pool_answers_at_once(&cluster, &client).await;
    rolling_a_subset_fails_nothing(&cluster, &client).await;
    retries_stay_within_their_budget(&cluster, &client).await;
    a_bad_pod_is_ejected_and_returns(&cluster, &client).await;
    a_pod_without_its_application_fails_nobody(&cluster, &client).await;
    scaling_down_moves_what_no_application_took(&cluster, &client).await;
    a_pod_that_goes_while_the_controller_is_away_fails_nobody(&cluster, &client).await;
    cluster.delete("", &namespace(OWN, "enabled")).await;
}

/// Two good pods and a bad one, behind a service for each question.
async fn workloads(cluster: &Cluster) {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let not_ending = |namespace: Option<&Namespace>| {
        namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_none())
    };
    cluster
        .wait(api, OWN, "free of an earlier run", not_ending)
        .await;
    cluster.apply("", &namespace(OWN, "enabled")).await;
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: backend}\n";
    cluster.apply(OWN, account).await;
    for (name, selector) in [
        ("limited", "app: backend, version: v1"),
        ("rolling", "app: backend"),
        ("ejecting", "app: backend"),
        ("failing", "app: backend, version: bad"),
        // Without any pod, until the bad one is to recover.
        ("cure", "app: nothing"),
    ] {
        cluster.apply(OWN, &service(name, selector)).await;
    }
    let deployment = include_str!("workloads/resilience.yaml");
    for (version, arguments) in [
        ("v1", "--threads=1"),
        ("v2", "--threads=1"),
        // An answer is a 502 as long as what it calls does not answer.
        ("bad", "--calls=http://cure/"),
    ] {
        let pod = deployment
            .replace("VERSION", version)
            .replace("ARGS", arguments);
        cluster.apply(OWN, &pod).await;
    }
    cluster.apply(OWN, &client()).await;
    for name in ["backend-v1", "backend-v2", "backend-bad", "client"] {
        cluster.rolled_out(OWN, name).await;
    }
}

fn service(name: &str, selector: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{{selector}}}
  ports: [{{name: web, port: 80, targetPort: 8080}}]
"
    )
}

/// One connection and one request in waiting: whoever comes then is refused
/// while the others still wait, and is told by which rule.
async fn full_pool_answers_at_once(cluster: &Cluster, client: &Caller) {
    let rule = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: limited}
spec:
  host: limited
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 1}
      http: {http1MaxPendingRequests: 1}
";
    cluster.apply(OWN, rule).await;
    // One after the other, so that the first has the connection for certain.
    let four = "--rate 20 --count 4 --concurrency 4 http://limited/delay";
    eventually("the pool's limits act", LIMIT, async || {
        let report = client.call(&format!("{four}/500ms")).await;
        let refused = times(&report, FULL) == 2 && report.succeeded == 2;
        refused.then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;

    let before = overflows(cluster).await;
    let holders = format!("--timeout 8s {four}/30s");
    let (held, (report, page)) = tokio::join!(client.call(&holders), async {
        // Two of them are refused once the other two are in.
        eventually("the pool is full", LIMIT, async || {
            let refused = overflows(cluster).await - before;
            let full = refused >= 2.0;
            full.then_some(()).ok_or_else(|| format!("{refused} of UO"))
        })
        .await;
        let report = client
            .call("--count 20 --timeout 500ms http://limited/")
            .await;
        (report, client.page("http://limited/").await)
    });
    assert_eq!(times(&held, FULL), 2, "who holds the pool: {held:?}");
    assert_eq!(
        times(&report, FULL),
        20,
        "each is refused within 500 ms: {report:?}"
    );
    for part in [
        "DestinationRule resilience/limited",
        "connectionPool.http.http1MaxPendingRequests is 1",
    ] {
        assert!(page.contains(part), "no {part:?} in {page:?}");
    }
    let counted = overflows(cluster).await - before;
    println!("a full pool: {counted} answers with UO: {page}");
    assert_eq!(counted, 23.0, "20 calls, the page and two of the four");
}

/// What the client's sidecar counted as refused by a limit.
async fn overflows(cluster: &Cluster) -> f64 {
    let labels = [
        ("reporter", "source"),
        ("destination_service_name", "limited"),
        ("response_flags", "UO"),
        ("response_code", "503"),
    ];
    let metrics = Metrics::of_app(cluster, OWN, "client").await;
    metrics.sum(REQUESTS, &labels)
}

/// 100/0 → 0/100 while calls flow over kept connections.
async fn rolling_a_subset_fails_nothing(cluster: &Cluster, client: &Caller) {
    let subsets = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: rolling}
spec:
  host: rolling
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";
    cluster.apply(OWN, subsets).await;
    cluster.apply(OWN, &weights(100, 0)).await;
    only(client, "v1").await;
    let call = "--rate 200 --concurrency 8 --duration 6s http://rolling/";
    let (report, ()) = tokio::join!(client.succeeds(call), async {
        // Some calls first, so that connections to v1 are open.
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.apply(OWN, &weights(0, 100)).await;
    });
    println!("a subset rolled: no failure in {} calls", report.requests);
    for version in ["v1", "v2"] {
        assert!(report.by_version.contains_key(version), "{report:?}");
    }
    only(client, "v2").await;
}

fn weights(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: rolling}}
spec:
  hosts: [rolling]
  http:
  - route:
    - {{destination: {{host: rolling, subset: v1}}, weight: {v1}}}
    - {{destination: {{host: rolling, subset: v2}}, weight: {v2}}}
"
    )
}

async fn only(client: &Caller, version: &str) {
    eventually(format!("rolling is {version}"), LIMIT, async || {
        let report = client.call("--count 50 http://rolling/").await;
        let all = report.by_version.get(version) == Some(&50);
        all.then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;
}

/// A rule that asks for five retries of a service that always fails: what
/// reaches the pod is more than was asked, by the budget at most.
async fn retries_stay_within_their_budget(cluster: &Cluster, client: &Caller) {
    let retries = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: failing}
spec:
  hosts: [failing]
  http:
  - retries: {attempts: 5, retryOn: 5xx, perTryTimeout: 2s}
    route:
    - destination: {host: failing}
";
    cluster.apply(OWN, retries).await;
    let (start, before) = (Instant::now(), arrived(cluster).await);
    let mut sent = 0;
    eventually("retries act", LIMIT, async || {
        let report = client.call("--count 5 http://failing/").await;
        sent += report.requests;
        let arrived = arrived(cluster).await - before;
        let retried = arrived > sent as f64;
        retried
            .then_some(())
            .ok_or_else(|| format!("{arrived} of {sent}: {report:?}"))
    })
    .await;
    let report = client
        .call("--count 600 --concurrency 8 http://failing/")
        .await;
    assert_eq!(times(&report, BAD), 600, "all fail as the pod: {report:?}");
    let sent = (sent + report.requests) as f64;
    let arrived = arrived(cluster).await - before;
    let seconds = start.elapsed().as_secs_f64().ceil() + 1.0;
    let most = sent * (1.0 + SHARE) + RESERVE * seconds;
    println!("retries: {sent} requests, {arrived} arrived, {most} allowed");
    assert!(
        arrived > sent * 1.1,
        "{arrived} of {sent}: hardly a retry was sent"
    );
    assert!(arrived <= most, "{arrived} of {sent}, {most} allowed");
}

/// What the bad pod's sidecar counted as failed.
async fn arrived(cluster: &Cluster) -> f64 {
    let labels = [("reporter", "destination"), ("response_code", "502")];
    let metrics = Metrics::of_app(cluster, OWN, "backend").await;
    metrics.sum(REQUESTS, &labels)
}

/// Its errors stop once it is ejected; healed, it gets requests again.
async fn a_bad_pod_is_ejected_and_returns(cluster: &Cluster, client: &Caller) {
    // In turn: the better of two would soon avoid a pod that is slow to fail.
    let in_turn = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ejecting}
spec:
  host: ejecting
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
";
    let ejecting = format!(
        "{in_turn}    outlierDetection:
      consecutive5xxErrors: 3
      interval: 1s
      baseEjectionTime: 10s
      maxEjectionPercent: 50
"
    );
    cluster.apply(OWN, in_turn).await;
    eventually("each pod has its turn", LIMIT, async || {
        let report = client.call("--count 30 http://ejecting/").await;
        let third = times(&report, BAD) == 10;
        third.then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;
    cluster.apply(OWN, &ejecting).await;
    eventually("the bad pod is ejected", LIMIT, async || {
        let report = client.call("--count 50 http://ejecting/").await;
        let none = report.failed == 0;
        none.then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;
    let report = client.succeeds("--count 300 http://ejecting/").await;
    assert_eq!(report.by_version.get("bad"), None, "{report:?}");
    assert_eq!(report.by_version.len(), 2, "both good ones: {report:?}");
    let metrics = Metrics::of_app(cluster, OWN, "client").await;
    let ejections = metrics.sum("linnet_outlier_ejections_total", &[]);
    assert!(ejections >= 1.0, "the ejection is not counted");

    let cured = service("cure", "app: backend, version: v1");
    cluster.apply(OWN, &cured).await;
    // It learns of its cure while it is ejected; at the worst it fails again
    // and is ejected for twice as long.
    let limit = Duration::from_secs(30);
    eventually("the healed pod is back", limit, async || {
        let report = client.call("--count 50 http://ejecting/").await;
        let back = report.failed == 0 && report.by_version.contains_key("bad");
        back.then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;
}

/// Pods `half` of a version, without a probe that would take them out.
fn half(version: &str, http: &str) -> String {
    let pod = include_str!("workloads/resilience.yaml");
    let (pod, _probe) = pod.split_once("        readinessProbe:").unwrap();
    pod.replace("app: backend", "app: half")
        .replace("name: backend-VERSION", "name: half-VERSION")
        .replace("VERSION", version)
        .replace("ARGS", &format!("--http={http}"))
}

/// Two pods, one of which does not listen where its service says.
async fn a_pod_without_its_application_fails_nobody(cluster: &Cluster, client: &Caller) {
    cluster.apply(OWN, &service("half", "app: half")).await;
    cluster.apply(OWN, &half("good", "0.0.0.0:8080")).await;
    cluster.apply(OWN, &half("gone", "127.0.0.1:18080")).await;
    for name in ["half-good", "half-gone"] {
        cluster.rolled_out(OWN, name).await;
    }
    let before = undelivered(cluster).await;
    let began = Instant::now();
    let report = client
        .succeeds("--rate 200 --concurrency 8 --duration 10s http://half/")
        .await;
    let attempts = undelivered(cluster).await - before;
    let seconds = began.elapsed().as_secs_f64().ceil();
    println!(
        "half of the applications gone: no failure in {} calls, {attempts} attempts in {seconds} s",
        report.requests
    );
    // Eight may be on their way when the first finds out.
    assert!(attempts <= 8.0 + seconds, "{attempts} in {seconds} s");
}

/// Requests that reached the pod without an application.
async fn undelivered(cluster: &Cluster) -> f64 {
    let labels = [("reporter", "destination"), ("response_flags", "UF")];
    let metrics = Metrics::of_app(cluster, OWN, "half").await;
    metrics.sum(REQUESTS, &labels)
}

/// Five pods become one while calls flow.
async fn scaling_down_moves_what_no_application_took(cluster: &Cluster, client: &Caller) {
    cluster.scale(OWN, "half-good", 5).await;
    cluster.rolled_out(OWN, "half-good").await;
    let watch = Ending::begin(cluster).await;
    let call = "--rate 200 --concurrency 8 --duration 20s http://half/";
    let (report, _) = tokio::join!(client.call(call), async {
        // Some calls first, so that all pods have connections.
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.scale(OWN, "half-good", 1).await
    });
    watch.judge(cluster, "five pods to one", 4, &report).await;
}

/// What calls may lose while pods end. A request that an application took over a kept
/// connection before it ended may have been acted on, and is not sent again: each pod that
/// ends may have one, which its own sidecar answers. The caller's sidecar has no failure of
/// its own to tell of.
struct Ending {
    before: f64,
}

impl Ending {
    async fn begin(cluster: &Cluster) -> Self {
        let before = Self::callers_own(cluster).await;
        Self { before }
    }

    /// Answers of the caller's sidecar that are no endpoint's.
    async fn callers_own(cluster: &Cluster) -> f64 {
        let metrics = Metrics::of_app(cluster, OWN, "client").await;
        let labels = [("reporter", "source"), ("destination_service_name", "half")];
        let [of_whom, whose] = labels;
        let all = metrics.sum(REQUESTS, &labels);
        all - metrics.sum(REQUESTS, &[of_whom, whose, ("response_flags", "-")])
    }

    async fn judge(self, cluster: &Cluster, what: &str, ending: u64, report: &Report) {
        let own = Self::callers_own(cluster).await - self.before;
        let Report {
            requests, failed, ..
        } = report;
        println!("{what}: {failed} failures in {requests} calls, {own} of the caller's sidecar");
        assert!(*failed <= ending && own == 0.0, "{own}, {report:?}");
    }
}

/// Nobody tells the caller that the pod is gone: it finds out by itself.
async fn a_pod_that_goes_while_the_controller_is_away_fails_nobody(
    cluster: &Cluster,
    client: &Caller,
) {
    cluster.scale(OWN, "half-good", 2).await;
    cluster.rolled_out(OWN, "half-good").await;
    client.succeeds("--count 50 http://half/").await;
    let watch = Ending::begin(cluster).await;
    let before = cluster
        .scale(CONTROL_PLANE_NAMESPACE, "linnet-controller", 0)
        .await;
    let call = "--rate 200 --concurrency 8 --duration 20s http://half/";
    let (report, _) = tokio::join!(client.call(call), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.scale(OWN, "half-good", 1).await
    });
    cluster
        .scale(CONTROL_PLANE_NAMESPACE, "linnet-controller", before)
        .await;
    cluster
        .rolled_out(CONTROL_PLANE_NAMESPACE, "linnet-controller")
        .await;
    webhook_is_reached(cluster).await;
    watch.judge(cluster, "a pod gone unsaid", 1, &report).await;
}

/// Waits until the API server reaches the validating webhook again: a ready pod is behind its
/// Service a moment later, and until then what is wrong is let through.
async fn webhook_is_reached(cluster: &Cluster) {
    let attempts = Cell::new(0);
    eventually(
        "the validating webhook is reached again",
        LIMIT,
        async || {
            // Another name each time: what is wrong already may be written as it is.
            attempts.set(attempts.get() + 1);
            let wrong = format!(
                "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: wrong-{}}}
spec:
  hosts: [half]
  http: [{{match: [{{uri: {{regex: '('}}}}], route: [{{destination: {{host: half}}}}]}}]
",
                attempts.get()
            );
            match cluster.try_apply(OWN, &wrong).await {
                Err(_) => Ok(()),
                Ok(_) => Err("what is wrong was accepted".to_owned()),
            }
        },
    )
    .await;
}

fn times(report: &Report, error: &str) -> u64 {
    report.errors.get(error).copied().unwrap_or(0)
}
