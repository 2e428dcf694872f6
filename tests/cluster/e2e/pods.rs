//! Point 5: Jobs complete, init containers have a network, no application starts
//! before its sidecar, and who is to be left alone is left alone.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use linnet_mesh::names::{CONTROL_PLANE_NAMESPACE, container, label};
use serde_json::{Value, json};

use crate::support::Cluster;
use crate::support::cluster::guide;
use crate::support::workload::{MESHED, UNMESHED};

pub(crate) async fn jobs_complete_and_the_excluded_stay_as_they_are(cluster: Cluster) {
    cluster.meshed().await;
    cluster.outsiders().await;
    cluster.without_configuration().await;
    // Only calls through the sidecar get an answer now.
    cluster.apply(MESHED, &guide("namespace-strict.yaml")).await;

    jobs_complete(&cluster).await;
    classic_sidecar_holds_the_application_up(&cluster).await;
    the_excluded_stay_as_they_are(&cluster).await;
    cluster.without_configuration().await;
}

async fn jobs_complete(cluster: &Cluster) {
    let jobs = include_str!("workloads/jobs.yaml");
    cluster.delete(MESHED, jobs).await;
    for name in ["first-act", "init-calls"] {
        let gone = |job: Option<&Job>| job.is_none();
        cluster.wait(cluster.api(MESHED), name, "gone", gone).await;
    }
    cluster.apply(MESHED, jobs).await;
    for name in ["first-act", "init-calls"] {
        let ended = |job: Option<&Job>| job.is_some_and(|job| condition(job).is_some());
        let job = cluster
            .wait(cluster.api(MESHED), name, "ended", ended)
            .await;
        let job: Job = job.unwrap_or_else(|| panic!("Job {name} disappeared"));
        assert_eq!(
            condition(&job),
            Some("Complete"),
            "Job {name}: {:#?}",
            job.status
        );
        println!("Job {name} completed");
    }
    let pods: Api<Pod> = cluster.api(MESHED);
    let labels = kube::api::ListParams::default().labels("job-name in (first-act, init-calls)");
    let pods = pods.list(&labels).await.unwrap().items;
    assert_eq!(pods.len(), 6, "five pods and one");
    for pod in pods {
        assert!(is_injected(&pod), "pod {}", pod.name_any());
    }
    cluster.delete(MESHED, jobs).await;
}

/// How a Job ended, if it did.
fn condition(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let ended = conditions.iter().find(|condition| {
        condition.status == "True" && ["Complete", "Failed"].contains(&condition.type_.as_str())
    });
    ended.map(|condition| condition.type_.as_str())
}

async fn classic_sidecar_holds_the_application_up(cluster: &Cluster) {
    let classic = include_str!("workloads/classic.yaml");
    cluster.delete(MESHED, classic).await;
    let gone = |pod: Option<&Pod>| pod.is_none();
    cluster
        .wait(cluster.api(MESHED), "classic", "gone", gone)
        .await;
    cluster.apply(MESHED, classic).await;
    let ended = |pod: Option<&Pod>| pod.is_some_and(|pod| exit_code(pod).is_some());
    let pod = cluster
        .wait(cluster.api(MESHED), "classic", "ended", ended)
        .await;
    let pod: Pod = pod.unwrap_or_else(|| panic!("pod classic disappeared"));
    let spec = pod.spec.as_ref().unwrap();
    let names: Vec<_> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, [container::PROXY, "sample"]);
    assert_eq!(
        exit_code(&pod),
        Some(0),
        "the first call failed: {:#?}",
        pod.status
    );
    cluster.delete(MESHED, classic).await;
}

/// The exit code of the application's container, once it ended.
fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    let status = statuses.iter().find(|status| status.name == "sample")?;
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

async fn the_excluded_stay_as_they_are(cluster: &Cluster) {
    let plain = json!({});
    let admitted = |namespace: &'static str, over: Value| admit(cluster, namespace, over);
    assert!(
        is_injected(&admitted(MESHED, plain.clone()).await),
        "the control"
    );

    for over in [
        json!({"spec": {"hostNetwork": true}}),
        json!({"metadata": {"labels": {label::INJECT: "disabled"}}}),
        json!({"metadata": {"labels": {label::ISTIO_SIDECAR_INJECT: "false"}}}),
        json!({"metadata": {"annotations": {label::ISTIO_SIDECAR_INJECT: "false"}}}),
    ] {
        let pod = admitted(MESHED, over.clone()).await;
        assert_untouched(&pod, &format!("{over}"));
    }
    for namespace in ["kube-system", CONTROL_PLANE_NAMESPACE] {
        let api: Api<Namespace> = Api::all(cluster.client.clone());
        let before = api.get(namespace).await.unwrap();
        let before = before.labels().get(label::ISTIO_INJECTION).cloned();
        cluster
            .label_namespace(namespace, label::ISTIO_INJECTION, Some("enabled"))
            .await;
        let pod = admitted(namespace, plain.clone()).await;
        cluster
            .label_namespace(namespace, label::ISTIO_INJECTION, before.as_deref())
            .await;
        assert_untouched(&pod, namespace);
    }
    assert_untouched(
        &admitted(UNMESHED, plain).await,
        "a namespace without the label",
    );
}

/// What the API server would make of a pod: all of admission, nothing stored.
async fn admit(cluster: &Cluster, namespace: &str, over: Value) -> Pod {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "dry-run"},
        "spec": {
            // Linnet's own namespace takes no other pods.
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "sample",
                "image": "linnet/sample:dev",
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    });
    merge(&mut pod, over);
    let api: Api<Pod> = cluster.api(namespace);
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod = serde_json::from_value(pod).unwrap();
    let result = api.create(&params, &pod).await;
    result.unwrap_or_else(|error| panic!("dry run in {namespace}: {error}"))
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn is_injected(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref().unwrap();
    let init = spec.init_containers.iter().flatten();
    let mut names = init.chain(&spec.containers).map(|c| c.name.as_str());
    names.any(|name| name == container::PROXY)
}

fn assert_untouched(pod: &Pod, why: &str) {
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.containers.len(), 1, "{why}: {pod:#?}");
    let init = spec.init_containers.as_deref().unwrap_or_default();
    assert!(init.is_empty(), "{why}: {init:#?}");
    assert!(!pod.labels().contains_key(label::SIDECAR), "{why}");
}
