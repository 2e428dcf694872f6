//! The identity service's process.

use std::process::ExitCode;

use linnet_identity::{
    Dependencies,
    attest::{Attest, SignedTokens, TokenReviews},
    authority::RootStore,
    bundle,
    config::{Environment, Platform},
};
use linnet_runtime::{
    drain,
    process::{self, Error},
    readiness::Readiness,
    settings::Settings,
    signal,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    process::run(
        "identity",
        || Environment::read(Settings::of_process()),
        serve,
    )
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
        RootStore::Memory(_) | RootStore::Directory(_) => None,
    };
    let running = tokio::select! {
        running = config.build(Dependencies { attest, root, readiness, drain }) => running?,
        _ = signal::shutdown() => return Ok(()),
    };
    if let Some((client, namespace, drain)) = kept_in {
        let authority = running.authority().clone();
        tokio::spawn(bundle::keep(client, namespace, authority, drain));
    }
    process::until_shutdown(drain_signal, limit).await;
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
