//! `linnet policy suggest`: policies that allow what has been seen and nothing
//! else, drafted from the access logs of a namespace's sidecars.
//!
//! A draft is in dry run: it blocks nothing, and the sidecars log what it would
//! have denied. It is as complete as the logs are, and says where they are not.

mod draft;

use super::{
    Context,
    audit::{Lines, Since, read},
};
use crate::cluster::{
    Cluster, Error as ClusterError,
    ask::{Ask, PodName},
    workload::is_meshed,
};
use draft::{Draft, Group};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::{collections::BTreeMap, io, process::ExitCode};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Draft AuthorizationPolicies, in dry run, from who called whom
    Suggest(Suggest),
}

#[derive(Debug, clap::Args)]
struct Suggest {
    /// Whose workloads, instead of the context's namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// How far back: 90s, 30m, 1h, 2d
    #[arg(long, default_value = "1d")]
    since: Since,
}

/// Why there is no draft.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("no pod of namespace {0} has a sidecar; name another with -n")]
    NobodyMeshed(String),
    #[error("writing the output")]
    Output(#[from] io::Error),
}

/// Does it.
///
/// # Errors
/// Nobody to ask, or no answer.
pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let Command::Suggest(suggest) = &arguments.command;
    let cluster = Cluster::connect(&context.cluster).await?;
    let text = ask(&cluster, &cluster, suggest).await?;
    context.terminal.document(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(cluster: &Cluster, pods: &impl Ask, suggest: &Suggest) -> Result<String, Error> {
    let namespace = cluster.namespace(suggest.namespace.as_deref());
    let api: Api<Pod> = Api::namespaced(cluster.client(), &namespace);
    let mut found = cluster.list(api, "").await?;
    found.retain(is_meshed);
    if found.is_empty() {
        return Err(Error::NobodyMeshed(namespace));
    }
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    let mut gaps = Vec::new();
    for pod in &found {
        let name = PodName::of(pod);
        let Some((label, app)) = app(pod) else {
            gaps.push(format!(
                "pod {name} has neither the label app nor app.kubernetes.io/name, by which a policy could select it"
            ));
            continue;
        };
        let Lines {
            lines,
            gaps: missing,
        } = read(cluster, pods, &name, suggest.since).await;
        gaps.extend(missing);
        let group = groups.entry((label.to_owned(), app)).or_default();
        for line in &lines {
            group.count(line);
        }
    }
    gaps.sort();
    let draft = Draft {
        since: suggest.since.to_string(),
        gaps,
        groups,
        namespace,
    };
    Ok(draft.to_string())
}

/// The label that says which application a pod is.
fn app(pod: &Pod) -> Option<(&'static str, String)> {
    let labels = pod.metadata.labels.as_ref()?;
    let mut known = ["app", "app.kubernetes.io/name"].into_iter();
    known.find_map(|label| Some((label, labels.get(label)?.clone())))
}

#[cfg(test)]
mod tests;
