//! `linnet audit`: who called a workload and what was denied, from the access
//! logs of its sidecars.
//!
//! The answer is as complete as the logs are. Where a sidecar writes less than
//! everything, or lines are missing, the answer says so.

mod lines;
mod render;

pub(super) use lines::{Lines, Since, read};

use super::Context;
use crate::cluster::{
    Cluster, Error as ClusterError,
    ask::{Ask, PodName},
    workload::{FindError, Reference},
};
use linnet_proxy::access_log::Line;
use serde::Serialize;
use std::{collections::BTreeMap, io, process::ExitCode};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// svc/payment, deploy/payment, sts/…, ds/…, pod/…, or a name: a service's before a deployment's
    workload: Reference,
    /// Its namespace, instead of the context's
    #[arg(short, long)]
    namespace: Option<String>,
    /// How far back: 90s, 30m, 1h, 2d
    #[arg(long, default_value = "1h")]
    since: Since,
    /// Print the answer as data
    #[arg(long, value_enum)]
    output: Option<super::DataFormat>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("writing the output")]
    Output(#[from] io::Error),
}

/// What the logs say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    workload: String,
    namespace: String,
    since: String,
    pods: Vec<PodName>,
    /// Who got through.
    callers: Vec<Calls>,
    /// What a policy denied.
    denied: Vec<Calls>,
    /// What a policy in dry run would have denied.
    would_deny: Vec<Calls>,
    /// What an AUDIT policy noted.
    audited: Vec<Calls>,
    /// Why the answer is not complete.
    gaps: Vec<String>,
}

/// Requests of one caller that met with the same.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Calls {
    /// Its verified identity; `None`: it called in plaintext.
    identity: Option<String>,
    /// Its workload, as `namespace/name`, or failing that its address.
    from: String,
    /// What decided; empty of those who got through.
    #[serde(skip_serializing_if = "String::is_empty")]
    by: String,
    count: u64,
    /// What was asked for, with how often.
    requests: BTreeMap<String, u64>,
    /// The answers, with how often.
    answers: BTreeMap<String, u64>,
    first: String,
    last: String,
}

/// Does it.
///
/// # Errors
/// Nobody to ask, or no answer.
pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let cluster = Cluster::connect(&context.cluster).await?;
    let report = ask(&cluster, &cluster, arguments).await?;
    let text = match arguments.output {
        Some(super::DataFormat::Json) => super::json(&report)?,
        None => render::text(&report),
    };
    context.terminal.document(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(cluster: &Cluster, pods: &impl Ask, arguments: &Arguments) -> Result<Report, Error> {
    let namespace = cluster.namespace(arguments.namespace.as_deref());
    let found = cluster
        .meshed_pods_of(&arguments.workload, &namespace)
        .await?;
    let mut report = Report {
        workload: arguments.workload.name().to_owned(),
        namespace,
        since: arguments.since.to_string(),
        pods: found.iter().map(PodName::of).collect(),
        callers: Vec::new(),
        denied: Vec::new(),
        would_deny: Vec::new(),
        audited: Vec::new(),
        gaps: Vec::new(),
    };
    let mut calls = BTreeMap::new();
    for pod in &report.pods {
        let Lines { lines, gaps } = read(cluster, pods, pod, arguments.since).await;
        report.gaps.extend(gaps);
        for line in &lines {
            count(&mut calls, line);
        }
    }
    for ((list, ..), call) in calls {
        match list {
            List::Callers => report.callers.push(call),
            List::Denied => report.denied.push(call),
            List::WouldDeny => report.would_deny.push(call),
            List::Audited => report.audited.push(call),
        }
    }
    let lists = [
        &mut report.callers,
        &mut report.denied,
        &mut report.would_deny,
        &mut report.audited,
    ];
    for list in lists {
        list.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.from.cmp(&b.from)));
    }
    Ok(report)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum List {
    Callers,
    Denied,
    WouldDeny,
    Audited,
}

type Key = (List, String, String, String);

/// A request that a dry run or an AUDIT rule marks got through as well.
fn count(calls: &mut BTreeMap<Key, Calls>, line: &Line<'_>) {
    let marked = match &*line.decision {
        "denied" => Some(List::Denied),
        "dry_run_denied" => Some(List::WouldDeny),
        "audited" => Some(List::Audited),
        _ => None,
    };
    if let Some(list) = marked {
        add(calls, list, &line.decided_by, line);
    }
    if marked != Some(List::Denied) {
        add(calls, List::Callers, "", line);
    }
}

fn add(calls: &mut BTreeMap<Key, Calls>, list: List, by: &str, line: &Line<'_>) {
    let identity = line.source_principal.to_string();
    let from = caller(line);
    let key = (list, identity.clone(), from.clone(), by.to_owned());
    let call = calls.entry(key).or_insert_with(|| Calls {
        identity: (!identity.is_empty()).then_some(identity),
        from,
        by: by.to_owned(),
        count: 0,
        requests: BTreeMap::new(),
        answers: BTreeMap::new(),
        first: line.time.to_string(),
        last: line.time.to_string(),
    });
    call.count += 1;
    let request = if line.method.is_empty() {
        line.protocol.to_string()
    } else {
        format!("{} {}", line.method, line.path)
    };
    *call.requests.entry(request).or_default() += 1;
    *call.answers.entry(answer(line)).or_default() += 1;
    // RFC 3339 in UTC: in the order of text.
    if *line.time < *call.first {
        call.first = line.time.to_string();
    }
    if *line.time > *call.last {
        call.last = line.time.to_string();
    }
}

fn caller(line: &Line<'_>) -> String {
    if !line.source_workload.is_empty() {
        return format!("{}/{}", line.source_namespace, line.source_workload);
    }
    let address = line.source_address.rsplit_once(':');
    address.map_or_else(|| "unknown".to_owned(), |(ip, _)| ip.to_owned())
}

fn answer(line: &Line<'_>) -> String {
    match (line.grpc_status, line.status) {
        (Some(code), _) => format!("grpc {code}"),
        (None, Some(status)) => status.to_string(),
        (None, None) if line.flags == "-" => "closed".to_owned(),
        (None, None) => line.flags.to_string(),
    }
}

#[cfg(test)]
mod tests;
