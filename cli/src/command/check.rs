//! `linnet check`: looks at everything that must be so for the mesh to work, and
//! says what to do about what is not.
//!
//! A finding that stops nobody's traffic is a warning; only failures make the
//! exit code 1.

mod certificates;
mod control_plane;
mod leaves;
mod resources;
mod workloads;

use super::Context;
use crate::{
    cluster::{Cluster, Error as ClusterError, OLDEST_MINOR},
    istio,
    terminal::Terminal,
};
use serde::Serialize;
use std::{future::Future, process::ExitCode};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print the findings as data
    #[arg(long, value_enum)]
    output: Option<super::DataFormat>,
}

/// What became of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Failed,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at: `deployments`.
    check: &'static str,
    status: Status,
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            message: message.into(),
            advice: None,
        }
    }

    fn warning(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Warning,
            message: message.into(),
            advice: Some(advice.into()),
        }
    }

    fn failed(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Failed,
            ..Self::warning(check, message, advice)
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    findings: Vec<Finding>,
}

/// Does it.
///
/// # Errors
/// The output can't be written; a cluster that can't be reached is a finding.
pub(crate) async fn run(
    arguments: &Arguments,
    context: &Context,
) -> Result<ExitCode, std::io::Error> {
    let findings = match Cluster::connect(&context.cluster).await {
        Ok(cluster) => examine(&cluster).await,
        // Its message says what to do.
        Err(error) => vec![Finding {
            advice: None,
            ..unanswered("kubernetes", &error)
        }],
    };
    let report = Report {
        healthy: findings
            .iter()
            .all(|finding| finding.status != Status::Failed),
        findings,
    };
    match arguments.output {
        Some(super::DataFormat::Json) => context.terminal.document(&super::json(&report)?)?,
        None => print(&context.terminal, &report),
    }
    Ok(if report.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn examine(cluster: &Cluster) -> Vec<Finding> {
    let mut findings = vec![kubernetes(cluster)];
    findings.extend(settle("istio", check_istio(cluster)).await);
    findings.extend(settle("kinds", control_plane::definitions(cluster)).await);
    findings.extend(settle("deployments", control_plane::deployments(cluster)).await);
    findings.extend(settle("webhook", control_plane::webhook(cluster)).await);
    findings.extend(settle("validation", control_plane::validation(cluster)).await);
    findings.extend(settle("root", certificates::root(cluster)).await);
    findings.extend(settle("root", certificates::rotation(cluster)).await);
    findings.extend(settle("namespaces", workloads::system_namespaces(cluster)).await);
    findings.extend(settle("sidecars", workloads::sidecars(cluster)).await);
    findings.extend(settle("certificates", leaves::leaves(cluster)).await);
    findings.extend(settle("resources", resources::rejected(cluster)).await);
    findings
}

/// A check's findings, or that it could not be made.
async fn settle(
    check: &'static str,
    findings: impl Future<Output = Result<Vec<Finding>, ClusterError>>,
) -> Vec<Finding> {
    match findings.await {
        Ok(findings) => findings,
        Err(error) => vec![unanswered(check, &error)],
    }
}

fn unanswered(check: &'static str, error: &ClusterError) -> Finding {
    let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})"));
    let message = format!("{error}{}", cause.unwrap_or_default());
    Finding::failed(
        check,
        message,
        "this check needs an answer from the cluster",
    )
}

fn kubernetes(cluster: &Cluster) -> Finding {
    let (major, minor) = cluster.version();
    let message = format!("Kubernetes {major}.{minor} answers at {}", cluster.url());
    if cluster.is_supported() {
        Finding::ok("kubernetes", message)
    } else {
        let advice = format!("Linnet needs Kubernetes 1.{OLDEST_MINOR} or later");
        Finding::failed("kubernetes", message, advice)
    }
}

async fn check_istio(cluster: &Cluster) -> Result<Vec<Finding>, ClusterError> {
    let found = istio::find(cluster).await?;
    Ok(vec![if found.is_empty() {
        Finding::ok("istio", "no other mesh answers to the injection label")
    } else {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        Finding::failed(
            "istio",
            format!("Istio runs in this cluster too: {}", found.join(", ")),
            "remove one of the two: pods would get two sidecars",
        )
    }])
}

fn print(terminal: &Terminal, report: &Report) {
    for finding in &report.findings {
        match finding.status {
            Status::Ok => terminal.good(&finding.message),
            Status::Warning => terminal.warning(&finding.message),
            Status::Failed => terminal.bad(&finding.message),
        }
        if let Some(advice) = &finding.advice {
            terminal.line(format_args!("    → {advice}"));
        }
    }
    let count = |status| {
        report
            .findings
            .iter()
            .filter(|finding| finding.status == status)
            .count()
    };
    terminal.line(match (count(Status::Failed), count(Status::Warning)) {
        (0, 0) => "\nThe mesh is healthy.".to_owned(),
        (0, warnings) => format!("\nThe mesh is healthy; {warnings} to look at."),
        (failures, _) => format!(
            "\nThe mesh is not healthy: {failures} of {} checks failed.",
            report.findings.len()
        ),
    });
}

#[cfg(test)]
mod tests;
