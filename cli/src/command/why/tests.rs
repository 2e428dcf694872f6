use super::*;
use crate::cluster::{ask::scripted::Answers, scripted::ApiServer};
use clap::Parser;
use serde_json::{Value, json};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn typed(words: &str) -> Arguments {
    let words = std::iter::once("why").chain(words.split(' '));
    Line::try_parse_from(words).unwrap().arguments
}

fn pod(name: &str, meshed: bool) -> Value {
    let labels = if meshed {
        json!({"app": name, "linnet.io/sidecar": "injected"})
    } else {
        json!({"app": name})
    };
    json!({
        "metadata": {"name": format!("{name}-1"), "namespace": "default", "labels": labels},
        "spec": {"containers": []},
        "status": {"podIP": "10.0.0.3", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn service(name: &str, namespace: &str) -> (String, Value) {
    (
        format!("/api/v1/namespaces/{namespace}/services/{name}"),
        json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": [{"port": 80}]},
        }),
    )
}

fn shop() -> ApiServer {
    let deployment = |name: &str| {
        json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {}},
        })
    };
    let mut server = ApiServer::new();
    for (name, meshed) in [("frontend", true), ("payment", true), ("old", false)] {
        server = server
            .with(
                &format!("/apis/apps/v1/namespaces/default/deployments/{name}"),
                deployment(name),
            )
            .with(
                &format!("/api/v1/namespaces/default/pods/{name}-1"),
                pod(name, meshed),
            );
    }
    for (path, object) in [
        service("payment", "default"),
        service("billing", "default"),
        service("ledger", "books"),
    ] {
        server = server.with(&path, object);
    }
    server
}

fn endpoint(pod: &str, state: &str) -> Value {
    json!({
        "address": "10.0.0.7:8080", "pod": pod, "namespace": "default", "state": state,
        "inFlight": 2, "identity": "spiffe://cluster.local/ns/default/sa/payment",
    })
}

fn outbound() -> Value {
    json!({
        "caller": {
            "pod": "frontend-1", "namespace": "default",
            "identity": "spiffe://cluster.local/ns/default/sa/frontend",
        },
        "destination": {
            "host": "payment", "port": 80, "address": "10.96.0.9:80", "kind": "service",
            "service": "default/payment:80",
        },
        "route": {"total": 3, "rules": [
            {"resource": "VirtualService default/payment", "number": 0, "name": "vip", "matched": false,
             "because": ["header x-user is absent, rule wants = \"vip\""]},
            {"resource": "VirtualService default/payment", "number": 1, "matched": true},
        ]},
        "filters": [{"name": "timeout", "does": "5s"}],
        "backends": [
            {
                "service": "default/payment:80", "subset": "v1", "percent": 90.0,
                "policies": [{"name": "balancing", "does": "in turn, by DestinationRule default/payment"}],
                "request": {"method": "GET", "authority": "payment", "path": "/charge", "headers": {"x-user": "a"}},
                "endpoints": [endpoint("payment-0", "ejected"), endpoint("payment-1", "healthy")],
            },
            {"service": "default/payment:80", "subset": "v2", "percent": 10.0,
             "request": {"method": "GET", "authority": "payment", "path": "/charge", "headers": {}},
             "endpoints": []},
        ],
        "outcome": {"sent": true, "text": "goes to an endpoint above, or is answered 503: default/payment:80 subset v2 has no endpoint"},
    })
}

fn inbound(allowed: bool) -> Value {
    json!({
        "pod": "payment-1", "namespace": "default", "port": 8080,
        "mtls": {"mode": "STRICT", "source": "PeerAuthentication default/strict", "satisfied": true},
        "policies": [
            {"resource": "AuthorizationPolicy default/later", "action": "DENY", "dryRun": true, "rule": 0},
            {"resource": "AuthorizationPolicy default/payment", "action": "ALLOW", "dryRun": false,
             "rule": if allowed { json!(1) } else { Value::Null },
             "because": ["from[0] principals: the caller is cluster.local/ns/default/sa/frontend, rule wants cluster.local/ns/default/sa/checkout"]},
        ],
        "allowed": allowed,
        "by": if allowed { "AuthorizationPolicy default/payment (ALLOW), spec.rules[1]" } else { "no ALLOW rule matched" },
        "dryRun": if allowed { json!("AuthorizationPolicy default/later (DENY), spec.rules[0]") } else { Value::Null },
    })
}

async fn traced(pods: &Answers, words: &str) -> Result<Chain, Error> {
    trace(&shop().cluster().await, pods, typed(words)).await
}

