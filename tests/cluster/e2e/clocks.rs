//! Point 6c: identity's clock two minutes off, either way; identity away for two
//! fifths of a certificate's life just as renewals fall due; and away for longer
//! than that, as a pod tells before its certificate ends.
//!
//! libfaketime gives identity another clock. The namespace of the control plane
//! takes no hostPath, so a ConfigMap brings it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use linnet_mesh::names::CONTROL_PLANE_NAMESPACE;

use crate::support::cluster::PATIENCE;
use crate::support::command::{linnet, linnet_succeeds};
use crate::support::load::Caller;
use crate::support::metrics::Metrics;
use crate::support::workload::MESHED;
use crate::support::{Cluster, eventually};

const IDENTITY: &str = "linnet-identity";
/// Debian's package `faketime`.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
const CLOCK: &str = "e2e-clock";
/// What is two minutes off can still be used for a minute then.
const LIFETIME_OF_SKEWED: &str = "identity.certificateLifetime=3m";
const LIFETIME: &str = "identity.certificateLifetime=1m";
/// Two fifths of a minute.
const OUTAGE: Duration = Duration::from_secs(24);
/// What is left of a minute's life where the earliest renewal falls due.
const DUE: Duration = Duration::from_secs(37);
/// The longest pause before a renewal is tried again.
const LAST_RETRY: Duration = Duration::from_secs(10);
const RENEWED: [&str; 2] = ["client", "payment-service"];

pub(crate) async fn clocks_may_be_off_and_identity_away(cluster: Cluster) {
    cluster.meshed().await;
    cluster.without_configuration().await;
    bring_the_library(&cluster).await;
    linnet_succeeds(&["install", "-y", "--set", LIFETIME_OF_SKEWED]).await;
    cluster.rolled_out(CONTROL_PLANE_NAMESPACE, IDENTITY).await;
    // The later one's certificates have a minute left: they are renewed, too.
    for (ahead, load) in [(120, "10s"), (-120, "40s")] {
        identity_is_ahead(&cluster, Some(ahead)).await;
        work_goes_on_and_it_is_told(&cluster, ahead, load).await;
    }
    identity_is_ahead(&cluster, None).await;

    linnet_succeeds(&["install", "-y", "--set", LIFETIME]).await;
    cluster.rolled_out(CONTROL_PLANE_NAMESPACE, IDENTITY).await;
    fresh_certificates(&cluster).await;
    an_outage_fails_nobody(&cluster).await;
    a_longer_one_is_told_before_certificates_end(&cluster).await;
    linnet_succeeds(&["install", "-y"]).await;
    let api: Api<ConfigMap> = cluster.api(CONTROL_PLANE_NAMESPACE);
    api.delete(CLOCK, &DeleteParams::default()).await.unwrap();
}

async fn bring_the_library(cluster: &Cluster) {
    let library = std::fs::read(LIBRARY)
        .unwrap_or_else(|error| panic!("{LIBRARY}: {error}; install Debian's package faketime"));
    let file = Path::new(LIBRARY).file_name().unwrap();
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(CLOCK.to_owned()),
            ..ObjectMeta::default()
        },
        binary_data: Some([(file.to_str().unwrap().to_owned(), ByteString(library))].into()),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = cluster.api(CONTROL_PLANE_NAMESPACE);
    match api.create(&PostParams::default(), &map).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => panic!("ConfigMap {CLOCK}: {error}"),
    }
}

