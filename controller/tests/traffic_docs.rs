//! docs/traffic.md says what is so: its examples compile without a remark, and
//! its tables hold every field, said to be honoured where a type has room for it.
//!
//! The fields of each API are in `tests/fixtures/fields/`, one a line; which of
//! them Linnet acts on are those of the generated definitions.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use linnet_controller::{
    analysis::{Input, analyze},
    compile::{self, Context},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn docs() -> String {
    fs::read_to_string(root().join("../docs/traffic.md")).unwrap()
}

#[test]
fn examples_compile_without_a_remark() {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let docs = docs();
    let examples: Vec<_> = docs
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(examples.len() >= 8, "{}", examples.len());
    for example in examples {
        let mut input = Input::default();
        input.add_yaml(example, "docs/traffic.md", "shop");
        let verdicts = analyze(&input, &context);
        assert!(!verdicts.is_empty(), "{example}");
        for verdict in verdicts {
            assert!(verdict.messages.is_empty(), "{verdict}\n{example}");
        }
    }
}

/// The rows of the table under a heading: each field with the word it gets.
fn table(heading: &str) -> BTreeMap<String, String> {
    let docs = docs();
    let section = docs.split(&format!("\n## {heading}\n")).nth(1);
    let section = section.unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let mut rows = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split(" | ").collect();
        let word = cells[1]
            .split([':', ',', ' ', '|'])
            .next()
            .unwrap()
            .to_owned();
        assert!(
            ["honoured", "partly", "refused", "remark", "verdict"].contains(&word.as_str()),
            "{row}"
        );
        let mut parent = String::new();
        for (position, field) in cells[0].split('`').skip(1).step_by(2).enumerate() {
            if position == 0 {
                let end = field.rfind('.').unwrap_or(0);
                parent = field[..end].to_owned();
            }
            let field = match field.strip_prefix('.') {
                Some(sibling) => format!("{parent}.{sibling}"),
                None => field.to_owned(),
            };
            let before = rows.insert(field.clone(), word.clone());
            assert_eq!(before, None, "{field} stands there twice");
        }
    }
    rows
}

