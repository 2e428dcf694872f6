//! What resources take once they are compiled: no more than they are charged for before,
//! and no more than a resource, a namespace and the mesh may take. A process of its own,
//! whose allocations are counted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

use linnet_controller::{
    compile::{Context, limits},
    index::Index,
    manifest::parse_yaml,
    object::{Configuration, Kind, Name, Object, ObjectRef},
    source::Change,
};
use linnet_discovery::Update;
use linnet_mesh::{
    ResourceRef, SpiffeId, TrustDomain,
    authorization::{Action, Rule},
    regexes,
};
use linnet_meter::{MIB, allocated, alone};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Entries that a list or map of an example is stretched to.
const MANY: usize = 48;
/// Fewer stretched examples than this, and some have got lost.
const CASES: usize = 500;

fn index() -> Index {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    Index::new(context, TrustDomain::default())
}

fn apply(index: &mut Index, configuration: Configuration) {
    index.apply(Change::Apply(Object::Configuration(configuration)));
    index.take_affected();
}

fn status(index: &Index, of: &ObjectRef) -> String {
    let verdicts = index.verdicts().into_iter();
    let mut texts = verdicts.map(|verdict| verdict.to_string());
    texts.find(|text| text.contains(&of.to_string())).unwrap()
}

/// Bytes of the remarks on a resource, which are counted apart.
fn notes(index: &Index, of: &ObjectRef) -> usize {
    let verdicts = index.verdicts().into_iter();
    let mut verdicts = verdicts.filter(|verdict| verdict.resource == ResourceRef::from(of));
    let notes = verdicts.next().unwrap().messages;
    notes
        .iter()
        .map(|note| 96 + note.field.len() + note.text.len())
        .sum()
}

/// Bytes that a resource takes in force; `None`: it is refused.
fn taken(index: &mut Index, configuration: &Configuration) -> Option<usize> {
    let (before, patterns) = (allocated(), regexes::size());
    apply(index, configuration.clone());
    let patterns = regexes::size() - patterns;
    let grown = allocated().saturating_sub(before);
    let reference = configuration.reference();
    let refused = status(index, &reference).contains("rejected");
    let notes: usize = notes(index, &reference);
    index.apply(Change::Delete(reference));
    index.take_affected();
    (!refused).then_some(grown.saturating_sub(patterns + notes))
}

fn yaml_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
}

/// Every resource of which the repository has an example.
fn examples() -> Vec<Configuration> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in ["tests/fixtures", "manifests/examples"] {
        yaml_files(&root.join(folder), &mut files);
    }
    files.sort();
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    let texts = texts.chain([include_str!("fixtures/compiled.yaml").to_owned()]);
    let objects = texts.flat_map(|text| parse_yaml(&text, "test").unwrap_or_default());
    let configurations = objects.filter_map(|object| match object {
        Object::Configuration(configuration) => Some(configuration),
        _ => None,
    });
    configurations.collect()
}

/// The paths of all lists and maps of a value.
fn containers(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(values) => {
            found.push(path.to_owned());
            for (at, value) in values.iter().enumerate() {
                containers(value, &format!("{path}/{at}"), found);
            }
        }
        Value::Object(fields) => {
            found.push(path.to_owned());
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                containers(value, &format!("{path}/{name}"), found);
            }
        }
        _ => {}
    }
}

