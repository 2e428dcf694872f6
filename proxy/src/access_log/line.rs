//! A line of the access log, as it is written and as `linnet audit` reads it.
//!
//! Everything that a peer chose is cut to a length and escaped, so that nobody
//! writes lines of his own into the log. The query is left out: tokens live there.

use linnet_mesh::access_log::Format;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, io::Write};

/// The value of `log` in each line, which tells it from others.
pub const KIND: &str = "access";

/// A request or connection. Empty text and absent numbers: not known, or not
/// what such a line has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line<'a> {
    /// [`KIND`].
    pub log: Cow<'a, str>,
    /// When it began, RFC 3339.
    pub time: Cow<'a, str>,
    /// `source` or `destination`: whose sidecar writes.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reporter: Cow<'a, str>,
    /// `http/1.1`, `http/2`, `grpc` or `tcp`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub protocol: Cow<'a, str>,
    /// The method.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub method: Cow<'a, str>,
    /// The path without its query.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: Cow<'a, str>,
    /// `Host` or `:authority`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub authority: Cow<'a, str>,
    /// The HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The gRPC status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// Response flags, in Envoy's short names.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub flags: Cow<'a, str>,
    /// `allowed`, `denied`, `dry_run_denied` or `audited`; nothing where no
    /// policy was asked.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub decision: Cow<'a, str>,
    /// The policy and rule that decided.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub decided_by: Cow<'a, str>,
    /// For whom the request's token speaks: `<issuer>/<subject>`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_principal: Cow<'a, str>,
    /// The caller's verified identity.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source_principal: Cow<'a, str>,
    /// Its workload.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source_workload: Cow<'a, str>,
    /// Its namespace.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source_namespace: Cow<'a, str>,
    /// Its address.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source_address: Cow<'a, str>,
    /// The callee's verified identity.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub destination_principal: Cow<'a, str>,
    /// Its workload.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub destination_workload: Cow<'a, str>,
    /// Its namespace.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub destination_namespace: Cow<'a, str>,
    /// The service that led there.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub destination_service: Cow<'a, str>,
    /// Bytes of the request's body, or from the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Bytes of the response's body, or to the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// From its first byte to its last, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Where it was sent on to.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub upstream: Cow<'a, str>,
    /// `x-request-id`, if it was sent.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: Cow<'a, str>,
    /// Lines that are missing before this one, which stands for nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
}

impl<'a> Line<'a> {
    /// The notice that lines are missing.
    pub(super) fn missing(count: u64, time: &'a str) -> Self {
        Self {
            log: KIND.into(),
            time: time.into(),
            dropped: Some(count),
            ..Self::default()
        }
    }

    /// Appends the line and its end.
    pub(super) fn write(&self, format: Format, out: &mut Vec<u8>) {
        // A vector takes whatever is written to it.
        let _ = match format {
            Format::Json => serde_json::to_writer(&mut *out, self).map_err(Into::into),
            Format::Text => self.write_text(out),
        };
        out.push(b'\n');
    }

    fn write_text(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        write!(out, "{} access {}", self.time, self.reporter)?;
        let caller = [
            &self.source_principal,
            &self.source_workload,
            &self.source_address,
        ];
        let callee = [
            &self.destination_principal,
            &self.destination_workload,
            &self.destination_service,
        ];
        let name = |known: [&Cow<'a, str>; 3]| {
            let mut known = known.into_iter();
            let found = known.find(|text| !text.is_empty());
            found.map_or_else(|| "unknown".to_owned(), ToString::to_string)
        };
        write!(out, " {} -> {}", name(caller), name(callee))?;
        let words = [&self.method, &self.authority, &self.path, &self.protocol];
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            write!(out, " {}", word.escape_debug())?;
        }
        if let Some(status) = self.status {
            write!(out, " {status}")?;
        }
        if let Some(status) = self.grpc_status {
            write!(out, " grpc-status {status}")?;
        }
        write!(out, " {}", self.flags)?;
        if let (Some(bytes_in), Some(bytes_out)) = (self.bytes_in, self.bytes_out) {
            write!(out, " {bytes_in}B in {bytes_out}B out")?;
        }
        if let Some(duration) = self.duration_ms {
            write!(out, " {duration}ms")?;
        }
        if !self.upstream.is_empty() {
            write!(out, " upstream {}", self.upstream)?;
        }
        if !self.request_id.is_empty() {
            write!(out, " id {}", self.request_id.escape_debug())?;
        }
        if !self.request_principal.is_empty() {
            write!(out, " for {}", self.request_principal.escape_debug())?;
        }
        if !self.decision.is_empty() {
            write!(out, " {} by {}", self.decision, self.decided_by)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            log: KIND.into(),
            time: "2026-01-01T00:00:00Z".into(),
            reporter: "destination".into(),
            protocol: "http/1.1".into(),
            method: "GET".into(),
            path: "/a\nb\"c".into(),
            status: Some(403),
            flags: "UAEX".into(),
            decision: "denied".into(),
            decided_by: "no ALLOW rule matched".into(),
            source_principal: "spiffe://cluster.local/ns/shop/sa/web".into(),
            ..Line::default()
        }
    }

    #[test]
    fn nobody_writes_lines_of_his_own() {
        for format in [Format::Json, Format::Text] {
            let mut out = Vec::new();
            line().write(format, &mut out);
            let breaks = out.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!((breaks, out.last()), (1, Some(&b'\n')), "{format:?}");
        }
    }

    #[test]
    fn json_is_read_as_it_was_written() {
        let mut out = Vec::new();
        line().write(Format::Json, &mut out);
        assert_eq!(serde_json::from_slice::<Line<'_>>(&out).unwrap(), line());
    }

    #[test]
    fn text_says_who_called_whom_and_what_decided() {
        let mut out = Vec::new();
        line().write(Format::Text, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2026-01-01T00:00:00Z access destination spiffe://cluster.local/ns/shop/sa/web -> unknown \
             GET /a\\nb\\\"c http/1.1 403 UAEX denied by no ALLOW rule matched\n"
        );
    }
}