#[tokio::test]
async fn a_chain_is_readable_from_request_to_decision() {
    let pods = Answers::default()
        .with("default/frontend-1", "/why", &outbound())
        .with("default/payment-1", "/why/inbound", &inbound(true));
    let chain = traced(
        &pods,
        "--from deploy/frontend get http://payment/charge -H X-User:a",
    )
    .await;
    let chain = chain.unwrap();
    assert_eq!(render::chain(&chain), include_str!("chain.golden"));
    // The callee is asked for what leaves the caller, as the caller.
    let asked: Value = serde_json::from_str(&pods.asked("default/payment-1")[0]).unwrap();
    assert_eq!(
        asked,
        json!({
            "identity": "spiffe://cluster.local/ns/default/sa/frontend", "ip": "10.0.0.3",
            "port": 8080, "method": "GET", "authority": "payment", "path": "/charge",
            "headers": {"x-user": "a"},
        })
    );
    let asked: Value = serde_json::from_str(&pods.asked("default/frontend-1")[0]).unwrap();
    assert_eq!(asked["method"], "GET");
    assert_eq!(asked["headers"], json!({"x-user": "a"}));
    assert!(!chain.arrives, "a tenth of the requests finds no endpoint");
}

#[tokio::test]
async fn a_denial_is_the_end_of_the_chain() {
    let mut outbound = outbound();
    outbound["backends"].as_array_mut().unwrap().pop();
    let pods = Answers::default()
        .with("default/frontend-1", "/why", &outbound)
        .with("default/payment-1", "/why/inbound", &inbound(false));
    let chain = traced(&pods, "--from frontend GET http://payment/charge")
        .await
        .unwrap();
    assert!(!chain.arrives);
    let text = render::chain(&chain);
    let last = text.lines().last().unwrap();
    assert_eq!(
        last,
        "so            ✘ answered 403 by default/payment-1: no ALLOW rule matched"
    );
}

#[tokio::test]
async fn a_callee_that_can_not_answer_leaves_the_rest() {
    let pods = Answers::default().with("default/frontend-1", "/why", &outbound());
    let chain = traced(&pods, "GET http://payment/charge").await.unwrap();
    assert!(chain.from_is_any);
    let text = render::chain(&chain);
    assert!(text.contains("any pod with a sidecar"), "{text}");
    assert!(
        text.contains("pod default/payment-1: pod default/payment-1 does not answer"),
        "{text}"
    );
}

#[tokio::test]
async fn who_can_not_be_asked_is_said_with_what_to_do() {
    let pods = Answers::default();
    for (words, part) in [
        (
            "--from deploy/frontent GET http://a/",
            "there is no deployment frontent in namespace default; there is deploy/frontend",
        ),
        (
            "--from nobody GET http://a/",
            "there is no deployment or pod nobody in namespace default",
        ),
        (
            "--from deploy/old GET http://a/",
            "pod default/old-1 has no sidecar",
        ),
        (
            "--from pod/payment-1 GET http://a/",
            "pod default/payment-1 does not answer on port 15000",
        ),
        (
            "-n empty GET http://a/",
            "no pod of namespace empty has a sidecar",
        ),
    ] {
        let error = traced(&pods, words).await.unwrap_err().to_string();
        assert!(error.contains(part), "{words}: {error}");
    }
    for words in [
        "why --from job/x GET u",
        "why GET u -H x",
        "why GET u -H a%b:c",
    ] {
        let words: Vec<_> = words
            .replace('%', " ")
            .split(' ')
            .map(str::to_owned)
            .collect();
        let words = words.iter().map(String::as_str);
        assert!(Line::try_parse_from(words).is_err());
    }
}

#[tokio::test]
async fn unknown_hosts_come_with_what_was_meant() {
    for (host, port, kind, expected) in [
        (
            "paymnet",
            80,
            "unknown",
            Some("there is no service paymnet in namespace default; did you mean payment?"),
        ),
        (
            "ledger",
            80,
            "unknown",
            Some(
                "there is no service ledger in namespace default; did you mean http://ledger.books/?",
            ),
        ),
        (
            "payment",
            81,
            "external",
            Some("service default/payment has no port 81; it has 80"),
        ),
        ("example.com", 443, "external", None),
    ] {
        let mut outbound = outbound();
        outbound["destination"] = json!({"host": host, "port": port, "kind": kind});
        outbound["backends"] = json!([]);
        outbound["route"] = Value::Null;
        let pods = Answers::default().with("default/frontend-1", "/why", &outbound);
        let url = format!("--from frontend GET http://{host}:{port}/");
        let chain = traced(&pods, &url).await.unwrap();
        assert_eq!(chain.hint.as_deref(), expected, "{host}");
    }
}
