//! What pods say of their own certificates: when they end, on which root they
//! hang, and how far their clocks are off.
//!
//! Asked for through the API server, from each pod's metrics.

use super::Finding;
use crate::{
    cluster::{self, Cluster, Error},
    command::identity,
    object,
};
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use linnet_mesh::names::port;
use std::collections::BTreeSet;
use time::{Duration, OffsetDateTime};

const CHECK: &str = "certificates";
/// Pods that are asked at the same time.
const AT_ONCE: usize = 16;
/// How many pods a message names before it only counts.
const NAMED: usize = 5;
/// A clock that is off by more seconds is named; certificates allow for 120.
const SKEW_TOLERATED: f64 = 10.0;

/// What a pod says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    pod: String,
    expiry: Option<f64>,
    issuer: Option<f64>,
    near_expiry: bool,
    roots: Vec<String>,
    skew: f64,
    /// Why it is not ready, if that is because of its certificate.
    reason: Option<String>,
}

pub(super) async fn leaves(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let mut pods = cluster.meshed_pods().await?;
    let own: Vec<Pod> = cluster.list(cluster.in_control_plane(), "").await?;
    pods.extend(own.into_iter().filter(|pod| !cluster::has_ended(pod)));
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    let asked = stream::iter(&pods).map(|pod| ask(cluster, pod));
    let answers: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
    let silent = answers.iter().filter(|answer| answer.is_none()).count();
    let mut told: Vec<Told> = answers.into_iter().flatten().collect();
    told.sort_by(|a, b| a.pod.cmp(&b.pod));
    // Who may not read the Secret still learns the rest.
    let roots = identity::roots(cluster).await.ok().flatten();
    let signs = roots.map(|roots| roots.judgement.root.trusted_by().to_owned());
    let mut findings = judge(&told, signs.as_deref(), OffsetDateTime::now_utc());
    if silent > 0 {
        findings.push(Finding::warning(
            CHECK,
            format!(
                "{silent} of {} pods did not answer about their certificates",
                pods.len()
            ),
            "starting pods don't; otherwise the API server must reach them at port 15020",
        ));
    }
    Ok(findings)
}

async fn ask(cluster: &Cluster, pod: &Pod) -> Option<Told> {
    let namespace = pod.metadata.namespace.as_deref()?;
    let name = object::name(pod);
    let metrics = cluster
        .pod_text(namespace, name, port::METRICS, "metrics")
        .await?;
    let mut told = read(&metrics);
    told.pod = format!("{namespace}/{name}");
    if told.near_expiry {
        let ready = cluster
            .pod_text(namespace, name, port::METRICS, "healthz/ready")
            .await;
        told.reason = ready.map(|text| text.trim().to_owned());
    }
    Some(told)
}

fn read(metrics: &str) -> Told {
    let mut told = Told::default();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Ok(value) = value.parse::<f64>() else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let earlier = |before: Option<f64>| Some(before.map_or(value, |before| before.min(value)));
        match name {
            "linnet_certificate_expiry_timestamp_seconds" => told.expiry = earlier(told.expiry),
            "linnet_identity_issuer_expiry_timestamp_seconds" => told.issuer = earlier(told.issuer),
            "linnet_certificate_near_expiry" => told.near_expiry |= value > 0.0,
            "linnet_clock_skew_seconds" => told.skew = value,
            // A root that is no longer used has the time 0.
            "linnet_certificate_root_expiry_timestamp_seconds" if value > 0.0 => {
                let root = labels.split("root=\"").nth(1);
                told.roots.extend(
                    root.and_then(|rest| rest.split('"').next())
                        .map(str::to_owned),
                );
            }
            _ => {}
        }
    }
    told
}

fn judge(told: &[Told], signs: Option<&str>, now: OffsetDateTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    let span = |seconds: f64| {
        super::certificates::span(
            Duration::seconds_f64(seconds) - (now - OffsetDateTime::UNIX_EPOCH),
        )
    };
    let first = |expiries: &mut dyn Iterator<Item = f64>| expiries.reduce(f64::min);
    if let Some(first) = first(&mut told.iter().filter_map(|pod| pod.expiry)) {
        let count = told.iter().filter(|pod| pod.expiry.is_some()).count();
        let message = format!(
            "{count} pods have certificates; the first ends {} from now",
            span(first)
        );
        findings.push(Finding::ok(CHECK, message));
    }
    if let Some(first) = first(&mut told.iter().filter_map(|pod| pod.issuer)) {
        let message = format!(
            "identity's issuers are valid; the first ends {} from now",
            span(first)
        );
        findings.push(Finding::ok(CHECK, message));
    }
    for pod in told.iter().filter(|pod| pod.near_expiry) {
        let reason = pod.reason.as_deref().unwrap_or("not renewed");
        findings.push(Finding::failed(
            CHECK,
            format!(
                "the certificate of {} is about to expire, or has: {reason}",
                pod.pod
            ),
            "see why: kubectl --namespace linnet-system logs deployment/linnet-identity",
        ));
    }
    if let Some(signs) = signs {
        findings.extend(earlier_roots(told, signs));
    }
    let skewed: Vec<_> = told
        .iter()
        .filter(|pod| pod.skew.abs() > SKEW_TOLERATED)
        .collect();
    if !skewed.is_empty() {
        let pods: Vec<_> = skewed
            .iter()
            .take(NAMED)
            .map(|pod| format!("{} ({:+.0} s)", pod.pod, -pod.skew))
            .collect();
        findings.push(Finding::warning(
            CHECK,
            format!(
                "the clocks of {} pods are not identity's: {}",
                skewed.len(),
                pods.join(", ")
            ),
            "set the clocks of their nodes; up to two minutes do no harm to certificates of a day",
        ));
    }
    findings
}

