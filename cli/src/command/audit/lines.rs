//! The lines of a sidecar's access log, and what is missing from them.

use crate::cluster::{
    Cluster,
    ask::{Ask, PodName},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use linnet_mesh::names::{annotation, container, port};
use linnet_proxy::{
    access_log::{KIND, Line},
    why::Authorization,
};
use std::{fmt, str::FromStr};

/// The most that is read of one pod, bytes.
const MOST: i64 = 64 << 20;

/// How far back to look, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Since(i64);

/// Text that is no period.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not like 90s, 30m, 1h or 2d")]
pub(crate) struct NotAPeriod(String);

const UNITS: [(char, i64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl FromStr for Since {
    type Err = NotAPeriod;

    fn from_str(text: &str) -> Result<Self, NotAPeriod> {
        let parse = || {
            let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
            let count: u32 = text.strip_suffix(unit)?.parse().ok()?;
            (count > 0).then(|| Self(i64::from(count) * seconds))
        };
        parse().ok_or_else(|| NotAPeriod(text.to_owned()))
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS.into_iter().find(|(_, seconds)| self.0 % seconds == 0);
        let (unit, seconds) = fits.unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

/// What a sidecar has written as the callee.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<Line<'static>>,
    /// Why lines may be missing.
    pub(crate) gaps: Vec<String>,
}

/// Reads a sidecar's access log, also that of its container before the last
/// restart. A log that can't be read is a gap, not an
/// error: other pods have theirs.
pub(crate) async fn read(cluster: &Cluster, pods: &impl Ask, pod: &PodName, since: Since) -> Lines {
    let mut read = Lines::default();
    read.gaps.extend(setting(pods, pod).await);
    let api: Api<Pod> = Api::namespaced(cluster.client(), &pod.namespace);
    let mut parameters = LogParams {
        container: Some(container::PROXY.to_owned()),
        since_seconds: Some(since.0),
        limit_bytes: Some(MOST),
        ..LogParams::default()
    };
    parameters.previous = true;
    // An error is the rule: most containers have had none before.
    if let Ok(text) = api.logs(&pod.name, &parameters).await {
        take(&mut read, pod, &text);
    }
    parameters.previous = false;
    match api.logs(&pod.name, &parameters).await {
        Ok(text) => {
            if i64::try_from(text.len()).is_ok_and(|length| length >= MOST) {
                let gap = "has written more than is read at once; ask for less with --since";
                read.gaps.push(format!("pod {pod} {gap}"));
            }
            take(&mut read, pod, &text);
        }
        Err(error) => {
            let gap = format!("the log of pod {pod} can't be read: {error}");
            read.gaps.push(gap);
        }
    }
    read
}

fn take(read: &mut Lines, pod: &PodName, text: &str) {
    let mut dropped = 0;
    for text in text.lines() {
        // The log is shared with what else the sidecar has to say.
        let Ok(line) = serde_json::from_str::<Line<'_>>(text) else {
            continue;
        };
        if line.log != KIND {
            continue;
        }
        dropped += line.dropped.unwrap_or_default();
        if line.reporter == "destination" {
            read.lines.push(line);
        }
    }
    if dropped > 0 {
        let gap = format!("pod {pod} dropped {dropped} lines that it could not write in time");
        read.gaps.push(gap);
    }
}

/// What the sidecar leaves out on purpose, as it is set now.
async fn setting(pods: &impl Ask, pod: &PodName) -> Option<String> {
    let asked: Result<Authorization, _> = pods.fetch(pod, (port::ADMIN, "/authorization")).await;
    let log = match asked {
        Ok(Authorization {
            access_log: Some(log),
            ..
        }) => log,
        Ok(_) => return Some(format!("pod {pod} is of a version without an access log")),
        Err(error) => return Some(format!("what pod {pod} writes is not known: {error}")),
    };
    let name = annotation::ACCESS_LOG;
    match (log.scope.as_str(), log.format.as_str()) {
        ("off", _) => Some(format!(
            "pod {pod} writes no access log ({name}: off, or a Telemetry that disables it)"
        )),
        (_, "text") => Some(format!(
            "pod {pod} writes its access log for people ({name}: format=text), which can't be counted"
        )),
        ("denied", _) => Some(format!(
            "pod {pod} writes what was denied and nothing else; {name}: all tells who got through"
        )),
        _ if log.filter.is_some() => Some(format!(
            "pod {pod} writes what got through only where {} ({name} or Telemetry: filter)",
            log.filter.unwrap_or_default()
        )),
        _ if log.sample < 1.0 => Some(format!(
            "pod {pod} writes {} of what got through ({name}: sample)",
            log.sample
        )),
        _ => None,
    }
}
