//! `linnet standalone`: the mesh on machines without Kubernetes, from a directory
//! of manifests.

use super::Context;
use crate::standalone::{self, Addresses, Mesh, sidecars};
use linnet_runtime::{logging, signal};
use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

const READY_LIMIT: Duration = Duration::from_secs(30);

/// What may be typed for `linnet standalone`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The directory of manifests, watched for edits
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// Where the root and the key of tokens are kept [default: .linnet in the config directory]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where certificates are issued
    #[arg(long, value_name = "ADDRESS", default_value_t = Addresses::usual().identity)]
    identity: SocketAddr,
    /// Where sidecars ask for services and endpoints
    #[arg(long, value_name = "ADDRESS", default_value_t = Addresses::usual().discovery)]
    discovery: SocketAddr,
    /// Where the controller's health, metrics and verdicts are
    #[arg(long, value_name = "ADDRESS", default_value_t = Addresses::usual().status)]
    status: SocketAddr,
}

/// Why the mesh does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("--config {path}: {source}; name a directory of YAML manifests")]
    Directory { path: PathBuf, source: io::Error },
    #[error("--state {path}: {source}")]
    State { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Mesh(#[from] standalone::Error),
    #[error("the sidecars were not ready in time; still waiting: {0}")]
    NotReady(String),
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let log = logging::init("info");
    let config = arguments.config.clone();
    std::fs::read_dir(&config).map_err(|source| Error::Directory {
        path: config.clone(),
        source,
    })?;
    let state = arguments
        .state
        .clone()
        .unwrap_or_else(|| config.join(".linnet"));
    std::fs::create_dir_all(&state).map_err(|source| Error::State {
        path: state.clone(),
        source,
    })?;
    let addresses = Addresses {
        identity: arguments.identity,
        discovery: arguments.discovery,
        status: arguments.status,
    };
    let mut mesh = Mesh::start(&config, &state, addresses, log).await?;
    for sidecar in sidecars(&config).map_err(standalone::Error::from)? {
        mesh.add(sidecar).await?;
    }
    let ready = tokio::select! {
        ready = mesh.ready(READY_LIMIT) => ready,
        _reason = signal::shutdown() => Ok(()),
    };
    ready.map_err(Error::NotReady)?;
    context.terminal.good(format_args!(
        "identity on {}, discovery on {}, status on http://{}",
        mesh.identity.https_address,
        mesh.controller.discovery_address,
        mesh.controller.health_address
    ));
    for (sidecar, running) in &mesh.sidecars {
        context.terminal.good(format_args!(
            "{}/{}: inbound {:?}, outbound {:?}, metrics on http://{}/metrics",
            sidecar.namespace, sidecar.pod, running.inbound, running.outbound, running.metrics
        ));
    }
    signal::shutdown().await;
    mesh.stop().await;
    Ok(ExitCode::SUCCESS)
}
