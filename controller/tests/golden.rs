//! Resources in, routes and verdicts out, as text to review: every guide's YAML
//! and every rule of precedence, one file a case in `tests/fixtures/routing/`.
//! `UPDATE_GOLDEN=1` writes the expected files.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

#[path = "support/destinations.rs"]
mod destinations;

use linnet_controller::{
    compile::Context,
    index::Index,
    manifest::parse_yaml,
    object::{Kind, Name, Object, Service, ServicePortSpec},
    source::Change,
};
use linnet_mesh::{
    AppProtocol, ServicePort, TrustDomain,
    route::{
        Answer, Backend, ConnectionMatch, Cors, Fault, Filters, HeaderFilters, HttpRoutes,
        OriginMatch, QueryMatch, Redirect, RequestMatch, RetryPolicy, TcpRoutes, Unresolved,
    },
};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Fewer cases than this, and some have got lost.
const CASES: usize = 88;

/// A folder of the repository.
fn folder(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

fn yaml_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.to_str().unwrap();
            name.ends_with(".yaml") && !name.ends_with(".requests.yaml")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", directory.display());
    files
}

/// Services for hosts that a file only speaks of, as guides do.
fn services_spoken_of(objects: &[Object]) -> Vec<Object> {
    objects
        .iter()
        .filter_map(|object| match object {
            Object::Configuration(configuration) if configuration.kind == Kind::DestinationRule => {
                let host = configuration.spec["host"].as_str()?;
                Some(Object::Service(Service {
                    name: Name::new(configuration.name.namespace.clone(), host),
                    cluster_ips: Vec::new(),
                    ports: vec![ServicePortSpec {
                        name: "http".to_owned(),
                        port: 80,
                        protocol: AppProtocol::Detect,
                    }],
                    prefers_close: false,
                }))
            }
            _ => None,
        })
        .collect()
}

fn compiled(mut objects: Vec<Object>, clients: &[&str]) -> String {
    if !objects
        .iter()
        .any(|object| matches!(object, Object::Service(_)))
    {
        objects.extend(services_spoken_of(&objects));
    }
    let ports: Vec<_> = objects
        .iter()
        .filter_map(|object| match object {
            Object::Service(service) => Some(service),
            _ => None,
        })
        .flat_map(|service| {
            service.ports.iter().map(|port| ServicePort {
                namespace: service.name.namespace.clone(),
                name: service.name.name.clone(),
                port: port.port,
            })
        })
        .collect();
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let mut index = Index::new(context, TrustDomain::default());
    for object in objects {
        index.apply(Change::Apply(object));
    }
    let mut text = String::new();
    for verdict in index.verdicts() {
        writeln!(text, "{}: {:?}", verdict.resource, verdict.status).unwrap();
        for note in &verdict.messages {
            writeln!(text, "  {note}").unwrap();
        }
    }
    for status in index.route_statuses() {
        for parent in &status.parents {
            let Name { namespace, .. } = &status.route.name;
            let at = parent.parent.namespace.as_deref().unwrap_or(namespace);
            write!(text, "{} at {at}/{}:", status.route, parent.parent.name).unwrap();
            for condition in &parent.conditions {
                let not = if condition.holds { "" } else { "not " };
                write!(text, " {not}{} ({})", condition.kind, condition.reason).unwrap();
            }
            text.push('\n');
        }
    }
    for port in ports {
        for client in clients {
            let service = index.service(&port, client).unwrap();
            let subsets = service.subsets.join(", ");
            write!(text, "\n{port} for {client}, subsets [{subsets}]: ").unwrap();
            match &service.http {
                None => text.push_str("no routes\n"),
                Some(routes) => write_routes(&mut text, routes),
            }
            if let Some(routes) = &service.tcp {
                write_connections(&mut text, routes);
            }
            if let Some(destination) = &service.destination {
                destinations::write(&mut text, destination);
            }
        }
    }
    text
}

