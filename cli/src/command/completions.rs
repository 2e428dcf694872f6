//! `linnet completions`: a shell's script, on standard output.

use super::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use std::{io, process::ExitCode};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

/// Does it.
///
/// # Errors
/// The output can't be written.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, io::Error> {
    let mut command = super::Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "linnet", &mut script);
    context
        .terminal
        .document(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
