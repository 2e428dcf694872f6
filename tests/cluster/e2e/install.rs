//! Point 1: two commands and a label.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use linnet_mesh::names::{container, label};

use crate::support::Cluster;
use crate::support::command::linnet_succeeds;
use crate::support::workload::MESHED;

pub(crate) async fn control_plane_is_healthy_and_a_labelled_namespace_gets_sidecars(
    cluster: Cluster,
) {
    let start = Instant::now();
    linnet_succeeds(&["install", "-y"]).await;
    println!("linnet install: {:.1} s", start.elapsed().as_secs_f64());
    linnet_succeeds(&["check"]).await;

    let start = Instant::now();
    cluster.meshed().await;
    println!("workloads ready: {:.1} s", start.elapsed().as_secs_f64());
    for version in ["v1", "v2"] {
        let labels = format!("app=payment-service,version={version}");
        let pods = cluster.pod_objects(MESHED, &labels).await;
        assert_eq!(pods.len(), 1, "one pod of payment-service {version}");
        assert_has_sidecar(&pods[0]);
    }

    // A second install changes nothing, and check still finds all well.
    linnet_succeeds(&["install", "-y"]).await;
    let check = linnet_succeeds(&["check"]).await;
    println!("{check}");
}

/// A native sidecar, right after the container that redirects, both of them
/// before the application, and ready.
fn assert_has_sidecar(pod: &Pod) {
    let name = pod.name_any();
    assert_eq!(
        pod.labels().get(label::SIDECAR).map(String::as_str),
        Some(label::SIDECAR_INJECTED),
        "pod {name}"
    );
    let spec = pod.spec.as_ref().unwrap();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let names: Vec<_> = init
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    assert_eq!(names, [container::INIT, container::PROXY], "pod {name}");
    assert_eq!(init[1].restart_policy.as_deref(), Some("Always"));
    let status = pod.status.as_ref().unwrap();
    let sidecar = status.init_container_statuses.iter().flatten();
    let sidecar = sidecar
        .into_iter()
        .find(|status| status.name == container::PROXY);
    let sidecar = sidecar.unwrap_or_else(|| panic!("pod {name}: no status of the sidecar"));
    assert!(sidecar.ready, "pod {name}: {sidecar:?}");
}
