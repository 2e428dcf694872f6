//! `linnet authz`: who may call a workload, as its own sidecar enforces it.

use super::Context;
use crate::cluster::{
    Cluster, Error as ClusterError,
    ask::{Ask, AskError, PodName},
    workload::{FindError, Reference},
};
use linnet_mesh::names::port;
use linnet_proxy::why::{Authorization, AuthorizationRule};
use serde::Serialize;
use std::{io, process::ExitCode};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// deploy/payment, sts/…, ds/…, pod/…, or a name
    workload: Reference,
    /// Its namespace, instead of the context's
    #[arg(short, long)]
    namespace: Option<String>,
    /// Print the rules as data
    #[arg(long, value_enum)]
    output: Option<super::DataFormat>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("writing the output")]
    Output(#[from] io::Error),
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whose sidecar was asked.
    pod: PodName,
    #[serde(flatten)]
    authorization: Authorization,
}

/// Does it.
///
/// # Errors
/// Nobody to ask, or no answer.
pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Error> {
    let cluster = Cluster::connect(&context.cluster).await?;
    let report = ask(&cluster, &cluster, arguments).await?;
    let text = match arguments.output {
        Some(super::DataFormat::Json) => super::json(&report)?,
        None => render(&report),
    };
    context.terminal.document(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(cluster: &Cluster, pods: &impl Ask, arguments: &Arguments) -> Result<Report, Error> {
    let namespace = cluster.namespace(arguments.namespace.as_deref());
    let pod = cluster.meshed_pod(&arguments.workload, &namespace).await?;
    let authorization = pods.fetch(&pod, (port::ADMIN, "/authorization")).await?;
    Ok(Report { pod, authorization })
}

fn render(report: &Report) -> String {
    let Report { pod, authorization } = report;
    let mode = &authorization.mtls;
    let mut text = format!(
        "pod {pod}\nmutual TLS: {} by {}{}\n",
        mode.mode,
        mode.source,
        match mode.mode.as_str() {
            "STRICT" => "",
            _ => ": callers without an identity get this far",
        }
    );
    for (port, mode) in &authorization.ports {
        text.push_str(&format!("  on port {port}: {mode}\n"));
    }
    if authorization.rules.is_empty() {
        text.push_str("\nNo AuthorizationPolicy speaks of it: whoever gets this far may call.\n");
        return text;
    }
    let head = ["ACTION", "FROM", "TO", "WHEN", "BY"].map(str::to_owned);
    let rows: Vec<[String; 5]> = authorization.rules.iter().map(row).collect();
    text.push('\n');
    text.push_str(&super::table(&head, &rows));
    text.push_str(last_word(&authorization.rules));
    text
}

fn row(rule: &AuthorizationRule) -> [String; 5] {
    let action = if rule.dry_run {
        format!("{} (dry run)", rule.action)
    } else {
        rule.action.clone()
    };
    let any = |all: &[String], none: &str| match all {
        [] => none.to_owned(),
        all => all.join("; or "),
    };
    let number = rule.rule.map(|number| format!(" rule {number}"));
    let by = format!("{}{}", rule.resource, number.unwrap_or_default());
    if rule.rule.is_none() || rule.void {
        let why = if rule.void {
            "nobody: the rule can't be evaluated"
        } else {
            "nobody: the policy has no rules"
        };
        return [action, why.to_owned(), "-".to_owned(), "-".to_owned(), by];
    }
    let when = match rule.when.as_slice() {
        [] => "-".to_owned(),
        when => when.join(", "),
    };
    [
        action,
        any(&rule.from, "anybody"),
        any(&rule.to, "anything"),
        when,
        by,
    ]
}

/// What becomes of a request that no rule fits.
fn last_word(rules: &[AuthorizationRule]) -> &'static str {
    let enforced = |rule: &&AuthorizationRule| rule.action == "ALLOW" && !rule.dry_run;
    if rules.iter().any(|rule| enforced(&rule)) {
        "\nWhat no ALLOW rule fits is denied; a DENY rule goes first.\n"
    } else {
        "\nWhat no DENY rule fits is allowed: no ALLOW policy is in force.\n"
    }
}

#[cfg(test)]
mod tests;