/// Pods that still present a certificate of the root before.
fn earlier_roots(told: &[Told], signs: &str) -> Option<Finding> {
    let earlier: BTreeSet<&str> = told
        .iter()
        .filter(|pod| !pod.roots.is_empty() && pod.roots.iter().all(|root| root != signs))
        .map(|pod| pod.pod.as_str())
        .collect();
    if earlier.is_empty() {
        return None;
    }
    let named: Vec<_> = earlier.iter().take(NAMED).copied().collect();
    let message = format!(
        "{} pods have certificates of an earlier root: {}",
        earlier.len(),
        named.join(", ")
    );
    let advice =
        "they renew by themselves before the earlier root is retired; see linnet identity status";
    Some(Finding::warning(CHECK, message, advice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::scripted::ApiServer, command::check::Status};
    use serde_json::json;

    fn metrics(left: i64, near: u8, root: &str, skew: f64) -> String {
        let expiry = OffsetDateTime::now_utc().unix_timestamp() + left;
        format!(
            "# TYPE linnet_certificate_expiry_timestamp_seconds gauge\n\
             linnet_certificate_expiry_timestamp_seconds{{identity=\"a\"}} {expiry}\n\
             linnet_certificate_near_expiry{{identity=\"a\"}} {near}\n\
             linnet_certificate_root_expiry_timestamp_seconds{{identity=\"a\",root=\"gone\"}} 0\n\
             linnet_certificate_root_expiry_timestamp_seconds{{identity=\"a\",root=\"{root}\"}} {expiry}\n\
             linnet_clock_skew_seconds{{identity=\"a\"}} {skew}\n"
        )
    }

    #[test]
    fn pods_are_judged_by_what_they_say() {
        let now = OffsetDateTime::now_utc();
        let pod = |name: &str, text: String| Told {
            pod: name.to_owned(),
            ..read(&text)
        };
        let well = pod("shop/well", metrics(80_000, 0, "new", 0.0));
        assert_eq!(well.roots, ["new"]);
        let quiet = judge(std::slice::from_ref(&well), Some("new"), now);
        assert!(
            quiet.iter().all(|finding| finding.status == Status::Ok),
            "{quiet:?}"
        );
        let late = pod("shop/late", metrics(40, 1, "new", 0.0));
        let behind = pod("shop/behind", metrics(80_000, 0, "old", 120.0));
        let findings = judge(&[behind, late, well], Some("new"), now);
        let with = |status| {
            let of = findings
                .iter()
                .filter(move |finding| finding.status == status);
            of.map(|finding| finding.message.as_str())
                .collect::<Vec<_>>()
                .join("; ")
        };
        assert!(with(Status::Failed).contains("shop/late"), "{findings:?}");
        let warnings = with(Status::Warning);
        assert!(warnings.contains("earlier root: shop/behind"), "{warnings}");
        assert!(warnings.contains("shop/behind (-120 s)"), "{warnings}");
    }

    #[tokio::test]
    async fn pods_are_asked_through_the_api_server() {
        let pod = json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"linnet.io/sidecar": "injected"}}});
        let silent = json!({"metadata": {"name": "new", "namespace": "shop", "labels": {"linnet.io/sidecar": "injected"}}});
        let all = "/api/v1/namespaces/shop/pods";
        let proxy = format!("{all}/web:15020/proxy");
        let reason = "waiting for: certificate (expires in 40 s and is not renewed: no answer)";
        let server = ApiServer::new()
            .with(&format!("{all}/web"), pod)
            .with(&format!("{all}/new"), silent)
            .with(&format!("{proxy}/metrics"), json!(metrics(40, 1, "x", 0.0)))
            .with(&format!("{proxy}/healthz/ready"), json!(reason));
        let findings = leaves(&server.cluster().await).await.unwrap();
        let failed = findings
            .iter()
            .find(|finding| finding.status == Status::Failed);
        assert!(
            failed.unwrap().message.contains("no answer"),
            "{findings:?}"
        );
        assert!(
            findings
                .iter()
                .any(|finding| finding.message.starts_with("1 of 2 pods")),
            "{findings:?}"
        );
    }
}
