//! Verdicts for people and for programs.

use crate::terminal::Terminal;
use linnet_controller::{
    analysis,
    compile::{Severity, Status, Verdict},
};
use serde::Serialize;
use std::fmt::Write;

/// What programs get.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    errors: usize,
    warnings: usize,
    verdicts: &'a [Verdict],
}

impl<'a> Summary<'a> {
    pub(super) fn of(verdicts: &'a [Verdict]) -> Self {
        Self {
            errors: analysis::count(verdicts, Severity::Error),
            warnings: analysis::count(verdicts, Severity::Warning),
            verdicts,
        }
    }
}

/// What people get: a line for each resource, below it what there is to say.
pub(super) fn text(verdicts: &[Verdict], terminal: &Terminal) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        // Writing to a String can't fail.
        let _ = write_verdict(&mut text, verdict, terminal);
    }
    if verdicts.is_empty() {
        text.push_str("No configuration resources.\n");
    } else {
        let errors = analysis::count(verdicts, Severity::Error);
        let warnings = analysis::count(verdicts, Severity::Warning);
        let resources = many(verdicts.len(), "resource");
        let _ = match (errors, warnings) {
            (0, 0) => writeln!(text, "\n{resources}: nothing wrong."),
            _ => writeln!(
                text,
                "\n{resources}: {}, {}.",
                many(errors, "error"),
                many(warnings, "warning")
            ),
        };
    }
    text
}

fn write_verdict(
    text: &mut String,
    verdict: &Verdict,
    terminal: &Terminal,
) -> Result<(), std::fmt::Error> {
    let worst = verdict.messages.iter().map(|note| note.severity).max();
    let sign = match worst {
        None => terminal.paint("32", "✔"),
        Some(Severity::Warning) => terminal.paint("33", "!"),
        Some(Severity::Error) => terminal.paint("31", "✘"),
    };
    let status = match verdict.status {
        Status::Accepted => "accepted",
        Status::Conflicting => "conflicting",
        Status::Rejected if verdict.resource.kind == "File" => "not read",
        Status::Rejected => "rejected",
    };
    write!(text, "{sign} {}: {status}", verdict.resource)?;
    if let Some(origin) = &verdict.origin {
        write!(text, " ({origin})")?;
    }
    text.push('\n');
    for note in &verdict.messages {
        let severity = match note.severity {
            Severity::Error => terminal.paint("31", "error:"),
            Severity::Warning => terminal.paint("33", "warning:"),
        };
        writeln!(text, "    {severity} {note}")?;
    }
    Ok(())
}

fn many(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
