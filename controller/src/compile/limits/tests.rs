use super::*;
use crate::{
    compile::{Context, KINDS, compile, definitions},
    object::Name,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::json;

/// What a field holds any number of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Holds {
    Entries,
    Fields,
    Bytes,
}

/// All fields of a schema that hold any number of something, by path without places.
fn fields(schema: &JSONSchemaProps, path: &str, found: &mut Vec<(String, Holds)>) {
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    for (name, field) in schema.properties.iter().flatten() {
        fields(field, &below(name), found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        found.push((path.to_owned(), Holds::Entries));
        fields(items, &format!("{path}[]"), found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(_)) = &schema.additional_properties {
        found.push((path.to_owned(), Holds::Fields));
    }
    if schema.type_.as_deref() == Some("string") && !path.ends_with("[]") {
        found.push((path.to_owned(), Holds::Bytes));
    }
}

/// Fields of the Gateway API's kinds, which have no schema here.
const OF_ROUTES: [(&str, Holds); 14] = [
    ("parentRefs", Holds::Entries),
    ("hostnames", Holds::Entries),
    ("rules", Holds::Entries),
    ("rules[].name", Holds::Bytes),
    ("rules[].matches", Holds::Entries),
    ("rules[].matches[].headers", Holds::Entries),
    ("rules[].matches[].headers[].value", Holds::Bytes),
    ("rules[].matches[].queryParams", Holds::Entries),
    ("rules[].matches[].path.value", Holds::Bytes),
    ("rules[].filters", Holds::Entries),
    ("rules[].filters[].cors.allowOrigins", Holds::Entries),
    (
        "rules[].filters[].requestHeaderModifier.add",
        Holds::Entries,
    ),
    ("rules[].backendRefs", Holds::Entries),
    ("rules[].backendRefs[].filters", Holds::Entries),
];

/// A spec of which one field holds so much.
fn spec(path: &str, holds: Holds, count: usize) -> Value {
    let mut value = match holds {
        Holds::Entries => (0..count).map(|_| json!({})).collect(),
        Holds::Fields => (0..count).map(|n| (format!("k{n}"), json!("x"))).collect(),
        Holds::Bytes => json!("x".repeat(count)),
    };
    for step in path.rsplit('.') {
        let name = step.trim_end_matches("[]");
        for _ in 0..(step.len() - name.len()) / 2 {
            value = json!([value]);
        }
        value = json!({ name: value });
    }
    value
}

fn configuration(kind: Kind, spec: Value) -> Configuration {
    Configuration {
        kind,
        name: Name::new("shop", "large"),
        created: 0,
        generation: 1,
        origin: None,
        dry_run: None,
        spec,
    }
}

/// What a field may hold, by the table.
fn bound(kind: Kind, path: &str, holds: Holds) -> usize {
    let limits = Limits::of(kind);
    let (named, other) = match holds {
        Holds::Bytes => (limits.texts, TEXT),
        Holds::Entries | Holds::Fields => (limits.lists, ENTRIES),
    };
    let named = named.iter().find(|(field, _)| *field == path);
    named.map_or(other, |(_, most)| *most)
}

fn all_fields() -> Vec<(Kind, String, Holds)> {
    let mut all = Vec::new();
    for (file, definition) in definitions() {
        let mut kinds = KINDS.iter();
        let kind = kinds.find(|kind| file.strip_suffix(".yaml") == Some(kind.plural));
        let kind = kind.unwrap().kind;
        let schema = definition.spec.versions[0].schema.as_ref().unwrap();
        let root = schema.open_api_v3_schema.as_ref().unwrap();
        let mut found = Vec::new();
        fields(&root.properties.as_ref().unwrap()["spec"], "", &mut found);
        assert!(!found.is_empty(), "{file}");
        all.extend(found.into_iter().map(|(path, holds)| (kind, path, holds)));
    }
    for kind in [Kind::HttpRoute, Kind::GrpcRoute] {
        all.extend(OF_ROUTES.map(|(path, holds)| (kind, path.to_owned(), holds)));
    }
    all
}

#[test]
fn every_field_of_every_kind_has_a_bound_and_is_refused_beyond() {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let fields = all_fields();
    assert!(fields.len() > 150, "{}", fields.len());
    for (kind, path, holds) in fields {
        let most = bound(kind, &path, holds);
        let within = configuration(kind, spec(&path, holds, most));
        assert_eq!(check(&within), [], "{kind:?} {path}");
        let beyond = configuration(kind, spec(&path, holds, most + 1));
        let refused = compile(&beyond, &context).unwrap_err();
        let named = format!("spec.{}", path.replace("[]", "[0]"));
        // Of rules the sum is told, at the list of rules.
        let named = match path.as_str() {
            "http[].match" => "spec.http".to_owned(),
            "rules[].matches" => "spec.rules".to_owned(),
            _ => named,
        };
        let told = refused.iter().any(|note| {
            note.field == named
                && note
                    .text
                    .contains(&format!("more than {most} are not taken"))
        });
        // Connections have no match entries that are summed up.
        let summed = ["tls", "tcp"].contains(&path.as_str());
        assert!(told || summed, "{kind:?} {path}: {refused:?}");
    }
}

#[test]
fn fields_that_nobody_knows_have_bounds_too() {
    for (spec, field) in [
        (
            json!({"of": {"tomorrow": vec![0; ENTRIES + 1]}}),
            "spec.of.tomorrow",
        ),
        (json!({"text": "x".repeat(TEXT + 1)}), "spec.text"),
        (json!({"a": {"x".repeat(TEXT + 1): 1}}), "spec.a"),
        (json!(vec!["x"; 300]), "spec"),
    ] {
        let notes = check(&configuration(Kind::Telemetry, spec));
        assert_eq!(notes[0].field, field);
    }
}

#[test]
fn all_of_a_spec_together_has_bounds() {
    let texts: Vec<_> = (0..200).map(|_| vec!["x".repeat(TEXT); 4]).collect();
    let values: Vec<_> = (0..200).map(|_| vec![vec![0; 200]; 6]).collect();
    let regexes = vec![json!({"uri": {"regex": "a"}}); REGEXES + 1];
    let of_route = vec![json!({"path": {"type": "RegularExpression", "value": "/a"}}); REGEXES + 1];
    for (kind, spec, what) in [
        (Kind::DestinationRule, json!({"a": texts}), "bytes"),
        (Kind::DestinationRule, json!({"a": values}), "values"),
        (
            Kind::VirtualService,
            json!({"http": [{"match": regexes}]}),
            "regular expressions",
        ),
        (
            Kind::HttpRoute,
            json!({"rules": [{"matches": of_route}]}),
            "regular expressions",
        ),
    ] {
        let notes = check(&configuration(kind, spec));
        let told = notes
            .iter()
            .any(|note| note.field == "spec" && note.text.contains(what));
        assert!(told, "{notes:?}");
        assert!(notes.len() <= REMARKS + 4);
    }
}

fn destination_rule(spec: &Value) -> Result<(), Vec<Note>> {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let compiled = compile(
        &configuration(Kind::DestinationRule, spec.clone()),
        &context,
    );
    compiled.map(drop)
}

/// Each caller's sidecar may make all of a rule's tables.
#[test]
fn the_hash_tables_of_a_rule_have_a_bound_together() {
    let hash = |algorithm: Value| {
        let mut hash = json!({"httpHeaderName": "x-user"});
        hash.as_object_mut()
            .unwrap()
            .extend(algorithm.as_object().unwrap().clone());
        json!({"loadBalancer": {"consistentHash": hash}})
    };
    let ring = |size: u32| hash(json!({"ringHash": {"minimumRingSize": size}}));
    let maglev = || hash(json!({"maglev": {}}));
    let subsets = |count: usize, policy: Option<Value>| -> Vec<Value> {
        let subset =
            |n| json!({"name": format!("s{n}"), "labels": {"a": "b"}, "trafficPolicy": policy});
        (0..count).map(subset).collect()
    };
    let ports: Vec<_> = (1..7)
        .map(|port| {
            let mut settings = ring(262_144);
            settings["port"] = json!({"number": port});
            settings
        })
        .collect();
    for (spec, field) in [
        (json!({"subsets": subsets(1000, Some(ring(1024)))}), None),
        (json!({"subsets": subsets(63, Some(maglev()))}), None),
        (
            json!({"subsets": subsets(1000, Some(ring(262_144)))}),
            Some("spec.subsets[5]"),
        ),
        // By what the rule itself says.
        (
            json!({"trafficPolicy": ring(262_144), "subsets": subsets(9, None)}),
            Some("spec.subsets[4]"),
        ),
        (
            json!({"trafficPolicy": {"portLevelSettings": ports}}),
            Some("spec.trafficPolicy.portLevelSettings"),
        ),
    ] {
        let mut spec = spec;
        spec["host"] = json!("web");
        let refused = destination_rule(&spec).map_err(|notes| notes[0].field.clone());
        assert_eq!(refused.err().as_deref(), field);
    }
}

/// Callers' sidecars open what a rule names.
#[test]
fn files_that_are_none_of_a_rules_are_refused() {
    let rule = |field: &str, path: &str| {
        let mut tls = json!({
            "mode": "MUTUAL", "clientCertificate": "/a/b", "privateKey": "/a/c"
        });
        tls[field] = json!(path);
        destination_rule(&json!({"host": "web", "trafficPolicy": {"tls": tls}}))
    };
    for field in ["caCertificates", "clientCertificate", "privateKey"] {
        for path in [
            "/dev/zero",
            "//dev/./urandom",
            "/proc/self/mem",
            "/sys/kernel",
            "../../dev/zero",
            "certs/ca.pem",
            "/etc/certs/../../dev/zero",
        ] {
            let refused = rule(field, path).unwrap_err();
            assert_eq!(refused[0].field, format!("spec.trafficPolicy.tls.{field}"));
        }
        for path in [
            "/etc/certs/ca.pem",
            "/devices/ca.pem",
            "/etc/certs/..data/ca.pem",
        ] {
            assert_eq!(rule(field, path), Ok(()), "{field} {path}");
        }
    }
}