fn write_routes(text: &mut String, routes: &HttpRoutes) {
    let sources: Vec<_> = routes.sources.iter().map(ToString::to_string).collect();
    writeln!(text, "{}", sources.join(", ")).unwrap();
    for (position, rule) in routes.rules.iter().enumerate() {
        write!(text, "  {position}").unwrap();
        if let Some(name) = &rule.name {
            write!(text, " {name:?}").unwrap();
        }
        if routes.sources.len() > 1 {
            write!(text, " of {}", rule.source).unwrap();
        }
        if usize::try_from(rule.position).unwrap() != position || routes.sources.len() > 1 {
            write!(text, ", its rule {}", rule.position).unwrap();
        }
        text.push('\n');
        for condition in &rule.matches {
            writeln!(text, "    when {}", conditions(condition)).unwrap();
        }
        write_filters(text, &rule.filters);
        for backend in &rule.backends {
            write_backend(text, backend);
        }
    }
}

fn write_backend(text: &mut String, backend: &Backend) {
    write!(text, "    {} to {}", backend.weight, backend.service).unwrap();
    if let Some(subset) = &backend.subset {
        write!(text, " subset {subset}").unwrap();
    }
    if let Some(Unresolved { status, reason }) = &backend.unresolved {
        write!(text, " ({}: {reason})", status.as_u16()).unwrap();
    }
    text.push('\n');
    write_headers(text, "      ", &backend.headers);
}

fn write_connections(text: &mut String, routes: &TcpRoutes) {
    for (position, rule) in routes.rules.iter().enumerate() {
        writeln!(text, "  connections {position} of {}", rule.source).unwrap();
        for entry in &rule.matches {
            let ConnectionMatch {
                server_names,
                subnets,
                source_labels,
            } = entry;
            writeln!(
                text,
                "    when asking for {server_names:?} at {subnets:?} from {source_labels:?}"
            )
            .unwrap();
        }
        for backend in &rule.backends {
            write_backend(text, backend);
        }
    }
}

fn write_filters(text: &mut String, filters: &Filters) {
    let Filters {
        answer,
        fault,
        rewrite,
        headers,
        timeout,
        retry,
        mirrors,
        cors,
    } = filters;
    if let Some(cors) = cors {
        write_cors(text, cors);
    }
    match answer {
        None => {}
        Some(Answer::Redirect(redirect)) => {
            let Redirect {
                status,
                scheme,
                authority,
                port,
                path,
            } = redirect;
            writeln!(
                text,
                "    redirect {status}: scheme {scheme:?} authority {authority:?} port {port:?} path {path:?}"
            )
            .unwrap();
        }
        Some(Answer::Direct(direct)) => {
            let body = String::from_utf8_lossy(&direct.body);
            writeln!(text, "    answer {} {body:?}", direct.status).unwrap();
        }
    }
    if let Some(Fault { delay, abort }) = fault {
        if let Some(delay) = delay {
            let share = delay.share.per_million;
            writeln!(text, "    delay {:?} for {share} ppm", delay.duration).unwrap();
        }
        if let Some(abort) = abort {
            let share = abort.share.per_million;
            writeln!(text, "    abort {:?} for {share} ppm", abort.status).unwrap();
        }
    }
    if let Some(rewrite) = rewrite {
        if let Some(path) = &rewrite.path {
            writeln!(text, "    rewrite path {path:?}").unwrap();
        }
        if let Some(authority) = &rewrite.authority {
            writeln!(text, "    rewrite authority {authority}").unwrap();
        }
    }
    write_headers(text, "    ", headers);
    if let Some(timeout) = timeout {
        writeln!(text, "    timeout {timeout:?}").unwrap();
    }
    for mirror in mirrors {
        let (backend, share) = (&mirror.backend, mirror.share.per_million);
        let unresolved = backend.unresolved.as_ref();
        let unresolved = unresolved.map_or("", |unresolved| &unresolved.reason);
        writeln!(
            text,
            "    mirror {share} ppm to {} {} {unresolved}",
            backend.service,
            backend.subset.as_deref().unwrap_or("whole"),
        )
        .unwrap();
    }
    if let Some(retry) = retry {
        let RetryPolicy {
            attempts,
            on,
            statuses,
            per_try_timeout,
            back_off,
            avoid_tried,
        } = retry;
        let on = on.names().join(",");
        writeln!(
            text,
            "    retry {attempts} on {on} {statuses:?} per try {per_try_timeout:?} back-off {back_off:?} avoiding tried {avoid_tried}"
        )
        .unwrap();
    }
}

