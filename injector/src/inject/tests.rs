use serde_json::Value;

use super::*;

fn injected(pod: &Value, config: &InjectionConfig) -> (Value, Patch, Vec<String>) {
    let outcome = inject(pod, &Namespace::opted_in("shop"), config).unwrap();
    match outcome.verdict {
        Verdict::Injected { pod, patch } => (pod, patch, outcome.warnings),
        Verdict::Skipped(reason) => panic!("skipped: {reason}"),
    }
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().into_iter().flatten();
    containers
        .map(|c| c["name"].as_str().unwrap().to_owned())
        .collect()
}

fn pod() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {
        "initContainers": [{"name": "fetch"}],
        "containers": [{"name": "app"}, {"name": "helper"}],
    }})
}

#[test]
fn a_native_sidecar_starts_before_the_pods_init_containers() {
    let (pod, ..) = injected(&pod(), &InjectionConfig::default());
    assert_eq!(
        names(&pod, "initContainers"),
        ["linnet-init", "linnet-proxy", "fetch"]
    );
    assert_eq!(names(&pod, "containers"), ["app", "helper"]);
}

#[test]
fn a_classic_sidecar_redirects_after_the_pods_init_containers() {
    let config = InjectionConfig {
        native_sidecar: false,
        ..InjectionConfig::default()
    };
    let (pod, ..) = injected(&pod(), &config);
    assert_eq!(names(&pod, "initContainers"), ["fetch", "linnet-init"]);
    assert_eq!(names(&pod, "containers"), ["linnet-proxy", "app", "helper"]);
    let default = &pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
    assert_eq!(default, "app");
}

#[test]
fn the_patch_leads_from_the_one_pod_to_the_other() {
    let original = pod();
    let (patched, patch, _) = injected(&original, &InjectionConfig::default());
    let mut replayed = original;
    json_patch::patch(&mut replayed, &patch).unwrap();
    assert_eq!(replayed, patched);
}

#[test]
fn probes_of_a_shifted_container_are_the_right_ones() {
    let mut pod = pod();
    pod["spec"]["containers"][1]["livenessProbe"] = json!({"tcpSocket": {"port": 1234}});
    let config = InjectionConfig {
        native_sidecar: false,
        ..InjectionConfig::default()
    };
    let (pod, ..) = injected(&pod, &config);
    let helper = &pod["spec"]["containers"][2];
    assert_eq!(
        helper["livenessProbe"]["httpGet"]["path"],
        "/probe/helper/liveness"
    );
    assert_eq!(helper["livenessProbe"].get("tcpSocket"), None);
}

#[test]
fn taken_names_are_refused() {
    for (field, name) in [
        ("initContainers", "linnet-init"),
        ("containers", "linnet-init"),
        ("volumes", "linnet-trust"),
    ] {
        let mut pod = pod();
        pod["spec"][field] = json!([{"name": name}]);
        if field != "containers" {
            pod["spec"]["containers"] = json!([{"name": "app"}]);
        }
        let error = inject(
            &pod,
            &Namespace::opted_in("shop"),
            &InjectionConfig::default(),
        )
        .unwrap_err();
        assert!(matches!(error, InjectError::NameTaken { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn what_can_go_wrong_later_is_said_now() {
    let mut pod = pod();
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["securityContext"] = json!({"runAsUser": 1337});
    pod["spec"]["containers"] = json!([
        {"name": "app", "securityContext": {"runAsUser": 1000}, "ports": [{"containerPort": 80}]},
        {"name": "helper", "securityContext": {"runAsUser": 1000}, "lifecycle": {"postStart": {"httpGet": {"port": 80}}}},
    ]);
    pod["metadata"]["annotations"] = json!({"linnet.io/native-sidecar": "false"});
    let (_, _, warnings) = injected(&pod, &InjectionConfig::default());
    let expected = [
        "init container fetch runs as the sidecar's user",
        "container helper: lifecycle.postStart.httpGet",
        "the pod runs to completion",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
    for (warning, start) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(start), "{warning}");
    }
}

#[test]
fn a_wish_that_can_not_be_granted_is_answered() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = json!(true);
    let quiet = inject(
        &pod,
        &Namespace::opted_in("shop"),
        &InjectionConfig::default(),
    )
    .unwrap();
    assert_eq!(quiet.warnings, [] as [&str; 0]);
    pod["metadata"]["labels"] = json!({"linnet.io/inject": "enabled"});
    let told = inject(
        &pod,
        &Namespace::opted_in("shop"),
        &InjectionConfig::default(),
    )
    .unwrap();
    assert_eq!(told.warnings.len(), 1);
}

#[test]
fn no_shape_of_json_panics() {
    let config = InjectionConfig::default();
    let shop = Namespace::opted_in("shop");
    for odd in [
        json!(null),
        json!([]),
        json!("pod"),
        json!({"metadata": 3}),
        json!({"metadata": {"labels": []}, "spec": {"containers": [{"name": "a"}]}}),
        json!({"spec": {"containers": [null]}}),
        json!({"spec": {"containers": [{"name": "a"}], "volumes": {}}}),
        json!({"metadata": null, "spec": null}),
    ] {
        // Refused or skipped; either is fine, as long as it is an answer.
        if let Ok(outcome) = inject(&odd, &shop, &config) {
            assert!(matches!(outcome.verdict, Verdict::Skipped(_)), "{odd}");
        }
    }
}

#[test]
fn a_probe_that_comes_after_the_sidecar_is_named() {
    let config = InjectionConfig::default();
    let mut original = pod();
    original["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 80}});
    let (mut pod, ..) = injected(&original, &config);
    let again = |pod: &Value| inject(pod, &Namespace::opted_in("shop"), &config).unwrap();
    assert_eq!(again(&pod).warnings, [] as [&str; 0]);
    let late = json!({"name": "late", "readinessProbe": {"grpc": {"port": 80}}});
    pod["spec"]["containers"].as_array_mut().unwrap().push(late);
    let outcome = again(&pod);
    assert_eq!(
        outcome.verdict,
        Verdict::Skipped(SkipReason::AlreadyInjected)
    );
    assert_eq!(outcome.warnings.len(), 1, "{:?}", outcome.warnings);
    assert!(
        outcome.warnings[0].starts_with("spec.containers[2].readinessProbe: "),
        "{:?}",
        outcome.warnings
    );
}
