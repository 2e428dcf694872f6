use super::*;

fn pod(container: &Value) -> PodView {
    PodView::parse(&json!({"spec": {"containers": [{"name": "sidekick"}, container]}})).unwrap()
}

fn only(container: &Value) -> Rewrite {
    let mut found = rewrites(&pod(container)).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn an_http_probe_keeps_what_the_kubelet_would_send() {
    let rewrite = only(&json!({
        "name": "app",
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {
            "timeoutSeconds": 7,
            "httpGet": {"port": "web", "path": "health?deep=1", "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]},
        },
    }));
    assert_eq!(
        (rewrite.list, rewrite.index, rewrite.field),
        ("containers", 1, "readinessProbe")
    );
    assert_eq!(
        serde_json::to_value(&rewrite.description).unwrap(),
        json!({
            "path": "/probe/app/readiness", "kind": "http", "port": 8080, "scheme": "HTTPS",
            "http_path": "/health?deep=1", "headers": [{"name": "A", "value": "b"}], "timeout_seconds": 7,
        })
    );
    assert_eq!(
        rewrite.http_get(),
        json!({"path": "/probe/app/readiness", "port": 15020, "scheme": "HTTP"})
    );
}

#[test]
fn grpc_and_tcp_probes_become_http_ones() {
    let grpc =
        only(&json!({"name": "app", "livenessProbe": {"grpc": {"port": 9000, "service": "x"}}}));
    assert_eq!((grpc.handler, grpc.description.kind), ("grpc", Kind::Grpc));
    assert_eq!(grpc.description.service.as_deref(), Some("x"));
    assert_eq!(grpc.description.timeout_seconds, 1);
    let tcp = only(&json!({"name": "app", "startupProbe": {"tcpSocket": {"port": 6379}}}));
    assert_eq!(
        (tcp.handler, tcp.description.kind),
        ("tcpSocket", Kind::Tcp)
    );
    assert_eq!(tcp.description.path, "/probe/app/startup");
}

#[test]
fn what_does_not_reach_the_pods_network_stays() {
    let untouched = [
        json!({"exec": {"command": ["true"]}}),
        json!({"httpGet": {"port": 80, "host": "192.0.2.1"}}),
        json!({"tcpSocket": {"port": 80, "host": "192.0.2.1"}}),
        json!({}),
    ];
    for probe in untouched {
        let pod = pod(&json!({"name": "app", "livenessProbe": probe}));
        assert_eq!(rewrites(&pod).unwrap(), [], "{probe}");
    }
}

#[test]
fn names_are_looked_up_in_the_probes_own_container() {
    let pod = PodView::parse(&json!({"spec": {"containers": [
        {"name": "one", "ports": [{"name": "web", "containerPort": 1}]},
        {"name": "two", "ports": [{"name": "api", "containerPort": 2}, {"containerPort": 3}],
         "livenessProbe": {"tcpSocket": {"port": "web"}}},
    ]}}))
    .unwrap();
    let error = rewrites(&pod).unwrap_err().to_string();
    assert!(
        error.contains("container two: livenessProbe: port \"web\""),
        "{error}"
    );
    assert!(error.contains("(api)"), "{error}");
}

#[test]
fn a_number_as_text_is_a_port_and_other_numbers_are_not() {
    let text = only(&json!({"name": "app", "livenessProbe": {"tcpSocket": {"port": "8080"}}}));
    assert_eq!(text.description.port, 8080);
    for port in [json!(0), json!(-1), json!(65536), json!("70000")] {
        let pod = pod(&json!({"name": "app", "livenessProbe": {"httpGet": {"port": port}}}));
        let error = rewrites(&pod).unwrap_err();
        assert!(
            matches!(error, ProbeError::BadPort { .. }),
            "{port}: {error}"
        );
    }
}

#[test]
fn the_list_reads_back() {
    let rewrite = only(&json!({"name": "app", "livenessProbe": {"grpc": {"port": 9000}}}));
    let text = serde_json::to_string(&[&rewrite.description]).unwrap();
    let read: Vec<Description> = serde_json::from_str(&text).unwrap();
    assert_eq!(read, [rewrite.description]);
}

/// The sidecar must not be made to ask itself.
#[test]
fn a_probe_of_the_sidecar_s_own_ports_is_not_made_by_it() {
    for number in port::SIDECAR {
        for handler in [
            json!({"httpGet": {"port": number, "path": "/probe/app/liveness"}}),
            json!({"httpGet": {"port": number.to_string()}}),
            json!({"tcpSocket": {"port": number}}),
            json!({"grpc": {"port": number}}),
        ] {
            let found = rewrites(&pod(&json!({"name": "app", "livenessProbe": handler})));
            match number {
                port::METRICS => assert_eq!(found, Ok(Vec::new()), "{handler}"),
                _ => assert!(
                    matches!(found, Err(ProbeError::SidecarPort { .. })),
                    "{handler}: {found:?}"
                ),
            }
        }
    }
}
