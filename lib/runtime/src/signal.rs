//! The signals that end a process.

/// Completes at the first SIGTERM or SIGINT and names it.
///
/// If the process may not listen to signals at all, this never completes: the
/// process then ends as the system ends it.
pub async fn shutdown() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("cannot listen to signals; the process will not drain before it ends");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
