//! Redirects a pod's TCP traffic to its sidecar, once, before the app starts.
//!
//! The work is split so that everything worth testing is pure: `settings`
//! turns arguments into validated values, `plan` turns those into chains and
//! rules per address family, `render` turns a plan and what is there already
//! into `iptables-restore` text. Only `apply` runs programs.
//!
//! Redirection is a convenience and a guard against accidents, not a wall
//! against the app itself: a process that can become the proxy's user, or that
//! holds `NET_ADMIN`, can leave it. Authorization is the receiving side's.

pub mod apply;
pub mod plan;
pub mod render;
pub mod settings;

use std::io::{self, Write};
use std::process::ExitCode;

use apply::{Ipv6, System};
use plan::{Family, Plan};
use settings::{Args, Settings};

/// Everything the binary does: validate, plan, then print or apply.
pub fn run(args: &Args) -> ExitCode {
    match execute(args, &mut io::stdout(), &mut io::stderr()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error itself is gone.
            let _ = writeln!(io::stderr(), "linnet-init: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why the pod's traffic is not redirected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments make no sense; all mistakes are listed.
    #[error(transparent)]
    Settings(#[from] settings::Invalid),
    /// The rules could not be put in place.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The outcome could not be printed.
    #[error("cannot write the outcome: {0}")]
    Output(#[from] io::Error),
}

fn execute(args: &Args, out: &mut dyn Write, log: &mut dyn Write) -> Result<(), Error> {
    let settings = Settings::parse(args)?;
    if args.dry_run {
        for family in Family::ALL {
            writeln!(out, "# {family}")?;
            write!(
                out,
                "{}",
                render::restore(&Plan::new(&settings, family), "")
            )?;
        }
        return Ok(());
    }
    for line in apply::apply(&settings, args.backend, Ipv6::detect(), &System)? {
        writeln!(log, "linnet-init: {line}")?;
    }
    Ok(())
}
