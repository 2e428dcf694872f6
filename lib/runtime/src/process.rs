//! What the main functions of services have in common: logs, a runtime, an exit
//! code, and the way from a signal to the end.

use std::{fmt::Display, process::ExitCode, time::Duration};

use crate::{drain, files, logging, signal, tls};

/// Whatever ends a service; nobody but its log reads it.
pub type Error = Box<dyn std::error::Error>;

/// Reads the configuration, then serves on a runtime of its own until that ends.
pub fn run<E, C, F>(what: &str, configure: impl FnOnce() -> Result<E, C>, serve: F) -> ExitCode
where
    C: Display,
    F: AsyncFnOnce(E) -> Result<(), Error>,
{
    logging::init("info");
    files::raise();
    // The Kubernetes client asks the process for its TLS provider.
    tls::provider();
    let failed = |error: &dyn Display| {
        tracing::error!(%error, "{what} cannot run");
        ExitCode::FAILURE
    };
    let environment = match configure() {
        Ok(environment) => environment,
        Err(error) => return failed(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => match runtime.block_on(serve(environment)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
        Err(error) => failed(&error),
    }
}

/// Waits for a signal, then for the drain, for so long at the most.
pub async fn until_shutdown(drain: drain::Signal, limit: Duration) {
    let received = signal::shutdown().await;
    tracing::info!(signal = received, "draining");
    if !drain.drain_within(limit).await {
        tracing::warn!(seconds = limit.as_secs(), "not all was finished in time");
    }
}