/// A value whose texts are as short as may be, or differ by a number.
fn with_texts(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => change(text).into(),
        Value::Array(values) => values.iter().map(|v| with_texts(v, change)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(name, value)| (name.clone(), with_texts(value, change)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

/// Makes another text of the one in the entry with a number.
type Rewrite = dyn Fn(usize, &str) -> String;

/// A specification of which one list or map has many entries.
fn stretched(spec: &Value, path: &str, change: &Rewrite) -> Option<Value> {
    let mut spec = spec.clone();
    match spec.pointer_mut(path)? {
        Value::Array(values) if !values.is_empty() => {
            let entries = values.clone();
            let entries = entries.iter().cycle().take(MANY).enumerate();
            let entries = entries.map(|(at, entry)| with_texts(entry, &|text| change(at, text)));
            *values = entries.collect();
        }
        Value::Object(fields) if !fields.is_empty() => {
            let first = fields.values().next()?.clone();
            for at in 0..MANY {
                let value = with_texts(&first, &|text| change(at, text));
                fields.insert(format!("k{at}"), value);
            }
        }
        _ => return None,
    }
    Some(spec)
}

/// Whatever list or map of whatever example is stretched, the resource takes no more than
/// it is charged for. So an example of a new field tells whether the charge is enough.
#[test]
fn no_resource_takes_more_than_it_is_charged_for() {
    let _alone = alone();
    let mut index = index();
    let (mut cases, mut worst) = (0, BTreeMap::<&str, (usize, String)>::new());
    let mut beyond = Vec::new();
    let changes: [&Rewrite; 3] = [
        &|_, text| text.to_owned(),
        &|at, text| format!("{text}{at}"),
        &|_, text| text.chars().take(2).collect(),
    ];
    let mut kinds = BTreeSet::new();
    for example in examples() {
        let mut paths = Vec::new();
        containers(&example.spec, "", &mut paths);
        for path in paths {
            for change in changes {
                let Some(spec) = stretched(&example.spec, &path, change) else {
                    continue;
                };
                let configuration = Configuration {
                    spec,
                    ..example.clone()
                };
                let charged = limits::compiled(&configuration);
                let Some(taken) = taken(&mut index, &configuration) else {
                    continue;
                };
                cases += 1;
                kinds.insert(configuration.kind);
                let what = format!("{} {path}: {taken} of {charged}", configuration.reference());
                // An allocator takes up to a quarter more than it is asked for.
                if taken * 5 / 4 > charged {
                    beyond.push(what.clone());
                }
                let share = taken * 100 / charged;
                let known = worst.entry(configuration.kind.as_str()).or_default();
                if share > known.0 {
                    *known = (share, what);
                }
            }
        }
    }
    for (kind, (share, what)) in worst {
        println!("{kind}: {share} % of the charge at most, by {what}");
    }
    assert!(beyond.is_empty(), "{beyond:#?}");
    assert!(cases > CASES, "{cases} cases");
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

fn configuration(kind: Kind, namespace: &str, name: &str, spec: Value) -> Configuration {
    Configuration {
        kind,
        name: Name::new(namespace, name),
        created: 0,
        generation: 1,
        origin: None,
        dry_run: None,
        spec,
    }
}

type Hostile = (&'static str, Kind, fn(&str) -> Value);

/// What is short to write, and takes as much as may be for that.
const HOSTILE: [Hostile; 7] = [
    ("paths", Kind::AuthorizationPolicy, |_| {
        let operation = json!({"operation": {"paths": vec!["/a"; 2500]}});
        json!({"action": "DENY", "rules": [{"to": vec![operation; 10]}]})
    }),
    ("paths with readings", Kind::AuthorizationPolicy, |_| {
        let operation = json!({"operation": {"paths": vec!["/a/./b//c"; 600]}});
        json!({"action": "DENY", "rules": [{"to": [operation]}]})
    }),
    ("values", Kind::AuthorizationPolicy, |_| {
        let condition = json!({"key": "request.headers[a]", "values": vec!["a"; 250]});
        json!({"action": "DENY", "rules": vec![json!({"when": vec![condition; 9]}); 10]})
    }),
    ("audiences", Kind::RequestAuthentication, |_| {
        let rule =
            json!({"issuer": "a", "audiences": vec!["a"; 250], "jwksUri": "https://a.example"});
        json!({"jwtRules": vec![rule; 90]})
    }),
    ("matches", Kind::VirtualService, |name| {
        let matches = vec![json!({"uri": {"prefix": "/"}}); 4900];
        json!({"hosts": [name], "http": [{"match": matches, "route": [{"destination": {"host": name}}]}]})
    }),
    ("headers", Kind::HttpRoute, |name| {
        let header = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": vec!["a"; 250]}});
        let rule = json!({"filters": [header]});
        json!({"parentRefs": [{"kind": "Service", "group": "", "name": name}], "rules": vec![rule; 300]})
    }),
    ("subsets", Kind::DestinationRule, |name| {
        let subsets = (0..1000).map(|at| json!({"name": format!("v{at}"), "labels": {"a": "b"}}));
        json!({"host": name, "subsets": subsets.collect::<Vec<_>>()})
    }),
];

fn pod(namespace: &str) -> Object {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: p}}\n\
         spec: {{serviceAccountName: a, containers: [{{name: c, image: i}}]}}\n\
         status: {{podIP: 10.0.0.1}}\n"
    );
    parse_yaml(&yaml, "test").unwrap().remove(0)
}

/// Each resource within its own bound, all together beyond the namespace's.
#[test]
fn a_namespace_takes_so_much_compiled_and_no_more_and_its_neighbour_works() {
    let _alone = alone();
    for (what, kind, spec) in HOSTILE {
        let before = allocated();
        let mut index = index();
        for namespace in ["evil", "quiet"] {
            index.apply(Change::Apply(pod(namespace)));
        }
        let mut refused = Vec::new();
        for number in 0..40 {
            let name = format!("n{number}");
            let resource = configuration(kind, "evil", &name, spec(&name));
            let reference = resource.reference();
            apply(&mut index, resource);
            if status(&index, &reference).contains("rejected") {
                refused.push(reference);
            }
        }
        let grown = allocated() - before;
        println!(
            "{what}: {} KiB, {} of 40 refused",
            grown >> 10,
            refused.len()
        );
        let policies = [Kind::AuthorizationPolicy, Kind::RequestAuthentication].contains(&kind);
        let most = match policies {
            true => limits::COMPILED_POLICIES_OF_NAMESPACE,
            false => limits::COMPILED_OF_NAMESPACE,
        };
        assert!(grown < most + MIB, "{what}: {} MiB", grown / MIB);
        let named = refused.last().expect("together they are too much");
        let told = status(&index, named);
        assert!(told.contains("in force in the namespace"), "{told}");

        let name = "neighbour";
        let small = configuration(kind, "quiet", name, spec(name));
        let reference = small.reference();
        apply(&mut index, small);
        let told = status(&index, &reference);
        assert!(told.contains("accepted"), "{told}");
        if policies {
            fails_closed(&index, kind, &refused);
            told_to_a_sidecar(&index, what);
        }
    }
}

/// A refused policy closes what it was written to close.
fn fails_closed(index: &Index, kind: Kind, refused: &[ObjectRef]) {
    let identity: SpiffeId = "spiffe://cluster.local/ns/evil/sa/a".parse().unwrap();
    let inbound = index.inbound(&Name::new("evil", "p"), &identity);
    for reference in refused {
        let name = &*reference.name.name;
        let closed = match kind {
            Kind::AuthorizationPolicy => {
                let mut policies = inbound.authorization.iter().flat_map(|all| all.iter());
                let policy = policies.find(|policy| policy.source.name == name).unwrap();
                policy.action == Action::Deny && policy.rules == [Rule::default()]
            }
            _ => {
                let mut rules = inbound.authentication.iter().flat_map(|all| all.rules());
                let rule = rules.find(|rule| rule.source.name == name).unwrap();
                rule.keys.is_empty() && rule.problem.is_some()
            }
        };
        assert!(closed, "{reference}");
    }
}

/// What a sidecar of the namespace reads takes no more than the namespace may.
#[expect(
    clippy::print_stdout,
    reason = "a figure, for whoever reads the test's output"
)]
fn told_to_a_sidecar(index: &Index, what: &str) {
    let identity: SpiffeId = "spiffe://cluster.local/ns/evil/sa/a".parse().unwrap();
    let inbound = Arc::new(index.inbound(&Name::new("evil", "p"), &identity));
    let update = Update::Inbound(inbound).encode();
    let before = allocated();
    let length = update.len();
    let read = Update::decode(update).unwrap();
    let grown = (allocated() + length).saturating_sub(before);
    println!("{what}: {} KiB in a sidecar", grown >> 10);
    assert!(
        grown < limits::COMPILED_POLICIES_OF_NAMESPACE + MIB,
        "{grown}"
    );
    drop(read);
}

