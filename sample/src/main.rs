//! `linnet-sample`: serves, calls, or fetches a page.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use linnet_runtime::{logging, signal};
use linnet_sample::args::{
    Arguments, CallArguments, Command, GetArguments, Output, ServeArguments,
};
use linnet_sample::client;
use linnet_sample::load::{self, Recorder, Report};
use tokio_util::sync::CancellationToken;

/// Less than the 30 s that Kubernetes gives a pod.
const DRAIN: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::init("info");
    let runtime = match arguments.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    }
    .enable_all()
    .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(async {
        match arguments.command {
            Command::Serve(arguments) => serve(arguments).await,
            Command::Call(arguments) => call(&arguments).await,
            Command::Get(arguments) => get(arguments).await,
        }
    });
    // A name look-up that hangs must not hold up the exit.
    runtime.shutdown_background();
    exit
}

async fn serve(arguments: ServeArguments) -> ExitCode {
    let linger = arguments.linger;
    let server = match arguments.config().serve().await {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(addresses = ?server.addresses(), "serving");
    let signal = signal::shutdown().await;
    tracing::info!(signal, ?linger, "draining");
    tokio::time::sleep(linger).await;
    server.shutdown(DRAIN).await;
    ExitCode::SUCCESS
}

async fn call(arguments: &CallArguments) -> ExitCode {
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        signal::shutdown().await;
        interrupted.cancel();
    });
    let recorder = Recorder::default();
    let report = load::run(&arguments.plan(), &arguments.call(), &recorder, &stop).await;
    print(&report, arguments.output);
    if report.failed == 0 || arguments.allow_failures {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[allow(clippy::print_stdout)] // The totals are this command's result.
fn print(report: &Report, output: Output) {
    match output {
        Output::Json => {
            println!("{}", serde_json::to_string(report).unwrap_or_default());
        }
        Output::Text => {
            let latency = report.latency_ms;
            println!(
                "{} requests in {:.1} s, {} failed; p50 {} ms, p99 {} ms",
                report.requests, report.duration_seconds, report.failed, latency.p50, latency.p99
            );
            for (hop, count) in &report.by_hop {
                println!("  {hop}: {count}");
            }
            for (error, count) in &report.errors {
                println!("  failed {count} times: {error}");
            }
        }
    }
}

#[allow(clippy::print_stdout, clippy::print_stderr)] // The page is this command's result.
async fn get(arguments: GetArguments) -> ExitCode {
    match client::get(&arguments.call()).await {
        Ok((status, body)) => {
            print!("{body}");
            if status.is_success() {
                return ExitCode::SUCCESS;
            }
            eprintln!("status {status}");
        }
        Err(error) => eprintln!("{error}"),
    }
    ExitCode::FAILURE
}
