use serde_json::json;

use super::*;
use crate::{
    decision::Namespace,
    inject::{Verdict, inject},
};

fn config(native: bool) -> InjectionConfig {
    InjectionConfig {
        native_sidecar: native,
        ..InjectionConfig::default()
    }
}

fn injected(native: bool) -> Value {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "app"}]}});
    let outcome = inject(&pod, &Namespace::opted_in("shop"), &config(native)).unwrap();
    match outcome.verdict {
        Verdict::Injected { pod, .. } => pod,
        Verdict::Skipped(reason) => panic!("skipped: {reason}"),
    }
}

fn found(pod: &Value, native: bool) -> Checked<Option<Resident>> {
    find(pod, &PodView::parse(pod).unwrap(), &config(native))
}

/// Where the sidecar and the redirecting container stand.
fn pointers(native: bool) -> [&'static str; 2] {
    match native {
        true => ["/spec/initContainers/1", "/spec/initContainers/0"],
        false => ["/spec/containers/0", "/spec/initContainers/0"],
    }
}

#[test]
fn the_sidecar_is_known_wherever_it_stands() {
    for native in [true, false] {
        let pod = injected(native);
        let resident = found(&pod, native).unwrap().unwrap();
        let (list, proxy) = match native {
            true => ("initContainers", 1),
            false => ("containers", 0),
        };
        assert!(resident.holds(list, proxy) && resident.holds("initContainers", 0));
        assert!(!resident.holds("containers", 1));
        // The injector's setting may have changed since.
        assert!(found(&pod, !native).unwrap().is_some());
    }
    let plain = json!({"spec": {"containers": [{"name": "app"}]}});
    assert_eq!(found(&plain, true), Ok(None));
}

/// What other webhooks and the API server change.
#[test]
fn what_others_add_does_not_make_it_another() {
    for native in [true, false] {
        let [proxy, init] = pointers(native);
        let changes = [
            (
                proxy,
                "image",
                json!("mirror.example:5000/cache/linnet/proxy:9@sha256:00"),
            ),
            (init, "image", json!("mirror.example/init")),
            (proxy, "resources", json!({"limits": {"cpu": "1"}})),
            (proxy, "imagePullPolicy", json!("Always")),
            (
                proxy,
                "terminationMessagePath",
                json!("/dev/termination-log"),
            ),
            (proxy, "args", json!([])),
        ];
        for (pointer, field, value) in changes {
            let mut pod = injected(native);
            pod.pointer_mut(pointer).unwrap()[field] = value.clone();
            assert!(found(&pod, native).unwrap().is_some(), "{field} {value}");
        }
        let mut pod = injected(native);
        let sidecar = pod.pointer_mut(proxy).unwrap();
        for (list, added) in [
            ("env", json!({"name": "HTTP_PROXY", "value": "x"})),
            (
                "volumeMounts",
                json!({"name": "kube-api-access", "mountPath": "/var/run/secrets"}),
            ),
        ] {
            sidecar[list].as_array_mut().unwrap().insert(0, added);
        }
        pod["spec"]["volumes"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"name": "own"}));
        assert!(found(&pod, native).unwrap().is_some());
    }
}

/// Every field that the injector writes for security: without it, and with
/// another value, the pod is refused and the field is named.
#[test]
fn each_field_that_differs_is_named() {
    for native in [true, false] {
        let [proxy, init] = pointers(native);
        let mut cases = Vec::new();
        for pointer in [proxy, init] {
            let whole = injected(native);
            let context = whole.pointer(pointer).unwrap()["securityContext"].clone();
            for (key, value) in context.as_object().unwrap() {
                for other in [Value::Null, json!(0), json!(true), json!(false), json!({})] {
                    if other != *value {
                        let path = format!("{pointer}/securityContext");
                        cases.push((path, key.clone(), other, format!("securityContext.{key}")));
                    }
                }
            }
            let mut own = |field: &str, value: Value| {
                cases.push((
                    pointer.to_owned(),
                    field.to_owned(),
                    value,
                    field.to_owned(),
                ));
            };
            own("image", json!("nginx"));
            own("image", Value::Null);
            own("command", json!(["sh"]));
            own("args", json!(["--dry-run"]));
            if pointer == proxy {
                own("volumeMounts", json!([]));
                own("env", json!([]));
                if native {
                    own("restartPolicy", Value::Null);
                }
            }
        }
        let mut pod = |field: &str, value: Value, named: &str| {
            cases.push((
                "/spec".to_owned(),
                field.to_owned(),
                value,
                named.to_owned(),
            ));
        };
        pod("volumes", json!([]), "spec.volumes");
        pod(
            "volumes",
            json!([{"name": "linnet-token", "emptyDir": {}}]),
            "spec.volumes",
        );
        pod("hostNetwork", json!(true), "spec.hostNetwork");
        cases.push((
            "/metadata".to_owned(),
            "labels".to_owned(),
            json!({}),
            "linnet.io/sidecar".to_owned(),
        ));
        assert!(cases.len() > 60, "{}", cases.len());
        for (pointer, field, value, named) in cases {
            let mut pod = injected(native);
            pod.pointer_mut(&pointer).unwrap()[&field] = value.clone();
            // No pod at all is refused before.
            if PodView::parse(&pod).is_err() {
                continue;
            }
            let error = found(&pod, native).expect_err(&format!("{pointer} {field} {value}"));
            assert!(
                error.field.contains(&named),
                "{pointer} {field} {value}: {error}"
            );
        }
        let mut pod = injected(native);
        pod.pointer_mut(init).unwrap()["name"] = json!("other");
        assert_eq!(
            found(&pod, native).unwrap_err().field,
            "spec.initContainers"
        );
        let mut pod = injected(native);
        let mounts = &mut pod.pointer_mut(proxy).unwrap()["volumeMounts"];
        let hidden = json!({"name": "own", "mountPath": "/var/run/linnet/token/"});
        mounts.as_array_mut().unwrap().push(hidden);
        assert!(
            found(&pod, native)
                .unwrap_err()
                .field
                .ends_with("volumeMounts")
        );
    }
}

