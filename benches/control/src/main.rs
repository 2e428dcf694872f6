//! What the control plane costs: a service in a process of its own, on a core of
//! its own, and the load on it from here.
//!
//! `convergence`, `webhook` and `signatures` each measure once and print
//! `{"metric": value}`; `benches/control` runs them in rounds and writes the report.
//! `serve SERVICE DIRECTORY` is the other process.

mod convergence;
mod credentials;
mod fleet;
mod http_load;
mod process;
mod serve;
mod signatures;
mod webhook;
mod world;

use std::{error::Error, process::ExitCode};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "usage: linnet-bench-control convergence|webhook|signatures [--quick]";

pub(crate) type Failure = Box<dyn Error>;
/// What was measured, by name.
pub(crate) type Figures = serde_json::Map<String, serde_json::Value>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", service, directory] => serve::run(service, directory.as_ref()),
        [name] => measure(name, false),
        [name, "--quick"] => measure(name, true),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("linnet-bench-control: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "its caller reads the figures there")]
fn measure(name: &str, quick: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(async {
        match name {
            "convergence" => convergence::measure(quick).await,
            "webhook" => webhook::measure(quick).await,
            "signatures" => signatures::measure(quick).await,
            _ => Err(USAGE.into()),
        }
    })?;
    println!("{}", serde_json::Value::Object(figures));
    Ok(())
}
