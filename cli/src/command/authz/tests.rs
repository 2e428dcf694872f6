use super::*;
use crate::cluster::{ask::scripted::Answers, scripted::ApiServer};
use serde_json::{Value, json};

fn payment() -> ApiServer {
    ApiServer::new()
        .with(
            "/apis/apps/v1/namespaces/shop/statefulsets/payment",
            json!({
                "metadata": {"name": "payment", "namespace": "shop"},
                "spec": {"selector": {"matchLabels": {"app": "payment"}}, "serviceName": "p", "template": {}},
            }),
        )
        .with(
            "/api/v1/namespaces/shop/pods/payment-0",
            json!({
                "metadata": {"name": "payment-0", "namespace": "shop",
                    "labels": {"app": "payment", "linnet.io/sidecar": "injected"}},
                "spec": {"containers": []},
            }),
        )
}

async fn asked(answer: &Value) -> String {
    let pods = Answers::default().with("shop/payment-0", "/authorization", answer);
    let arguments = Arguments {
        workload: "sts/payment".parse().unwrap(),
        namespace: Some("shop".to_owned()),
        output: None,
    };
    render(
        &ask(&payment().cluster().await, &pods, &arguments)
            .await
            .unwrap(),
    )
}

#[tokio::test]
async fn rules_are_a_table_with_their_policies() {
    let rule = |action: &str, name: &str, dry_run: bool| {
        json!({
            "resource": format!("AuthorizationPolicy shop/{name}"), "action": action, "dryRun": dry_run,
            "rule": 0, "from": [], "to": [], "when": [], "void": false,
        })
    };
    let mut allow = rule("ALLOW", "payment", false);
    allow["from"] = json!(["principal cluster.local/ns/shop/sa/web", "namespace jobs"]);
    allow["to"] = json!(["method GET, path /charge"]);
    allow["when"] = json!(["request.headers[x-a] 1"]);
    let mut void = rule("ALLOW", "tokens", false);
    void["void"] = json!(true);
    let mut empty = rule("ALLOW", "nobody", false);
    empty["rule"] = Value::Null;
    let text = asked(&json!({
        "pod": "payment-0", "namespace": "shop",
        "mtls": {"mode": "PERMISSIVE", "source": "the default"},
        "ports": {"9000": "STRICT"},
        "rules": [rule("DENY", "later", true), allow, void, empty],
    }))
    .await;
    assert_eq!(text, include_str!("table.golden"));
}

#[tokio::test]
async fn without_policies_that_is_said() {
    let text = asked(&json!({
        "pod": "payment-0", "namespace": "shop",
        "mtls": {"mode": "STRICT", "source": "PeerAuthentication shop/strict"}, "rules": [],
    }))
    .await;
    assert_eq!(
        text,
        "pod shop/payment-0\nmutual TLS: STRICT by PeerAuthentication shop/strict\n\n\
         No AuthorizationPolicy speaks of it: whoever gets this far may call.\n"
    );
}
