use super::*;
use crate::cluster::{ask::scripted::Answers, scripted::ApiServer};
use serde_json::{Value, json};

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop",
            "labels": {"app": "payment", "linnet.io/sidecar": "injected"}},
        "spec": {"containers": []},
    })
}

fn line(account: &str, path: &str, status: u16, decision: &str, by: &str, second: u32) -> String {
    let line = json!({
        "log": "access", "time": format!("2026-01-01T10:00:{second:02}.000Z"), "reporter": "destination",
        "protocol": "http/1.1", "method": "GET", "path": path, "status": status, "flags": "-",
        "decision": decision, "decided_by": by,
        "source_principal": format!("spiffe://cluster.local/ns/shop/sa/{account}"),
        "source_workload": account, "source_namespace": "shop", "source_address": "10.0.0.7:4711",
        "destination_workload": "payment", "destination_namespace": "shop",
    });
    format!("{line}\n")
}

fn log() -> String {
    let rule = "AuthorizationPolicy shop/payment (ALLOW), spec.rules[0]";
    let dry = "AuthorizationPolicy shop/later (DENY), spec.rules[1]";
    let mut log = String::from("{\"level\":\"INFO\",\"message\":\"started\"}\nnot JSON\n");
    for (second, path) in ["/charge", "/charge", "/a", "/b", "/c"].iter().enumerate() {
        log += &line(
            "web",
            path,
            200,
            "allowed",
            rule,
            u32::try_from(second).unwrap(),
        );
    }
    log += &line("web", "/charge", 503, "dry_run_denied", dry, 30);
    log += &line(
        "frontend",
        "/card",
        403,
        "denied",
        "no ALLOW rule matched",
        40,
    );
    log += &line(
        "frontend",
        "/card",
        403,
        "denied",
        "no ALLOW rule matched",
        35,
    );
    log += "{\"log\":\"access\",\"time\":\"2026-01-01T10:00:41Z\",\"reporter\":\"destination\",\"protocol\":\"tcp\",\
            \"flags\":\"-\",\"source_address\":\"10.0.0.9:1\",\"bytes_in\":3}\n";
    // Its own calls are not calls to it.
    log += "{\"log\":\"access\",\"time\":\"2026-01-01T10:00:42Z\",\"reporter\":\"source\",\"method\":\"GET\",\"path\":\"/x\"}\n";
    log += "{\"log\":\"access\",\"time\":\"2026-01-01T10:00:43Z\",\"dropped\":5}\n";
    log
}

fn setting(scope: &str, sample: f64) -> Value {
    json!({
        "pod": "p", "namespace": "shop", "mtls": {"mode": "STRICT", "source": "the default"}, "rules": [],
        "accessLog": {"scope": scope, "sample": sample, "format": "json"},
    })
}

async fn asked(server: ApiServer, pods: Answers) -> Report {
    let arguments = Arguments {
        workload: "payment".parse().unwrap(),
        namespace: Some("shop".to_owned()),
        since: "90m".parse().unwrap(),
        output: None,
    };
    ask(&server.cluster().await, &pods, &arguments)
        .await
        .unwrap()
}

#[tokio::test]
async fn who_called_what_was_denied_and_what_is_not_known() {
    let server = ApiServer::new()
        .with(
            "/api/v1/namespaces/shop/services/payment",
            json!({"metadata": {"name": "payment", "namespace": "shop"}, "spec": {"selector": {"app": "payment"}}}),
        )
        .with("/api/v1/namespaces/shop/pods/payment-0", pod("payment-0"))
        .with("/api/v1/namespaces/shop/pods/payment-1", pod("payment-1"))
        .with("/api/v1/namespaces/shop/pods/payment-0/log", json!(log()))
        .with("/api/v1/namespaces/shop/pods/payment-1/log", json!(""));
    let pods = Answers::default()
        .with("shop/payment-0", "/authorization", &setting("all", 1.0))
        .with("shop/payment-1", "/authorization", &setting("denied", 1.0));
    let report = asked(server, pods).await;
    assert_eq!(render::text(&report), include_str!("report.golden"));
    let data = serde_json::to_value(&report).unwrap();
    assert_eq!(data["denied"][0]["by"], "no ALLOW rule matched");
    assert_eq!(data["callers"][0]["requests"]["GET /charge"], 3);
}

#[tokio::test]
async fn a_silent_pod_is_a_gap_and_not_an_error() {
    let server = ApiServer::new().with("/api/v1/namespaces/shop/pods/payment", pod("payment"));
    let report = asked(server, Answers::default()).await;
    assert_eq!(report.gaps.len(), 2, "{:?}", report.gaps);
    assert!(render::text(&report).contains("Not complete:"));
}

#[tokio::test]
async fn the_container_before_a_restart_counts_too() {
    let denied = line(
        "frontend",
        "/card",
        403,
        "denied",
        "no ALLOW rule matched",
        1,
    );
    let server = ApiServer::new()
        .with("/api/v1/namespaces/shop/pods/payment", pod("payment"))
        .with("/api/v1/namespaces/shop/pods/payment/log", json!(""))
        .with(
            "/api/v1/namespaces/shop/pods/payment/log?previous",
            json!(denied),
        );
    let pods = Answers::default().with("shop/payment", "/authorization", &setting("all", 1.0));
    let report = asked(server, pods).await;
    assert_eq!((report.denied.len(), report.gaps.len()), (1, 0));
}

#[test]
fn periods() {
    let read = |text: &str| text.parse::<Since>().map(|since| since.to_string());
    assert_eq!(read("90m"), Ok("90m".to_owned()));
    assert_eq!(read("60m"), Ok("1h".to_owned()));
    for bad in ["", "1", "h", "-1h", "0s", "1w", "1.5h"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}
