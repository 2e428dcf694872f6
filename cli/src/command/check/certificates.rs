//! When certificates end.

use super::Finding;
use crate::{
    cluster::{Cluster, Error},
    command::identity,
};
use k8s_openapi::api::core::v1::ConfigMap;
use linnet_identity::authority::rotation::Phase;
use linnet_mesh::names;
use time::{Duration, OffsetDateTime};
use x509_parser::pem::Pem;

/// A part of the lifetime in which whoever renews a certificate should have
/// done so: the last tenth.
const LATE: i32 = 10;

pub(super) async fn root(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let name = names::TRUST_BUNDLE_CONFIG_MAP;
    let found: Option<ConfigMap> = cluster.find(cluster.in_control_plane(), name).await?;
    let data = found.and_then(|found| found.data).unwrap_or_default();
    Ok(match data.get(names::TRUST_BUNDLE_KEY) {
        Some(bundle) => judge("root", "the root certificate", bundle.as_bytes()),
        None => vec![Finding::failed(
            "root",
            format!(
                "ConfigMap {}/{name} has no key {}: nobody can verify an identity",
                names::CONTROL_PLANE_NAMESPACE,
                names::TRUST_BUNDLE_KEY
            ),
            "identity writes it; see its log: \
             kubectl --namespace linnet-system logs deployment/linnet-identity",
        )],
    })
}

/// Whether what is kept can be used, and where a rotation stands.
pub(super) async fn rotation(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let advice = "linnet identity status";
    Ok(match identity::roots(cluster).await {
        // Before the first start of identity; the deployments say more.
        Ok(None) => Vec::new(),
        Err(identity::Error::Cluster(error)) => return Err(error),
        Err(error) => vec![Finding::failed(
            "root",
            format!("identity cannot sign: {error}"),
            "restore the Secret",
        )],
        Ok(Some(roots)) => match (&roots.judgement.problem, roots.judgement.phase) {
            (Some(problem), _) => vec![Finding::warning(
                "root",
                format!(
                    "the root in Secret {} cannot be used, the one before signs: {problem}",
                    names::ROOT_SECRET
                ),
                advice,
            )],
            (None, Phase::Steady) => Vec::new(),
            (None, phase) => {
                let message = format!("root rotation: {}", identity::stage(phase));
                vec![Finding::ok("root", message)]
            }
        },
    })
}

/// Findings about each certificate of a bundle.
pub(super) fn judge(check: &'static str, what: &str, bundle: &[u8]) -> Vec<Finding> {
    judge_at(check, what, bundle, OffsetDateTime::now_utc())
}

fn judge_at(check: &'static str, what: &str, bundle: &[u8], now: OffsetDateTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pem in Pem::iter_from_buffer(bundle).flatten() {
        let Ok(certificate) = pem.parse_x509() else {
            continue;
        };
        let validity = certificate.validity();
        let from = validity.not_before.to_datetime();
        let to = validity.not_after.to_datetime();
        findings.push(judge_lifetime(check, what, (from, to), now));
    }
    if findings.is_empty() {
        let message = format!("{what} is not a PEM certificate");
        findings.push(Finding::failed(
            check,
            message,
            "delete it; the control plane writes it again",
        ));
    }
    findings
}

fn judge_lifetime(
    check: &'static str,
    what: &str,
    (from, to): (OffsetDateTime, OffsetDateTime),
    now: OffsetDateTime,
) -> Finding {
    let date = to.date();
    let left = to - now;
    if left <= Duration::ZERO {
        let message = format!("{what} expired on {date}");
        return Finding::failed(
            check,
            message,
            "restart the deployments in namespace linnet-system; they make a new one",
        );
    }
    if now < from {
        let message = format!("{what} is not valid before {from}");
        return Finding::failed(
            check,
            message,
            "compare the clocks of this machine and of the nodes",
        );
    }
    let message = format!("{what} is valid until {date} ({} from now)", span(left));
    if left < (to - from) / LATE {
        let advice = "it should have been renewed by now; see the logs in namespace linnet-system";
        Finding::warning(check, message, advice)
    } else {
        Finding::ok(check, message)
    }
}

pub(super) fn span(left: Duration) -> String {
    match (left.whole_days(), left.whole_hours(), left.whole_minutes()) {
        (days, ..) if days > 1 => format!("{days} days"),
        (_, hours, _) if hours > 1 => format!("{hours} hours"),
        (_, _, minutes) => format!("{minutes} minutes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::check::Status;

    fn bundle(from: OffsetDateTime, to: OffsetDateTime) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.not_before = from;
        parameters.not_after = to;
        parameters.self_signed(&key).unwrap().pem()
    }

    fn status(after: Duration) -> Status {
        let from = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let pem = bundle(from, from + Duration::days(100));
        let findings = judge_at("root", "the root", pem.as_bytes(), from + after);
        assert_eq!(findings.len(), 1);
        findings[0].status
    }

    #[test]
    fn lifetimes_are_judged() {
        assert_eq!(status(Duration::days(50)), Status::Ok);
        assert_eq!(status(Duration::days(95)), Status::Warning);
        assert_eq!(status(Duration::days(101)), Status::Failed);
        assert_eq!(status(Duration::days(-1)), Status::Failed);
    }

    #[test]
    fn every_certificate_of_a_bundle_is_judged() {
        let now = OffsetDateTime::now_utc();
        let pem = bundle(now - Duration::days(9), now + Duration::days(9))
            + &bundle(now - Duration::days(9), now - Duration::days(1));
        let findings = judge_at("root", "the root", pem.as_bytes(), now);
        let statuses: Vec<_> = findings.iter().map(|finding| finding.status).collect();
        assert_eq!(statuses, [Status::Ok, Status::Failed]);
    }

    #[test]
    fn what_is_no_certificate_fails() {
        let findings = judge_at("root", "the root", b"nonsense", OffsetDateTime::now_utc());
        assert_eq!(findings[0].status, Status::Failed);
    }
}