/// The flags of the redirecting container, by the declaration of its arguments.
fn flags() -> Vec<String> {
    let source = include_str!("../../../init/src/settings.rs");
    let (_, fields) = source.split_once("pub struct Args {").unwrap();
    let (fields, _) = fields.split_once("\n}").unwrap();
    let names = fields.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub ")?.split_once(':')?;
        Some(format!("--{}", name.replace('_', "-")))
    });
    names.collect()
}

/// Whatever the redirecting container is told besides is a way around the sidecar.
#[test]
fn no_argument_of_redirection_may_differ_from_the_annotations() {
    let flags = flags();
    assert!(flags.len() >= 12, "{flags:?}");
    for native in [true, false] {
        let [_, init] = pointers(native);
        for flag in &flags {
            for added in [
                vec![flag.clone()],
                vec![flag.clone(), String::new()],
                vec![flag.clone(), "2000".to_owned()],
                vec![format!("{flag}=")],
                vec![format!("{flag}=2000")],
            ] {
                for first in [true, false] {
                    let mut pod = injected(native);
                    let arguments = &mut pod.pointer_mut(init).unwrap()["args"];
                    let arguments = arguments.as_array_mut().unwrap();
                    let at = if first { 0 } else { arguments.len() };
                    arguments.splice(at..at, added.iter().map(|text| json!(text)));
                    let error = found(&pod, native).expect_err(&format!("{added:?}"));
                    assert!(error.field.ends_with(".args"), "{added:?}: {error}");
                }
            }
        }
    }
}

/// What a pod's annotations ask for is its own choice, and no more than that.
#[test]
fn the_arguments_of_redirection_are_those_of_the_annotations() {
    for (annotation, value, other) in [
        ("linnet.io/skip-inbound-ports", "22", "23"),
        ("linnet.io/skip-outbound-ports", "22,8000-8010", "22"),
        ("linnet.io/skip-outbound-cidrs", "10.0.0.0/8", "10.0.0.0/9"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "", "80"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "80", "81"),
        (
            "traffic.sidecar.istio.io/includeOutboundIPRanges",
            "10.0.0.0/8",
            "",
        ),
    ] {
        let pod = json!({
            "metadata": {"name": "p", "annotations": {annotation: value}},
            "spec": {"containers": [{"name": "app"}]},
        });
        let outcome = inject(&pod, &Namespace::opted_in("shop"), &config(true)).unwrap();
        let Verdict::Injected { mut pod, .. } = outcome.verdict else {
            panic!("skipped");
        };
        let arguments = pod["spec"]["initContainers"][0]["args"].clone();
        assert!(found(&pod, true).unwrap().is_some(), "{annotation}");
        pod["metadata"]["annotations"][annotation] = json!(other);
        let error = found(&pod, true).expect_err(annotation);
        assert!(error.field.ends_with(".args"), "{annotation}: {error}");
        pod["metadata"]["annotations"][annotation] = json!(value);
        pod["spec"]["initContainers"][0]["args"] =
            injected(true)["spec"]["initContainers"][0]["args"].clone();
        assert_ne!(pod["spec"]["initContainers"][0]["args"], arguments);
        let error = found(&pod, true).expect_err(annotation);
        assert!(error.field.ends_with(".args"), "{annotation}: {error}");
    }
}

#[test]
fn the_last_part_of_an_image_is_its_name() {
    for (image, name) in [
        ("proxy", "proxy"),
        ("linnet/proxy:dev", "proxy"),
        ("localhost:5000/a/b/proxy@sha256:1f", "proxy"),
        ("r.example:5000/proxy:1.2@sha256:1f", "proxy"),
        ("", ""),
        (":", ""),
        ("proxy/", ""),
    ] {
        assert_eq!(image_name(image), name, "{image}");
    }
}
