//! `linnet uninstall`: removes what `linnet install` and the control plane made.
//!
//! What is a user's stays: configuration, a root Secret that they brought, and
//! the namespaces that hold either. The webhook goes first, so that at no moment
//! a pod waits for an injector that is gone.

mod plan;

use super::Context;
use crate::{
    cluster::{self, Cluster},
    object,
    terminal::{NotInteractive, Terminal},
};
use k8s_openapi::api::core::v1::Pod;
use linnet_mesh::ResourceRef;
use plan::Plan;
use std::{collections::BTreeSet, process::ExitCode, time::Duration};

/// How long a namespace may take to go, with all that is in it.
const GOODBYE: Duration = Duration::from_secs(120);

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave nothing behind: also the configuration kinds with all resources of
    /// these kinds, the root certificate, and namespace linnet-system
    #[arg(long)]
    purge: bool,
    /// Don't ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Why the control plane is not removed, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error(transparent)]
    NotInteractive(#[from] NotInteractive),
    #[error("nothing was changed: the answer was no")]
    Declined,
    #[error(
        "removed, but still there after {} s: {}; a finalizer may hold it, see \
         `kubectl describe`",
        GOODBYE.as_secs(),
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Remains(Vec<ResourceRef>),
}

/// Does it.
///
/// # Errors
/// What stands in the way, with what to do about it.
pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let cluster = Cluster::connect(&context.cluster).await?;
    let terminal = &context.terminal;
    let meshed = cluster.meshed_pods().await?;
    let plan = Plan::make(&cluster, arguments.purge).await?;
    if plan.is_empty() {
        terminal.line(format_args!(
            "Linnet is not installed in the cluster at {}",
            cluster.url()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    terminal.line(format_args!("From the cluster at {}:", cluster.url()));
    warn_of_sidecars(terminal, &meshed);
    describe(terminal, &plan);
    if !arguments.yes && !terminal.confirm("Uninstall?")? {
        return Err(Error::Declined);
    }
    let removed = plan.carry_out(&cluster).await?;
    let remains = plan.remains(&cluster, GOODBYE).await?;
    if !remains.is_empty() {
        return Err(Error::Remains(remains));
    }
    terminal.good(format_args!("{removed} objects removed"));
    for kept in plan.kept() {
        terminal.line(format_args!("  kept: {kept}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn warn_of_sidecars(terminal: &Terminal, meshed: &[Pod]) {
    if meshed.is_empty() {
        return;
    }
    let count = match meshed.len() {
        1 => "1 pod still carries a sidecar".to_owned(),
        count => format!("{count} pods still carry a sidecar"),
    };
    terminal.warning(format_args!(
        "{count}. No certificate will be renewed, and a new installation has a new root: \
         in time, no other sidecar will talk to:"
    ));
    let mut namespaces = BTreeSet::new();
    for pod in meshed {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        terminal.line(format_args!("    {namespace}/{}", object::name(pod)));
        namespaces.insert(namespace);
    }
    terminal.line("  To free them of it, remove the label and restart them, in each namespace:");
    for namespace in namespaces {
        terminal.line(format_args!(
            "    kubectl label namespace {namespace} istio-injection- linnet.io/inject- && \
             kubectl rollout restart deployment,statefulset,daemonset --namespace {namespace}"
        ));
    }
}

fn describe(terminal: &Terminal, plan: &Plan) {
    terminal.line("To be removed, in this order:");
    for reference in plan.removals() {
        terminal.line(format_args!("    {reference}"));
    }
    let casualties = plan.casualties();
    if !casualties.is_empty() {
        terminal.warning("With the configuration kinds go your own resources:");
        for reference in casualties {
            terminal.line(format_args!("    {reference}"));
        }
    }
}

#[cfg(test)]
mod tests;
