//! `linnet status`: every proxy, whether it has what it was sent, and how long
//! the last change took to get there.
//!
//! A proxy is connected to one replica of the controller; what several replicas
//! say is merged.

use super::Context;
use crate::{
    cluster::{
        Cluster, Error as ClusterError,
        ask::{Ask, AskError, PodName},
        has_ended,
    },
    object,
};
use k8s_openapi::api::core::v1::Pod;
use linnet_controller::discovery::{LastChange, ProxyStatus};
use linnet_mesh::names::port;
use serde::Serialize;
use std::{collections::BTreeMap, io, process::ExitCode};

/// The label and name of the controller's pods.
const CONTROLLER: &str = "app.kubernetes.io/name=linnet-controller";

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only proxies of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Print it as data
    #[arg(long, value_enum)]
    output: Option<super::DataFormat>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("no pod of the controller runs; see linnet check")]
    NoController,
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("writing the output")]
    Output(#[from] io::Error),
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether every proxy has what it was sent.
    in_sync: bool,
    proxies: Vec<Proxy>,
    /// By the controller's pods: the last change that some proxy had to hear of.
    last_changes: BTreeMap<String, LastChange>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Proxy {
    #[serde(flatten)]
    pod: PodName,
    state: State,
    /// What the controller says; `None`: the proxy is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ProxyStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    InSync,
    /// The last message has not been acknowledged yet.
    Waiting,
    /// It refused the last message and keeps what it had.
    Refused,
    /// No replica of the controller knows it.
    NotConnected,
}

/// Does it; the exit code is 1 where not all are in sync.
///
/// # Errors
/// No controller to ask, or no answer.
pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let cluster = Cluster::connect(&context.cluster).await?;
    let report = ask(&cluster, &cluster, arguments.namespace.as_deref()).await?;
    let text = match arguments.output {
        Some(super::DataFormat::Json) => super::json(&report)?,
        None => render(&report),
    };
    context.terminal.document(&text)?;
    Ok(if report.in_sync {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn ask(cluster: &Cluster, pods: &impl Ask, namespace: Option<&str>) -> Result<Report, Error> {
    let mut controllers: Vec<Pod> = cluster.list(cluster.in_control_plane(), CONTROLLER).await?;
    controllers.retain(|pod| !has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
    if controllers.is_empty() {
        return Err(Error::NoController);
    }
    let mut known: BTreeMap<PodName, ProxyStatus> = BTreeMap::new();
    let mut last_changes = BTreeMap::new();
    let mut answered = false;
    let mut silent = None;
    for controller in controllers.iter().map(PodName::of) {
        let proxies: Vec<ProxyStatus> = match pods
            .fetch(&controller, (port::METRICS, "/debug/proxies"))
            .await
        {
            Ok(proxies) => proxies,
            // One replica may just be starting.
            Err(error) => {
                silent = Some(error);
                continue;
            }
        };
        answered = true;
        proxies
            .into_iter()
            .for_each(|proxy| merge(&mut known, proxy));
        let last: Option<LastChange> = pods
            .fetch(&controller, (port::METRICS, "/debug/convergence"))
            .await?;
        last_changes.extend(last.map(|last| (controller.name, last)));
    }
    if let Some(error) = silent.filter(|_| !answered) {
        return Err(error.into());
    }
    let meshed = cluster.meshed_pods().await?;
    let mut proxies = proxies(known, &meshed);
    proxies.retain(|proxy| namespace.is_none_or(|wanted| proxy.pod.namespace == wanted));
    Ok(Report {
        in_sync: proxies.iter().all(|proxy| proxy.state == State::InSync),
        proxies,
        last_changes,
    })
}

/// Of two streams of one pod the younger is the one in use.
fn merge(known: &mut BTreeMap<PodName, ProxyStatus>, proxy: ProxyStatus) {
    let pod = PodName {
        namespace: proxy.namespace.clone(),
        name: proxy.pod.clone(),
    };
    match known.get(&pod) {
        Some(other) if other.connected_seconds <= proxy.connected_seconds => {}
        _ => {
            known.insert(pod, proxy);
        }
    }
}

fn proxies(mut known: BTreeMap<PodName, ProxyStatus>, meshed: &[Pod]) -> Vec<Proxy> {
    let missing = meshed
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| !object::name(*pod).is_empty())
        .map(PodName::of)
        .filter(|pod| !known.contains_key(pod))
        .map(|pod| Proxy {
            pod,
            state: State::NotConnected,
            status: None,
        });
    let mut proxies: Vec<Proxy> = missing.collect();
    while let Some((pod, status)) = known.pop_first() {
        let state = if status.error.is_some() {
            State::Refused
        } else if status.acknowledged < status.sent {
            State::Waiting
        } else {
            State::InSync
        };
        proxies.push(Proxy {
            pod,
            state,
            status: Some(status),
        });
    }
    proxies.sort_by(|a, b| a.pod.cmp(&b.pod));
    proxies
}

fn render(report: &Report) -> String {
    let head = [
        "PROXY",
        "VERSION",
        "SENT",
        "ACKNOWLEDGED",
        "STATE",
        "LAST CHANGE TOOK",
    ];
    let head = head.map(str::to_owned);
    let rows: Vec<[String; 6]> = report.proxies.iter().map(row).collect();
    let mut text = super::table(&head, &rows);
    for proxy in &report.proxies {
        if let Some(error) = proxy
            .status
            .as_ref()
            .and_then(|status| status.error.as_ref())
        {
            text.push_str(&format!(
                "\n{} refused its configuration: {error}\n",
                proxy.pod
            ));
        }
    }
    let behind = report.proxies.iter().filter(|p| p.state != State::InSync);
    text.push_str(&match (report.proxies.len(), behind.count()) {
        (0, _) => "\nNo proxy is connected.\n".to_owned(),
        (all, 0) => format!("\nAll {all} proxies have what they were sent.\n"),
        (all, behind) => format!("\n{behind} of {all} proxies are not in sync.\n"),
    });
    for (controller, last) in &report.last_changes {
        text.push_str(&format!(
            "{controller}: the last change took {} from its watch event to the last acknowledgement, of {} {}, {} ago.\n",
            milliseconds(last.convergence_ms),
            last.proxies,
            if last.proxies == 1 { "proxy" } else { "proxies" },
            span(last.seconds_ago),
        ));
    }
    text
}

fn row(proxy: &Proxy) -> [String; 6] {
    let state = match proxy.state {
        State::InSync => "in sync",
        State::Waiting => "waiting for it",
        State::Refused => "refused",
        State::NotConnected => "not connected",
    };
    let Some(status) = &proxy.status else {
        let none = || "-".to_owned();
        return [
            proxy.pod.to_string(),
            none(),
            none(),
            none(),
            state.to_owned(),
            none(),
        ];
    };
    [
        proxy.pod.to_string(),
        status.proxy_version.clone(),
        status.sent.to_string(),
        status.acknowledged.to_string(),
        state.to_owned(),
        status
            .convergence_ms
            .map_or_else(|| "-".to_owned(), milliseconds),
    ]
}

fn milliseconds(value: f64) -> String {
    format!("{value:.1} ms")
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests;
