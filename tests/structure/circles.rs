//! No circle of imports between folders, at any depth: of the modules of one parent, those
//! that are folders depend on one another in one direction.

use super::{
    members,
    modules::{ModulePath, modules},
    root,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// What is still to be untied. A circle that is gone from the code goes from here, too.
const KNOWN: [&str; 3] = [
    "proxy: balance, connect, detect, directory, http, io, mux, stream, tls",
    "proxy: inbound, outbound, thread",
    "proxy::http: body, connection, deadline, exchange, fault, forwarded, lease, one, replay, rescue, tee, upgrade",
];

/// For each module, those that it uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_circle_binds_folders_together() {
    let found: Vec<String> = members().iter().flat_map(|name| circles(name)).collect();
    assert_eq!(found, KNOWN, "circles of imports, and those that are known");
}

/// The circles of a crate in which a folder takes part, as text.
fn circles(name: &str) -> Vec<String> {
    let source = root().join(name).join("src");
    let modules = modules(&source);
    let mut parents: BTreeSet<&[String]> = BTreeSet::new();
    parents.extend(
        modules
            .keys()
            .flat_map(|path| (0..path.len()).map(|depth| &path[..depth])),
    );
    let mut found = Vec::new();
    for parent in parents {
        let siblings = siblings(parent, &modules);
        for circle in strongly_connected(&siblings) {
            let is_folder = |name: &String| {
                let folder = parent
                    .iter()
                    .chain([name])
                    .fold(source.clone(), |at, part| at.join(part));
                fs::read_dir(folder).is_ok_and(|entries| {
                    entries.flatten().any(|entry| {
                        entry.file_name() != "tests.rs" && entry.file_name() != "tests"
                    })
                })
            };
            if circle.iter().any(is_folder) {
                let place = [&[name.to_owned()], parent].concat().join("::");
                let members: Vec<_> = circle.into_iter().collect();
                found.push(format!("{place}: {}", members.join(", ")));
            }
        }
    }
    found
}

/// Which child of a module uses which, each with all that is below it.
fn siblings(parent: &[String], modules: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> Graph {
    let child = |path: &ModulePath| {
        let rest = path.strip_prefix(parent)?;
        rest.first().cloned()
    };
    let mut graph = Graph::new();
    for (module, used) in modules {
        let Some(from) = child(module) else { continue };
        let uses = graph.entry(from.clone()).or_default();
        uses.extend(used.iter().filter_map(child).filter(|to| *to != from));
    }
    graph
}

/// The sets of several modules each of which reaches the others.
fn strongly_connected(graph: &Graph) -> BTreeSet<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|from| (from, reached(graph, from)))
        .collect();
    let mut circles = BTreeSet::new();
    for (from, to) in &reach {
        let together: BTreeSet<String> = to
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(from)))
            .map(|other| (*other).clone())
            .collect();
        if together.len() > 1 {
            circles.insert(together);
        }
    }
    circles
}

/// What can be reached from a module, in at least one step.
fn reached<'g>(graph: &'g Graph, from: &String) -> BTreeSet<&'g String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&String> = graph.get(from).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(graph.get(next).into_iter().flatten());
        }
    }
    found
}

#[test]
fn a_circle_is_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph
                .entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
        }
        graph
    };
    let line = graph(&[("a", "b"), ("b", "c"), ("a", "c")]);
    assert!(strongly_connected(&line).is_empty());
    let circle = graph(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]);
    let expected = BTreeSet::from([BTreeSet::from(["b".to_owned(), "c".to_owned()])]);
    assert_eq!(strongly_connected(&circle), expected);
}
