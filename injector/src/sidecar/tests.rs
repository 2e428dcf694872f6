use super::*;
use crate::quantity::Quantity;

fn amounts(request: &str, limit: &str) -> Resources {
    let amount = |text: &str| (!text.is_empty()).then(|| Quantity::memory(text).unwrap());
    Resources {
        memory_request: amount(request),
        memory_limit: amount(limit),
        ..Resources::default()
    }
}

#[test]
fn a_pods_amount_never_contradicts_a_configured_one() {
    let cases = [
        // configured, the pod's, result
        (
            ("20Mi", ""),
            ("", ""),
            json!({"requests": {"memory": "20Mi"}}),
        ),
        (
            ("20Mi", ""),
            ("64Mi", ""),
            json!({"requests": {"memory": "64Mi"}}),
        ),
        (
            ("20Mi", ""),
            ("", "10Mi"),
            json!({"requests": {"memory": "10Mi"}, "limits": {"memory": "10Mi"}}),
        ),
        (
            ("20Mi", "50Mi"),
            ("64Mi", ""),
            json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}),
        ),
        (
            ("20Mi", "50Mi"),
            ("30Mi", "1Gi"),
            json!({"requests": {"memory": "30Mi"}, "limits": {"memory": "1Gi"}}),
        ),
        (("", ""), ("", ""), json!({})),
    ];
    for (configured, own, expected) in cases {
        let config = InjectionConfig {
            resources: amounts(configured.0, configured.1),
            ..InjectionConfig::default()
        };
        let result = resources(&config, &amounts(own.0, own.1));
        assert_eq!(result, expected, "{configured:?} {own:?}");
    }
}

#[test]
fn the_sidecar_is_locked_down_and_the_init_container_alone_is_root() {
    let config = InjectionConfig::default();
    let settings = Settings::default();
    let proxy = proxy_container(&config, &settings, &PodView::default(), None, true);
    let security = &proxy["securityContext"];
    assert_eq!(security["runAsUser"], 1337);
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
    let init = init_container(&config, &settings);
    // A pod's runAsNonRoot must not reach it.
    assert_eq!(init["securityContext"]["runAsUser"], 0);
    assert_eq!(init["securityContext"]["runAsNonRoot"], false);
    let capabilities = &init["securityContext"]["capabilities"];
    assert_eq!(
        *capabilities,
        json!({"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]})
    );
}

#[test]
fn native_and_classic_differ_in_how_they_hold_the_app() {
    let container = |native| {
        let settings = Settings::default();
        proxy_container(
            &InjectionConfig::default(),
            &settings,
            &PodView::default(),
            None,
            native,
        )
    };
    assert_eq!(container(true)["restartPolicy"], "Always");
    assert_eq!(container(true).get("lifecycle"), None);
    assert_eq!(container(false).get("restartPolicy"), None);
    let hook = json!({"postStart": {"exec": {"command": ["/linnet-proxy", "wait"]}}});
    assert_eq!(container(false)["lifecycle"], hook);
}

#[test]
fn mounts_are_where_the_shared_names_say() {
    let [token, trust] = volumes();
    let proxy = proxy_container(
        &InjectionConfig::default(),
        &Settings::default(),
        &PodView::default(),
        None,
        true,
    );
    let mounted = |index: usize| proxy["volumeMounts"][index]["mountPath"].as_str().unwrap();
    let token_file = &token["projected"]["sources"][0]["serviceAccountToken"]["path"];
    assert_eq!(
        format!("{}/{}", mounted(0), token_file.as_str().unwrap()),
        names::TOKEN_PATH
    );
    let bundle_file = &trust["configMap"]["items"][0]["path"];
    assert_eq!(
        format!("{}/{}", mounted(1), bundle_file.as_str().unwrap()),
        names::TRUST_BUNDLE_PATH
    );
}

#[test]
fn the_drain_ends_before_the_pods_grace() {
    for (grace, drain) in [
        (Some(30), Some("28")),
        (Some(1), Some("1")),
        (Some(0), Some("1")),
        (None, None),
    ] {
        let mut pod = PodView::default();
        pod.spec.termination_grace_period_seconds = grace;
        let environment = environment(
            &InjectionConfig::default(),
            &Settings::default(),
            &pod,
            None,
        );
        let found = environment.iter().find(|e| e["name"] == env::DRAIN_SECONDS);
        assert_eq!(found.and_then(|e| e["value"].as_str()), drain, "{grace:?}");
    }
}
