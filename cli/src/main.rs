//! `linnet`: installs the mesh, looks after it, and shows it off.
//!
//! Each command is one file under `command/`: what may be typed, what that
//! means, and what is done. Nothing below this file ends the process.

mod cluster;
mod command;
mod istio;
mod manifests;
mod object;
mod standalone;
mod terminal;

use clap::Parser;
use std::{error::Error, process::ExitCode};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = command::Arguments::parse();
    // `demo` and `standalone` run a whole mesh in this process.
    linnet_runtime::files::raise();
    let terminal = terminal::Terminal::detect();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&terminal, &error),
    };
    let context = command::Context {
        cluster: arguments.cluster,
        terminal,
    };
    match runtime.block_on(arguments.command.run(&context)) {
        Ok(code) => code,
        Err(error) => fail(&context.terminal, &error),
    }
}

/// Prints an error with what caused it, each cause once.
fn fail(terminal: &terminal::Terminal, error: &dyn Error) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    terminal.error(&text);
    ExitCode::FAILURE
}
