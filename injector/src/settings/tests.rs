use serde_json::json;

use super::*;

fn parse(annotations: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::parse(&pod(annotations))
}

fn pod(annotations: &[(&str, &str)]) -> PodView {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), json!(value));
    let annotations: serde_json::Map<_, _> = annotations.iter().map(owned).collect();
    PodView::parse(&json!({"metadata": {"annotations": annotations}})).unwrap()
}

#[test]
fn without_annotations_all_is_default() {
    assert_eq!(parse(&[]).unwrap(), Settings::default());
}

#[test]
fn both_spellings_of_every_skip_add_up() {
    let settings = parse(&[
        ("linnet.io/skip-inbound-ports", "22"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "23"),
        ("linnet.io/skip-outbound-ports", "25"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "3306"),
        ("linnet.io/skip-outbound-cidrs", "fd00::/8"),
        (
            "traffic.sidecar.istio.io/excludeOutboundIPRanges",
            "10.1.2.3/8, 192.0.2.1",
        ),
    ])
    .unwrap();
    let redirection = settings.redirection;
    assert_eq!(redirection.skip_inbound_ports.to_string(), "22-23");
    assert_eq!(redirection.skip_outbound_ports.to_string(), "25,3306");
    let cidrs: Vec<String> = redirection
        .skip_outbound_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(cidrs, ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]);
}

#[test]
fn includes_tell_all_from_nothing() {
    let ports = "traffic.sidecar.istio.io/includeInboundPorts";
    let cidrs = "traffic.sidecar.istio.io/includeOutboundIPRanges";
    let redirection = |value| {
        parse(&[(ports, value), (cidrs, value)])
            .unwrap()
            .redirection
    };
    assert_eq!(redirection("*"), Redirection::default());
    let nothing = redirection("");
    assert_eq!(nothing.include_inbound_ports, Some(Ports::default()));
    assert_eq!(nothing.include_outbound_cidrs, Some(Vec::new()));
}

#[test]
fn linnets_single_values_win() {
    let settings = parse(&[
        ("sidecar.istio.io/proxyCPU", "100m"),
        ("linnet.io/proxy-cpu-request", "50m"),
        ("sidecar.istio.io/proxyMemoryLimit", "1Gi"),
        ("sidecar.istio.io/logLevel", "critical"),
        ("linnet.io/proxy-log", "linnet_proxy=trace"),
        ("linnet.io/native-sidecar", "False"),
        ("linnet.io/opaque-ports", "3306,25"),
    ])
    .unwrap();
    assert_eq!(settings.resources.cpu_request.unwrap().as_str(), "50m");
    assert_eq!(settings.resources.memory_limit.unwrap().as_str(), "1Gi");
    assert_eq!(settings.log.as_deref(), Some("linnet_proxy=trace"));
    assert_eq!(settings.native_sidecar, Some(false));
    assert_eq!(settings.opaque_ports.to_string(), "25,3306");
    let istio = parse(&[("sidecar.istio.io/logLevel", "critical")]).unwrap();
    assert_eq!(istio.log.as_deref(), Some("error"));
}

#[test]
fn every_annotation_that_can_be_wrong_is_refused_by_name() {
    let wrong = [
        ("linnet.io/skip-inbound-ports", "*"),
        ("linnet.io/skip-outbound-ports", "70000"),
        ("linnet.io/skip-outbound-cidrs", "10.0.0.0/40"),
        ("linnet.io/opaque-ports", "mysql"),
        ("linnet.io/native-sidecar", "1"),
        ("linnet.io/proxy-log", "linnet_proxy=loud"),
        ("linnet.io/proxy-cpu-request", "-1"),
        ("linnet.io/proxy-cpu-limit", "0"),
        ("linnet.io/proxy-memory-request", "20"),
        ("linnet.io/proxy-memory-limit", "128m"),
        ("sidecar.istio.io/proxyCPU", "a"),
        ("sidecar.istio.io/proxyCPULimit", "b"),
        ("sidecar.istio.io/proxyMemory", "c"),
        ("sidecar.istio.io/proxyMemoryLimit", "d"),
        ("sidecar.istio.io/logLevel", "default:debug"),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "perhaps"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "80,*"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "*"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "https"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "443-80"),
        (
            "traffic.sidecar.istio.io/includeOutboundIPRanges",
            "10.0.0.0/8,any",
        ),
        (
            "traffic.sidecar.istio.io/excludeOutboundIPRanges",
            "300.0.0.0/8",
        ),
    ];
    for (name, value) in wrong {
        let SettingsError(mistakes) = parse(&[(name, value)]).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{name}");
        assert_eq!(
            (mistakes[0].annotation, mistakes[0].value.as_str()),
            (name, value)
        );
    }
    let SettingsError(all) = parse(&wrong).unwrap_err();
    assert_eq!(all.len(), wrong.len(), "all mistakes come at once");
}

#[test]
fn a_request_above_its_limit_names_the_spelling_used() {
    let error = parse(&[
        ("linnet.io/proxy-cpu-limit", "100m"),
        ("sidecar.istio.io/proxyCPU", "2"),
    ])
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "annotation sidecar.istio.io/proxyCPU: \"2\": more than the limit, 100m"
    );
}

#[test]
fn annotations_that_nothing_acts_on_are_named() {
    let warnings = unknown_annotations(&pod(&[
        ("linnet.io/skip-inbound-port", "80"),
        ("linnet.io/status", "{}"),
        ("linnet.io/access-log", "all"),
        ("sidecar.istio.io/inject", "true"),
        ("traffic.sidecar.istio.io/kubevirtInterfaces", "net1"),
        ("example.com/else", "x"),
    ]));
    let names: Vec<&str> = warnings
        .iter()
        .filter_map(|w| w.split(' ').nth(1))
        .collect();
    assert_eq!(
        names,
        [
            "linnet.io/skip-inbound-port",
            "traffic.sidecar.istio.io/kubevirtInterfaces"
        ]
    );
}

#[test]
fn an_access_log_that_can_t_be_read_is_a_warning() {
    let warning = |text| unread_access_log(&pod(&[("linnet.io/access-log", text)]));
    assert_eq!(warning("all;sample=0.1;filter=response.code >= 400"), None);
    let told = warning("al").unwrap();
    assert!(
        told.starts_with("annotation linnet.io/access-log: \"al\": write off, denied or all"),
        "{told}"
    );
    assert!(
        told.ends_with("it counts as if it were not there"),
        "{told}"
    );
}
