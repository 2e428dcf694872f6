use super::*;
use serde_json::json;

fn pod(value: serde_json::Value) -> Pod {
    serde_json::from_value::<core::Pod>(value).unwrap().into()
}

#[test]
fn the_owner_is_the_one_that_a_person_would_name() {
    let owned = |kind: &str, owner: &str, labels: serde_json::Value| {
        pod(json!({"metadata": {"name": "pod-x", "namespace": "n", "labels": labels,
            "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": owner, "uid": "u", "controller": true}]}}))
        .workload
        .name
        .clone()
    };
    let hash = json!({"pod-template-hash": "7d9f"});
    for (kind, owner, labels, expected) in [
        ("ReplicaSet", "payment-v1-7d9f", hash.clone(), "payment-v1"),
        ("ReplicaSet", "hand-made", hash, "hand-made"),
        ("Job", "report-28461120", json!({}), "report"),
        ("Job", "report-once", json!({}), "report-once"),
        ("StatefulSet", "db", json!({}), "db"),
        ("DaemonSet", "agent", json!({}), "agent"),
    ] {
        assert_eq!(owned(kind, owner, labels), expected, "{kind} {owner}");
    }
    let bare = pod(json!({"metadata": {"name": "bare", "namespace": "n"}}));
    assert_eq!(bare.workload.name, "bare");
    assert_eq!(bare.workload.canonical_service, "bare");
    assert_eq!(bare.workload.canonical_revision, "latest");
    assert_eq!(bare.service_account, "default");
    assert_eq!(bare.sidecar, None);
}

#[test]
fn canonical_labels_go_first() {
    let labels = json!({"app": "a", "version": "v", "service.istio.io/canonical-name": "c",
        "service.istio.io/canonical-revision": "r"});
    let pod = pod(json!({"metadata": {"name": "p", "labels": labels}}));
    assert_eq!(pod.workload.canonical_service, "c");
    assert_eq!(pod.workload.canonical_revision, "r");
    assert_eq!(
        (pod.workload.app.as_str(), pod.workload.version.as_str()),
        ("a", "v")
    );
}

#[test]
fn a_pod_on_the_host_s_network_has_no_address_of_its_own() {
    let pod = pod(
        json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": []},
        "status": {"podIP": "192.168.0.1"}}),
    );
    assert!(pod.ips.is_empty());
}

#[test]
fn ports_that_bypass_the_sidecar_are_known() {
    let ports = |annotations: serde_json::Value| {
        let labels = json!({"linnet.io/sidecar": "injected"});
        pod(json!({"metadata": {"name": "p", "labels": labels, "annotations": annotations}}))
            .sidecar
            .unwrap()
    };
    let all = ports(json!({}));
    assert!(all.contains(80) && !all.contains(15020));
    let some = ports(
        json!({"traffic.sidecar.istio.io/excludeInboundPorts": "80, 81",
        "linnet.io/skip-inbound-ports": "82"}),
    );
    assert!(!some.contains(80) && !some.contains(81) && !some.contains(82) && some.contains(83));
    let only = ports(json!({"traffic.sidecar.istio.io/includeInboundPorts": "8080"}));
    assert!(only.contains(8080) && !only.contains(80));
    let any = ports(json!({"traffic.sidecar.istio.io/includeInboundPorts": "*"}));
    assert!(any.contains(80));
}

#[test]
fn udp_ports_and_the_address_none_drop_out() {
    let service: core::Service = serde_json::from_value(json!({"metadata": {"name": "s"},
        "spec": {"clusterIP": "None", "clusterIPs": ["None"],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 80}]}}))
    .unwrap();
    let service = Service::from(service);
    assert!(service.cluster_ips.is_empty());
    assert_eq!(service.ports.len(), 1);
}

#[test]
fn an_annotation_says_what_is_written_and_a_slip_switches_nothing_off() {
    let log = |text: &str| {
        let annotations = json!({"linnet.io/access-log": text});
        pod(json!({"metadata": {"name": "p", "annotations": annotations}})).access_log
    };
    assert_eq!(*log("all;sample=0.5").unwrap(), "all;sample=0.5".parse());
    assert!(log("of").unwrap().is_err());
    assert_eq!(AccessLog::default().scope.as_str(), "denied");
}
