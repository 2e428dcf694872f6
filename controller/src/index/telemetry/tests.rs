use super::*;
use crate::{
    index::tests::{apply, index},
    object::{Kind, Name, ObjectRef},
    source::Change,
};
use linnet_mesh::{SpiffeId, TrustDomain};

fn pod(annotations: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-1, namespace: shop, labels: {{app: web}}, \
         annotations: {{{annotations}}}}}\nstatus: {{podIP: 10.0.0.1}}\n"
    )
}

fn namespace(annotation: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{linnet.io/access-log: {annotation:?}}}}}\n"
    )
}

fn telemetry(at: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: telemetry.istio.io/v1alpha1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {at}}}\nspec: {spec}\n"
    )
}

/// What the pod's sidecar writes, as server and client.
fn written(index: &Index) -> (String, String) {
    let text = |log: &AccessLog| {
        let filter = log.filter.as_ref();
        let filter = filter.map_or_else(String::new, |filter| format!(" if {filter}"));
        let sample = f64::from(log.sample) / f64::from(access_log::ALL);
        format!("{} {sample}{filter}", log.scope.as_str())
    };
    let id = SpiffeId::new(&TrustDomain::default(), "shop", "web").unwrap();
    let AccessLogs { server, client } = index.inbound(&Name::new("shop", "web-1"), &id).access_log;
    (text(&server), text(&client))
}

fn both(text: &str) -> (String, String) {
    (text.to_owned(), text.to_owned())
}

#[test]
fn the_most_specific_word_counts() {
    let mut index = index(&pod(""));
    assert_eq!(written(&index), both("denied 1"));
    let spec = "{accessLogging: [{providers: [{name: envoy}]}]}";
    apply(&mut index, &telemetry("istio-system", "mesh", spec));
    assert_eq!(written(&index), both("all 1"));
    let spec = "{accessLogging: [{filter: {expression: response.code >= 500}}]}";
    apply(&mut index, &telemetry("shop", "all", spec));
    assert_eq!(written(&index), both("all 1 if response.code >= 500"));
    apply(&mut index, &namespace("all;sample=0.5"));
    assert_eq!(written(&index), both("all 0.5"));
    let spec = "{selector: {matchLabels: {app: web}}, accessLogging: [{disabled: true, match: {mode: CLIENT}}]}";
    apply(&mut index, &telemetry("shop", "web", spec));
    let expected = ("all 0.5".to_owned(), "off 1".to_owned());
    assert_eq!(written(&index), expected);
    apply(&mut index, &pod("linnet.io/access-log: denied"));
    assert_eq!(written(&index), both("denied 1"));
    // A slip counts as if it were not there.
    apply(&mut index, &pod("linnet.io/access-log: of"));
    assert_eq!(written(&index), expected);
    let verdicts: Vec<_> = index.verdicts().iter().map(ToString::to_string).collect();
    let bad = verdicts.iter().find(|text| text.contains("Pod shop/web-1"));
    let bad = bad.unwrap();
    assert!(
        bad.starts_with(
            "Pod shop/web-1: rejected; metadata.annotations[linnet.io/access-log]: \"of\""
        ),
        "{bad}"
    );
    let overruled = verdicts.iter().find(|text| text.contains("shop/all"));
    let overruled = overruled.unwrap();
    assert!(overruled.contains("conflicting"), "{overruled}");
    assert!(
        overruled.contains("of namespace shop goes first"),
        "{overruled}"
    );
}

#[test]
fn another_namespace_s_word_is_not_for_this_one() {
    let mut index = index(&pod(""));
    let spec = "{accessLogging: [{providers: [{name: envoy}]}]}";
    apply(&mut index, &telemetry("other", "all", spec));
    let spec =
        "{selector: {matchLabels: {app: web}}, accessLogging: [{providers: [{name: envoy}]}]}";
    apply(&mut index, &telemetry("istio-system", "web", spec));
    assert_eq!(written(&index), both("denied 1"));
}

