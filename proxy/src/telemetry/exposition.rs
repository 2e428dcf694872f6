//! The text that Prometheus scrapes, in pieces, so that ten thousand label sets
//! of some seventy lines each are never in memory at once.

use super::{
    RequestProtocol, Telemetry,
    histogram::Unit,
    labels::{self, OTHER},
    series::{HttpSeries, OutcomeKey, Requests, TcpSeries},
};
use crate::telemetry::Flags;
use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// A piece is handed out once it is as long as this, or all is said.
const PIECE: usize = 32 * 1024;

#[derive(Clone, Copy)]
enum Family {
    Build,
    Dropped,
    Requests,
    Duration,
    RequestBytes,
    ResponseBytes,
    Sent,
    Received,
    Opened,
    Closed,
}

impl Family {
    const ALL: [Self; 10] = [
        Self::Build,
        Self::Dropped,
        Self::Requests,
        Self::Duration,
        Self::RequestBytes,
        Self::ResponseBytes,
        Self::Sent,
        Self::Received,
        Self::Opened,
        Self::Closed,
    ];

    /// Name, type and help.
    const fn describe(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Build => ("istio_build", "gauge", "The version that runs here."),
            Self::Dropped => (
                "linnet_series_dropped_total",
                "counter",
                "Times that something was counted under \"other\" because there was no room for its labels.",
            ),
            Self::Requests => ("istio_requests_total", "counter", "Requests."),
            Self::Duration => (
                "istio_request_duration_milliseconds",
                "histogram",
                "Duration of requests, to the response's last byte.",
            ),
            Self::RequestBytes => (
                "istio_request_bytes",
                "histogram",
                "Size of request bodies.",
            ),
            Self::ResponseBytes => (
                "istio_response_bytes",
                "histogram",
                "Size of response bodies.",
            ),
            Self::Sent => (
                "istio_tcp_sent_bytes_total",
                "counter",
                "Bytes from destination to source on TCP connections.",
            ),
            Self::Received => (
                "istio_tcp_received_bytes_total",
                "counter",
                "Bytes from source to destination on TCP connections.",
            ),
            Self::Opened => (
                "istio_tcp_connections_opened_total",
                "counter",
                "TCP connections opened.",
            ),
            Self::Closed => (
                "istio_tcp_connections_closed_total",
                "counter",
                "TCP connections closed.",
            ),
        }
    }

    fn write_header(self, out: &mut String) {
        let (name, kind, help) = self.describe();
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn write_http(self, out: &mut String, labels: &str, requests: &Requests) {
        let name = self.describe().0;
        match self {
            Self::Requests => {
                let _ = writeln!(out, "{name}{{{labels}}} {}", requests.duration.count());
            }
            Self::Duration => requests.duration.render(out, name, labels, Unit::Time),
            Self::RequestBytes => requests.request_bytes.render(out, name, labels, Unit::Size),
            Self::ResponseBytes => requests
                .response_bytes
                .render(out, name, labels, Unit::Size),
            _ => {}
        }
    }

    fn write_tcp(self, out: &mut String, series: &TcpSeries) {
        let value = match self {
            Self::Sent => &series.sent,
            Self::Received => &series.received,
            Self::Opened => &series.opened,
            Self::Closed => {
                for (flags, count) in series.closed.iter() {
                    let labels = tcp_labels(series, flags);
                    let name = self.describe().0;
                    let _ = writeln!(out, "{name}{{{labels}}} {}", count.load(Relaxed));
                }
                return;
            }
            _ => return,
        };
        let labels = tcp_labels(series, Some(Flags::NONE));
        let name = self.describe().0;
        let _ = writeln!(out, "{name}{{{labels}}} {}", value.load(Relaxed));
    }
}

/// The series as they were at one moment, their values as they are when read.
pub(super) struct Exposition {
    telemetry: Telemetry,
    http: Vec<Arc<HttpSeries>>,
    tcp: Vec<Arc<TcpSeries>>,
    family: usize,
    next: usize,
}

impl Exposition {
    pub(super) fn new(telemetry: Telemetry) -> Self {
        let (http, tcp) = telemetry.series();
        Self {
            telemetry,
            http,
            tcp,
            family: 0,
            next: 0,
        }
    }

    /// Writes what comes next of a family; `false`: nothing does.
    fn write_next(&self, family: Family, out: &mut String) -> bool {
        match family {
            Family::Build | Family::Dropped => {
                if self.next > 0 {
                    return false;
                }
                let name = family.describe().0;
                if matches!(family, Family::Build) {
                    let _ = write!(out, "{name}{{component=\"proxy\",tag=\"");
                    labels::escape(out, self.telemetry.version());
                    out.push_str("\"} 1\n");
                } else {
                    let _ = writeln!(out, "{name} {}", self.telemetry.dropped());
                }
            }
            Family::Requests | Family::Duration | Family::RequestBytes | Family::ResponseBytes => {
                let Some(series) = self.http.get(self.next) else {
                    return false;
                };
                for (key, requests) in series.outcomes.iter() {
                    family.write_http(out, &http_labels(series, key), requests);
                }
            }
            Family::Sent | Family::Received | Family::Opened | Family::Closed => {
                let Some(series) = self.tcp.get(self.next) else {
                    return false;
                };
                family.write_tcp(out, series);
            }
        }
        true
    }
}

impl Iterator for Exposition {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut out = String::new();
        while out.len() < PIECE {
            let Some(&family) = Family::ALL.get(self.family) else {
                break;
            };
            if self.next == 0 {
                family.write_header(&mut out);
            }
            if self.write_next(family, &mut out) {
                self.next += 1;
            } else {
                self.family += 1;
                self.next = 0;
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

fn http_labels(series: &HttpSeries, key: Option<OutcomeKey>) -> String {
    let protocol = match series.protocol {
        RequestProtocol::Http => "http",
        RequestProtocol::Grpc => "grpc",
    };
    let common = &series.labels;
    let Some(key) = key else {
        return format!(
            "{common},request_protocol=\"{protocol}\",response_code=\"{OTHER}\",grpc_response_status=\"{OTHER}\",response_flags=\"{OTHER}\""
        );
    };
    let grpc_status = key.grpc_status.map(|status| status.to_string());
    format!(
        "{common},request_protocol=\"{protocol}\",response_code=\"{}\",grpc_response_status=\"{}\",response_flags=\"{}\"",
        key.status,
        grpc_status.unwrap_or_default(),
        key.flags
    )
}

fn tcp_labels(series: &TcpSeries, flags: Option<Flags>) -> String {
    let common = &series.labels;
    let flags = flags.map_or_else(|| OTHER.to_owned(), |flags| flags.to_string());
    format!("{common},request_protocol=\"tcp\",response_flags=\"{flags}\"")
}
