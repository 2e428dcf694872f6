//! Logs: `tracing` to standard error, as JSON for machines or text for people.
//!
//! Standard output stays free for what a command prints. The filter may be
//! changed while the process runs; see [`Handle::reload`]. Filters come from
//! annotations and from the admin port, so each is short and compiles no regular
//! expression: a field's value is compared as text.

use std::{
    env,
    io::{self, IsTerminal},
    sync::OnceLock,
};

use linnet_mesh::names;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// The longest filter that is read, in bytes.
pub const LONGEST_FILTER: usize = 1024;
/// The most directives that a filter may have.
pub const MOST_DIRECTIVES: usize = 32;

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
    /// More than a filter may be.
    #[error(
        "the log filter has {bytes} bytes and {directives} directives; it may have {LONGEST_FILTER} bytes and {MOST_DIRECTIVES} directives"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// Its directives.
        directives: usize,
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
        .unwrap_or_else(|_| EnvFilter::default());
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

/// Reports whether a text is a filter that [`Handle::reload`] takes.
///
/// # Errors
/// What is wrong with it.
pub fn check(directives: &str) -> Result<(), Error> {
    parse(directives).map(drop)
}

fn parse(directives: &str) -> Result<EnvFilter, Error> {
    let (bytes, count) = (directives.len(), directives.split(',').count());
    if bytes > LONGEST_FILTER || count > MOST_DIRECTIVES {
        return Err(Error::TooLong {
            bytes,
            directives: count,
        });
    }
    EnvFilter::builder()
        .with_regex(false)
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

    /// A text that a regular expression would take for one: nothing is compiled,
    /// so that what is no expression, or a huge one, is taken at once.
    #[test]
    fn no_filter_is_a_regular_expression() {
        // The last one is an automaton of a million states.
        let huge = format!("(a|b)*a{}", "(a|b)".repeat(20));
        for value in ["(", "[", "\\", "(?P<", "*", huge.as_str()] {
            let filter = format!("info,linnet[{{field={value}}}]=debug");
            assert!(check(&filter).is_ok(), "{filter}: {:?}", check(&filter));
        }
    }

    #[test]
    fn a_filter_has_limits() {
        let directives = vec!["a=info"; MOST_DIRECTIVES].join(",");
        assert!(check(&directives).is_ok());
        for long in [
            format!("{directives},b=info"),
            "a".repeat(LONGEST_FILTER + 1),
        ] {
            let error = check(&long).unwrap_err();
            assert!(matches!(error, Error::TooLong { .. }), "{error}");
            assert!(error.to_string().len() < 200, "{error}");
        }
    }
}
