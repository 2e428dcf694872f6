use super::*;

fn template() -> Value {
    json!({"metadata": {"creationTimestamp": null, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "app", "image": "i"}]}})
}

fn workload(kind: &str) -> Value {
    let spec = match kind {
        "CronJob" => {
            json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template()}}})
        }
        _ => json!({"template": template(), "future": {"kept": true}}),
    };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec})
}

fn run(document: &Value) -> Result<Document, DocumentError> {
    inject_document(
        document,
        &Namespace::opted_in("default"),
        &InjectionConfig::default(),
    )
}

fn init_containers(pod: &Value) -> Vec<&str> {
    let list = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten();
    list.filter_map(|c| c["name"].as_str()).collect()
}

#[test]
fn every_workload_gets_its_template_injected_once() {
    for kind in [
        "Deployment",
        "DaemonSet",
        "StatefulSet",
        "ReplicaSet",
        "ReplicationController",
        "Job",
        "CronJob",
    ] {
        let original = workload(kind);
        let done = run(&original).unwrap();
        assert_eq!(done.items[0].verdict, ItemVerdict::Injected, "{kind}");
        let path = template_path(kind).unwrap();
        let template = done.value.pointer(path).unwrap();
        assert_eq!(
            init_containers(template),
            ["linnet-init", "linnet-proxy"],
            "{kind}"
        );
        assert_eq!(
            template["metadata"]["labels"]["linnet.io/sidecar"],
            "injected"
        );
        // Nothing outside of the template changes.
        let mut rest = done.value.clone();
        *rest.pointer_mut(path).unwrap() = original.pointer(path).unwrap().clone();
        assert_eq!(rest, original, "{kind}");

        let again = run(&done.value).unwrap();
        assert_eq!(again.value, done.value);
        assert_eq!(
            again.items[0].verdict,
            ItemVerdict::Skipped(SkipReason::AlreadyInjected)
        );
    }
}

#[test]
fn a_pod_is_its_own_template() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}, "status": {}});
    let done = run(&pod).unwrap();
    assert_eq!(
        init_containers(&done.value),
        ["linnet-init", "linnet-proxy"]
    );
    assert_eq!(
        (&done.value["kind"], &done.value["status"]),
        (&json!("Pod"), &json!({}))
    );
}

#[test]
fn a_list_is_injected_item_by_item() {
    let mut system = workload("Deployment");
    system["metadata"]["namespace"] = json!("kube-system");
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}});
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": [workload("Job"), service, system]});
    let done = run(&list).unwrap();
    let verdicts: Vec<_> = done.items.iter().map(|item| &item.verdict).collect();
    let untouched = ItemVerdict::Skipped(SkipReason::SystemNamespace("kube-system".to_owned()));
    assert_eq!(
        verdicts,
        [&ItemVerdict::Injected, &ItemVerdict::NoPods, &untouched]
    );
    assert_eq!(done.value["items"][1], list["items"][1]);
    assert_eq!(done.value["items"][2], list["items"][2]);
    assert_eq!(done.items[0].resource.to_string(), "Job default/x");
}

#[test]
fn what_lacks_a_template_is_named() {
    let broken =
        json!({"kind": "CronJob", "metadata": {"name": "n", "namespace": "shop"}, "spec": {}});
    let error = run(&broken).unwrap_err().to_string();
    assert_eq!(
        error,
        "CronJob shop/n: spec.jobTemplate.spec.template is missing; a CronJob needs a pod template"
    );
    let error = run(&json!({"kind": "List"})).unwrap_err();
    assert!(matches!(error, DocumentError::NoItems(_)), "{error}");
    let mut bad = workload("Deployment");
    bad["spec"]["template"]["metadata"]["annotations"] = json!({"linnet.io/opaque-ports": "x"});
    let error = run(&bad).unwrap_err().to_string();
    assert!(
        error.starts_with("Deployment default/x: annotation linnet.io/opaque-ports"),
        "{error}"
    );
}

#[test]
fn what_is_no_workload_passes() {
    for document in [
        json!(null),
        json!({"kind": "ConfigMap"}),
        json!([1]),
        json!({"kind": "PodList"}),
    ] {
        assert_eq!(run(&document).unwrap().value, document);
    }
}
