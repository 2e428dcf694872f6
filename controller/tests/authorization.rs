//! Policies as people write them, requests, and what becomes of each: the table
//! in `fixtures/authorization/decisions.yaml`, whose head says how to read it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

use http::{HeaderMap, HeaderName, HeaderValue};
use linnet_controller::{
    compile::Context, index::Index, manifest::parse_yaml, object::Name, source::Change,
};
use linnet_mesh::{
    SpiffeId, TrustDomain,
    authentication::{Claims, Token},
    authorization::{By, Connection, HttpRequest, Policies, Scope},
};
use serde::Deserialize;
use std::{fs, net::SocketAddr, path::PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Manifests; `{ap: …}` lines are short for a policy in namespace shop.
    policies: String,
    #[serde(default)]
    dry_run_too: bool,
    requests: Vec<String>,
}

const CLUSTER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db, linnet.io/sidecar: injected}}
spec: {serviceAccountName: db}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: db-0}}]
";

/// A line `name[@namespace][!]: spec` is a policy; `!` is a dry run.
fn manifest(line: &str) -> String {
    let (head, spec) = line.split_once(": ").unwrap();
    let dry_run = head.ends_with('!');
    let head = head.trim_end_matches('!');
    let (name, namespace) = head.split_once('@').unwrap_or((head, "shop"));
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}, annotations: {{istio.io/dry-run: '{dry_run}'}}}}\nspec: {spec}\n"
    )
}

fn index(policies: &str) -> Index {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let mut index = Index::new(context, TrustDomain::default());
    let lines = policies.lines().filter(|line| !line.trim().is_empty());
    for yaml in [CLUSTER.to_owned()].into_iter().chain(lines.map(manifest)) {
        for object in parse_yaml(&yaml, "test").unwrap_or_else(|e| panic!("{yaml}: {e}")) {
            index.apply(Change::Apply(object));
        }
    }
    index
}

