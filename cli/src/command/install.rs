//! `linnet install`: renders a profile, applies it in an order in which nothing
//! waits for what is not there yet, and watches until it works.
//!
//! The webhook comes last, when the injector behind it answers: an install that
//! fails half-way never holds up a pod.

pub(crate) mod stages;

use super::Context;
use crate::{
    cluster::{self, Cluster, OLDEST_MINOR},
    istio,
    manifests::{self, Profile, Settings, describe_keys},
    object::Object,
    terminal::NotInteractive,
};
use linnet_mesh::ResourceRef;
use std::{process::ExitCode, time::Duration};

/// What may be typed.
#[derive(Debug, clap::Args)]
#[command(after_help = describe_keys())]
pub(crate) struct Arguments {
    /// Which control plane
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// A choice that the profile leaves open; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Don't ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
    /// Print what would be applied, and touch no cluster
    #[arg(long, value_enum)]
    output: Option<Output>,
    /// Seconds to wait for the control plane to work
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// How to print what would be applied.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Yaml,
}

/// Why the control plane is not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", join(.0, "\n       "))]
    Settings(Vec<manifests::SettingsError>),
    #[error(transparent)]
    Manifests(#[from] manifests::Error),
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error(
        "the cluster runs Kubernetes {}.{}; Linnet needs 1.{OLDEST_MINOR} or later", .0.0, .0.1
    )]
    OldKubernetes((u32, u32)),
    #[error(
        "Istio runs in this cluster ({}); two meshes would answer to the same namespace label. \
         Move its workloads off and remove it first (istioctl uninstall --purge), or install \
         Linnet into another cluster",
        join(.0, ", ")
    )]
    Istio(Vec<ResourceRef>),
    #[error(transparent)]
    NotInteractive(#[from] NotInteractive),
    #[error("nothing was changed: the answer was no")]
    Declined,
    #[error(
        "{what} after {} s{}\n       `linnet install` may be run again, with a longer --timeout if it was only slow",
        waited.as_secs(),
        reasons.iter().map(|reason| format!("\n         {reason}")).collect::<String>()
    )]
    Timeout {
        what: String,
        waited: Duration,
        reasons: Vec<String>,
    },
    #[error("printing the manifests")]
    Print(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn join<T: ToString>(items: &[T], separator: &str) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(separator)
}

/// Does it.
///
/// # Errors
/// What stands in the way, with what to do about it.
pub(crate) async fn run(arguments: Arguments, context: &Context) -> Result<ExitCode, Error> {
    let settings = Settings::parse(&arguments.set).map_err(Error::Settings)?;
    let objects = manifests::render(arguments.profile, &settings)?;
    if matches!(arguments.output, Some(Output::Yaml)) {
        print(&objects, context)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cluster = Cluster::connect(&context.cluster).await?;
    refuse_unfit(&cluster).await?;
    let terminal = &context.terminal;
    terminal.line(format_args!(
        "Linnet {}, profile {}, into the cluster at {}",
        env!("CARGO_PKG_VERSION"),
        arguments.profile.name(),
        cluster.url()
    ));
    if !arguments.yes && !terminal.confirm("Install?")? {
        return Err(Error::Declined);
    }
    let timeout = Duration::from_secs(arguments.timeout);
    stages::run(&cluster, terminal, objects, timeout).await?;
    terminal.line("\nLinnet is installed. To give the pods of a namespace their sidecars:");
    terminal.line("  kubectl label namespace default istio-injection=enabled");
    terminal.line("  kubectl rollout restart deployment --namespace default");
    Ok(ExitCode::SUCCESS)
}

/// Stops before anything is changed in a cluster where Linnet can't work.
async fn refuse_unfit(cluster: &Cluster) -> Result<(), Error> {
    if !cluster.is_supported() {
        return Err(Error::OldKubernetes(cluster.version()));
    }
    let istio = istio::find(cluster).await?;
    if istio.is_empty() {
        Ok(())
    } else {
        Err(Error::Istio(istio))
    }
}

fn print(objects: &[Object], context: &Context) -> Result<(), Error> {
    let mut text = String::new();
    for object in objects {
        let yaml = serde_norway::to_string(object.value());
        text.push_str("---\n");
        text.push_str(&yaml.map_err(|error| Error::Print(error.into()))?);
    }
    context
        .terminal
        .document(&text)
        .map_err(|error| Error::Print(error.into()))
}

#[cfg(test)]
mod tests;
