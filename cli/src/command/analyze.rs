//! `linnet analyze`: the verdict on every resource of some files, or of the
//! cluster, before or after it is applied.
//!
//! The exit code is 1 where something is wrong: by default for errors alone,
//! with `--fail-on warning` for any remark. Files are judged by themselves;
//! services that none of them holds are not missed.

mod files;
mod report;

use super::Context;
use crate::cluster::{Cluster, Error as ClusterError};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta},
};
use linnet_controller::{
    analysis::{self, Input},
    compile::{self, ConfigurationKind, KINDS, Severity, Verdict},
};
use std::{io, path::PathBuf, process::ExitCode};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Files or directories (read with all below them) to analyse instead of the cluster; - is
    /// standard input
    #[arg(short, long = "filename", value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Resources of all namespaces of the cluster
    #[arg(short = 'A', long, conflicts_with_all = ["files", "namespace"])]
    all_namespaces: bool,
    /// The namespace whose resources to show, instead of the context's; for files the one of
    /// resources that name none
    #[arg(short, long)]
    namespace: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    output: Format,
    /// What makes the exit code 1
    #[arg(long, value_enum, default_value = "error")]
    fail_on: FailOn,
    /// The DNS domain of services
    #[arg(long, value_name = "DOMAIN", default_value = DEFAULT_DOMAIN)]
    cluster_domain: String,
}

const DEFAULT_DOMAIN: &str = "cluster.local";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// Resources that are not in force, and requests that would fail
    Error,
    /// Any remark
    Warning,
}

/// Why nothing could be analysed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no .yaml, .yml or .json file in {0}")]
    NoFiles(String),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("writing the output")]
    Output(#[from] io::Error),
}

/// Does it.
///
/// # Errors
/// Files that can't be opened, or no cluster; what they hold is a finding.
pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let verdicts = if arguments.files.is_empty() {
        let cluster = Cluster::connect(&context.cluster).await?;
        of_cluster(arguments, &cluster).await?
    } else {
        let namespace = arguments.namespace.as_deref().unwrap_or("default");
        let input = files::read(&arguments.files, namespace)?;
        analysis::analyze(&input, &arguments.context())
    };
    let text = match arguments.output {
        Format::Text => report::text(&verdicts, &context.terminal),
        Format::Json => super::json(&report::Summary::of(&verdicts))?,
    };
    context.terminal.document(&text)?;
    Ok(exit_code(&verdicts, arguments.fail_on))
}

impl Arguments {
    fn context(&self) -> compile::Context {
        compile::Context {
            cluster_domain: self.cluster_domain.clone(),
        }
    }
}

/// What holds for an installation that nobody configured otherwise.
pub(crate) fn default_context() -> compile::Context {
    compile::Context {
        cluster_domain: DEFAULT_DOMAIN.to_owned(),
    }
}

async fn of_cluster(arguments: &Arguments, cluster: &Cluster) -> Result<Vec<Verdict>, Error> {
    let input = from_cluster(cluster).await?;
    let mut verdicts = analysis::analyze(&input, &arguments.context());
    if !arguments.all_namespaces {
        let client = cluster.client();
        let own = client.default_namespace();
        let namespace = arguments.namespace.as_deref().unwrap_or(own);
        verdicts.retain(|Verdict { resource, .. }| {
            let itself = resource.kind == "Namespace" && resource.name == namespace;
            itself || resource.namespace == namespace
        });
    }
    Ok(verdicts)
}

/// All that a cluster holds of what verdicts depend on.
///
/// # Errors
/// The API server did not say.
pub(crate) async fn from_cluster(cluster: &Cluster) -> Result<Input, ClusterError> {
    let core = ["Service", "Pod", "Namespace"].map(|kind| {
        let gvk = GroupVersionKind::gvk("", "v1", kind);
        ApiResource::from_gvk(&gvk)
    });
    let configuration = KINDS.iter().map(ConfigurationKind::resource);
    let mut input = Input::default();
    for resource in core.into_iter().chain(configuration) {
        let api: Api<DynamicObject> = Api::all_with(cluster.client(), &resource);
        for mut object in cluster.list(api, "").await? {
            // Items of a list of the core's kinds don't say what they are.
            object.types.get_or_insert_with(|| TypeMeta {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
            });
            match serde_json::to_value(&object) {
                Ok(manifest) => input.add(manifest, None, ""),
                Err(error) => input.problem(&resource.kind, "content", error.to_string()),
            }
        }
    }
    Ok(input)
}

fn exit_code(verdicts: &[Verdict], fail_on: FailOn) -> ExitCode {
    let errors = analysis::count(verdicts, Severity::Error);
    let warnings = analysis::count(verdicts, Severity::Warning);
    let wrong = match fail_on {
        FailOn::Error => errors,
        FailOn::Warning => errors + warnings,
    };
    if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests;
