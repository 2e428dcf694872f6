//! From what was seen to policies, as YAML with comments.
//!
//! All of it is sorted, so that the same logs make the same text.

use linnet_mesh::authorization::path::texts_of;
use linnet_proxy::access_log::Line;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Paths of one caller that are named one by one; more become prefixes.
const NAMED: usize = 16;
/// The longest path that a line holds: one as long may have been cut.
const LONGEST_PATH: usize = 1024;

/// What was asked of the workloads of one application.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By the caller's principal.
    callers: BTreeMap<String, Caller>,
    /// From where it was called without an identity, and how often.
    unknown: BTreeMap<String, u64>,
    denied: u64,
}

#[derive(Debug, Default)]
struct Caller {
    count: u64,
    /// Of each port, the methods of each path, normalized.
    requests: BTreeMap<Port, Paths>,
    /// Ports of connections that are not HTTP.
    connections: BTreeSet<Port>,
}

/// `None`: no line told, so there is nothing to limit it to.
type Port = Option<u16>;
/// The methods of each path.
type Paths = BTreeMap<String, BTreeSet<String>>;

impl Group {
    /// Takes a line into account.
    pub(super) fn count(&mut self, line: &Line<'_>) {
        if line.dropped.is_some() {
            return;
        }
        if line.decision == "denied" {
            self.denied += 1;
            return;
        }
        let Some(principal) = line.source_principal.strip_prefix("spiffe://") else {
            let from = line.source_address.rsplit_once(':');
            let from = from.map_or("an unknown address", |(ip, _)| ip);
            *self.unknown.entry(from.to_owned()).or_default() += 1;
            return;
        };
        let caller = self.callers.entry(principal.to_owned()).or_default();
        caller.count += 1;
        let port = line.upstream.rsplit_once(':');
        let port = port.and_then(|(_, port)| port.parse().ok());
        if line.method.is_empty() {
            caller.connections.insert(port);
        } else {
            let paths = caller.requests.entry(port).or_default();
            // What allows a path has to allow each reading of it.
            for path in texts_of(&line.path) {
                let methods = paths.entry(pattern(&path)).or_default();
                methods.insert(line.method.to_string());
            }
        }
    }
}

/// A path as a policy takes it: one that holds what means something there, or
/// may have been cut, is known up to that point.
fn pattern(path: &str) -> String {
    let special = path.find(['*', '{', '}']);
    let cut = (path.len() >= LONGEST_PATH).then_some(path.len());
    match special.or(cut) {
        Some(at) => format!("{}*", &path[..at]),
        None => path.to_owned(),
    }
}

/// An operation of a rule: these methods on these paths, or none: on all.
type Operation = (BTreeSet<String>, Vec<String>);

/// What a caller did, in as few operations as say it, and a remark where they
/// say more.
fn operations(paths: &Paths) -> (Vec<Operation>, Option<String>) {
    if paths.len() <= NAMED {
        return (grouped(paths), None);
    }
    let mut prefixes = Paths::new();
    for (path, methods) in paths {
        let rest = path.get(1..).unwrap_or_default();
        let first = rest.find('/').map(|at| &path[..at + 2]);
        let prefix = first.map_or_else(|| path.clone(), |first| format!("{first}*"));
        prefixes.entry(prefix).or_default().extend(methods.clone());
    }
    let seen = paths.len();
    if prefixes.len() <= NAMED {
        let remark = format!("{seen} paths were seen, so prefixes stand for them");
        return (grouped(&prefixes), Some(remark));
    }
    let methods = paths.values().flatten().cloned().collect();
    let remark = format!("{seen} paths were seen, too many to name: none is asked for");
    (vec![(methods, Vec::new())], Some(remark))
}

/// Paths with the same methods in one operation.
fn grouped(paths: &Paths) -> Vec<Operation> {
    let mut by_methods: BTreeMap<&BTreeSet<String>, Vec<String>> = BTreeMap::new();
    for (path, methods) in paths {
        by_methods.entry(methods).or_default().push(path.clone());
    }
    let operations = by_methods.into_iter();
    operations
        .map(|(methods, paths)| (methods.clone(), paths))
        .collect()
}

