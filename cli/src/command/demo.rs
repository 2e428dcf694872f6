//! `linnet demo`: a whole mesh in this process, on loopback, with the guides' own
//! YAML, load, and a live summary. No root, no cluster.
//!
//! Beside the meshed chain frontend → checkout → payment runs the same chain
//! without sidecars, called in turn, so that the mesh's cost is told by the run
//! itself.

mod report;
mod shop;
mod summary;

use super::{Context, DataFormat, json};
use crate::standalone::{self, Addresses, Mesh, sidecars};
use linnet_runtime::{logging, signal};
use linnet_sample::{
    client::{Call, Protocol},
    load::{Plan, Recorder, Report as Load, run as run_load},
};
use report::{Certificate, Convergence, Report, Split};
use shop::Shop;
use std::{
    io,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};
use tokio_util::sync::CancellationToken;

/// Requests a second to either chain while latency is compared.
const RATE: f64 = 200.0;
const CONCURRENCY: usize = 8;
/// Load while the route is edited: fast enough to see the last request to v2
/// within a few milliseconds.
const EDIT_CONCURRENCY: usize = 4;
const BEFORE_EDIT: Duration = Duration::from_millis(700);
const AFTER_EDIT: Duration = Duration::from_millis(1500);
const READY_LIMIT: Duration = Duration::from_secs(30);
const WARM_UP: u64 = 50;