/// All namespaces together have a bound, and whoever comes late has a little all the same.
#[test]
fn the_mesh_takes_so_much_compiled_and_every_namespace_has_a_little() {
    let _alone = alone();
    let before = allocated();
    let mut index = index();
    let (_, kind, spec) = HOSTILE[4];
    let mut told = Vec::new();
    for namespace in 0..8 {
        for number in 0..6 {
            let name = format!("n{number}");
            let resource = configuration(kind, &format!("evil-{namespace}"), &name, spec(&name));
            let reference = resource.reference();
            apply(&mut index, resource);
            told.push(status(&index, &reference));
        }
    }
    let of_mesh = told
        .iter()
        .filter(|told| told.contains("left of the mesh's"));
    assert!(of_mesh.count() > 0, "{told:?}");
    let grown = allocated() - before;
    println!("the mesh: {} MiB", grown / MIB);
    assert!(
        grown < limits::COMPILED_OF_MESH + 2 * MIB,
        "{} MiB",
        grown / MIB
    );
    let late = json!({"hosts": ["late"], "http": [{"route": [{"destination": {"host": "late"}}]}]});
    let late = configuration(Kind::VirtualService, "quiet", "late", late);
    let reference = late.reference();
    apply(&mut index, late);
    let told = status(&index, &reference);
    assert!(told.contains("accepted"), "{told}");
}
