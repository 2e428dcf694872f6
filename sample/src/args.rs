//! The command line, parsed once into the library's own types.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Method, Uri};

use crate::client::{Call, Protocol, Target};
use crate::duration;
use crate::load::Plan;
use crate::server::{Config, Upstream};

/// A sample application for trying a mesh.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads that serve or call; one by default, as a mesh's sidecar has.
    #[arg(long, global = true, default_value_t = 1)]
    pub threads: usize,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer over every protocol that was given a port.
    Serve(ServeArguments),
    /// Call a server and count what comes of it.
    Call(CallArguments),
    /// Print one page.
    Get(GetArguments),
}

/// `serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The service's name in its answers.
    #[arg(long, env = "SAMPLE_NAME", default_value = "sample")]
    name: String,
    /// The version in its answers.
    #[arg(long, env = "SAMPLE_VERSION", default_value = "v1")]
    service_version: String,
    /// The pod in its answers.
    #[arg(long, env = "HOSTNAME", default_value = "")]
    pod: String,
    /// Call this URL for every echo and embed its answer.
    #[arg(long, value_name = "URL")]
    calls: Option<Uri>,
    /// The host header for --calls, where it is not the URL's.
    #[arg(long, requires = "calls")]
    calls_host: Option<String>,
    /// HTTP/1.1, HTTP/2, gRPC and WebSocket.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// HTTP over TLS with a self-signed certificate.
    #[arg(long, value_name = "ADDRESS")]
    tls: Option<SocketAddr>,
    /// Bytes, echoed.
    #[arg(long, value_name = "ADDRESS")]
    tcp: Option<SocketAddr>,
    /// A banner, then lines echoed.
    #[arg(long, value_name = "ADDRESS")]
    server_first: Option<SocketAddr>,
    /// Time to go on as before after SIGTERM, while those who call learn that
    /// this pod is going.
    #[arg(long, value_parser = duration::parse, default_value = "0s")]
    pub linger: Duration,
}

impl ServeArguments {
    /// The server's configuration.
    pub fn config(self) -> Config {
        let host = self.calls_host;
        Config {
            name: self.name,
            version: self.service_version,
            pod: self.pod,
            calls: self.calls.map(|uri| Upstream { uri, host }),
            http: Some(self.http),
            tls: self.tls,
            tcp: self.tcp,
            server_first: self.server_first,
        }
    }
}

/// `call`.
#[derive(Debug, Args)]
pub struct CallArguments {
    /// URL, or host:port.
    target: Target,
    /// What to speak.
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    protocol: Protocol,
    /// Calls to make; 1 unless --duration is given.
    #[arg(long)]
    count: Option<u64>,
    /// Time to call for, such as 300s.
    #[arg(long, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Connections, each with one call at a time.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Calls a second over all connections.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Longest time for one call, such as 500ms.
    #[arg(long, value_parser = duration::parse, default_value = "10s")]
    timeout: Duration,
    /// HTTP method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// `name: value`, repeatable.
    #[arg(long = "header", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Bytes of request body, or of each message.
    #[arg(long, default_value_t = 0)]
    body_bytes: usize,
    /// The name in TLS's SNI, where it is not the target's host.
    #[arg(long)]
    sni: Option<String>,
    /// A new connection for every call.
    #[arg(long)]
    new_connections: bool,
    /// Exit with success whatever failed.
    #[arg(long)]
    pub allow_failures: bool,
    /// How to print the totals.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How totals are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl CallArguments {
    /// The load to make.
    pub fn plan(&self) -> Plan {
        Plan {
            rate: self.rate,
            concurrency: self.concurrency,
            count: match (self.count, self.duration) {
                (None, None) => Some(1),
                (count, _) => count,
            },
            duration: self.duration,
        }
    }

    /// The call to make.
    pub fn call(&self) -> Call {
        Call {
            method: self.method.clone(),
            headers: self.headers.clone(),
            body_bytes: self.body_bytes,
            sni: self.sni.clone(),
            fresh_connection: self.new_connections,
            timeout: self.timeout,
            ..Call::new(self.protocol, self.target.clone())
        }
    }
}

/// `get`.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// URL.
    target: Target,
    /// `name: value`, repeatable.
    #[arg(long = "header", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Longest time, such as 500ms.
    #[arg(long, value_parser = duration::parse, default_value = "10s")]
    timeout: Duration,
}

impl GetArguments {
    /// The call to make.
    pub fn call(self) -> Call {
        Call {
            headers: self.headers,
            timeout: self.timeout,
            ..Call::new(Protocol::Http1, self.target)
        }
    }
}

/// Why an argument is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// Not a rate.
    #[error("`{0}` is no rate: write calls a second, more than 0")]
    Rate(String),
    /// Not a header.
    #[error("`{0}` is no header: write name: value")]
    Header(String),
}

fn rate(text: &str) -> Result<f64, ArgumentError> {
    let rate = text.parse().ok();
    rate.filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| ArgumentError::Rate(text.to_owned()))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), ArgumentError> {
    let parsed = text
        .split_once(':')
        .and_then(|(name, value)| Some((name.parse().ok()?, value.trim().parse().ok()?)));
    parsed.ok_or_else(|| ArgumentError::Header(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn rates_and_headers_are_checked() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for bad in ["0", "-1", "nan", "inf", "x"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert!(header("x-a: b").is_ok());
        assert!(header("x-a").is_err());
        assert!(header("a b: c").is_err());
    }

    #[test]
    fn one_call_unless_told_otherwise() {
        let plan = |line: &str| {
            let words = line.split(' ');
            match Arguments::try_parse_from(words).unwrap().command {
                Command::Call(call) => call.plan(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(plan("sample call http://a/").count, Some(1));
        assert_eq!(plan("sample call --duration 1s http://a/").count, None);
        assert_eq!(plan("sample call --count 7 a:1").count, Some(7));
    }
}