fn outcome(policies: Option<&Policies>, scope: Scope, request: &str) -> String {
    let mut words = request.split(' ');
    let who = words.next().unwrap();
    let method = words.next().unwrap();
    let (who, ip) = who.split_once('@').unwrap_or((who, "10.0.0.9"));
    let (domain, who) = who.split_once("//").unwrap_or(("cluster.local", who));
    let identity: Option<SpiffeId> = who.split_once('/').map(|(namespace, account)| {
        SpiffeId::new(&domain.parse().unwrap(), namespace, account).unwrap()
    });
    let path = if method == "TCP" {
        ""
    } else {
        words.next().unwrap()
    };
    let (mut authority, mut port) = ("db", 8080);
    let mut headers = HeaderMap::new();
    let mut token: Option<Token> = None;
    let mut server_name = None;
    for word in words {
        if let Some(text) = word.strip_prefix("port=") {
            port = text.parse().unwrap();
        } else if let Some(text) = word.strip_prefix("host=") {
            authority = text;
        } else if let Some(text) = word.strip_prefix("sni=") {
            server_name = Some(text);
        } else if let Some(claims) = word.strip_prefix("jwt=") {
            token = Some(Claims::new(serde_json::from_str(claims).unwrap()).into());
        } else {
            let (name, value) = word.split_once(':').unwrap();
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
    }
    let connection = Connection {
        identity: identity.as_ref(),
        source: ip.parse().unwrap(),
        destination: SocketAddr::new([10, 0, 0, 1].into(), port),
        server_name,
        federated: identity
            .as_ref()
            .is_some_and(|id| id.trust_domain() != "cluster.local"),
    };
    let http = HttpRequest {
        method,
        authority,
        path,
        headers: &headers,
        token: token.as_ref(),
    };
    let Some(policies) = policies else {
        return "allowed".to_owned();
    };
    let http = (method != "TCP").then_some(&http);
    let decision = policies.decide(scope, &connection, http);
    let verdict = if decision.allowed {
        "allowed"
    } else {
        "denied"
    };
    match decision.by {
        By::Rule { policy, rule } => format!("{verdict} by {}[{rule}]", policy.source.name),
        By::NoAllowRule | By::NoPolicy => verdict.to_owned(),
        By::TooManyReadings => format!("{verdict} unread"),
    }
}

#[test]
fn each_request_is_decided_as_the_table_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/authorization/decisions.yaml");
    let cases: Vec<Case> = serde_norway::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let pod = Name::new("shop", "db-0");
    let own = SpiffeId::new(&TrustDomain::default(), "shop", "db").unwrap();
    let (mut rows, mut wrong) = (0, Vec::new());
    for case in &cases {
        let inbound = index(&case.policies).inbound(&pod, &own);
        let scope = if case.dry_run_too {
            Scope::WithDryRun
        } else {
            Scope::Enforced
        };
        for row in &case.requests {
            let (request, expected) = row.split_once(" => ").unwrap();
            let made = outcome(inbound.authorization.as_deref(), scope, request);
            rows += 1;
            if made != expected {
                wrong.push(format!(
                    "{}: {request} is {made}, not {expected}",
                    case.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows >= 120, "{rows} rows");
}

fn verdicts(policies: &str) -> Vec<String> {
    let verdicts = index(policies).verdicts();
    let texts = verdicts.iter().map(ToString::to_string);
    texts
        .map(|text| text.replace("test, document 1: AuthorizationPolicy shop/", ""))
        .collect()
}

#[test]
fn mistakes_are_named_with_their_place() {
    const CLOSED: &str = "; spec: there is no good version to keep in force, so the workloads it selects are closed: what it might deny is denied";
    let source = |field: &str| format!("p: {{rules: [{{from: [{{source: {{{field}}}}}]}}]}}");
    let operation = |field: &str| format!("p: {{rules: [{{to: [{{operation: {{{field}}}}}]}}]}}");
    let condition = |fields: &str| format!("p: {{rules: [{{when: [{{{fields}}}]}}]}}");
    for (policy, field, word) in [
        (
            source("ipBlocks: [10.0.0.0/33]"),
            "spec.rules[0].from[0].source.ipBlocks[0]",
            "CIDR",
        ),
        (
            source("notRemoteIpBlocks: [10.0.0.1, x]"),
            "spec.rules[0].from[0].source.notRemoteIpBlocks[1]",
            "CIDR",
        ),
        (
            source("principals: ['a*b']"),
            "spec.rules[0].from[0].source.principals[0]",
            "means nothing",
        ),
        (
            source("namespaces: ['*a*']"),
            "spec.rules[0].from[0].source.namespaces[0]",
            "means nothing",
        ),
        (
            source("serviceAccounts: ['a/*']"),
            "spec.rules[0].from[0].source.serviceAccounts[0]",
            "service account",
        ),
        (source(""), "spec.rules[0].from[0].source", "is empty"),
        (
            operation("paths: ['/{**}/{*}']"),
            "spec.rules[0].to[0].operation.paths[0]",
            "template",
        ),
        (
            operation("ports: [http]"),
            "spec.rules[0].to[0].operation.ports[0]",
            "port",
        ),
        (
            operation("methods: ['']"),
            "spec.rules[0].to[0].operation.methods[0]",
            "is empty",
        ),
        (
            condition("key: source.ip, values: [x]"),
            "spec.rules[0].when[0].values[0]",
            "CIDR",
        ),
        (
            condition("key: 'request.headers[a b]', values: [x]"),
            "spec.rules[0].when[0].key",
            "header",
        ),
        (
            condition("key: source.ip"),
            "spec.rules[0].when[0]",
            "neither",
        ),
        (
            "p: {rules: [{from: []}]}".to_owned(),
            "spec.rules[0].from",
            "is empty",
        ),
        ("p: {action: PERMIT}".to_owned(), "spec.action", "PERMIT"),
        ("p: {rules: x}".to_owned(), "spec.rules", "x"),
        (
            "p: {selector: {matchLabels: {app: 'd*'}}}".to_owned(),
            "spec.selector.matchLabels.app",
            "labels",
        ),
    ] {
        let made = verdicts(&policy);
        let prefix = format!("p: rejected; {field}: ");
        assert!(made[0].starts_with(&prefix), "{policy}: {made:?}");
        assert!(made[0].contains(word), "{policy}: {made:?}");
        assert!(made[0].ends_with(CLOSED), "{policy}: {made:?}");
    }
}

#[test]
fn what_does_not_count_is_said() {
    for (policy, expected) in [
        ("p: {rules: [{}]}", "p: accepted"),
        (
            "p: {action: CUSTOM, rules: [{}]}",
            "p: accepted; spec.action: CUSTOM has nobody to ask: requests that fit a rule are denied",
        ),
        (
            "p: {action: DENY}",
            "p: accepted; spec.rules: is empty, so DENY has no effect",
        ),
        (
            "p: {rules: [{when: [{key: connection.sni, values: [x]}]}]}",
            "p: accepted; spec.rules[0].when[0].key: is known of TLS that an application speaks itself, not between sidecars, where this rule allows nobody",
        ),
        (
            "p: {action: DENY, rules: [{when: [{key: connection.sni, values: [x]}]}]}",
            "p: accepted; spec.rules[0].when[0].key: is known of TLS that an application speaks itself, not between sidecars, where the rule denies without regard to it",
        ),
        (
            "p: {rules: [{when: [{key: custom.attribute, values: [x]}]}]}",
            "p: accepted; spec.rules[0].when[0].key custom.attribute: can't be evaluated yet, so this rule allows nobody",
        ),
        (
            "p: {action: DENY, rules: [{from: [{source: {requestPrincipals: [x]}}]}]}",
            "p: accepted",
        ),
        (
            "p: {rules: [{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}]}",
            "p: accepted; spec.rules[0].from[0].source.remoteIpBlocks: is compared with the connection's own address: x-forwarded-for is not trusted",
        ),
        (
            "p: {targetRefs: [{kind: Gateway, group: g, name: a}]}",
            "p: accepted; spec.targetRefs[0]: Gateway has no workload with a sidecar of this mesh, so nothing is enforced there; name a Service, or use spec.selector",
        ),
        (
            "p: {novel: true, rules: [{}]}",
            "p: accepted; spec.novel: is not honoured yet; it has no effect",
        ),
    ] {
        assert_eq!(verdicts(policy), [expected]);
    }
}

#[test]
fn a_policy_that_breaks_keeps_its_last_good_version_and_one_that_never_worked_closes() {
    let pod = Name::new("shop", "db-0");
    let own = SpiffeId::new(&TrustDomain::default(), "shop", "db").unwrap();
    let good = "p: {rules: [{from: [{source: {namespaces: [shop]}}]}]}";
    let bad = "p: {rules: [{from: [{source: {ipBlocks: [x]}}]}]}";
    let elsewhere = "p: {selector: {matchLabels: {app: web}}, rules: [{from: []}]}";
    let mut index = index("");
    let mut told = |step: &str| {
        for object in parse_yaml(&manifest(step), "test").unwrap() {
            index.apply(Change::Apply(object));
        }
        let inbound = index.inbound(&pod, &own);
        outcome(
            inbound.authorization.as_deref(),
            Scope::Enforced,
            "shop/web GET /",
        )
    };
    assert_eq!(told(bad), "denied");
    assert_eq!(
        told(elsewhere),
        "allowed",
        "now it selects another workload"
    );
    assert_eq!(told(bad), "denied");
    assert_eq!(told(good), "allowed by p[0]");
    assert_eq!(told(bad), "allowed by p[0]");
    assert_eq!(told(elsewhere), "allowed by p[0]");
}

#[test]
fn a_policy_touches_the_pods_that_it_may_be_for() {
    let pod = Name::new("shop", "db-0");
    let mut index = index("");
    index.take_affected();
    for (policy, touched) in [
        ("p: {rules: [{}]}", true),
        ("p: {rules: [{}], action: ALLOW}", false),
        ("p: {action: DENY}", true),
        ("p@other: {rules: [{}]}", false),
        ("p@linnet-system: {rules: [{}]}", true),
    ] {
        for object in parse_yaml(&manifest(policy), "test").unwrap() {
            index.apply(Change::Apply(object));
        }
        assert_eq!(index.take_affected().pod(&pod), touched, "{policy}");
    }
}
