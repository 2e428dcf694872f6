//! The answer as text.

use super::{Calls, Report};
use std::collections::BTreeMap;

/// What no log of this cluster's nodes can say.
const DELETED: &str = "pods that have been deleted took their logs with them; where logs are collected, look for \
                       those of their container linnet-proxy";

/// Requests of one caller that are named.
const NAMED: usize = 3;

pub(super) fn text(report: &Report) -> String {
    let pods: Vec<String> = report.pods.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{} of namespace {}, the last {}, by the logs of {}\n",
        report.workload,
        report.namespace,
        report.since,
        pods.join(", ")
    );
    text.push_str("\nGot through\n");
    if report.callers.is_empty() {
        text.push_str("  nobody, as far as the logs say\n");
    } else {
        let head = [
            "IDENTITY", "FROM", "TIMES", "WHAT", "ANSWERS", "FIRST", "LAST",
        ];
        let rows: Vec<[String; 7]> = report.callers.iter().map(row).collect();
        text.push_str(&super::super::table(&head.map(str::to_owned), &rows));
    }
    let lists = [
        ("Denied", &report.denied),
        ("Would be denied, but for a dry run", &report.would_deny),
        ("Noted by an AUDIT policy", &report.audited),
    ];
    for (title, list) in lists {
        if list.is_empty() {
            continue;
        }
        let head = ["IDENTITY", "FROM", "TIMES", "WHAT", "BY", "FIRST", "LAST"];
        let rows: Vec<[String; 7]> = list.iter().map(decided).collect();
        text.push_str(&format!("\n{title}\n"));
        text.push_str(&super::super::table(&head.map(str::to_owned), &rows));
    }
    if report.denied.is_empty() {
        text.push_str("\nNothing was denied, as far as the logs say.\n");
    }
    text.push_str("\nNot complete:\n");
    for gap in report.gaps.iter().map(String::as_str).chain([DELETED]) {
        text.push_str(&format!("  {gap}\n"));
    }
    text
}

fn row(calls: &Calls) -> [String; 7] {
    let answers = calls.answers.iter();
    let answers: Vec<String> = answers
        .map(|(answer, count)| format!("{answer} \u{d7}{count}"))
        .collect();
    with(calls, answers.join(", "))
}

fn decided(calls: &Calls) -> [String; 7] {
    with(calls, calls.by.clone())
}

fn with(calls: &Calls, column: String) -> [String; 7] {
    [
        calls.identity.clone().unwrap_or_else(|| "none".to_owned()),
        calls.from.clone(),
        calls.count.to_string(),
        most(&calls.requests),
        column,
        calls.first.clone(),
        calls.last.clone(),
    ]
}

/// The most frequent requests.
fn most(requests: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<(&String, &u64)> = requests.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let mut named: Vec<String> = sorted
        .iter()
        .take(NAMED)
        .map(|(request, count)| format!("{request} \u{d7}{count}"))
        .collect();
    if sorted.len() > NAMED {
        named.push(format!("{} others", sorted.len() - NAMED));
    }
    named.join(", ")
}