/// By so many seconds; `None`: it has the node's clock again.
async fn identity_is_ahead(cluster: &Cluster, seconds: Option<i32>) {
    let clock = seconds.map_or_else(String::new, |seconds| {
        format!(
            "  template:
    spec:
      containers:
      - name: identity
        env:
        - {{name: LD_PRELOAD, value: /clock/libfaketime.so.1}}
        - {{name: FAKETIME, value: \"{seconds:+}\"}}
        - {{name: FAKETIME_DONT_FAKE_MONOTONIC, value: \"1\"}}
        volumeMounts:
        - {{name: clock, mountPath: /clock, readOnly: true}}
      volumes:
      - {{name: clock, configMap: {{name: {CLOCK}}}}}
"
        )
    });
    let head = format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {IDENTITY}}}\n");
    let spec = if clock.is_empty() { "" } else { "spec:\n" };
    // What was applied before and is not there any more goes.
    let deployment = format!("{head}{spec}{clock}");
    cluster.apply(CONTROL_PLANE_NAMESPACE, &deployment).await;
    cluster.rolled_out(CONTROL_PLANE_NAMESPACE, IDENTITY).await;
}

/// New pods, whose certificates identity signs now.
async fn fresh_certificates(cluster: &Cluster) {
    let restart = |name| cluster.restart(MESHED, name);
    tokio::join!(
        restart("payment-service-v1"),
        restart("payment-service-v2"),
        restart("client")
    );
}

async fn work_goes_on_and_it_is_told(cluster: &Cluster, ahead: i32, duration: &str) {
    fresh_certificates(cluster).await;
    let client = Caller::client_in(cluster, MESHED).await;
    let renewals = async || scrape(cluster).await.renewals("success");
    let before = renewals().await;
    let load = |target: &str| {
        let words = "--rate 20 --concurrency 4 --new-connections --timeout 5s";
        let call = format!("{words} --duration {duration} {target}");
        let client = client.clone();
        async move { client.succeeds(&call).await }
    };
    // The one has certificates of that clock, the other of the right one.
    let (same, other) = tokio::join!(load("http://payment-service/"), load("http://my-app/"));
    println!(
        "identity {ahead:+} s: {} requests, none failed; {} renewals",
        same.requests + other.requests,
        renewals().await - before
    );
    if ahead < 0 {
        assert!(renewals().await > before, "nobody renewed");
    }
    let told = scrape(cluster).await;
    for pods in &told.0 {
        let skew = pods.lowest("linnet_clock_skew_seconds").unwrap();
        let off = (skew - f64::from(ahead)).abs();
        assert!(off < 10.0, "{skew} s told of {ahead} s");
    }
    let text = linnet(&["check"]).await.text;
    let mut pods = cluster.pods(MESHED, "app=client").await;
    pods.extend(cluster.pods(MESHED, "app=payment-service").await);
    let line = text
        .lines()
        .find(|line| line.contains("clocks of"))
        .unwrap_or_else(|| panic!("linnet check says nothing of clocks:\n{text}"));
    assert!(pods.iter().any(|pod| line.contains(pod)), "{text}");
    // Whose clock is behind identity's says so with a minus.
    let sign = if ahead > 0 { "(-1" } else { "(+1" };
    assert!(line.contains(sign), "{text}");
}

/// The load's pods, one scrape each.
struct Scrape(Vec<Metrics>);

async fn scrape(cluster: &Cluster) -> Scrape {
    let mut all = Vec::new();
    for app in RENEWED {
        all.push(Metrics::of_app(cluster, MESHED, app).await);
    }
    Scrape(all)
}

impl Scrape {
    fn renewals(&self, result: &str) -> f64 {
        let name = "linnet_certificate_renewals_total";
        let of = |pods: &Metrics| pods.sum(name, &[("result", result)]);
        self.0.iter().map(of).sum()
    }

    /// What is left of the certificate that ends first.
    fn left(&self) -> Duration {
        let name = "linnet_certificate_expiry_timestamp_seconds";
        let lowest = self.0.iter().filter_map(|pods| pods.lowest(name));
        let lowest = lowest.reduce(f64::min).expect("certificates");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Duration::from_secs_f64(lowest).saturating_sub(now)
    }
}

async fn an_outage_fails_nobody(cluster: &Cluster) {
    let client = Caller::client_in(cluster, MESHED).await;
    let load = |words: &str| {
        let call = format!("{words} --duration 75s --timeout 5s http://payment-service/");
        let client = client.clone();
        async move { client.succeeds(&call).await }
    };
    let (kept, fresh, renewed) = tokio::join!(
        load("--rate 40 --concurrency 4"),
        load("--rate 20 --concurrency 4 --new-connections"),
        outage(cluster),
    );
    println!(
        "{} requests, none failed; all renewed {renewed:?} after identity's return",
        kept.requests + fresh.requests
    );
}

/// Begins as the first renewal falls due; how long after its end all had renewed.
async fn outage(cluster: &Cluster) -> Duration {
    // Every certificate is young at first.
    eventually("renewals fall due", PATIENCE, async || {
        let left = scrape(cluster).await.left();
        (left <= DUE)
            .then_some(())
            .ok_or_else(|| format!("{left:?} left"))
    })
    .await;
    let replicas = cluster.scale(CONTROL_PLANE_NAMESPACE, IDENTITY, 0).await;
    eventually("identity is away", PATIENCE, async || {
        let labels = format!("app.kubernetes.io/name={IDENTITY}");
        let pods = cluster.pods(CONTROL_PLANE_NAMESPACE, &labels).await;
        pods.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{pods:?}"))
    })
    .await;
    tokio::time::sleep(OUTAGE).await;
    let failed = scrape(cluster).await.renewals("failure");
    assert!(failed > 0.0, "no renewal fell into the outage");
    cluster
        .scale(CONTROL_PLANE_NAMESPACE, IDENTITY, replicas)
        .await;
    cluster.rolled_out(CONTROL_PLANE_NAMESPACE, IDENTITY).await;
    let back = Instant::now();
    eventually("all have renewed", LAST_RETRY, async || {
        let left = scrape(cluster).await.left();
        (left > DUE)
            .then_some(())
            .ok_or_else(|| format!("{left:?} left"))
    })
    .await;
    back.elapsed()
}

async fn a_longer_one_is_told_before_certificates_end(cluster: &Cluster) {
    let replicas = cluster.scale(CONTROL_PLANE_NAMESPACE, IDENTITY, 0).await;
    let pod = cluster.pods(MESHED, "app=client").await.remove(0);
    let api: Api<Pod> = cluster.api(MESHED);
    let is_ready = |wanted: &'static str| {
        move |pod: Option<&Pod>| {
            let status = pod.and_then(|pod| pod.status.as_ref());
            let conditions = status.and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|conditions| {
                let mut ready = conditions.iter().filter(|own| own.type_ == "Ready");
                ready.any(|ready| ready.status == wanted)
            })
        }
    };
    cluster
        .wait(api.clone(), &pod, "not ready", is_ready("False"))
        .await;
    let metrics = Metrics::of_app(cluster, MESHED, "client").await;
    assert_eq!(metrics.sum("linnet_certificate_near_expiry", &[]), 1.0);
    let outcome = linnet(&["check"]).await;
    let named = format!("the certificate of {MESHED}/{pod} is about to expire, or has: ");
    assert!(!outcome.success, "{}", outcome.text);
    assert!(outcome.text.contains(&named), "{}", outcome.text);
    cluster
        .scale(CONTROL_PLANE_NAMESPACE, IDENTITY, replicas)
        .await;
    cluster.rolled_out(CONTROL_PLANE_NAMESPACE, IDENTITY).await;
    cluster.wait(api, &pod, "ready", is_ready("True")).await;
    let metrics = Metrics::of_app(cluster, MESHED, "client").await;
    assert_eq!(metrics.sum("linnet_certificate_near_expiry", &[]), 0.0);
}