/// The word that a field gets: its own, or that of a row `field.**` above it.
fn word<'a>(rows: &'a BTreeMap<String, String>, field: &str) -> Option<&'a String> {
    rows.get(field).or_else(|| {
        rows.iter()
            .filter_map(|(row, word)| Some((row.strip_suffix(".**")?, word)))
            .find(|(above, _)| {
                let rest = field.strip_prefix(above);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
            .map(|(_, word)| word)
    })
}

/// The fields of an API, one a line.
fn fields(file: &str) -> Vec<String> {
    let path = root().join("tests/fixtures/fields").join(file);
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The fields that a definition has room for.
fn honoured(file: &str) -> BTreeSet<String> {
    let (_, crd) = compile::definitions()
        .into_iter()
        .find(|(name, _)| *name == file)
        .unwrap();
    let schema = crd.spec.versions[0].schema.as_ref().unwrap();
    let root = schema.open_api_v3_schema.as_ref().unwrap();
    let spec = &root.properties.as_ref().unwrap()["spec"];
    let mut fields = BTreeSet::new();
    walk(spec, "", &mut fields);
    fields
}

/// What stands in several places, by its fields: listed once in the tables.
const SHARED: [&[&str]; 4] = [
    &["exact", "prefix", "regex"],
    &["request", "response"],
    &["host", "port", "subset"],
    &["value"],
];

/// Where a traffic policy stands again.
const REPEATED: [&str; 2] = [
    "subsets[].trafficPolicy",
    "trafficPolicy.portLevelSettings[]",
];

fn walk(schema: &JSONSchemaProps, path: &str, fields: &mut BTreeSet<String>) {
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        return walk(items, &format!("{path}[]"), fields);
    }
    let Some(properties) = &schema.properties else {
        return;
    };
    let names: Vec<_> = properties.keys().map(String::as_str).collect();
    if SHARED.contains(&names.as_slice()) {
        return;
    }
    let dot = if path.is_empty() { "" } else { "." };
    for (name, property) in properties {
        let field = format!("{path}{dot}{name}");
        if !REPEATED.iter().any(|repeated| field.starts_with(repeated)) {
            walk(property, &field, fields);
        }
        let port = "trafficPolicy.portLevelSettings[].port";
        if !field.starts_with(REPEATED[1]) || field == port {
            fields.insert(field);
        }
    }
}

fn assert_complete(heading: &str, file: &str, definition: &str) {
    let rows = table(heading);
    let known = fields(file);
    let honoured = honoured(definition);
    for field in &known {
        assert!(word(&rows, field).is_some(), "{heading} lacks {field}");
    }
    for field in &honoured {
        let word = word(&rows, field).unwrap_or_else(|| panic!("{heading} lacks {field}"));
        assert_ne!(word, "verdict", "{heading}: {field} is acted on");
    }
    // What the definition stops at, its shared parts, is acted on as a whole.
    let above = |field: &str| {
        let mut parts: Vec<_> = field.split('.').collect();
        std::iter::from_fn(|| parts.pop().map(|_| parts.join(".")))
            .any(|above| honoured.contains(above.trim_end_matches("[]")) && is_shared(field))
    };
    for (field, word) in &rows {
        let field = field.trim_end_matches(".**");
        assert!(
            word == "verdict" || honoured.contains(field) || above(field),
            "{heading}: nothing acts on {field}"
        );
        let stands = known.iter().any(|known| known == field);
        assert!(stands, "{heading}: the API has no field {field}");
    }
}

/// Whether a field is one of a shared part's.
fn is_shared(field: &str) -> bool {
    ["destination.", "headers.re", "port.number"]
        .iter()
        .any(|part| field.contains(part))
}

#[test]
fn the_tables_hold_every_field() {
    assert_complete(
        "Every field of VirtualService",
        "virtualservice.txt",
        "virtualservices.yaml",
    );
    assert_complete(
        "Every field of DestinationRule",
        "destinationrule.txt",
        "destinationrules.yaml",
    );
}

/// What the Gateway API has and Linnet does not act on, with what it attaches to.
const NOT_HONOURED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: h}
spec:
  useDefaultGateways: All
  hostnames: [a.example.com]
  parentRefs: [{group: "", kind: Service, name: a}]
  rules:
  - sessionPersistence: {sessionName: s}
    backendRefs: [{name: a, port: 80}]
  - filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC}}]
    backendRefs: [{name: a, port: 80}]
  - filters: [{type: ExtensionRef, extensionRef: {group: x, kind: Y, name: z}}]
    backendRefs: [{name: a, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: g}
spec:
  useDefaultGateways: All
  hostnames: [a.example.com]
  parentRefs: [{group: "", kind: Service, name: b}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: x, kind: Y, name: z}}]
    sessionPersistence: {sessionName: s}
    backendRefs: [{name: a, port: 80}]
"#;

#[test]
fn the_tables_of_the_gateway_api_hold_every_field() {
    let mut input = Input::default();
    input.add_yaml(NOT_HONOURED, "test", "shop");
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let verdicts = analyze(&input, &context);
    for (kind, file) in [
        ("HTTPRoute", "httproute.txt"),
        ("GRPCRoute", "grpcroute.txt"),
    ] {
        let heading = format!("Every field of {kind}");
        let rows = table(&heading);
        let known = fields(file);
        for field in &known {
            assert!(word(&rows, field).is_some(), "{heading} lacks {field}");
        }
        let verdict = verdicts.iter().find(|v| v.resource.kind == kind).unwrap();
        let remarked: Vec<_> = verdict
            .messages
            .iter()
            .map(|note| plain(&note.field))
            .collect();
        for (row, word) in &rows {
            let field = row.trim_end_matches(".**");
            assert!(
                known.iter().any(|known| known == field),
                "{heading}: the API has no field {field}"
            );
            if word == "verdict" {
                assert!(
                    remarked.iter().any(|remark| field.starts_with(remark)),
                    "{heading}: no remark on {field}, only on {remarked:?}"
                );
            }
        }
    }
}

/// `spec.rules[0].filters[1]` as the tables write it.
fn plain(field: &str) -> String {
    let digits = |c: char| c.is_ascii_digit();
    let field = field.strip_prefix("spec.").unwrap_or(field);
    field
        .split('[')
        .map(|part| part.trim_start_matches(digits))
        .collect::<Vec<_>>()
        .join("[")
}
