use super::*;
use axum::http::Request;
use http_body_util::BodyExt;
use linnet_mesh::TrustDomain;
use std::collections::HashSet;
use tower::ServiceExt;

fn workload(name: &str, version: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: format!("{name}-{version}"),
        namespace: "default".to_owned(),
        app: name.to_owned(),
        version: version.to_owned(),
        service_account: name.to_owned(),
        canonical_service: name.to_owned(),
        canonical_revision: version.to_owned(),
        pod: format!("{name}-{version}-abcde"),
    })
}

fn identity(account: &str) -> Option<SpiffeId> {
    Some(SpiffeId::new(&TrustDomain::default(), "default", account).unwrap())
}

fn parties(source: &str) -> Parties {
    Parties {
        reporter: Reporter::Destination,
        source: workload(source, "v1"),
        source_principal: identity(source),
        destination: workload("payment", "v2"),
        destination_principal: identity("payment"),
        service: Some(DestinationService {
            namespace: "default".into(),
            name: "payment".into(),
            hostname: "payment.default.svc.cluster.local".into(),
        }),
        secured: true,
    }
}

fn ok() -> Outcome {
    Outcome {
        status: 200,
        duration: Duration::from_micros(1_500),
        request_bytes: 7,
        response_bytes: 1_024,
        ..Outcome::default()
    }
}

#[test]
fn request_has_istios_names_and_labels() {
    let telemetry = Telemetry::new("1.2.3");
    let series = telemetry.http(&parties("checkout"), RequestProtocol::Http);
    series.record(&ok());
    series.record(&ok());
    let text = telemetry.render();
    let labels = concat!(
        "reporter=\"destination\",",
        "source_workload=\"checkout-v1\",source_workload_namespace=\"default\",",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/checkout\",",
        "source_app=\"checkout\",source_version=\"v1\",",
        "source_canonical_service=\"checkout\",source_canonical_revision=\"v1\",",
        "source_cluster=\"Kubernetes\",",
        "destination_workload=\"payment-v2\",destination_workload_namespace=\"default\",",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/payment\",",
        "destination_app=\"payment\",destination_version=\"v2\",",
        "destination_canonical_service=\"payment\",destination_canonical_revision=\"v2\",",
        "destination_cluster=\"Kubernetes\",",
        "destination_service=\"payment.default.svc.cluster.local\",",
        "destination_service_name=\"payment\",destination_service_namespace=\"default\",",
        "connection_security_policy=\"mutual_tls\",",
        "request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",",
        "response_flags=\"-\"",
    );
    for line in [
        format!("istio_requests_total{{{labels}}} 2\n"),
        format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"1\"}} 0\n"),
        format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"5\"}} 2\n"),
        format!("istio_request_duration_milliseconds_sum{{{labels}}} 3.000\n"),
        format!("istio_request_bytes_bucket{{{labels},le=\"10\"}} 2\n"),
        format!("istio_request_bytes_sum{{{labels}}} 14\n"),
        format!("istio_response_bytes_count{{{labels}}} 2\n"),
        "istio_build{component=\"proxy\",tag=\"1.2.3\"} 1\n".to_owned(),
        "# TYPE istio_request_duration_milliseconds histogram\n".to_owned(),
        "# TYPE istio_requests_total counter\n".to_owned(),
        "linnet_series_dropped_total 0\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}

#[test]
fn unknown_peer_in_plaintext_says_so() {
    let telemetry = Telemetry::new("1");
    let unknown = Parties {
        reporter: Reporter::Source,
        source: Arc::default(),
        source_principal: None,
        service: None,
        secured: false,
        ..parties("x")
    };
    let outcome = Outcome {
        status: 503,
        grpc_status: Some(14),
        flags: Flags::UF | Flags::URX,
        ..Outcome::default()
    };
    telemetry
        .http(&unknown, RequestProtocol::Grpc)
        .record(&outcome);
    let text = telemetry.render();
    let line = text
        .lines()
        .find(|line| line.starts_with("istio_requests_total{"))
        .unwrap();
    for label in [
        "reporter=\"source\"",
        "source_workload=\"unknown\"",
        "source_principal=\"unknown\"",
        "source_canonical_revision=\"unknown\"",
        "source_cluster=\"unknown\"",
        "destination_service=\"unknown\"",
        "destination_service_name=\"unknown\"",
        "connection_security_policy=\"none\"",
        "request_protocol=\"grpc\"",
        "response_code=\"503\"",
        "grpc_response_status=\"14\"",
        "response_flags=\"UF,URX\"",
    ] {
        assert!(line.contains(label), "{label} in {line}");
    }
}

#[test]
fn tcp_connections_are_counted() {
    let telemetry = Telemetry::new("1");
    let series = telemetry.tcp(&parties("checkout"));
    series.opened();
    series.opened();
    series.sent(10);
    series.sent(5);
    series.received(3);
    series.closed(Flags::default());
    series.closed(Flags::UF);
    let text = telemetry.render();
    let value = |name: &str, flags: &str| {
        let flags = format!("request_protocol=\"tcp\",response_flags=\"{flags}\"}}");
        text.lines()
            .find(|line| line.starts_with(name) && line.contains(&flags))
            .and_then(|line| line.rsplit(' ').next())
            .unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .to_owned()
    };
    assert_eq!(value("istio_tcp_connections_opened_total{", "-"), "2");
    assert_eq!(value("istio_tcp_sent_bytes_total{", "-"), "15");
    assert_eq!(value("istio_tcp_received_bytes_total{", "-"), "3");
    assert_eq!(value("istio_tcp_connections_closed_total{", "-"), "1");
    assert_eq!(value("istio_tcp_connections_closed_total{", "UF"), "1");
}

