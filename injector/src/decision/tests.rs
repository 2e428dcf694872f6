use serde_json::{Value, json};

use super::*;

fn pod(metadata: &Value, spec: &Value) -> PodView {
    PodView::parse(&json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn app() -> Value {
    json!({"containers": [{"name": "app"}]})
}

fn namespace(labels: &[(&str, &str)]) -> Namespace {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Namespace::new("shop", labels.iter().map(owned).collect())
}

fn decision(pod: &PodView, namespace: &Namespace) -> Decision {
    decide(pod, namespace, "linnet-system").unwrap()
}

#[test]
fn every_combination_of_words() {
    type Labels = &'static [(&'static str, &'static str)];
    let namespaces: [(Labels, Option<bool>); 5] = [
        (&[], None),
        (&[("istio-injection", "enabled")], Some(true)),
        (&[("istio-injection", "disabled")], Some(false)),
        (&[("linnet.io/inject", "enabled")], Some(true)),
        (
            &[
                ("istio-injection", "enabled"),
                ("linnet.io/inject", "disabled"),
            ],
            Some(false),
        ),
    ];
    let pods = [
        (json!({}), None),
        (
            json!({"labels": {"sidecar.istio.io/inject": "true"}}),
            Some(true),
        ),
        (
            json!({"labels": {"sidecar.istio.io/inject": "False"}}),
            Some(false),
        ),
        (
            json!({"labels": {"linnet.io/inject": "enabled"}}),
            Some(true),
        ),
        (
            json!({"labels": {"linnet.io/inject": "disabled"}}),
            Some(false),
        ),
        (
            json!({"annotations": {"linnet.io/inject": "disabled"}}),
            Some(false),
        ),
        (
            json!({"annotations": {"sidecar.istio.io/inject": "true"}}),
            Some(true),
        ),
        (
            json!({"labels": {"sidecar.istio.io/inject": "true"}, "annotations": {"sidecar.istio.io/inject": "false"}}),
            Some(true),
        ),
        (
            json!({"labels": {"sidecar.istio.io/inject": "false", "linnet.io/inject": "enabled"}}),
            Some(false),
        ),
        (json!({"labels": {"sidecar.istio.io/inject": ""}}), None),
    ];
    for (labels, namespace_word) in &namespaces {
        for (metadata, pod_word) in &pods {
            let pod = pod(metadata, &app());
            let decision = decision(&pod, &namespace(labels));
            let case = format!("{labels:?} {metadata}");
            match (namespace_word, pod_word) {
                (Some(false), _) | (_, Some(false)) => {
                    assert!(
                        matches!(decision, Decision::Skip(SkipReason::OptedOut(_))),
                        "{case}"
                    );
                }
                (None, None) => {
                    assert_eq!(decision, Decision::Skip(SkipReason::NotSelected), "{case}");
                }
                _ => assert_eq!(decision, Decision::Inject, "{case}"),
            }
        }
    }
}

#[test]
fn the_reason_quotes_who_said_no() {
    let pod = pod(
        &json!({"labels": {"sidecar.istio.io/inject": "false"}}),
        &app(),
    );
    let Decision::Skip(reason) = decision(&pod, &namespace(&[("istio-injection", "enabled")]))
    else {
        panic!("injected");
    };
    assert_eq!(
        reason.to_string(),
        "opted out by the pod's label sidecar.istio.io/inject=false"
    );
}

#[test]
fn no_label_reaches_what_must_stay_untouched() {
    let enabled = json!({"labels": {"linnet.io/inject": "enabled"}});
    let wishing = |spec| pod(&enabled, &spec);
    for name in [
        "kube-system",
        "kube-public",
        "kube-node-lease",
        "linnet-system",
    ] {
        let namespace = Namespace::opted_in(name);
        let expected = Decision::Skip(SkipReason::SystemNamespace(name.to_owned()));
        assert_eq!(decision(&wishing(app()), &namespace), expected);
    }
    let shop = Namespace::opted_in("shop");
    let cases = [
        (
            json!({"hostNetwork": true, "containers": [{"name": "a"}]}),
            SkipReason::HostNetwork,
        ),
        (
            json!({"os": {"name": "windows"}, "containers": [{"name": "a"}]}),
            SkipReason::Windows,
        ),
        (json!({"containers": []}), SkipReason::NoContainers),
        (json!({}), SkipReason::NoContainers),
        (
            json!({"containers": [{"name": "a"}], "initContainers": [{"name": "linkerd-proxy"}]}),
            SkipReason::ForeignSidecar("linkerd-proxy"),
        ),
    ];
    for (spec, reason) in cases {
        assert_eq!(decision(&wishing(spec), &shop), Decision::Skip(reason));
    }
    // Another name for the control plane's namespace moves the exception there.
    let decided = decide(
        &wishing(app()),
        &Namespace::opted_in("linnet-system"),
        "mesh",
    )
    .unwrap();
    assert_eq!(decided, Decision::Inject);
}

#[test]
fn the_injected_label_alone_is_no_sidecar() {
    // Copied with a template, for example.
    let pod = pod(
        &json!({"labels": {"linnet.io/sidecar": "injected"}}),
        &app(),
    );
    assert_eq!(
        decision(&pod, &Namespace::opted_in("shop")),
        Decision::Inject
    );
}

#[test]
fn a_misspelt_word_refuses_the_pod_but_not_the_namespace() {
    let misspelt = pod(
        &json!({"annotations": {"sidecar.istio.io/inject": "fasle"}}),
        &app(),
    );
    let error = decide(&misspelt, &Namespace::opted_in("shop"), "linnet-system").unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("annotation sidecar.istio.io/inject: \"fasle\""),
        "{text}"
    );

    let namespace = namespace(&[("istio-injection", "enabeld")]);
    let plain = pod(&json!({}), &app());
    assert_eq!(
        decision(&plain, &namespace),
        Decision::Skip(SkipReason::NotSelected)
    );
    assert_eq!(unclear_namespace_labels(&namespace).len(), 1);
}
