use super::*;
use serde_json::{Value, json};

fn refusal(spec: &Value) -> Option<String> {
    let view = PodView::parse(&json!({"spec": spec})).unwrap();
    check(&view, None).err().map(|trespass| trespass.field)
}

#[test]
fn nobody_runs_as_the_sidecar() {
    let pods = json!({
        "securityContext": {"runAsUser": 1337},
        "containers": [{"name": "own", "securityContext": {"runAsUser": 1000}}, {"name": "inherits"}],
    });
    let field = "spec.containers[1].securityContext.runAsUser";
    assert_eq!(refusal(&pods).as_deref(), Some(field));
    let group = json!({"containers": [{"name": "app", "securityContext": {"runAsGroup": 1337}}]});
    let field = "spec.containers[0].securityContext.runAsGroup";
    assert_eq!(refusal(&group).as_deref(), Some(field));
    let native = json!({
        "initContainers": [{"name": "side", "restartPolicy": "Always", "securityContext": {"runAsUser": 1337}}],
        "containers": [{"name": "app"}],
    });
    let field = "spec.initContainers[0].securityContext.runAsUser";
    assert_eq!(refusal(&native).as_deref(), Some(field));
}

#[test]
fn an_init_container_that_ends_may() {
    let spec = json!({
        "initContainers": [{"name": "fetch", "securityContext": {"runAsUser": 1337}}, {"name": "other"}],
        "containers": [{"name": "app"}],
    });
    assert_eq!(refusal(&spec), None);
    let view = PodView::parse(&json!({"spec": spec})).unwrap();
    let names: Vec<_> = borrowers(&view).map(|container| &*container.name).collect();
    assert_eq!(names, ["fetch"]);
}

#[test]
fn nobody_takes_its_ports_or_volumes() {
    for number in port::SIDECAR {
        let spec = json!({"containers": [
            {"name": "app", "ports": [{"containerPort": 80}, {"containerPort": number}]},
        ]});
        let field = "spec.containers[0].ports[1].containerPort";
        assert_eq!(refusal(&spec).as_deref(), Some(field), "{number}");
    }
    let outside = json!({"containers": [
        {"name": "app", "ports": [{"containerPort": 14999}, {"containerPort": 15002}, {"containerPort": 15099}]},
    ]});
    assert_eq!(refusal(&outside), None);
    for volume in [TOKEN_VOLUME, TRUST_VOLUME] {
        let spec = json!({
            "initContainers": [{"name": "peek", "volumeMounts": [{"name": volume, "mountPath": "/x"}]}],
            "containers": [{"name": "app"}],
        });
        let field = "spec.initContainers[0].volumeMounts[0].name";
        assert_eq!(refusal(&spec).as_deref(), Some(field), "{volume}");
    }
}

/// The places in which a container may stand.
const POSITIONS: [&str; 4] = [
    "containers",
    "initContainers",
    "native",
    "ephemeralContainers",
];

/// Everything of the sidecar's that a container can take, and the field that is
/// named. The last: whether an init container that ends may take it.
fn thefts() -> Vec<(&'static str, Value, &'static str, bool)> {
    let context = |field: &str| json!({"securityContext": {field: 1337}});
    let mut thefts = vec![
        (
            "user",
            context("runAsUser"),
            "securityContext.runAsUser",
            true,
        ),
        (
            "group",
            context("runAsGroup"),
            "securityContext.runAsGroup",
            true,
        ),
        ("name", json!({"name": "linnet-proxy"}), "name", false),
        ("name", json!({"name": "linnet-init"}), "name", false),
    ];
    for number in port::SIDECAR {
        // On the node's side a port is nobody's business.
        let ports = json!({"ports": [{"containerPort": 80, "hostPort": number}, {"containerPort": number}]});
        thefts.push(("port", ports, "ports[1].containerPort", false));
    }
    for volume in [TOKEN_VOLUME, TRUST_VOLUME] {
        let mounts = json!({"volumeMounts": [{"name": volume, "mountPath": "/x"}]});
        thefts.push(("volume", mounts, "volumeMounts[0].name", false));
    }
    thefts
}

fn add(pod: &mut Value, position: &str, mut container: Value) -> String {
    let list = match position {
        "native" => {
            container["restartPolicy"] = json!("Always");
            "initContainers"
        }
        list => list,
    };
    if !pod["spec"][list].is_array() {
        pod["spec"][list] = json!([]);
    }
    let containers = pod["spec"][list].as_array_mut().unwrap();
    containers.push(container);
    format!("spec.{list}[{}]", containers.len() - 1)
}

