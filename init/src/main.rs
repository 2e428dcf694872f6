//! The redirect init container: parse, apply once, exit.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    linnet_init::run(&linnet_init::settings::Args::parse())
}
