//! The commands, one file each.

mod analyze;
mod arguments;
mod audit;
mod authz;
mod check;
mod completions;
mod demo;
mod identity;
mod inject;
mod install;
mod policy;
mod standalone;
mod status;
mod uninstall;
mod version;
mod why;

pub(crate) use arguments::Arguments;

use crate::{cluster::ClusterArguments, terminal::Terminal};
use clap::Subcommand;
use std::{io, process::ExitCode};

/// What every command is given besides its own arguments.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) cluster: ClusterArguments,
    pub(crate) terminal: Terminal,
}

/// How to print what is also meant for programs.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DataFormat {
    Json,
}

/// A value as a JSON document with its line end.
fn json(value: &impl serde::Serialize) -> io::Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text.push('\n');
    Ok(text)
}

/// Rows under a head, each column as wide as its widest text.
fn table<const N: usize>(head: &[String; N], rows: &[[String; N]]) -> String {
    let all = || std::iter::once(head).chain(rows);
    let width = |column: usize| {
        let lengths = all().map(|row| row[column].chars().count());
        lengths.max().unwrap_or_default()
    };
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().enumerate();
        let line: String = cells
            .map(|(column, cell)| format!("{cell:<width$}  ", width = width(column)))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A command, with what was typed for it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install the control plane into the current cluster, or bring it up to date
    Install(install::Arguments),
    /// Examine the cluster, the control plane, its certificates and the sidecars
    Check(check::Arguments),
    /// Say what becomes of a request, and which resource and rule decide
    Why(why::Arguments),
    /// Say who called a workload and what was denied, by its access logs
    Audit(audit::Arguments),
    /// Draft policies from who called whom
    Policy(policy::Arguments),
    /// List who may call a workload, and by which policy
    Authz(authz::Arguments),
    /// Show every proxy, whether it has what it was sent, and how long that took
    Status(status::Arguments),
    /// Show the mesh's roots, or replace the root
    Identity(identity::Arguments),
    /// Say what is wrong with configuration, in files or in the cluster
    Analyze(analyze::Arguments),
    /// Add the sidecar to workloads in a file, as the webhook would
    Inject(inject::Arguments),
    /// Remove the control plane from the current cluster
    Uninstall(uninstall::Arguments),
    /// Run a whole mesh in this process, with load and a live summary
    Demo(demo::Arguments),
    /// Run the mesh without Kubernetes, from a directory of manifests
    Standalone(standalone::Arguments),
    /// Print the version of this program and of the control plane
    Version(version::Arguments),
    /// Print a script that completes this program's arguments in a shell
    Completions(completions::Arguments),
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        match self {
            Self::Install(arguments) => Ok(install::run(arguments, context).await?),
            Self::Check(arguments) => Ok(check::run(&arguments, context).await?),
            Self::Why(arguments) => Ok(why::run(arguments, context).await?),
            Self::Audit(arguments) => Ok(audit::run(&arguments, context).await?),
            Self::Policy(arguments) => Ok(policy::run(&arguments, context).await?),
            Self::Authz(arguments) => Ok(authz::run(&arguments, context).await?),
            Self::Status(arguments) => Ok(status::run(&arguments, context).await?),
            Self::Identity(arguments) => Ok(identity::run(arguments, context).await?),
            Self::Analyze(arguments) => Ok(analyze::run(&arguments, context).await?),
            Self::Inject(arguments) => Ok(inject::run(&arguments, context)?),
            Self::Uninstall(arguments) => Ok(uninstall::run(&arguments, context).await?),
            Self::Demo(arguments) => Ok(demo::run(&arguments, context).await?),
            Self::Standalone(arguments) => Ok(standalone::run(&arguments, context).await?),
            Self::Version(arguments) => Ok(version::run(&arguments, context).await?),
            Self::Completions(arguments) => Ok(completions::run(&arguments, context)?),
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Install(#[from] install::Error),
    #[error(transparent)]
    Why(#[from] why::Error),
    #[error(transparent)]
    Audit(#[from] audit::Error),
    #[error(transparent)]
    Policy(#[from] policy::Error),
    #[error(transparent)]
    Authz(#[from] authz::Error),
    #[error(transparent)]
    Status(#[from] status::Error),
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error(transparent)]
    Analyze(#[from] analyze::Error),
    #[error(transparent)]
    Inject(#[from] inject::Error),
    #[error(transparent)]
    Uninstall(#[from] uninstall::Error),
    #[error(transparent)]
    Demo(#[from] demo::Error),
    #[error(transparent)]
    Standalone(#[from] standalone::Error),
    #[error(transparent)]
    Cluster(#[from] crate::cluster::Error),
    #[error("writing the output")]
    Output(#[from] io::Error),
}
