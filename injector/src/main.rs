//! The injector: a mutating admission webhook.

use std::{process::ExitCode, time::Duration};

use linnet_injector::Config;
use linnet_runtime::{drain, logging, settings::Settings, signal};

/// The API server may still send new connections here for as long as it takes
/// it to learn that this replica is going.
const LINGER: Duration = Duration::from_secs(3);
/// Reviews take milliseconds; what takes longer has been given up by its caller.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    logging::init("info");
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the injector can't start");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(Settings::of_process())?;
    let client = kube::Client::try_default().await?;
    let injector = config.build(client).await?;
    let addresses = injector.addresses()?;
    tracing::info!(webhook = %addresses.webhook, health = %addresses.health, "listening");
    let (signal, watch) = drain::channel();
    let server = tokio::spawn(injector.serve(watch));
    let reason = signal::shutdown().await;
    tracing::info!(reason, "draining");
    tokio::time::sleep(LINGER).await;
    if !signal.drain_within(DRAIN).await {
        tracing::warn!("some reviews were not finished");
    }
    server.abort();
    Ok(())
}