#[test]
fn pods_of_one_workload_share_their_series() {
    let telemetry = Telemetry::new("1");
    let one = parties("checkout");
    let mut source = (*one.source).clone();
    source.pod = "checkout-v1-other".to_owned();
    let other = Parties {
        source: Arc::new(source),
        ..one.clone()
    };
    let series = telemetry.http(&one, RequestProtocol::Http);
    assert!(Arc::ptr_eq(
        &series,
        &telemetry.http(&other, RequestProtocol::Http)
    ));
    assert!(!Arc::ptr_eq(
        &series,
        &telemetry.http(&one, RequestProtocol::Grpc)
    ));
}

/// No line is said twice: Prometheus would refuse the whole scrape.
fn assert_lines_differ(text: &str) {
    let mut seen = HashSet::new();
    for line in text.lines() {
        let name = line.rsplit_once(' ').unwrap().0;
        assert!(line.starts_with('#') || seen.insert(name), "{name} twice");
    }
}

#[test]
fn beyond_the_limit_all_is_counted_as_other() {
    let telemetry = Telemetry::with_limit("1", 5);
    for caller in 0..4 {
        let series = telemetry.http(&parties(&format!("c{caller}")), RequestProtocol::Http);
        series.record(&ok());
    }
    let known = telemetry.http(&parties("c0"), RequestProtocol::Http);
    known.record(&Outcome {
        status: 404,
        ..ok()
    });
    let text = telemetry.render();
    assert_lines_differ(&text);
    // c0, c1: two each; c2: one and no room for its outcome; c3: none.
    let requests: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .collect();
    let find = |labels: &[&str]| {
        requests
            .iter()
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .count()
    };
    assert_eq!(requests.len(), 5, "{text}");
    assert_eq!(find(&["\"c0-v1\"", "response_code=\"200\""]), 1);
    assert_eq!(find(&["\"c0-v1\"", "response_code=\"other\""]), 1);
    assert_eq!(find(&["\"c2-v1\"", "response_code=\"other\""]), 1);
    assert_eq!(find(&["source_workload=\"other\""]), 1);
    assert!(text.contains("linnet_series_dropped_total 4\n"), "{text}");
}

#[test]
fn one_server_can_not_use_up_the_room_of_all() {
    let telemetry = Telemetry::new("1");
    let series = telemetry.http(&parties("checkout"), RequestProtocol::Http);
    for status in 100..999 {
        series.record(&Outcome { status, ..ok() });
    }
    assert_eq!(series.outcomes.len(), series::MAX_VARIANTS);
    assert_eq!(telemetry.inner.room.used(), 1 + series::MAX_VARIANTS);
    assert_eq!(series.activity(), 899, "nothing is lost");
    assert_lines_differ(&telemetry.render());
}

#[test]
fn idle_series_go_and_held_ones_stay() {
    let telemetry = Telemetry::new("1");
    let start = Instant::now();
    let held = telemetry.http(&parties("held"), RequestProtocol::Http);
    held.record(&ok());
    telemetry
        .http(&parties("idle"), RequestProtocol::Http)
        .record(&ok());
    telemetry.tcp(&parties("idle")).closed(Flags::UF);
    let minute = Duration::from_secs(60);

    telemetry.expire(start + minute);
    telemetry.expire(start + IDLE);
    assert!(
        telemetry.render().contains("idle-v1"),
        "active until a minute in"
    );
    telemetry.expire(start + minute + IDLE);
    let text = telemetry.render();
    assert!(!text.contains("idle-v1"), "{text}");
    assert_eq!(telemetry.inner.room.used(), 2, "its room is free again");

    held.record(&ok());
    let text = telemetry.render();
    let line = text
        .lines()
        .find(|line| line.starts_with("istio_requests_total{"))
        .unwrap();
    assert!(line.contains("held-v1") && line.ends_with(" 2"), "{line}");
    drop(held);
    telemetry.expire(start + minute + 2 * IDLE);
    assert!(
        telemetry.render().contains("held-v1"),
        "held until just now"
    );
    telemetry.expire(start + minute + 3 * IDLE);
    assert!(!telemetry.render().contains("held-v1"));
    assert_eq!(telemetry.inner.room.used(), 0);
}

#[tokio::test]
async fn scrape_shows_both_kinds() {
    let exporter = linnet_runtime::health::metrics_recorder();
    metrics::counter!("linnet_telemetry_test_total").increment(1);
    let telemetry = Telemetry::new("1");
    for caller in 0..40 {
        telemetry
            .http(&parties(&format!("c{caller}")), RequestProtocol::Http)
            .record(&ok());
    }
    assert!(telemetry.pieces().count() > 10, "in pieces");
    assert_lines_differ(&telemetry.render());
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = telemetry.router(exporter).oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains("linnet_telemetry_test_total 1\n"));
    assert!(text.contains(&telemetry.render()));
}
