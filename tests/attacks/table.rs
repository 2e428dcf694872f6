//! README.md lists each attack with its test: neither may lack the other.

use std::{collections::BTreeSet, fs, path::Path};

const README: &str = include_str!("README.md");
const FAMILIES: [(&str, &str); 7] = [
    ("certificate.rs", include_str!("certificate.rs")),
    ("doors.rs", include_str!("doors.rs")),
    ("headers.rs", include_str!("headers.rs")),
    ("http1.rs", include_str!("http1.rs")),
    ("http2.rs", include_str!("http2.rs")),
    ("paths.rs", include_str!("paths.rs")),
    ("tokens.rs", include_str!("tokens.rs")),
];
const SLOW: (&str, &str) = ("slow.rs", include_str!("slow.rs"));

/// Tests of a file: functions, and what its macro makes (`name: …`).
fn tests(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut lines = source.lines().peekable();
    let mut in_macro = false;
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        if text.starts_with("#[tokio::test") {
            let next = lines.peek().map_or("", |line| line.trim_start());
            let name = next.strip_prefix("async fn ").unwrap_or_default();
            found.extend(name.split_once('(').map(|(name, _)| name));
        }
        in_macro |= line.starts_with("refused_") && line.ends_with("! {");
        in_macro &= line != "}";
        if in_macro && line.starts_with("    ") && !line.starts_with("     ") {
            let name = text.split_once(':').map(|(name, _)| name);
            found.extend(name);
        }
    }
    found.retain(|name| !name.starts_with('$'));
    found
}

/// What the table names: `file::test` in its last column.
fn listed() -> BTreeSet<&'static str> {
    let rows = README.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once("| "));
    cells
        .flat_map(|(_, last)| last.split('`'))
        .filter(|text| text.contains("::"))
        .collect()
}

#[test]
fn the_table_and_the_tests_are_the_same() {
    let listed = listed();
    let mut own = BTreeSet::new();
    for (file, source) in FAMILIES.into_iter().chain([SLOW]) {
        own.extend(
            tests(source)
                .into_iter()
                .map(|test| format!("{file}::{test}")),
        );
    }
    for test in &own {
        assert!(listed.contains(&**test), "{test} is not in README.md");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for entry in &listed {
        if own.contains(*entry) {
            continue;
        }
        let (file, test) = entry.rsplit_once("::").unwrap();
        let source = fs::read_to_string(root.join(file));
        let there = source.is_ok_and(|source| source.contains(&format!("fn {test}(")));
        assert!(there, "README.md names {entry}, which is not there");
    }
    assert!(own.len() >= 40, "{} attacks", own.len());
}
