//! The access log: one line for each request and opaque connection that ended,
//! with both identities and what decided.
//!
//! A data thread makes a line and appends it to the bounded bytes that wait for
//! the one thread that writes; it never waits for that thread. A line that finds
//! no room is dropped, counted in `linnet_access_log_dropped_total`, and the log
//! itself says how many are missing once there is room again. What is not written
//! costs a comparison.
//!
//! [`Line`] says what a line has. What writes it as JSON is our own, for its price,
//! and held to what serde makes of the same.

mod decided;
mod ends;
mod json;
mod line;
mod queue;
mod record;
mod time;

pub(crate) use decided::{Decided, Decision, Names};
pub(crate) use ends::Ends;
pub use line::{KIND, Line};
#[cfg(test)]
pub(crate) use queue::Lines;
pub(crate) use queue::{Log, Writer};
pub(crate) use record::Record;

use linnet_mesh::access_log;
use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
};

/// A number below [`access_log::ALL`].
pub(crate) fn draw_sample() -> u32 {
    rand::random_range(0..access_log::ALL)
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Standard output, where `kubectl logs` finds it; the sidecar's own log is
    /// on standard error.
    #[default]
    Stdout,
    /// Nowhere: what shares standard output with others.
    Nowhere,
    /// The end of a file.
    File(PathBuf),
}

impl Target {
    /// Opens it.
    ///
    /// # Errors
    /// A file that can't be made or written to.
    pub(crate) fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Self::Stdout => Box::new(io::stdout()),
            Self::Nowhere => Box::new(io::sink()),
            Self::File(path) => {
                let mut options = OpenOptions::new();
                options.create(true).append(true);
                // It tells who did what: nobody else's to read.
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                Box::new(options.open(path)?)
            }
        })
    }
}