/// The policies of a namespace.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) namespace: String,
    pub(super) since: String,
    pub(super) gaps: Vec<String>,
    /// By label and its value.
    pub(super) groups: BTreeMap<(String, String), Group>,
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# What was seen in namespace {} in the last {}, and nothing else. In dry run: nothing is\n\
             # blocked, and `linnet audit` says what would be. Remove the annotation to enforce.",
            self.namespace, self.since
        )?;
        for gap in &self.gaps {
            writeln!(f, "# Not complete: {gap}")?;
        }
        let mut names = BTreeSet::new();
        for ((label, app), group) in &self.groups {
            let mut name = resource_name(app);
            while !names.insert(name.clone()) {
                name.push_str("-2");
            }
            self.write_group(f, label, app, &name, group)?;
        }
        Ok(())
    }
}

impl Draft {
    fn write_group(
        &self,
        f: &mut fmt::Formatter<'_>,
        label: &str,
        app: &str,
        name: &str,
        group: &Group,
    ) -> fmt::Result {
        writeln!(f, "---\n# {label}={app}")?;
        if group.denied > 0 {
            writeln!(
                f,
                "# {} denied: not allowed here either",
                requests(group.denied)
            )?;
        }
        for (from, count) in &group.unknown {
            writeln!(
                f,
                "# {} from {from} without an identity: NOT allowed; give that caller a sidecar, or a rule of its own",
                requests(*count)
            )?;
        }
        if group.callers.is_empty() {
            return writeln!(
                f,
                "# Nobody with an identity got through: there is nothing to draft from"
            );
        }
        writeln!(
            f,
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  \
             namespace: {}\n  annotations:\n    istio.io/dry-run: \"true\"\nspec:\n  selector:\n    matchLabels:\n      \
             {label}: {}\n  action: ALLOW\n  rules:",
            self.namespace,
            quoted(app)
        )?;
        for (principal, caller) in &group.callers {
            caller.write(f, principal)?;
        }
        Ok(())
    }
}

impl Caller {
    fn write(&self, f: &mut fmt::Formatter<'_>, principal: &str) -> fmt::Result {
        let at = |(port, paths)| (port, operations(paths));
        let requests_at: Vec<(&Port, _)> = self.requests.iter().map(at).collect();
        writeln!(f, "  # {}", requests(self.count))?;
        for remark in requests_at
            .iter()
            .filter_map(|(_, (_, remark))| remark.as_ref())
        {
            writeln!(f, "  # {remark}")?;
        }
        writeln!(
            f,
            "  - from:\n    - source:\n        principals: [{}]",
            quoted(principal)
        )?;
        if self.connections.contains(&None) {
            // A connection whose port no line told: whatever it asks for.
            return Ok(());
        }
        writeln!(f, "    to:")?;
        for (port, (operations, _)) in &requests_at {
            for (methods, paths) in operations {
                writeln!(f, "    - operation:\n        methods: {}", list(methods))?;
                if !paths.is_empty() {
                    writeln!(f, "        paths: {}", list(paths))?;
                }
                if let Some(port) = port {
                    writeln!(f, "        ports: {}", list([&port.to_string()]))?;
                }
            }
        }
        let ports = self.connections.iter().flatten();
        let ports: Vec<_> = ports.map(u16::to_string).collect();
        if !ports.is_empty() {
            writeln!(f, "    - operation:\n        ports: {}", list(&ports))?;
        }
        Ok(())
    }
}

fn requests(count: u64) -> String {
    match count {
        1 => "1 request".to_owned(),
        count => format!("{count} requests"),
    }
}

/// JSON's texts are YAML's too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    let texts: Vec<_> = texts.into_iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// A label's value as a resource's name.
fn resource_name(app: &str) -> String {
    let letters = app.chars().map(|letter| match letter.to_ascii_lowercase() {
        letter if letter.is_ascii_alphanumeric() => letter,
        _ => '-',
    });
    let name: String = letters.collect();
    match name.trim_matches('-') {
        "" => "seen-in-traffic".to_owned(),
        name => format!("{name}-seen-in-traffic"),
    }
}
