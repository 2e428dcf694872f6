//! Label sets as text, in Istio's names. Two pods of one Deployment have the
//! same text, so the text is what series are kept by.

use super::{Parties, Reporter};
use linnet_mesh::{SpiffeId, Workload};
use std::fmt::Write;

/// What Istio calls a cluster unless it is told a name.
const CLUSTER: &str = "Kubernetes";
const UNKNOWN: &str = "unknown";
/// The value of all labels of what found no room of its own.
pub(super) const OTHER: &str = "other";
/// A value's bytes at most; Kubernetes' names fit.
const LONGEST: usize = 256;

/// The labels that say who talks to whom.
pub(super) fn parties(parties: &Parties) -> String {
    let mut out = start(parties.reporter);
    workload(
        &mut out,
        "source",
        &parties.source,
        parties.source_principal.as_ref(),
    );
    workload(
        &mut out,
        "destination",
        &parties.destination,
        parties.destination_principal.as_ref(),
    );
    let service = parties.service.as_ref();
    label(
        &mut out,
        "destination_service",
        service.map_or("", |s| &s.hostname),
    );
    label(
        &mut out,
        "destination_service_name",
        service.map_or("", |s| &s.name),
    );
    label(
        &mut out,
        "destination_service_namespace",
        service.map_or("", |s| &s.namespace),
    );
    security(&mut out, parties.secured);
    out
}

/// The labels of whatever finds no room any more.
pub(super) fn other(parties: &Parties) -> String {
    let mut out = start(parties.reporter);
    for side in ["source", "destination"] {
        for name in SIDE {
            let _ = write!(out, ",{side}_{name}=\"{OTHER}\"");
        }
    }
    for name in ["", "_name", "_namespace"] {
        let _ = write!(out, ",destination_service{name}=\"{OTHER}\"");
    }
    security(&mut out, parties.secured);
    out
}

/// Labels that both sides have.
const SIDE: [&str; 8] = [
    "workload",
    "workload_namespace",
    "principal",
    "app",
    "version",
    "canonical_service",
    "canonical_revision",
    "cluster",
];

fn start(reporter: Reporter) -> String {
    // About what a full set of labels takes.
    let mut out = String::with_capacity(1024);
    let reporter = match reporter {
        Reporter::Source => "source",
        Reporter::Destination => "destination",
    };
    let _ = write!(out, "reporter=\"{reporter}\"");
    out
}

fn workload(out: &mut String, side: &str, workload: &Workload, principal: Option<&SpiffeId>) {
    let known = !workload.name.is_empty();
    let values: [&str; SIDE.len()] = [
        &workload.name,
        &workload.namespace,
        principal.map_or("", SpiffeId::as_str),
        &workload.app,
        &workload.version,
        &workload.canonical_service,
        &workload.canonical_revision,
        if known { CLUSTER } else { "" },
    ];
    for (name, value) in SIDE.into_iter().zip(values) {
        out.push(',');
        out.push_str(side);
        out.push('_');
        push(out, name, value);
    }
}

fn security(out: &mut String, secured: bool) {
    let policy = if secured { "mutual_tls" } else { "none" };
    label(out, "connection_security_policy", policy);
}

fn label(out: &mut String, name: &str, value: &str) {
    out.push(',');
    push(out, name, value);
}

fn push(out: &mut String, name: &str, value: &str) {
    let value = if value.is_empty() { UNKNOWN } else { value };
    let value = &value[..value.floor_char_boundary(LONGEST)];
    out.push_str(name);
    out.push_str("=\"");
    escape(out, value);
    out.push('"');
}

/// Escapes a value as the exposition format asks for.
pub(super) fn escape(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_cut_and_never_empty() {
        let mut out = String::new();
        push(&mut out, "a", "x\"y\\z\n");
        push(&mut out, ",b", "");
        assert_eq!(out, r#"a="x\"y\\z\n",b="unknown""#);
        out.clear();
        push(&mut out, "a", &"é".repeat(500));
        assert_eq!(out, format!("a=\"{}\"", "é".repeat(LONGEST / 2)));
    }
}
