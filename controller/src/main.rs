//! The controller's process.

use linnet_controller::{
    Deps, Source,
    config::{Environment, Platform},
};
use linnet_runtime::{certificate, drain, logging, readiness::Readiness, signal};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    logging::init("info");
    // The Kubernetes client asks the process for its TLS provider.
    certificate::provider();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the controller cannot run");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let environment = Environment::from_process()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(environment))
}

async fn serve(environment: Environment) -> Result<(), Error> {
    let Environment {
        config,
        platform,
        replica,
        certificate,
        drain: limit,
    } = environment;
    let (drain_signal, drain) = drain::channel();
    let readiness = Readiness::new();
    let source = match platform {
        Platform::Kubernetes => Source::Kubernetes {
            client: kube::Client::try_default().await?,
            replica,
        },
        Platform::Directory(path) => Source::Directory(path),
    };
    let gate = readiness.gate("certificate");
    let certificate = certificate::start(certificate, gate, drain.clone());
    let deps = Deps {
        source,
        certificate,
        readiness,
        drain,
    };
    let running = tokio::select! {
        running = config.build(deps) => running?,
        _ = signal::shutdown() => return Ok(()),
    };
    tracing::info!(
        discovery = %running.discovery_address,
        health = %running.health_address,
        "the controller runs"
    );
    let received = signal::shutdown().await;
    tracing::info!(signal = received, "draining");
    if !drain_signal.drain_within(limit).await {
        tracing::warn!(seconds = limit.as_secs(), "not all streams ended in time");
    }
    Ok(())
}