fn judged(pod: &Value, native: bool) -> Result<crate::inject::Verdict, crate::inject::InjectError> {
    let config = crate::InjectionConfig {
        native_sidecar: native,
        ..crate::InjectionConfig::default()
    };
    let shop = crate::Namespace::opted_in("shop");
    crate::inject::inject(pod, &shop, &config).map(|outcome| outcome.verdict)
}

fn app() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "app"}]}})
}

/// The pod as it comes to the first review, and as it comes to the later ones.
fn reviews() -> Vec<(&'static str, bool, Value)> {
    let mut reviews = Vec::new();
    for native in [true, false] {
        reviews.push(("first", native, app()));
        match judged(&app(), native).unwrap() {
            crate::inject::Verdict::Injected { pod, .. } => reviews.push(("later", native, pod)),
            crate::inject::Verdict::Skipped(reason) => panic!("{reason}"),
        }
    }
    reviews
}

#[test]
fn nobody_takes_anything_at_any_place_at_any_review() {
    for (review, native, original) in reviews() {
        for position in POSITIONS {
            for (what, mut container, field, init_may) in thefts() {
                let mut pod = original.clone();
                if container.get("name").is_none() {
                    container["name"] = json!("added");
                }
                let at = add(&mut pod, position, container.clone());
                let case = format!("{review} {native} {position} {what} {container}");
                let outcome = judged(&pod, native);
                if position == "initContainers" && init_may {
                    assert!(outcome.is_ok(), "{case}: {outcome:?}");
                    continue;
                }
                let error = outcome.expect_err(&case).to_string();
                let taken = what == "name" && error.contains("the name");
                assert!(
                    taken || error.starts_with(&format!("{at}.")),
                    "{case}: {error}"
                );
                assert!(
                    taken || what == "name" || error.contains(field),
                    "{case}: {error}"
                );
            }
        }
    }
}

#[test]
fn nobody_takes_anything_by_the_pod_at_any_review() {
    let token = json!({"serviceAccountToken": {"audience": "linnet-identity", "path": "t"}});
    let projected = json!({"name": "mine", "projected": {"sources": [{"secret": {}}, token]}});
    for (review, native, original) in reviews() {
        for (field, value) in [
            ("runAsUser", json!(1337)),
            ("runAsGroup", json!(1337)),
            ("supplementalGroups", json!([5, 1337])),
            ("fsGroup", json!(1337)),
        ] {
            let mut pod = original.clone();
            pod["spec"]["securityContext"][field] = value;
            let error = judged(&pod, native).expect_err(field).to_string();
            assert!(error.contains(field), "{review} {native} {field}: {error}");
        }
        let mut pod = original.clone();
        if !pod["spec"]["volumes"].is_array() {
            pod["spec"]["volumes"] = json!([]);
        }
        pod["spec"]["volumes"]
            .as_array_mut()
            .unwrap()
            .push(projected.clone());
        let error = judged(&pod, native).unwrap_err().to_string();
        assert!(
            error.contains("projected.sources[1].serviceAccountToken.audience"),
            "{review} {native}: {error}"
        );
        // Another mesh's name, and the node's network, end no check.
        for change in [json!({"name": "istio-proxy"}), json!({"name": "added"})] {
            let mut pod = original.clone();
            let foreign = change["name"] == "istio-proxy";
            add(&mut pod, "containers", change);
            let thief = json!({"name": "thief", "securityContext": {"runAsUser": 1337}});
            add(&mut pod, "containers", thief);
            let outcome = judged(&pod, native);
            let skipped = review == "first" && foreign;
            assert_eq!(outcome.is_ok(), skipped, "{review} {native}: {outcome:?}");
        }
    }
}

#[test]
fn a_running_pod_s_new_ephemeral_containers_are_checked() {
    for (review, _, pod) in reviews() {
        for (what, mut container, field, _) in thefts() {
            if container.get("name").is_none() {
                container["name"] = json!("debugger");
            }
            let mut after = pod.clone();
            add(&mut after, "ephemeralContainers", container);
            let outcome = crate::inject::debug(&after, Some(&pod));
            if review == "first" {
                assert!(outcome.is_ok(), "no sidecar, nothing to take: {what}");
                continue;
            }
            let error = outcome.expect_err(what).to_string();
            assert!(error.contains(field), "{what}: {error}");
            // What is there already can't be taken out, and blocks nobody.
            let mut more = after.clone();
            add(&mut more, "ephemeralContainers", json!({"name": "second"}));
            assert!(crate::inject::debug(&more, Some(&after)).is_ok(), "{what}");
        }
        let mut after = pod.clone();
        let inside = json!({"name": "d", "targetContainerName": "linnet-proxy"});
        add(&mut after, "ephemeralContainers", inside);
        let warnings = crate::inject::debug(&after, None).unwrap();
        assert_eq!(
            warnings.len(),
            usize::from(review == "later"),
            "{warnings:?}"
        );
    }
}
