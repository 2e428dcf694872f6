//! What hostile resources leave in the controller's memory: each kind that compiles
//! something is refused by name, and its neighbour works. A process of its own, so that
//! nothing else is measured.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

use linnet_controller::{compile::Context, index::Index, manifest::parse_yaml, source::Change};
use linnet_mesh::{TrustDomain, regexes};
use linnet_meter::{MIB, resident};
use std::fmt::Write as _;

fn apply(index: &mut Index, yaml: &str) {
    for object in parse_yaml(yaml, "test").unwrap() {
        index.apply(Change::Apply(object));
    }
}

fn virtual_service(namespace: &str, name: &str, matches: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
         spec: {{hosts: [{name}], http: [{{match: [{matches}], route: [{{destination: {{host: {name}}}}}]}}]}}\n---\n"
    )
}

fn route(kind: &str, namespace: &str, name: &str, matches: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
         spec: {{parentRefs: [{{kind: Service, group: '', name: {name}}}], rules: [{{matches: [{matches}]}}]}}\n---\n"
    )
}

/// Entries with a pattern each, which differ by their numbers.
fn entries(count: usize, entry: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for number in 0..count {
        let pattern = format!("\\\\w{number}");
        write!(text, "{}, ", entry(&pattern)).unwrap();
    }
    text
}

type Hostile = (&'static str, fn(&str, &str) -> String);

/// Every resource of which something is compiled from what a tenant wrote.
const HOSTILE: [Hostile; 6] = [
    ("VirtualService", |namespace, name| {
        let entries = entries(500, |pattern| format!("{{uri: {{regex: \"{pattern}\"}}}}"));
        virtual_service(namespace, name, &entries)
    }),
    ("VirtualService", |namespace, name| {
        let entries = entries(500, |pattern| {
            format!("{{headers: {{a: {{regex: \"{pattern}\"}}}}}}")
        });
        virtual_service(namespace, name, &entries)
    }),
    ("VirtualService", |namespace, name| {
        let origins = entries(250, |pattern| format!("{{regex: \"{pattern}\"}}"));
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
             spec: {{hosts: [{name}], http: [{{corsPolicy: {{allowOrigins: [{origins}]}}, route: [{{destination: {{host: {name}}}}}]}}]}}\n---\n"
        )
    }),
    ("VirtualService", |namespace, name| {
        let rules = entries(250, |pattern| {
            format!(
                "{{match: [{{uri: {{prefix: /x}}}}], rewrite: {{uriRegexRewrite: {{match: \"{pattern}\", rewrite: /}}}}, route: [{{destination: {{host: {name}}}}}]}}"
            )
        });
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
             spec: {{hosts: [{name}], http: [{rules}]}}\n---\n"
        )
    }),
    ("HTTPRoute", |namespace, name| {
        let entries = entries(500, |pattern| {
            format!("{{path: {{type: RegularExpression, value: \"{pattern}\"}}}}")
        });
        route("HTTPRoute", namespace, name, &entries)
    }),
    ("GRPCRoute", |namespace, name| {
        let entries = entries(500, |pattern| {
            format!("{{method: {{type: RegularExpression, service: \"{pattern}\"}}}}")
        });
        route("GRPCRoute", namespace, name, &entries)
    }),
];

fn verdict(index: &Index, resource: &str) -> String {
    let verdicts = index.verdicts().into_iter();
    let mut texts = verdicts.map(|verdict| verdict.to_string());
    texts.find(|text| text.contains(resource)).unwrap()
}

fn index() -> Index {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    Index::new(context, TrustDomain::default())
}

/// One test, since what one leaves to the allocator the next would get.
#[test]
fn hostile_resources_are_refused_by_name_and_leave_little() {
    let before = resident();
    let mut index = index();
    for (number, (kind, hostile)) in HOSTILE.into_iter().enumerate() {
        let name = format!("hostile-{number}");
        apply(&mut index, &hostile("evil", &name));
        let told = verdict(&index, &format!("{kind} evil/{name}"));
        assert!(told.contains("rejected"), "{told}");
        assert!(told.contains("bytes left of the resource's"), "{told}");
        let grown = resident().saturating_sub(before);
        println!("{kind} {number}: {} KiB", grown / 1024);
        assert!(grown < 64 * MIB, "{kind}: {} MiB", grown / MIB);
    }
    let small = "{uri: {regex: \"/small/[0-9]+\"}}";
    apply(&mut index, &virtual_service("evil", "small", small));
    let told = verdict(&index, "evil/small");
    assert!(told.contains("accepted"), "{told}");

    // Each within its own budget, all together beyond the namespace's, then the mesh's.
    for namespace in 0..8 {
        let namespace = format!("evil-{namespace}");
        for number in 0..8 {
            let pattern =
                |pattern: &str| format!("{{uri: {{regex: \"{pattern}{namespace}{number}\"}}}}");
            let name = format!("n{number}");
            let entries = entries(30, pattern);
            apply(&mut index, &virtual_service(&namespace, &name, &entries));
        }
    }
    let verdicts: Vec<String> = index.verdicts().iter().map(ToString::to_string).collect();
    let with = |text: &str| {
        verdicts
            .iter()
            .filter(|verdict| verdict.contains(text))
            .count()
    };
    assert!(with("left of the namespace's") > 0);
    assert!(with("left of the mesh's") > 0);
    let floors = 9 * regexes::FLOOR_OF_NAMESPACE;
    assert!(regexes::size() <= regexes::OF_CONTROLLER + floors);
    // Whoever has none yet has a little all the same.
    let late = "{uri: {regex: \"/late/[0-9]+\"}}";
    apply(&mut index, &virtual_service("quiet", "late", late));
    let told = verdict(&index, "quiet/late");
    assert!(told.contains("accepted"), "{told}");
    let grown = resident().saturating_sub(before);
    println!("all: {} KiB", grown / 1024);
    assert!(grown < 128 * MIB, "{} MiB", grown / MIB);
    // Who was there before still is, and edits of it are taken.
    let edited = "{uri: {regex: \"/small/[0-9]*\"}}";
    apply(&mut index, &virtual_service("evil", "small", edited));
    drop(index);
    assert_eq!(regexes::size(), 0, "nothing is left behind");
}
