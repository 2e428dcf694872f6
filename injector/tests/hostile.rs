//! Whatever somebody writes into a pod: what it costs and what comes back are
//! bounded. A process of its own, whose memory is measured.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failing unwrap is a failing test with a line number"
)]

use axum::body::Body;
use http_body_util::BodyExt;
use linnet_injector::{
    InjectionConfig, Namespace,
    inject::inject,
    namespaces::Labels,
    settings::{KNOWN, LONGEST},
    webhook::Webhook,
};
use linnet_mesh::names::annotation;
use linnet_meter::{MIB, alone, resident_peak};
use serde_json::{Value, json};
use tower::ServiceExt;

/// What a review may take of memory besides its body, and what it may answer.
const MEMORY: usize = 24 * MIB;
const ANSWER: usize = 256 * 1024;

fn values() -> Vec<String> {
    let mut values = vec![
        "((((a{99}){99}){99}){99}){99}".to_owned(),
        "info,linnet[{a=((((b{99}){99}){99}){99})}]=debug".to_owned(),
        "linnet[{a=/((b{1000}){1000}){1000}/}]=trace".to_owned(),
        "all;filter=request.path.matches('((((a{99}){99}){99}){99}){99}')".to_owned(),
        // A regular expression whose automaton has 2^18 states.
        format!("info,linnet[{{a=(x|y)*x{}}}]=debug", "(x|y)".repeat(17)),
        format!("[{{a=.*x{}}}]=debug", ".".repeat(17)),
        "1e999999999".to_owned(),
        "99999999999999999999999999".to_owned(),
        "\0".to_owned(),
        "0.0.0.0/0,::/0,1-65535".to_owned(),
        "\u{202e}\u{1f600}e\u{301}".to_owned(),
        String::new(),
    ];
    // Many of what is cheap to write, as long as may be and longer.
    for piece in [
        "x",
        ",",
        "1,",
        "1-2,",
        "a=info,",
        "10.0.0.0/8,",
        "\0",
        "\u{1f600}",
        "[{",
        "((",
        "9",
    ] {
        for length in [LONGEST, 64 * 1024] {
            values.push(piece.repeat(length / piece.len()));
        }
    }
    let wide: String = (0..200)
        .map(|at| format!("{}.{}.0.0/16,", at, at))
        .collect();
    values.push(wide);
    let regexes = vec!["request.path.matches('\\\\w{900}')"; 100].join("||");
    values.push(format!("all;filter={regexes}"));
    values.push(format!(
        "info,{}",
        vec!["l[{a=\\w{90}}]=debug"; 200].join(",")
    ));
    values
}

#[test]
fn no_annotation_costs_more_than_a_review_may() {
    let _measuring = alone();
    let config = InjectionConfig::default();
    let shop = Namespace::opted_in("shop");
    let names = KNOWN
        .iter()
        .copied()
        .chain(["linnet.io/other", "prometheus.io/port"]);
    for name in names {
        for value in values() {
            let pod = json!({
                "metadata": {"name": "p", "annotations": {name: value}},
                "spec": {"containers": [{"name": "app"}]},
            });
            let (outcome, memory) = resident_peak(|| inject(&pod, &shop, &config));
            let start: String = value.chars().take(40).collect();
            let case = format!("{name}: {start:?}, {} bytes", value.len());
            assert!(memory < MEMORY, "{case}: {memory} bytes of memory");
            let (told, patch) = match outcome {
                Ok(outcome) => (
                    outcome.warnings.concat(),
                    match outcome.verdict {
                        linnet_injector::inject::Verdict::Injected { patch, .. } => {
                            json!(patch).to_string().len()
                        }
                        linnet_injector::inject::Verdict::Skipped(_) => 0,
                    },
                ),
                Err(error) => (error.to_string(), 0),
            };
            assert!(told.len() < 2048, "{case}: told {} bytes", told.len());
            assert!(
                patch < 3 * LONGEST + 8192,
                "{case}: a patch of {patch} bytes"
            );
            // Whatever has a limit says whose it is.
            let read = name != annotation::ACCESS_LOG && KNOWN.contains(&name);
            if read && told.contains("at most") {
                assert!(told.contains(name), "{case}: {told}");
            }
        }
    }
}

