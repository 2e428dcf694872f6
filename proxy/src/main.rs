//! The sidecar.
//!
//! `linnet-proxy` runs it, with its settings from the environment;
//! `linnet-proxy wait` returns once the one beside it is ready, for pods whose
//! application must not start before.

use linnet_proxy::{
    config::Config,
    server::{Deps, Error},
    wait,
};
use linnet_runtime::{files, logging, settings::Settings, signal};
use std::process::ExitCode;

// Returns memory that a burst took, and keeps hyper's small buffers cheap.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let log = logging::init("info");
    files::raise();
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => {}
        (Some("wait"), None) => return wait::until_ready(),
        _ => {
            tracing::error!("usage: linnet-proxy [wait]");
            return ExitCode::from(2);
        }
    }
    let config = match Config::read(Settings::of_process()) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(config, Deps { log })),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the sidecar can't run");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, deps: Deps) -> Result<(), Error> {
    let running = config.build(deps).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        outbound = ?running.outbound,
        inbound = ?running.inbound,
        metrics = %running.metrics,
        "started"
    );
    tokio::select! {
        reason = signal::shutdown() => tracing::info!(reason, "asked to end"),
        () = running.drain_requested() => tracing::info!("asked to drain"),
    }
    running.drain().await;
    Ok(())
}
