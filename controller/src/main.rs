//! The controller's process.

use linnet_controller::{
    Deps, Source,
    config::{Environment, Platform},
};
use linnet_runtime::{
    drain,
    process::{self, Error},
    readiness::Readiness,
    settings::Settings,
    signal,
};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    process::run(
        "the controller",
        || Environment::read(Settings::of_process()),
        serve,
    )
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
    let certificate = linnet_workload::start(certificate, gate, drain.clone());
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
    process::until_shutdown(drain_signal, limit).await;
    Ok(())
}
