//! Requests in, what becomes of them out: `NAME.requests.yaml` beside the
//! resources of `NAME.yaml` in `tests/fixtures/routing/`, by the pure functions
//! that the data path itself asks. `UPDATE_GOLDEN=1` writes the expected files.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header::HOST};
use linnet_controller::{compile::Context, index::Index, manifest::parse_yaml, source::Change};
use linnet_discovery::{Resolution, Target};
use linnet_mesh::{
    TrustDomain,
    route::{Answer, Backend, HttpRoutes, HttpRule, RequestParts},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Fewer tables than this, and some have got lost.
const TABLES: usize = 18;

/// A request as an application sends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The caller's namespace.
    #[serde(default = "default_namespace")]
    from: String,
    /// The caller's labels.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

/// A request's head in the origin form, as HTTP/1 clients send it.
#[derive(Clone)]
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    scheme: String,
}

impl Head {
    fn new(asked: &Asked) -> Self {
        let url: Uri = asked.url.parse().unwrap();
        let mut headers = HeaderMap::new();
        let host = url.authority().unwrap().as_str();
        headers.insert(HOST, host.parse().unwrap());
        for (name, value) in &asked.headers {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        Self {
            method: asked.method.parse().unwrap(),
            uri: url.path_and_query().unwrap().as_str().parse().unwrap(),
            headers,
            scheme: url.scheme_str().unwrap().to_owned(),
        }
    }

    fn parts(&self) -> RequestParts<'_> {
        RequestParts {
            method: &self.method,
            path: self.uri.path(),
            query: self.uri.query().unwrap_or_default(),
            authority: self.headers[HOST].to_str().unwrap(),
            scheme: &self.scheme,
            headers: &self.headers,
        }
    }

