//! The services as their own processes run them, with what a cluster would give
//! them taken from a directory.

use crate::Failure;
use arc_swap::ArcSwap;
use linnet_controller::Source;
use linnet_identity::{
    Dependencies,
    attest::SignedTokens,
    authority::RootStore,
    limit::{Budget, Limits},
};
use linnet_injector::{InjectionConfig, webhook::Webhook};
use linnet_runtime::{
    drain, logging,
    readiness::Readiness,
    serve::{ListenerKind, Transport, serve},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;

/// Callers of identity, each with a token of its own.
pub(crate) const CALLERS: usize = 1000;
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Serves until standard input closes.
pub(crate) fn run(service: &str, directory: &Path) -> Result<(), Failure> {
    logging::init("warn");
    linnet_runtime::tls::provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (signal, drain) = drain::channel();
        let said = match service {
            "controller" => controller(directory, drain).await?,
            "identity" => identity(drain).await?,
            "injector" => injector(directory, drain).await?,
            _ => return Err(format!("there is no service {service}").into()),
        };
        writeln!(std::io::stdout(), "{said}")?;
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
        ended.await??;
        drop(signal);
        Ok::<_, Failure>(())
    })?;
    // Nobody waits for connections that are open.
    runtime.shutdown_background();
    Ok(())
}

async fn controller(directory: &Path, drain: drain::Watch) -> Result<Value, Failure> {
    let certificate = linnet_workload::Handle::fixed(linnet_workload::from_files(directory)?);
    let deps = linnet_controller::Deps {
        source: Source::Directory(directory.join("manifests")),
        certificate,
        readiness: Readiness::new(),
        drain,
    };
    let running = linnet_controller::Config::loopback().build(deps).await?;
    let said = json!({
        "discovery": running.discovery_address.to_string(),
        "health": running.health_address.to_string(),
    });
    Ok(said)
}

/// Without limits, since all callers have one address here; tokens are its own
/// instead of a cluster's, which it would have to ask about each.
async fn identity(drain: drain::Watch) -> Result<Value, Failure> {
    let tokens = SignedTokens::generate()?;
    let none = Budget {
        burst: NonZeroU32::MAX,
        per_second: NonZeroU32::MAX,
    };
    let config = linnet_identity::config::Config {
        limits: Limits {
            all: none,
            address: none,
            network: none,
            caller: none,
            namespace: none,
        },
        ..linnet_identity::config::Config::loopback()
    };
    let running = config
        .build(Dependencies {
            attest: Box::new(tokens.clone()),
            root: RootStore::memory(),
            readiness: Readiness::new(),
            drain,
        })
        .await?;
    let issued: Result<Vec<_>, _> = (0..CALLERS)
        .map(|number| tokens.issue("bench", &format!("caller-{number}"), TOKEN_LIFETIME))
        .collect();
    Ok(json!({
        "https": running.https_address.to_string(),
        "bundle": running.bundle_pem(),
        "tokens": issued?,
    }))
}

async fn injector(directory: &Path, drain: drain::Watch) -> Result<Value, Failure> {
    let labels = BTreeMap::from([("istio-injection".to_owned(), "enabled".to_owned())]);
    let namespaces = BTreeMap::from([("shop".to_owned(), labels)]);
    let router = Webhook::new(InjectionConfig::default(), Arc::new(namespaces)).router();
    let workload = linnet_workload::from_files(directory)?;
    let tls = Arc::new(ArcSwap::new(workload.server_config(&[b"h2"], false)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(
        listener,
        router,
        Transport::Tls(tls),
        ListenerKind::Webhook,
        drain,
    ));
    Ok(json!({ "webhook": address.to_string() }))
}
