use super::*;
use crate::compile::Status;

const SHOP: &str = r"
apiVersion: v1
kind: Service
metadata: {name: payment, namespace: shop}
spec: {selector: {app: payment}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: payment-v1, namespace: shop}
spec: {template: {metadata: {labels: {app: payment, version: v1}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment, namespace: shop}
spec: {host: payment, subsets: [{name: v1, labels: {version: v1}}]}
---
";

fn context() -> Context {
    Context {
        cluster_domain: "cluster.local".to_owned(),
    }
}

fn verdicts(yaml: &str) -> Vec<Verdict> {
    let mut input = Input::default();
    input.add_yaml(yaml, "a.yaml", "shop");
    analyze(&input, &context())
}

/// All remarks, as `severity resource: field: text`.
fn found(yaml: &str) -> Vec<String> {
    let mut found = Vec::new();
    for verdict in verdicts(yaml) {
        for note in &verdict.messages {
            let severity = match note.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            found.push(format!("{severity} {}: {note}", verdict.resource));
        }
    }
    found
}

/// The remarks on rules of a VirtualService for `payment` in the shop.
fn on_rules(rules: &str) -> Vec<String> {
    found(&format!(
        "{SHOP}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec: {{hosts: [payment], http: [{rules}]}}\n"
    ))
    .iter()
    .map(|found| found.replace("VirtualService shop/v: ", ""))
    .collect()
}

const TO_V1: &str = "route: [{destination: {host: payment, subset: v1}}]";

#[test]
fn a_sound_shop_gives_no_cause() {
    assert!(on_rules(&format!("{{{TO_V1}}}")).is_empty());
}

#[test]
fn a_host_that_does_not_exist() {
    assert_eq!(
        on_rules("{route: [{destination: {host: paymnet}}]}"),
        [
            "error spec.http[0].route[0].destination: service shop/paymnet does not exist; requests are answered 503"
        ]
    );
    let yaml = format!(
        "{SHOP}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec: {{hosts: [paymnet], http: [{{{TO_V1}}}]}}\n"
    );
    assert_eq!(
        found(&yaml),
        [
            "warning VirtualService shop/v: spec.hosts[0]: service shop/paymnet does not exist: the rules route nothing for it"
        ]
    );
}

#[test]
fn an_input_without_services_misses_none() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n\
         spec: {hosts: [a], http: [{route: [{destination: {host: b.c.svc.cluster.local, port: {number: 9}}}]}]}\n";
    assert!(found(yaml).is_empty());
}

#[test]
fn a_subset_that_nobody_defines_or_that_is_not_exported() {
    assert_eq!(
        on_rules("{route: [{destination: {host: payment, subset: v9}}]}"),
        [
            "error spec.http[0].route[0].destination: subset v9 of payment is not defined by any DestinationRule; requests are answered 503"
        ]
    );
    let elsewhere = format!(
        "{SHOP}apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d, namespace: other}}\nspec: {{host: payment.shop.svc.cluster.local, subsets: [{{name: v9, labels: {{version: v1}}}}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec: {{hosts: [payment], http: [{{route: [{{destination: {{host: payment, subset: v9}}}}]}}]}}\n"
    );
    let remarks = found(&elsewhere);
    assert!(
        remarks.contains(&"warning VirtualService shop/v: spec.http[0].route[0].destination.subset: DestinationRule other/d defines it, but for its own namespace only; move it to shop, the service's".to_owned()),
        "{remarks:#?}"
    );
    let hidden = elsewhere.replace(
        "namespace: other}\nspec: {",
        "namespace: shop}\nspec: {exportTo: [x], ",
    );
    let remarks = found(&hidden);
    assert!(
        remarks.contains(&"warning VirtualService shop/v: spec.http[0].route[0].destination.subset: exportTo of DestinationRule shop/d, which defines it, does not name this namespace".to_owned()),
        "{remarks:#?}"
    );
}

#[test]
fn a_subset_without_pods_and_a_rule_for_no_service() {
    let rule = |host: &str| {
        format!(
            "{SHOP}apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\nspec: {{host: {host}, subsets: [{{name: v2, labels: {{version: v2}}}}]}}\n"
        )
    };
    assert_eq!(
        found(&rule("payment")),
        [
            "warning DestinationRule shop/d: spec.subsets[0]: subset v2 has no endpoint: no pod of service shop/payment carries version=v2"
        ]
    );
    assert_eq!(
        found(&rule("paymnet")),
        [
            "warning DestinationRule shop/d: spec.host: service shop/paymnet does not exist: the rule applies to nothing"
        ]
    );
}

#[test]
fn rules_that_are_never_reached() {
    for (first, second, reason) in [
        ("", "match: [{uri: {exact: /a}}], ", "takes every request"),
        ("match: [{uri: {prefix: /}}], ", "", "takes every request"),
        (
            "match: [{uri: {prefix: /a}}], ",
            "match: [{uri: {exact: /a/b}, method: {exact: GET}}], ",
            "takes all that it would",
        ),
        (
            "match: [{headers: {x: {exact: '1'}}}], ",
            "match: [{name: again, headers: {x: {exact: '1'}}}], ",
            "takes all that it would",
        ),
    ] {
        assert_eq!(
            on_rules(&format!("{{{first}{TO_V1}}}, {{{second}{TO_V1}}}")),
            [format!(
                "warning spec.http[1]: is never reached: spec.http[0] stands before it and {reason}"
            )],
            "{first} {second}"
        );
    }
}

#[test]
fn rules_that_are_reached() {
    for (first, second) in [
        ("match: [{uri: {prefix: /a}}], ", ""),
        (
            "match: [{uri: {prefix: /a}}], ",
            "match: [{uri: {prefix: /}}], ",
        ),
        (
            "match: [{uri: {prefix: /a}}], ",
            "match: [{uri: {prefix: /A}, ignoreUriCase: true}], ",
        ),
        (
            "match: [{uri: {exact: /a}, ignoreUriCase: true}], ",
            "match: [{uri: {exact: /b}}], ",
        ),
        (
            "match: [{headers: {x: {exact: '1'}}, method: {exact: GET}}], ",
            "match: [{headers: {x: {exact: '1'}}}], ",
        ),
        (
            "match: [{uri: {regex: /.*}}], ",
            "match: [{uri: {regex: /a.*}}], ",
        ),
    ] {
        let found = on_rules(&format!("{{{first}{TO_V1}}}, {{{second}{TO_V1}}}"));
        assert!(found.is_empty(), "{first} {second}: {found:?}");
    }
}

#[test]
fn a_match_entry_that_stands_there_twice() {
    assert_eq!(
        on_rules(&format!(
            "{{match: [{{uri: {{exact: /a}}}}], {TO_V1}}}, {{match: [{{uri: {{exact: /b}}}}, {{uri: {{exact: /a}}}}], {TO_V1}}}"
        )),
        ["warning spec.http[1].match[1]: never decides: spec.http[0] matches all that it would"]
    );
}

#[test]
fn weights_that_are_no_percentages() {
    let weights = |a: &str, b: &str| {
        on_rules(&format!(
            "{{route: [{{destination: {{host: payment, subset: v1}}, weight: {a}}}, {{destination: {{host: payment}}, weight: {b}}}]}}"
        ))
    };
    assert!(weights("90", "10").is_empty());
    assert_eq!(
        weights("90", "20"),
        [
            "warning spec.http[0].route: the weights of its destinations add up to 110, not 100; they count as shares: 81.8 %, 18.1 %"
        ]
    );
}

#[test]
fn rules_that_nobody_can_reach() {
    let service = |spec: &str| {
        found(&format!(
            "{SHOP}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec: {{hosts: [payment], {spec}}}\n"
        ))
    };
    let gateways = service(&format!("gateways: [front], http: [{{{TO_V1}}}]"));
    assert!(gateways[0].contains("spec.gateways"), "{gateways:?}");
    let hidden = service(&format!("exportTo: ['~'], http: [{{{TO_V1}}}]"));
    assert!(hidden[0].contains("no workload follows"), "{hidden:?}");
    assert_eq!(
        service(&format!(
            "exportTo: [.], http: [{{match: [{{sourceNamespace: bank}}], {TO_V1}}}]"
        )),
        [
            "warning VirtualService shop/v: spec.http[0].match[0].sourceNamespace: nobody can match it: spec.exportTo does not let namespace bank see the rules"
        ]
    );
    assert_eq!(
        on_rules(&format!("{{match: [{{port: 81}}], {TO_V1}}}")),
        [
            "warning spec.http[0].match[0].port: nobody can match it: none of the hosts has a port 81"
        ]
    );
}

#[test]
fn selectors_that_select_nothing() {
    for (kind, namespace, app, place) in [
        ("PeerAuthentication", "shop", "payment", None),
        (
            "PeerAuthentication",
            "shop",
            "paymnet",
            Some("of namespace shop"),
        ),
        (
            "AuthorizationPolicy",
            "bank",
            "payment",
            Some("of namespace bank"),
        ),
        ("AuthorizationPolicy", "linnet-system", "payment", None),
        (
            "AuthorizationPolicy",
            "linnet-system",
            "x",
            Some("in the mesh"),
        ),
    ] {
        let remarks = found(&format!(
            "{SHOP}apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{selector: {{matchLabels: {{app: {app}}}}}}}\n"
        ));
        let expected: Vec<_> = place
            .map(|place| {
                format!("warning {kind} {namespace}/p: spec.selector.matchLabels: no pod {place} carries app={app}: it applies to nothing")
            })
            .into_iter()
            .collect();
        assert_eq!(remarks, expected);
    }
}

#[test]
fn a_policy_for_a_service_that_does_not_exist() {
    assert_eq!(
        found(&format!(
            "{SHOP}apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {{targetRefs: [{{kind: Service, name: paymnet}}]}}\n"
        )),
        [
            "warning AuthorizationPolicy shop/p: spec.targetRefs[0].name: service shop/paymnet does not exist: the policy applies to nothing"
        ]
    );
}

#[test]
fn conflicts_are_told_of_who_does_not_count() {
    let one = |name: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{hosts: [payment], http: [{{{TO_V1}}}]}}\n"
        )
    };
    let verdicts = verdicts(&format!("{SHOP}{}{}", one("a"), one("b")));
    let status = |name: &str| {
        let found = verdicts
            .iter()
            .find(|v| v.resource.kind == "VirtualService" && v.resource.name == name);
        found.unwrap().status
    };
    assert_eq!(
        (status("a"), status("b")),
        (Status::Accepted, Status::Conflicting)
    );
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_still_counts() {
    let yaml = format!(
        "kind: VirtualService\n---\napiVersion: networking.istio.io/v9\nkind: VirtualService\nmetadata: {{name: v}}\n---\n{SHOP}apiVersion: v1\nkind: Service\nmetadata: {{name: payment}}\n---\n[\n"
    );
    let remarks = found(&yaml);
    assert_eq!(remarks.len(), 4, "{remarks:#?}");
    assert!(
        remarks
            .iter()
            .all(|remark| remark.starts_with("error File a.yaml, document "))
    );
    for (position, part) in [
        (0, "document 1: apiVersion: manifest: is missing"),
        (
            1,
            "document 2: apiVersion: VirtualService: networking.istio.io/v9 is not served",
        ),
        (
            2,
            "document 6: metadata.name: Service shop/payment stands in the input twice",
        ),
        (3, "document 7: content: "),
    ] {
        assert!(
            remarks[position].contains(part),
            "{part} in {}",
            remarks[position]
        );
    }
}

