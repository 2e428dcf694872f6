//! The identity service's process.

use std::process::ExitCode;

use linnet_identity::{
    Dependencies,
    attest::{Attest, SignedTokens, TokenReviews},
    authority::RootStore,
    bundle,
    config::{Environment, Platform},
};
use linnet_runtime::{certificate, drain, logging, readiness::Readiness, signal};

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
            tracing::error!(%error, "identity cannot run");
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
        drain: limit,
    } = environment;
    let (attest, root) = connect(platform).await?;
    let (drain_signal, drain) = drain::channel();
    let readiness = Readiness::new();
    let kept_in = match &root {
        RootStore::Secret { client, namespace } => {
            Some((client.clone(), namespace.clone(), drain.clone()))
        }
        RootStore::Memory | RootStore::Directory(_) => None,
    };
    let running = tokio::select! {
        running = config.build(Dependencies { attest, root, readiness, drain }) => running?,
        _ = signal::shutdown() => return Ok(()),
    };
    if let Some((client, namespace, drain)) = kept_in {
        let bundle = running.bundle_pem().to_owned();
        tokio::spawn(bundle::keep(client, namespace, bundle, drain));
    }
    let received = signal::shutdown().await;
    tracing::info!(signal = received, "draining");
    if !drain_signal.drain_within(limit).await {
        tracing::warn!(
            seconds = limit.as_secs(),
            "not all requests finished in time"
        );
    }
    Ok(())
}

/// Whom to ask about tokens, and where the root is.
async fn connect(platform: Platform) -> Result<(Box<dyn Attest>, RootStore), Error> {
    match platform {
        Platform::Kubernetes { namespace } => {
            let client = kube::Client::try_default().await?;
            let attest = Box::new(TokenReviews::new(client.clone()));
            Ok((attest, RootStore::Secret { client, namespace }))
        }
        Platform::Standalone { directory } => {
            let tokens = SignedTokens::in_directory(&directory)?;
            Ok((Box::new(tokens), RootStore::Directory(directory)))
        }
    }
}