/// What may be typed for `linnet demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// End after so long, for example 15s or 2m; without it Ctrl-C ends it
    #[arg(long, value_parser = linnet_sample::duration::parse)]
    duration: Option<Duration>,
    /// Print one JSON object at the end, and nothing before
    #[arg(long, short)]
    output: Option<DataFormat>,
}

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Mesh(#[from] standalone::Error),
    #[error("a sample service: {0}")]
    Sample(#[from] linnet_sample::server::ServeError),
    #[error("the demo's files: {0}")]
    Files(#[from] io::Error),
    #[error("the demo's address of the frontend: {0}")]
    Target(#[from] linnet_sample::client::TargetError),
    #[error("the sidecars were not ready in time; still waiting: {0}")]
    NotReady(String),
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let quiet = arguments.output.is_some();
    let log = logging::init(if quiet { "error" } else { "warn" });
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        signal::shutdown().await;
        interrupted.cancel();
    });

    let directory = tempfile::Builder::new().prefix("linnet-demo-").tempdir()?;
    let (manifests, state) = (
        directory.path().join("config"),
        directory.path().join("state"),
    );
    std::fs::create_dir_all(&manifests)?;
    std::fs::create_dir_all(&state)?;
    let shop = Shop::open(&manifests).await?;
    let mut mesh = Mesh::start(&manifests, &state, Addresses::any(), log).await?;
    for sidecar in sidecars(&manifests).map_err(standalone::Error::from)? {
        mesh.add(sidecar).await?;
    }
    mesh.ready(READY_LIMIT).await.map_err(Error::NotReady)?;

    let demo = Demo {
        shop: &shop,
        mesh: &mesh,
        stop: &stop,
    };
    let report = demo.measure(arguments, context).await?;
    match arguments.output {
        Some(DataFormat::Json) => context.terminal.document(&json(&report)?)?,
        None => summary::last(&context.terminal, &report),
    }
    mesh.stop().await;
    shop.close().await;
    let promised = report.success_rate == 1.0 && report.mtls.plaintext == 0;
    Ok(if promised {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Demo<'a> {
    shop: &'a Shop,
    mesh: &'a Mesh,
    stop: &'a CancellationToken,
}

impl Demo<'_> {
    async fn measure(&self, arguments: &Arguments, context: &Context) -> Result<Report, Error> {
        let (mesh_call, direct_call) = (call(self.shop.frontend)?, call(self.shop.direct)?);
        let warm_up = Plan {
            rate: None,
            concurrency: CONCURRENCY,
            count: Some(WARM_UP),
            duration: None,
        };
        for call in [&mesh_call, &direct_call] {
            run_load(&warm_up, call, &Recorder::default(), self.stop).await;
        }

        let recorders = (Recorder::default(), Recorder::default());
        let steady = arguments
            .duration
            .map(|all| all.saturating_sub(BEFORE_EDIT + AFTER_EDIT));
        let plan = Plan {
            rate: Some(RATE),
            concurrency: CONCURRENCY,
            count: None,
            duration: steady,
        };
        let ended = CancellationToken::new();
        let live = self.show(arguments, context, &recorders, &ended);
        let load = async {
            let loads = tokio::join!(
                run_load(&plan, &mesh_call, &recorders.0, self.stop),
                run_load(&plan, &direct_call, &recorders.1, self.stop),
            );
            ended.cancel();
            loads
        };
        let ((through_mesh, direct), ()) = tokio::join!(load, live);
        let convergence = self.edit(&mesh_call).await?;
        let probe = plaintext_probe(self.shop.payment_inbound).await;
        Ok(self.report(&through_mesh, &direct, &convergence, probe))
    }

    async fn show(
        &self,
        arguments: &Arguments,
        context: &Context,
        recorders: &(Recorder, Recorder),
        ended: &CancellationToken,
    ) {
        if arguments.output.is_some() {
            return;
        }
        summary::first(&context.terminal, self.shop, self.mesh);
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        interval.tick().await;
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = ended.cancelled() => return,
            }
            let mtls = report::mtls(self.mesh);
            summary::live(
                &context.terminal,
                &recorders.0.report(),
                &recorders.1.report(),
                &mtls,
            );
        }
    }

    /// Edits the route from 90/10 to 100/0 under load.
    async fn edit(&self, call: &Call) -> Result<Convergence, Error> {
        let recorder = Recorder::default();
        let stop = CancellationToken::new();
        let plan = Plan {
            rate: None,
            concurrency: EDIT_CONCURRENCY,
            count: None,
            duration: None,
        };
        let load = run_load(&plan, call, &recorder, &stop);
        let edit = async {
            tokio::time::sleep(BEFORE_EDIT).await;
            let edited_at = SystemTime::now();
            self.shop.send_all_to_v1()?;
            tokio::time::sleep(AFTER_EDIT).await;
            stop.cancel();
            Ok::<_, io::Error>(edited_at)
        };
        let (load, edited_at) = tokio::join!(load, edit);
        let edited_ms = edited_at?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as u64;
        let last = load.last_sent_ms.get("payment/v2").copied().unwrap_or(0);
        Ok(Convergence {
            milliseconds: last.saturating_sub(edited_ms),
            load,
        })
    }

    fn report(
        &self,
        through_mesh: &Load,
        direct: &Load,
        convergence: &Convergence,
        plaintext_probe: &'static str,
    ) -> Report {
        let certificates = self.mesh.sidecars.iter().filter_map(|(_, running)| {
            let current = running.certificates().current()?;
            Some(Certificate::new(current.id(), current.not_after()))
        });
        let requests = through_mesh.requests + convergence.load.requests;
        let succeeded = through_mesh.succeeded + convergence.load.succeeded;
        let hop = |name: &str| through_mesh.by_hop.get(name).copied().unwrap_or(0);
        Report {
            requests,
            success_rate: if requests == 0 {
                0.0
            } else {
                succeeded as f64 / requests as f64
            },
            mtls: report::mtls(self.mesh),
            split: Split {
                v1: hop("payment/v1"),
                v2: hop("payment/v2"),
            },
            latency_ms: report::latencies(&direct.latency_ms, &through_mesh.latency_ms),
            plaintext_probe,
            convergence_ms: convergence.milliseconds,
            certificates: certificates.collect(),
        }
    }
}

fn call(address: SocketAddr) -> Result<Call, linnet_sample::client::TargetError> {
    Ok(Call::new(
        Protocol::Http1,
        format!("http://{address}/").parse()?,
    ))
}

/// Really calls payment's sidecar without a certificate.
async fn plaintext_probe(address: SocketAddr) -> &'static str {
    let started = Instant::now();
    let attempt = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: payment-service\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let outcome = match tokio::time::timeout(Duration::from_secs(5), attempt).await {
        Ok(Ok(answer)) if !answer.is_empty() => "answered",
        // An end without a byte, or a reset.
        Ok(_) => "refused",
        Err(_) => "unanswered",
    };
    tracing::debug!(outcome, took = ?started.elapsed(), "tried payment in plaintext");
    outcome
}
