//! From an edit to the last acknowledgement of the proxies that it concerns, and
//! the memory that they take in the controller.
//!
//! An edit rewrites one route's file. It is over when the last of the proxies
//! that are subscribed to its service has sent its acknowledgement.

use crate::{
    Failure, Figures,
    credentials::Credentials,
    fleet::{Fleet, PROXIES, SUBSCRIPTIONS},
    http_load, process,
    process::Service,
    world,
};
use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Routes edited at once, each of another service.
const BURST: usize = 100;
/// Memory counts once it has been the same for as long.
const SETTLED: Duration = Duration::from_secs(2);
/// Between edits, so that each finds an idle controller.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn measure(quick: bool) -> Result<Figures, Failure> {
    let (edits, bursts) = if quick { (100, 5) } else { (300, 15) };
    let place = tempfile::tempdir()?;
    let manifests = place.path().join("manifests");
    std::fs::create_dir(&manifests)?;
    world::write(&manifests)?;
    let credentials = Credentials::new()?;
    credentials.write(place.path(), "linnet-controller")?;
    let service = Service::start("controller", place.path())?;
    let health = service.address("health")?;
    while http_load::get(health, "/healthz/ready").await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    let idle = settled(&service).await?;
    let began = Instant::now();
    let mut fleet = Fleet::connect(service.address("discovery")?, &credentials).await?;
    let connected = began.elapsed();
    let full = settled(&service).await?;

    let mut figures = Figures::new();
    let mut add = |name: &str, value: f64| figures.insert(name.to_owned(), value.into());
    add("controller_idle_anonymous", idle.anonymous);
    add("controller_anonymous", full.anonymous);
    add("controller_resident", full.resident);
    let proxies = PROXIES as f64;
    add(
        "proxy_anonymous",
        (full.anonymous - idle.anonymous) / proxies,
    );
    add("connect_ms", connected.as_secs_f64() * 1e3);

    let before = (controller_seconds(health).await?, service.cpu()?);
    let mut single = Vec::new();
    let mut messages = 0;
    for number in 0..edits {
        let edited = [number * 7 % world::SERVICES];
        let done = edit(&mut fleet, &manifests, &edited, &format!("edit-{number}")).await?;
        single.push(done.took.as_secs_f64() * 1e3);
        messages += done.messages;
        sleep(PAUSE).await;
    }
    let after = (controller_seconds(health).await?, service.cpu()?);
    single.sort_by(f64::total_cmp);
    add("edit_p50", quantile(&single, 0.5));
    add("edit_p99", quantile(&single, 0.99));
    let waves = after.0.1 - before.0.1;
    add(
        "edit_controller_mean",
        (after.0.0 - before.0.0) / waves * 1e3,
    );
    let cpu = (after.1 - before.1).as_secs_f64() * 1e6;
    add("edit_cpu", cpu / f64::from(edits as u32));
    add(
        "edit_messages",
        f64::from(messages) / f64::from(edits as u32),
    );

    let mut all = Vec::new();
    for number in 0..bursts {
        let first = number * BURST;
        let edited: Vec<_> = (first..first + BURST)
            .map(|n| n * 7 % world::SERVICES)
            .collect();
        let done = edit(&mut fleet, &manifests, &edited, &format!("burst-{number}")).await?;
        all.push(done.took.as_secs_f64() * 1e3);
        sleep(PAUSE * 10).await;
    }
    all.sort_by(f64::total_cmp);
    add("burst_p50", quantile(&all, 0.5));
    add("burst_max", quantile(&all, 1.0));
    let loaded = settled(&service).await?;
    add("controller_loaded_anonymous", loaded.anonymous);
    Ok(figures)
}

struct Done {
    took: Duration,
    messages: u32,
}

/// Edits routes and waits until all subscribers of each have acknowledged it.
async fn edit(
    fleet: &mut Fleet,
    manifests: &Path,
    services: &[usize],
    version: &str,
) -> Result<Done, Failure> {
    let mut missing: HashMap<String, usize> = services
        .iter()
        .map(|&service| (world::name(service), SUBSCRIPTIONS))
        .collect();
    let began = Instant::now();
    for &service in services {
        world::write_route(manifests, service, version)?;
    }
    let mut messages = 0;
    let mut last = began;
    while !missing.is_empty() {
        let acknowledged = fleet.next().await?;
        messages += 1;
        for (name, rule) in acknowledged.routes {
            if rule != version {
                return Err(
                    format!("{name} was told rule {rule} while {version} was awaited").into(),
                );
            }
            let left = missing
                .get_mut(&*name)
                .ok_or_else(|| format!("{name} was told once too often, or not edited"))?;
            *left -= 1;
            if *left == 0 {
                missing.remove(&*name);
            }
        }
        last = acknowledged.at;
    }
    let took = last - began;
    Ok(Done { took, messages })
}

/// Memory once it does not change any more.
async fn settled(service: &Service) -> Result<process::Memory, Failure> {
    let mut known = service.memory()?;
    for _ in 0..10 {
        sleep(SETTLED).await;
        let now = service.memory()?;
        let same = process::pages(now.anonymous) == process::pages(known.anonymous);
        known = now;
        if same {
            break;
        }
    }
    Ok(known)
}

/// The controller's own measure, from watch event to last acknowledgement: sum
/// in seconds and count.
async fn controller_seconds(health: std::net::SocketAddr) -> Result<(f64, f64), Failure> {
    let text = http_load::get(health, "/metrics").await?;
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        value.unwrap_or(0.0)
    };
    let name = "linnet_convergence_seconds";
    Ok((of(&format!("{name}_sum")), of(&format!("{name}_count"))))
}

pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}
