use super::*;
use crate::cluster::{ask::scripted::Answers, scripted::ApiServer};
use linnet_controller::{
    compile::{self, Compiled, compile},
    manifest::parse_yaml,
    object::Object,
};
use linnet_mesh::{
    SpiffeId,
    authorization::{Connection, HttpRequest, Policies, Scope},
};
use serde_json::{Value, json};

fn line(account: &str, method: &str, path: &str, decision: &str) -> Value {
    let mut line = json!({
        "log": "access", "time": "2026-01-01T10:00:00Z", "reporter": "destination",
        "protocol": "http/1.1", "method": method, "path": path, "status": 200, "flags": "-",
        "decision": decision, "source_address": "10.0.0.7:4711", "upstream": "10.0.0.9:8080",
    });
    if !account.is_empty() {
        line["source_principal"] = json!(format!("spiffe://cluster.local/ns/shop/sa/{account}"));
    }
    line
}

fn connection(account: &str) -> Value {
    let mut line = line(account, "", "", "");
    line["protocol"] = json!("tcp");
    line["upstream"] = json!("10.0.0.9:5432");
    line
}

fn at(port: u16, mut line: Value) -> Value {
    line["upstream"] = json!(format!("10.0.0.9:{port}"));
    line
}

fn lines() -> Vec<Value> {
    let mut lines = vec![
        at(9090, line("web", "GET", "/stats", "")),
        line("web", "GET", "/cards", "allowed"),
        line("web", "GET", "/cards", ""),
        line("web", "POST", "/cards", "audited"),
        line("web", "GET", "/a//b/../c", "dry_run_denied"),
        line("web", "GET", "/odd/{id}*", "allowed"),
        line("web", "GET", "/quote\"'#: x", "allowed"),
        line("mallory", "GET", "/admin", "denied"),
        line("", "GET", "/metrics", ""),
        line("", "GET", "/metrics", ""),
        connection("report"),
    ];
    // More paths than are named, under few prefixes; and under many.
    lines.extend((0..40).map(|id| line("crawler", "GET", &format!("/items/{id}"), "")));
    lines.extend((0..40).map(|id| line("scanner", "HEAD", &format!("/{id}/x"), "")));
    lines.push(line(
        "scanner",
        "HEAD",
        &format!("/{}", "y".repeat(1023)),
        "",
    ));
    lines
}

async fn suggested() -> String {
    let log: String = lines().iter().map(|line| format!("{line}\n")).collect();
    let pod = |name: &str, labels: Value| json!({"metadata": {"name": name, "namespace": "shop", "labels": labels}});
    let meshed = json!({"app": "payment", "linnet.io/sidecar": "injected"});
    let nameless = json!({"linnet.io/sidecar": "injected"});
    let silent = json!({"app.kubernetes.io/name": "Silent_1", "linnet.io/sidecar": "injected"});
    let at = |name: &str| format!("/api/v1/namespaces/shop/pods/{name}");
    let server = ApiServer::new()
        .with(&at("payment-0"), pod("payment-0", meshed))
        .with(&at("payment-0/log"), json!(log))
        .with(&at("nameless"), pod("nameless", nameless))
        .with(&at("plain"), pod("plain", json!({"app": "plain"})))
        .with(&at("silent-0"), pod("silent-0", silent))
        .with(&at("silent-0/log"), json!(""));
    let setting = |scope: &str| {
        json!({
            "pod": "p", "namespace": "shop", "mtls": {"mode": "STRICT", "source": "the default"}, "rules": [],
            "accessLog": {"scope": scope, "sample": 1.0, "format": "json"},
        })
    };
    let pods = Answers::default()
        .with("shop/payment-0", "/authorization", &setting("all"))
        .with("shop/silent-0", "/authorization", &setting("denied"));
    let suggest = Suggest {
        namespace: Some("shop".to_owned()),
        since: "1d".parse().unwrap(),
    };
    ask(&server.cluster().await, &pods, &suggest).await.unwrap()
}

#[tokio::test]
async fn the_draft_is_as_reviewed() {
    let made = suggested().await;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/command/policy/suggested.golden"
        );
        std::fs::write(golden, &made).unwrap();
    }
    assert_eq!(made, include_str!("suggested.golden"));
}

/// The controller's own compiler reads the draft, and what it makes of it judges
/// what was seen.
#[tokio::test]
async fn what_was_seen_is_allowed_and_nothing_else() {
    let objects = parse_yaml(&suggested().await, "draft").unwrap();
    let context = compile::Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let compiled = objects.iter().map(|object| {
        let Object::Configuration(configuration) = object else {
            panic!("{object:?}");
        };
        match compile(configuration, &context) {
            Ok((Compiled::AuthorizationPolicy(policy), notes)) => {
                assert_eq!(notes, []);
                assert!(policy.policy.dry_run);
                policy.policy
            }
            other => panic!("{other:?}"),
        }
    });
    let policies = Policies::new(compiled);
    let headers = http::HeaderMap::new();
    let allowed = |line: &Value| {
        let id: Option<SpiffeId> = line["source_principal"]
            .as_str()
            .map(|id| id.parse().unwrap());
        let connection = Connection {
            identity: id.as_ref(),
            source: "10.0.0.7".parse().unwrap(),
            destination: line["upstream"].as_str().unwrap().parse().unwrap(),
            server_name: None,
            federated: false,
        };
        let request = HttpRequest {
            method: line["method"].as_str().unwrap(),
            authority: "payment",
            path: line["path"].as_str().unwrap(),
            headers: &headers,
            token: None,
        };
        let http = (line["protocol"] != "tcp").then_some(&request);
        policies
            .decide(Scope::WithDryRun, &connection, http)
            .allowed
    };
    for line in lines() {
        let expected = line["decision"] != "denied" && line["source_principal"].is_string();
        assert_eq!(allowed(&line), expected, "{line}");
    }
    for other in [
        line("web", "DELETE", "/cards", ""),
        line("web", "GET", "/cards/1", ""),
        line("web", "POST", "/a/c", ""),
        line("crawler", "GET", "/admin", ""),
        line("scanner", "POST", "/0/x", ""),
        line("report", "GET", "/cards", ""),
        line("web", "GET", "/stats", ""),
        at(9090, line("web", "GET", "/cards", "")),
        at(8080, connection("report")),
        connection("web"),
    ] {
        assert!(!allowed(&other), "{other}");
    }
}