#[test]
fn annotations_that_cannot_be_read_are_told() {
    let annotations = "annotations: {linnet.io/access-log: al}";
    let yaml = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\n\
         spec: {{template: {{metadata: {{{annotations}}}}}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: web-1, {annotations}}}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, {annotations}}}\n"
    );
    let remarks = found(&yaml);
    for (position, start) in [
        "error Namespace shop: metadata.annotations[linnet.io/access-log]: \"al\"",
        "error Pod shop/web-1: metadata.annotations[linnet.io/access-log]: \"al\"",
        "error Deployment shop/web: spec.template.metadata.annotations[linnet.io/access-log]: \"al\"",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(remarks[position].starts_with(start), "{remarks:#?}");
    }
    assert_eq!(remarks.len(), 3, "{remarks:#?}");
}

#[test]
fn a_telemetry_that_selects_is_for_its_own_namespace() {
    let yaml = format!(
        "{SHOP}apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: t, namespace: istio-system}}\n\
         spec: {{selector: {{matchLabels: {{app: payment}}}}, accessLogging: [{{}}]}}\n"
    );
    assert_eq!(
        found(&yaml),
        [
            "warning Telemetry istio-system/t: spec.selector.matchLabels: no pod of namespace istio-system carries app=payment: it applies to nothing"
        ]
    );
}