fn write_cors(text: &mut String, cors: &Cors) {
    let Cors {
        origins,
        methods,
        headers,
        expose,
        max_age,
        credentials,
        unmatched,
    } = cors;
    let origins: Vec<_> = origins
        .iter()
        .map(|origin| match origin {
            OriginMatch::Any => "any".to_owned(),
            OriginMatch::Text(condition) => condition.to_string(),
            OriginMatch::Around(before, behind) => format!("like {before}*{behind}"),
        })
        .collect();
    let [methods, headers, expose] = [methods, headers, expose]
        .map(|list| list.as_ref().map_or("", |list| list.to_str().unwrap()));
    let origins = origins.join(", ");
    writeln!(
        text,
        "    cors origins [{origins}] methods [{methods}] headers [{headers}] expose [{expose}]"
    )
    .unwrap();
    writeln!(
        text,
        "      max age {max_age:?} credentials {credentials} other preflights {unmatched:?}"
    )
    .unwrap();
}

fn write_headers(text: &mut String, indent: &str, filters: &HeaderFilters) {
    for (kind, edits) in [
        ("request", &filters.request),
        ("response", &filters.response),
    ] {
        for name in &edits.remove {
            writeln!(text, "{indent}{kind} remove {name}").unwrap();
        }
        for (verb, pairs) in [("set", &edits.set), ("add", &edits.add)] {
            for (name, value) in pairs {
                writeln!(text, "{indent}{kind} {verb} {name} {value:?}").unwrap();
            }
        }
    }
}

fn conditions(condition: &RequestMatch) -> String {
    let mut all = Vec::new();
    let case = if condition.ignore_path_case {
        " ignoring case"
    } else {
        ""
    };
    all.extend(condition.path.as_ref().map(|m| format!("path {m}{case}")));
    all.extend(condition.method.as_ref().map(|m| format!("method {m}")));
    all.extend(
        condition
            .authority
            .as_ref()
            .map(|m| format!("authority {m}")),
    );
    all.extend(condition.scheme.as_ref().map(|m| format!("scheme {m}")));
    for header in &condition.headers {
        let not = if header.negate { "not " } else { "" };
        let value = header
            .value
            .as_ref()
            .map_or("present".to_owned(), ToString::to_string);
        all.push(format!("{not}header {} {value}", header.name));
    }
    for (name, condition) in &condition.query {
        all.push(match condition {
            QueryMatch::Present => format!("query {name} present"),
            QueryMatch::Value(value) => format!("query {name} {value}"),
        });
    }
    for (key, value) in &condition.source_labels {
        all.push(format!("caller's label {key} = {value:?}"));
    }
    if all.is_empty() {
        "anything".to_owned()
    } else {
        all.join(", ")
    }
}

fn check(input: &Path, golden: &Path, clients: &[&str]) -> Result<(), String> {
    let text = fs::read_to_string(input).unwrap();
    let made = compiled(parse_yaml(&text, "file").unwrap(), clients);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden, &made).unwrap();
    }
    let kept = fs::read_to_string(golden).unwrap_or_default();
    if made == kept {
        return Ok(());
    }
    Err(format!(
        "{}\n--- expected\n{kept}\n+++ made\n{made}",
        input.display()
    ))
}

/// Compares what each YAML file of `inputs` becomes with the golden file of its
/// name in `goldens`.
fn check_all(inputs: &Path, goldens: &Path, clients: &[&str]) {
    let differences: Vec<_> = yaml_files(inputs)
        .iter()
        .filter_map(|input| {
            let golden = goldens.join(input.file_name().unwrap());
            check(input, &golden.with_extension("golden"), clients).err()
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_guides_compile_with_nothing_to_complain_of() {
    let examples = folder("manifests/examples");
    let goldens = folder("tests/fixtures/routing/examples");
    check_all(&examples, &goldens, &["default"]);
    for input in yaml_files(&examples) {
        let text = fs::read_to_string(&input).unwrap();
        let verdicts = compiled(parse_yaml(&text, "file").unwrap(), &[]);
        assert!(
            verdicts.lines().all(|line| line.ends_with(": Accepted")),
            "{}: {verdicts}",
            input.display()
        );
    }
}

#[test]
fn routes_follow_the_rules_of_the_api() {
    let cases = folder("tests/fixtures/routing");
    let count = yaml_files(&cases).len();
    assert!(count >= CASES, "{count} cases");
    check_all(&cases, &cases, &["default", "shop"]);
}
