//! The outside world: running programs and asking the kernel about IPv6.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Runs programs; tests script one.
pub trait Commands {
    /// Runs a program to its end with `input` on its standard input.
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> io::Result<Finished>;
}

/// A program that ended.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// Whether it reported success.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Real programs, found on the path.
#[derive(Debug, Clone, Copy)]
pub struct System;

/// Where the legacy programs lock unless told otherwise.
const LOCK: &str = "/run/xtables.lock";
/// Writable in a container whose root file system is read-only.
const OTHER_LOCK: &str = "/dev/shm/linnet-xtables.lock";

impl Commands for System {
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> io::Result<Finished> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if OpenOptions::new()
            .append(true)
            .create(true)
            .open(LOCK)
            .is_err()
        {
            command.env("XTABLES_LOCKFILE", OTHER_LOCK);
        }
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()) {
                // A program that refuses early closes its input; its exit
                // status and error output say more than the broken pipe.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        let output = child.wait_with_output()?;
        Ok(Finished {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// How far this network namespace speaks IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// The kernel has no IPv6.
    Absent,
    /// No address that a router would forward to.
    LinkLocal,
    /// At least one such address.
    Routable,
}

impl Ipv6 {
    /// Asks the kernel.
    pub fn detect() -> Self {
        fs::read_to_string("/proc/net/if_inet6").map_or(Self::Absent, |text| Self::parse(&text))
    }

    /// Reads the kernel's table: address, interface, prefix length, scope
    /// (hexadecimal), flags and name on each line.
    pub(super) fn parse(table: &str) -> Self {
        let local = |scope: &str| matches!(scope, "10" | "20");
        let routable = table
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3))
            .any(|scope| !local(scope));
        if routable {
            Self::Routable
        } else {
            Self::LinkLocal
        }
    }
}
