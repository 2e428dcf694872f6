//! The service's process: started on its core, asked about by /proc, ended when
//! its standard input closes.

use crate::Failure;
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The core of the service; the load is wherever this process was put.
const CORE: &str = "0";
const PAGE: f64 = 4096.0;

pub(crate) struct Service {
    child: Child,
    /// What it said of itself.
    pub(crate) said: serde_json::Value,
}

/// Memory of a process, bytes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) anonymous: f64,
    pub(crate) resident: f64,
}

impl Service {
    /// Starts `serve NAME DIRECTORY` and waits until it listens.
    pub(crate) fn start(name: &str, directory: &Path) -> Result<Self, Failure> {
        let mut child = Command::new("taskset")
            .args(["-c", CORE])
            .arg(std::env::current_exe()?)
            .args(["serve", name])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the service has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said = serde_json::from_str(&line)
            .map_err(|_| format!("the {name} service did not start: {line:?}"))?;
        Ok(Self { child, said })
    }

    /// An address that it said.
    pub(crate) fn address(&self, name: &str) -> Result<SocketAddr, Failure> {
        let text = self.said[name].as_str().ok_or("no such address")?;
        Ok(text.parse()?)
    }

    pub(crate) fn memory(&self) -> Result<Memory, Failure> {
        let pid = self.child.id();
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let of = |name: &str| -> Option<f64> {
            let line = rollup.lines().find(|line| line.starts_with(name))?;
            let kibibytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kibibytes * 1024.0)
        };
        Ok(Memory {
            anonymous: of("Anonymous:").ok_or("no Anonymous in smaps_rollup")?,
            resident: of("Rss:").ok_or("no Rss in smaps_rollup")?,
        })
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let pid = self.child.id();
        let mut total = Duration::ZERO;
        // To the nanosecond; /proc/PID/stat counts ticks of 10 ms.
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = task?.path().join("schedstat");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
            total += Duration::from_nanos(nanos.unwrap_or_default());
        }
        Ok(total)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its cue to end.
        drop(self.child.stdin.take());
        // It has ended either way.
        let _ = self.child.wait();
    }
}

/// Bytes as whole pages, for comparing.
pub(crate) fn pages(bytes: f64) -> f64 {
    (bytes / PAGE).round()
}