    /// The head as a backend gets it.
    fn sent(&self, rule: &HttpRule, backend: &Backend) -> Result<Self, String> {
        let mut sent = self.clone();
        if let Some(rewrite) = &rule.filters.rewrite {
            let matched = rule.matched_path(&self.parts());
            rewrite
                .apply(matched, None, &mut sent.uri, &mut sent.headers)
                .map_err(|error| error.to_string())?;
        }
        for edits in [&rule.filters.headers.request, &backend.headers.request] {
            edits.apply_to_request(&mut sent.uri, &mut sent.headers);
        }
        Ok(sent)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/routing")
}

fn index(resources: &str) -> Index {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let mut index = Index::new(context, TrustDomain::default());
    for object in parse_yaml(resources, "file").unwrap() {
        index.apply(Change::Apply(object));
    }
    index
}

fn table(resources: &str, requests: &str) -> String {
    let index = index(resources);
    let requests: Vec<Asked> = serde_norway::from_str(requests).unwrap();
    let mut text = String::new();
    for asked in &requests {
        write!(text, "{} {} from {}", asked.method, asked.url, asked.from).unwrap();
        for (key, value) in &asked.labels {
            write!(text, " {key}={value}").unwrap();
        }
        text.push('\n');
        for (name, value) in &asked.headers {
            writeln!(text, "    {name}: {value}").unwrap();
        }
        write_fate(&mut text, &index, asked);
    }
    text
}

fn write_fate(text: &mut String, index: &Index, asked: &Asked) {
    let head = Head::new(asked);
    let url: Uri = asked.url.parse().unwrap();
    let target = format!("{}:{}", url.host().unwrap(), url.port_u16().unwrap_or(80));
    let found = index.resolve(&Target::Host(target.into()), &asked.from);
    let Resolution::Service(key) = found else {
        writeln!(text, "  -> outside of the mesh").unwrap();
        return;
    };
    let service = Arc::new(index.service(&key, &asked.from).unwrap());
    let service = service.of_workload(&asked.labels);
    match &service.http {
        None => writeln!(text, "  -> {key}, which has no rules").unwrap(),
        Some(routes) => {
            writeln!(text, "  -> {key}").unwrap();
            write_rule(text, routes, &head);
        }
    }
}

fn write_rule(text: &mut String, routes: &HttpRoutes, head: &Head) {
    let Some((_, rule)) = routes.rule(&head.parts()) else {
        writeln!(text, "  answered 404: no rule matches").unwrap();
        return;
    };
    write!(text, "  {} rule {}", rule.source, rule.position).unwrap();
    if let Some(name) = &rule.name {
        write!(text, " {name:?}").unwrap();
    }
    text.push('\n');
    match &rule.filters.answer {
        Some(Answer::Redirect(redirect)) => {
            let parts = head.parts();
            let query = head.uri.query();
            let location = redirect.location(&parts, query, rule.matched_path(&parts));
            let status = redirect.status.as_u16();
            writeln!(text, "  answered {status}, location {location}").unwrap();
        }
        Some(Answer::Direct(direct)) => {
            let body = String::from_utf8_lossy(&direct.body);
            writeln!(text, "  answered {} {body:?}", direct.status.as_u16()).unwrap();
        }
        None => write_backends(text, rule, head),
    }
    for mirror in &rule.filters.mirrors {
        writeln!(text, "  copied to {}", target(&mirror.backend)).unwrap();
    }
    if let Some(timeout) = rule.filters.timeout {
        writeln!(text, "  within {timeout:?}").unwrap();
    }
}

fn target(backend: &Backend) -> String {
    match &backend.subset {
        None => backend.service.to_string(),
        Some(subset) => format!("{} subset {subset}", backend.service),
    }
}

/// Of numbers spread evenly, how many of a thousand draw a backend.
fn share(rule: &HttpRule, backend: &Backend) -> u32 {
    let drawn = (0..1000_u64).filter(|part| {
        let random = part * (u64::MAX / 1000) + u64::MAX / 2000;
        let found = rule.backend(random);
        found.is_some_and(|found| std::ptr::eq(found, backend))
    });
    u32::try_from(drawn.count()).unwrap()
}

fn write_backends(text: &mut String, rule: &HttpRule, head: &Head) {
    if rule.backend(0).is_none() {
        writeln!(text, "  answered 503: every destination has weight 0").unwrap();
    }
    for backend in &rule.backends {
        let share = f64::from(share(rule, backend)) / 10.0;
        write!(text, "  {share} % ").unwrap();
        if let Some(unresolved) = &backend.unresolved {
            let status = unresolved.status.as_u16();
            writeln!(text, "answered {status}: {}", unresolved.reason).unwrap();
            continue;
        }
        writeln!(text, "to {}", target(backend)).unwrap();
        match head.sent(rule, backend) {
            Ok(sent) => write_head(text, head, &sent),
            Err(error) => writeln!(text, "    answered 400: {error}").unwrap(),
        }
        write_response(text, rule, backend);
    }
}

/// What differs in the head that is sent.
fn write_head(text: &mut String, came: &Head, sent: &Head) {
    if came.uri != sent.uri {
        writeln!(text, "    asks for {}", sent.uri).unwrap();
    }
    write_edits(text, "", &came.headers, &sent.headers);
}

/// What differs in the head of a response with a header of its own.
fn write_response(text: &mut String, rule: &HttpRule, backend: &Backend) {
    let came: HeaderMap = [(http::header::SERVER, HeaderValue::from_static("app"))]
        .into_iter()
        .collect();
    let mut told = came.clone();
    rule.filters.headers.response.apply(&mut told);
    backend.headers.response.apply(&mut told);
    write_edits(text, "answer's ", &came, &told);
}

fn write_edits(text: &mut String, whose: &str, before: &HeaderMap, after: &HeaderMap) {
    let values = |headers: &HeaderMap, name: &HeaderName| {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        values.join(", ")
    };
    let names: std::collections::BTreeSet<_> = before
        .keys()
        .chain(after.keys())
        .map(HeaderName::as_str)
        .collect();
    for name in names {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let (was, is) = (values(before, &name), values(after, &name));
        if after.get(&name).is_none() {
            writeln!(text, "    {whose}{name} is taken away").unwrap();
        } else if was != is {
            writeln!(text, "    {whose}{name}: {is}").unwrap();
        }
    }
}

#[test]
fn requests_go_where_the_rules_send_them() {
    let mut tables: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(".requests.yaml"))
        .collect();
    tables.sort();
    assert!(tables.len() >= TABLES, "{} tables", tables.len());
    let mut differences = Vec::new();
    for requests in tables {
        let resources = requests
            .to_str()
            .unwrap()
            .replace(".requests.yaml", ".yaml");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let made = table(&read(Path::new(&resources)), &read(&requests));
        let golden = requests.with_extension("golden");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &made).unwrap();
        }
        let kept = fs::read_to_string(&golden).unwrap_or_default();
        if made != kept {
            let table = requests.display();
            differences.push(format!("{table}\n--- expected\n{kept}\n+++ made\n{made}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