/// The fields of a pod that the injector repeats or walks through.
fn pods() -> Vec<(&'static str, Value)> {
    let app = || json!({"name": "app"});
    let pod =
        |containers: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
    let long = "x".repeat(MIB / 2);
    let many = |count: usize, element: &dyn Fn(usize) -> Value| -> Value {
        (0..count).map(element).collect()
    };
    let mut named = pod(json!([app()]));
    named["metadata"]["name"] = json!(long);
    let mut generated = pod(json!([app()]));
    generated["metadata"] = json!({"generateName": long});
    let mut annotated = pod(json!([app()]));
    annotated["metadata"]["annotations"] = (0..20_000)
        .map(|at| (format!("linnet.io/{at}"), json!("x")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut labelled = pod(json!([app()]));
    labelled["metadata"]["labels"] = json!({"linnet.io/inject": long});
    let mut volumes = pod(json!([app()]));
    volumes["spec"]["volumes"] = many(30_000, &|at| json!({"name": format!("v{at}")}));
    let mut grace = pod(json!([app()]));
    grace["spec"]["terminationGracePeriodSeconds"] = json!(i64::MIN);
    let probe = json!({"httpGet": {"port": long, "path": long, "httpHeaders": [{"name": long, "value": ""}]}});
    let mut deep = json!(0);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    vec![
        ("name", named),
        ("generateName", generated),
        ("annotations", annotated),
        ("label", labelled),
        ("volumes", volumes),
        ("grace", grace),
        (
            "container name",
            pod(json!([{"name": long, "ports": [{"containerPort": 15001}]}])),
        ),
        (
            "not a pod",
            json!({"spec": {"containers": [{"name": "a", "ports": long}]}}),
        ),
        (
            "probe",
            pod(json!([{"name": "app", "livenessProbe": probe}])),
        ),
        (
            "port names",
            pod(json!([{"name": "app",
            "ports": many(2_000, &|at| json!({"containerPort": 80, "name": format!("p{at}")})),
            "livenessProbe": {"tcpSocket": {"port": "none"}}}])),
        ),
        (
            "containers",
            pod(many(5_000, &|at| json!({"name": format!("c{at}")}))),
        ),
        (
            "probes",
            pod(many(
                1_000,
                &|at| json!({"name": format!("c{at}"), "livenessProbe": {"tcpSocket": {"port": 80}}}),
            )),
        ),
        (
            "hooks",
            pod(many(
                1_000,
                &|at| json!({"name": format!("c{at}"), "lifecycle": {"preStop": {"httpGet": {"port": 80}}}}),
            )),
        ),
        ("objects", pod(many(120_000, &|_| json!({"": 0})))),
        (
            "values",
            pod(json!([{"name": "app", "args": vec![""; 300_000]}])),
        ),
        ("depth", pod(deep)),
    ]
}

#[test]
fn no_pod_costs_more_than_a_review_may() {
    let _measuring = alone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let labels: Labels = [("linnet.io/inject".to_owned(), "enabled".to_owned())].into();
    let namespaces = std::collections::BTreeMap::from([("shop".to_owned(), labels)]);
    let config = InjectionConfig::default();
    let router = Webhook::new(config, std::sync::Arc::new(namespaces)).router();
    for (what, pod) in pods() {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CREATE", "namespace": "shop",
            "kind": {"group": "", "version": "v1", "kind": "Pod"}, "object": pod,
        }});
        let body = review.to_string();
        let length = body.len();
        let request = http::Request::post("/inject")
            .body(Body::from(body))
            .unwrap();
        let asked = async {
            let response = router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            (
                status,
                response.into_body().collect().await.unwrap().to_bytes(),
            )
        };
        let ((status, answer), memory) = resident_peak(|| runtime.block_on(asked));
        assert!(
            memory < MEMORY + 4 * length,
            "{what}: {memory} bytes of memory for {length}"
        );
        let patched = answer.windows(9).any(|part| part == b"JSONPatch");
        let most = if patched { 4 * length } else { 0 };
        assert!(
            answer.len() < ANSWER + most,
            "{what}: {status} {} bytes",
            answer.len()
        );
    }
}