/// As Istio's own tests of merging have it, with all providers on one output.
#[test]
fn entries_are_merged_as_istio_does() {
    let case = |levels: [&str; 3]| {
        let mut index = index(&pod(""));
        let [mesh, shop, web] = levels;
        apply(
            &mut index,
            &telemetry(
                "linnet-system",
                "mesh",
                &format!("{{accessLogging: [{mesh}]}}"),
            ),
        );
        apply(
            &mut index,
            &telemetry("shop", "all", &format!("{{accessLogging: [{shop}]}}")),
        );
        let web = format!("{{selector: {{matchLabels: {{app: web}}}}, accessLogging: [{web}]}}");
        apply(&mut index, &telemetry("shop", "web", &web));
        written(&index)
    };
    let split = |server: &str, client: &str| (server.to_owned(), client.to_owned());
    assert_eq!(case(["", "", ""]), both("denied 1"));
    assert_eq!(case(["{}", "", ""]), both("all 1"));
    assert_eq!(case(["{}", "{disabled: true}", ""]), both("off 1"));
    assert_eq!(
        case(["{}", "{disabled: true}", "{disabled: false}"]),
        both("all 1")
    );
    assert_eq!(
        case(["{match: {mode: SERVER}}", "", ""]),
        split("all 1", "denied 1")
    );
    assert_eq!(
        case(["{}", "{match: {mode: CLIENT}, disabled: true}", ""]),
        split("all 1", "off 1")
    );
    assert_eq!(
        case([
            "{filter: {expression: 'response.code >= 400'}}",
            "",
            "{match: {mode: SERVER}}"
        ]),
        split("all 1", "all 1 if response.code >= 400")
    );
    // A provider that a narrower level does not name has no say there.
    assert_eq!(
        case([
            "{providers: [{name: otel}], disabled: true}",
            "{providers: [{name: envoy}]}",
            ""
        ]),
        both("all 1")
    );
    // Of two on one output either may want a line.
    assert_eq!(
        case([
            "{providers: [{name: otel}], filter: {expression: 'response.code >= 500'}}, \
             {providers: [{name: envoy}], filter: {expression: '!connection.mtls'}}",
            "",
            ""
        ]),
        both("all 1 if (!connection.mtls) || (response.code >= 500)")
    );
    assert_eq!(
        case([
            "{filter: {expression: 'xds.cluster_name == \"x\"'}}",
            "",
            ""
        ]),
        both("all 1")
    );
}

#[test]
fn a_change_reaches_the_pods_that_it_is_about() {
    let mut index = index(&pod(""));
    index.take_affected();
    let web = Name::new("shop", "web-1");
    apply(&mut index, &namespace("all"));
    assert!(index.take_affected().pod(&web));
    apply(&mut index, &namespace("all"));
    assert!(index.take_affected().is_empty());
    apply(&mut index, &telemetry("shop", "t", "{accessLogging: [{}]}"));
    assert!(index.take_affected().pod(&web));
    let name = Name::new("", "shop");
    let kind = Kind::Namespace;
    index.apply(Change::Delete(ObjectRef { kind, name }));
    assert!(index.take_affected().pod(&web));
    assert_eq!(written(&index), both("all 1"));
}

#[test]
fn the_oldest_speaks_for_its_level() {
    let mut index = index(&pod(""));
    apply(
        &mut index,
        &telemetry("shop", "b", "{accessLogging: [{disabled: true}]}"),
    );
    apply(&mut index, &telemetry("shop", "a", "{accessLogging: [{}]}"));
    assert_eq!(written(&index), both("all 1"));
    let verdicts: Vec<_> = index.verdicts().iter().map(ToString::to_string).collect();
    assert_eq!(
        verdicts,
        [
            "test, document 1: Telemetry shop/a: accepted",
            "test, document 1: Telemetry shop/b: conflicting; spec: Telemetry shop/a is older and for the same workloads: it counts"
        ]
    );
}
