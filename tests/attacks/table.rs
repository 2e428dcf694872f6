//! README.md lists each attack with its test: neither may lack the other. What
//! the documents on security name as proof is there, too.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const README: &str = include_str!("README.md");
const FAMILIES: [(&str, &str); 8] = [
    ("certificate.rs", include_str!("certificate.rs")),
    ("doors.rs", include_str!("doors.rs")),
    ("headers.rs", include_str!("headers.rs")),
    ("http1.rs", include_str!("http1.rs")),
    ("http2.rs", include_str!("http2.rs")),
    ("paths.rs", include_str!("paths.rs")),
    ("shared.rs", include_str!("shared.rs")),
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

/// What a text names: `file::test`, wherever a backtick encloses it.
fn named(text: &str) -> BTreeSet<&str> {
    let texts = text.split('`');
    texts.filter(|text| text.contains(".rs::")).collect()
}

/// Whether a file of the project has that test: a function right after an
/// attribute that makes it one, or what a macro of this folder makes.
fn is_there(entry: &str) -> bool {
    let (file, test) = entry.rsplit_once("::").unwrap();
    let source = fs::read_to_string(root().join(file)).unwrap_or_default();
    if tests(&source).contains(&test) {
        return true;
    }
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let begins = |line: &&str| line.contains(&format!("fn {test}("));
    lines.iter().position(begins).is_some_and(|at| {
        let above = lines[..at].iter().rev();
        let mut attributes = above.take_while(|line| line.starts_with("#["));
        attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_table_and_the_tests_are_the_same() {
    let listed = named(README);
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
    for entry in listed {
        let there = own.contains(entry) || is_there(entry);
        assert!(there, "README.md names {entry}, which is not there");
    }
    assert!(own.len() >= 40, "{} attacks", own.len());
}

/// Documents on security: each names the tests that prove what it says.
const SECURITY: [&str; 5] = [
    "threat-model",
    "certificates",
    "authorization",
    "tokens",
    "audit",
];

/// Each promise of docs/threat-model.md names what proves it: tests that exist, and
/// recipes that CI runs.
#[test]
fn what_the_documents_call_proof_is_there() {
    let document = |name| fs::read_to_string(root().join(format!("docs/{name}.md"))).unwrap();
    let text = document("threat-model");
    let promises = text.split_once("| promise | proved by |").unwrap().1;
    let promises = promises.split_once("\n\n").unwrap().0;
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    let mut rows = 0;
    for row in promises.lines().skip(2) {
        rows += 1;
        let tests = named(row);
        let recipes = row.split('`').filter(|text| text.starts_with("just "));
        let recipes: Vec<&str> = recipes.collect();
        assert!(!tests.is_empty() || !recipes.is_empty(), "unproved: {row}");
        for recipe in recipes {
            let step = format!("step {recipe}\n");
            assert!(ci.contains(&step), "CI does not run {recipe}");
        }
    }
    assert!(rows >= 30, "{rows} promises");
    for name in SECURITY {
        let text = document(name);
        for entry in named(&text) {
            assert!(
                is_there(entry),
                "docs/{name}.md names {entry}, which is not there"
            );
        }
        let files = text.split('`').filter(|text| text.ends_with(".rs"));
        for file in files.filter(|file| file.contains('/') && !file.contains(' ')) {
            let there = root().join(file).is_file();
            assert!(there, "docs/{name}.md names {file}, which is not there");
        }
    }
}
