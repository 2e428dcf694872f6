//! Logs: `tracing` to standard error, as JSON for machines or text for people.
//!
//! Standard output stays free for what a command prints. The filter may be
//! changed while the process runs; see [`Handle::reload`].

use std::{
    env,
    io::{self, IsTerminal},
    sync::OnceLock,
};

use linnet_mesh::names;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Changes the filter of the running process.
#[derive(Clone, Debug)]
pub struct Handle {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why a filter was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a filter.
    #[error("{directives:?} is not a log filter (an example: info,linnet_proxy=debug): {source}")]
    Filter {
        /// What was asked for.
        directives: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another part of the process installed its own subscriber.
    #[error("the log filter cannot be changed: {0}")]
    Reload(#[from] reload::Error),
}

/// Starts logging, once per process; later calls return the first one's handle.
///
/// `LINNET_LOG` overrides the default directives, `LINNET_LOG_FORMAT` is `json`
/// or `text` (absent: text on a terminal). A bad value is reported in the log
/// and the default used: a typo must not keep a sidecar from starting.
pub fn init(default_directives: &str) -> Handle {
    static INSTALLED: OnceLock<Handle> = OnceLock::new();
    INSTALLED
        .get_or_init(|| install(default_directives))
        .clone()
}

fn install(default_directives: &str) -> Handle {
    let wanted = env::var(names::env::LOG)
        .ok()
        .filter(|text| !text.is_empty());
    let parsed = parse(wanted.as_deref().unwrap_or(default_directives));
    let bad_filter = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed
        .or_else(|_| parse(default_directives))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let format = env::var(names::env::LOG_FORMAT).unwrap_or_default();
    let json = match format.as_str() {
        "json" => true,
        "text" => false,
        _ => !io::stderr().is_terminal(),
    };

    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = if json {
        lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed()
    } else {
        lines.boxed()
    };
    // An error means that a test or an embedding program has its own subscriber.
    let _ = Registry::default().with(filter).with(lines).try_init();

    if let Some(error) = bad_filter {
        tracing::warn!(variable = names::env::LOG, %error, default = default_directives, "using the default log filter");
    }
    if !matches!(format.as_str(), "" | "json" | "text") {
        tracing::warn!(
            variable = names::env::LOG_FORMAT,
            value = format,
            "log format is neither json nor text"
        );
    }
    Handle { filter: handle }
}

impl Handle {
    /// Replaces the filter.
    ///
    /// # Errors
    /// Directives that are no filter; the old filter stays.
    pub fn reload(&self, directives: &str) -> Result<(), Error> {
        let filter = parse(directives)?;
        Ok(self.filter.reload(filter)?)
    }

    /// The filter in force.
    pub fn current(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

fn parse(directives: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder()
        .parse(directives)
        .map_err(|source| Error::Filter {
            directives: directives.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_replaced_and_a_bad_one_is_not_taken() {
        let handle = init("info");
        let again = init("debug");
        handle.reload("warn,linnet_runtime=debug").unwrap();
        assert!(
            again.current().contains("linnet_runtime=debug"),
            "{}",
            again.current()
        );
        let error = handle.reload("linnet=loud").unwrap_err().to_string();
        assert!(error.contains("linnet=loud"), "{error}");
        assert!(handle.current().contains("linnet_runtime=debug"));
    }
}
