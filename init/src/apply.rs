//! Puts a plan in place with `iptables-restore`, in whichever of the kernel's
//! two rule engines fits.
//!
//! nf_tables and x_tables rules can stand side by side and both take effect,
//! so the engine that holds rules already is preferred; on a bare namespace nft
//! goes first and legacy is tried when nft fails. Restore is atomic, so a
//! failed attempt leaves nothing behind. What was written is read back.
//!
//! IPv6 fails closed where it matters: a pod with a routable IPv6 address must
//! not start with that way past its sidecar open.

use std::fmt;

use crate::plan::{CHAIN_PREFIX, Family, Plan};
use crate::render;
use crate::settings::{Choice, Settings};

mod error;
mod system;

pub use error::Error;
pub use system::{Commands, Finished, Ipv6, System};

/// A rule engine of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables.
    Nft,
    /// x_tables.
    Legacy,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

impl Backend {
    fn program(self, family: Family, action: &str) -> String {
        let prefix = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{prefix}-{self}-{action}")
    }
}

/// Applies the settings for both families; the lines say what was done.
pub fn apply(
    settings: &Settings,
    choice: Choice,
    ipv6: Ipv6,
    commands: &dyn Commands,
) -> Result<Vec<String>, Error> {
    let plan = Plan::new(settings, Family::V4);
    let mut lines = Vec::new();
    let mut attempts = Vec::new();
    for backend in candidates(choice, commands) {
        match write(&plan, backend, Family::V4, commands) {
            Ok(()) => {
                lines.extend(
                    attempts
                        .iter()
                        .map(|error| format!("another backend was tried first: {error}")),
                );
                lines.push(done(settings, backend, Family::V4));
                lines.push(write_ipv6(settings, backend, ipv6, commands)?);
                return Ok(lines);
            }
            Err(error) => attempts.push(error),
        }
    }
    Err(Error::from_attempts(attempts))
}

fn done(settings: &Settings, backend: Backend, family: Family) -> String {
    format!(
        "{family}: TCP redirected, inbound to {}, outbound to {} ({backend})",
        settings.inbound_port, settings.outbound_port
    )
}

fn write_ipv6(
    settings: &Settings,
    backend: Backend,
    ipv6: Ipv6,
    commands: &dyn Commands,
) -> Result<String, Error> {
    if ipv6 == Ipv6::Absent {
        return Ok("IPv6: the kernel has none, nothing to redirect".to_owned());
    }
    match write(
        &Plan::new(settings, Family::V6),
        backend,
        Family::V6,
        commands,
    ) {
        Ok(()) => Ok(done(settings, backend, Family::V6)),
        Err(error) if ipv6 == Ipv6::LinkLocal => Ok(format!(
            "IPv6: not redirected; the pod has no routable IPv6 address, so only its direct neighbours \
             could go past the sidecar: {error}"
        )),
        Err(error) => Err(error),
    }
}

/// The backends to try, best first.
fn candidates(choice: Choice, commands: &dyn Commands) -> Vec<Backend> {
    match choice {
        Choice::Nft => vec![Backend::Nft],
        Choice::Legacy => vec![Backend::Legacy],
        Choice::Auto => {
            let mut ranked = [Backend::Nft, Backend::Legacy];
            ranked.sort_by_key(|backend| std::cmp::Reverse(evidence(*backend, commands)));
            ranked.into()
        }
    }
}

/// How much speaks for a backend.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    Unusable,
    Empty,
    HoldsRules,
    HoldsOurRules,
}

fn evidence(backend: Backend, commands: &dyn Commands) -> Evidence {
    // Without a table's name the legacy program lists only tables in use;
    // naming nat would bring it into being.
    let Ok(saved) = checked(&backend.program(Family::V4, "save"), &[], "", commands) else {
        return Evidence::Unusable;
    };
    let mut rules = saved
        .lines()
        .filter(|line| line.starts_with("-A "))
        .peekable();
    if rules.peek().is_none() {
        Evidence::Empty
    } else if rules.any(|rule| rule.contains(CHAIN_PREFIX)) {
        Evidence::HoldsOurRules
    } else {
        Evidence::HoldsRules
    }
}

fn write(
    plan: &Plan,
    backend: Backend,
    family: Family,
    commands: &dyn Commands,
) -> Result<(), Error> {
    let save = backend.program(family, "save");
    let table = ["-t", "nat"];
    let saved = checked(&save, &table, "", commands)?;
    let text = render::restore(plan, &saved);
    checked(
        &backend.program(family, "restore"),
        &["--noflush", "--wait"],
        &text,
        commands,
    )?;
    if render::in_place(plan, &checked(&save, &table, "", commands)?) {
        Ok(())
    } else {
        Err(Error::NotInPlace { family, backend })
    }
}

/// Runs a program and returns what it printed, or why it failed.
fn checked(
    program: &str,
    arguments: &[&str],
    input: &str,
    commands: &dyn Commands,
) -> Result<String, Error> {
    let finished = commands
        .run(program, arguments, input)
        .map_err(|source| Error::starting(program, source))?;
    if finished.success {
        Ok(finished.stdout)
    } else {
        Err(Error::refused(program, &finished.stderr))
    }
}

#[cfg(test)]
mod tests;
