//! RequestAuthentications as people write them: what reaches the workload, what is
//! said of it, and what becomes of keys that are fetched.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

use linnet_controller::{
    compile::{Context, KeySource},
    index::Index,
    manifest::parse_yaml,
    object::Name,
    source::{Change, KeyFetch},
};
use linnet_mesh::{
    SpiffeId, TrustDomain,
    authentication::{Authentication, Jwk, JwtRule, Place, jwk},
};
use std::{sync::Arc, time::Duration};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: db-0, namespace: shop, labels: {app: db}}\n\
                   spec: {serviceAccountName: db}\nstatus: {podIP: 10.0.0.1}\n";
/// A key of the test's own; 32 bytes suffice for Ed25519.
const JWKS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn manifest(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn apply(index: &mut Index, yaml: &str) {
    for object in parse_yaml(yaml, "test").unwrap() {
        index.apply(Change::Apply(object));
    }
}

fn index() -> Index {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let mut index = Index::new(context, TrustDomain::default());
    apply(&mut index, POD);
    index
}

fn told(index: &Index) -> Option<Arc<Authentication>> {
    let own = SpiffeId::new(&TrustDomain::default(), "shop", "db").unwrap();
    index
        .inbound(&Name::new("shop", "db-0"), &own)
        .authentication
}

fn rules(index: &Index) -> Vec<Arc<JwtRule>> {
    told(index).map_or_else(Vec::new, |told| told.rules().to_vec())
}

fn verdicts(spec: &str) -> Vec<String> {
    let mut index = index();
    apply(&mut index, &manifest("p", "shop", spec));
    let verdicts = index.verdicts();
    let texts = verdicts.iter().map(ToString::to_string);
    texts
        .map(|text| text.replace("test, document 1: RequestAuthentication shop/", ""))
        .collect()
}

fn keys() -> Vec<Jwk> {
    jwk::read(JWKS.as_bytes()).unwrap().0
}

#[test]
fn every_field_reaches_the_workload() {
    let mut index = index();
    let spec = format!(
        "{{selector: {{matchLabels: {{app: db}}}}, jwtRules: [{{issuer: i, audiences: [a], jwks: '{JWKS}', \
         fromHeaders: [{{name: X-Jwt, prefix: 'v1 '}}], fromParams: [t], fromCookies: [c], forwardOriginalToken: true, \
         outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{{header: X-Sub, claim: sub}}], spaceDelimitedClaims: [roles]}}]}}"
    );
    apply(&mut index, &manifest("p", "shop", &spec));
    let [rule] = &rules(&index)[..] else {
        panic!("one rule");
    };
    let source = rule.source.clone();
    let header = Place::Header {
        name: "x-jwt".parse().unwrap(),
        prefix: "v1 ".into(),
    };
    let expected = JwtRule {
        issuer: "i".into(),
        audiences: vec!["a".into()],
        keys: keys(),
        problem: None,
        places: vec![
            header,
            Place::Parameter("t".into()),
            Place::Cookie("c".into()),
        ],
        forward: true,
        payload_header: Some("x-payload".parse().unwrap()),
        claim_headers: vec![("x-sub".parse().unwrap(), "sub".into())],
        space_delimited: vec!["roles".into()],
        ..JwtRule::refusing(source, 0, String::new())
    };
    assert_eq!(**rule, expected);
    assert_eq!(
        rule.to_string(),
        "RequestAuthentication shop/p, spec.jwtRules[0]"
    );
    assert_eq!(verdicts(&spec), ["p: accepted"]);
}

#[test]
fn policies_are_for_the_workloads_they_select() {
    let rule = format!("jwtRules: [{{issuer: i, jwks: '{JWKS}'}}]");
    for (namespace, selector, expected) in [
        ("shop", "", 1),
        ("shop", "selector: {matchLabels: {app: web}}, ", 0),
        ("other", "", 0),
        ("linnet-system", "", 1),
        ("istio-system", "selector: {matchLabels: {app: db}}, ", 1),
        ("shop", "targetRefs: [{kind: Service, name: none}], ", 0),
    ] {
        let mut index = index();
        apply(
            &mut index,
            &manifest("p", namespace, &format!("{{{selector}{rule}}}")),
        );
        assert_eq!(rules(&index).len(), expected, "{namespace} {selector}");
    }
}

#[test]
fn mistakes_are_named_with_their_place_and_close() {
    const CLOSED: &str = "; spec: there is no good version to keep in force, so the workloads it selects refuse every token where it looks for them";
    let with = |fields: &str| format!("{{jwtRules: [{{issuer: i, jwks: '{JWKS}', {fields}}}]}}");
    for (spec, field, word) in [
        (format!("{{jwtRules: [{{jwks: '{JWKS}'}}]}}"), "spec.jwtRules[0].issuer", "is missing"),
        ("{jwtRules: [{issuer: i, jwks: x}]}".into(), "spec.jwtRules[0].jwks", "is not a JWKS"),
        ("{jwtRules: [{issuer: i, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}'}]}".into(), "spec.jwtRules[0].jwks", "has no usable key; keys[0] is not used: it is symmetric"),
        ("{jwtRules: [{issuer: i}]}".into(), "spec.jwtRules[0].jwks", "is missing, as is jwksUri, and the issuer \"i/.well"),
        ("{jwtRules: [{issuer: i, jwksUri: 'ftp://x/y'}]}".into(), "spec.jwtRules[0].jwksUri", "is not a URL of the form https"),
        ("{jwtRules: [{issuer: i, jwksUri: 'https://a@b/y'}]}".into(), "spec.jwtRules[0].jwksUri", "is not a URL"),
        (with("jwksUri: 'https://x/y'"), "spec.jwtRules[0].jwksUri", "stands beside jwks"),
        (with("audiences: ['']"), "spec.jwtRules[0].audiences[0]", "is empty"),
        (with("fromHeaders: [{name: 'a b'}]"), "spec.jwtRules[0].fromHeaders[0].name", "is not a header's name"),
        (with("fromParams: ['']"), "spec.jwtRules[0].fromParams[0]", "is empty"),
        (with("outputPayloadToHeader: Host"), "spec.jwtRules[0].outputPayloadToHeader", "is not for a policy to write"),
        (with("outputClaimToHeaders: [{header: x}]"), "spec.jwtRules[0].outputClaimToHeaders[0].claim", "is missing"),
        (with("timeout: never"), "spec.jwtRules[0].timeout", "is not a duration"),
        ("{jwtRules: 5}".into(), "spec.jwtRules", "invalid type"),
        (with("").replace("jwtRules", "selector: {matchLabels: {a: '*'}}, jwtRules"), "spec.selector.matchLabels.a", "\"*\""),
    ] {
        let made = verdicts(&spec);
        assert!(made[0].starts_with(&format!("p: rejected; {field}: ")), "{made:?}");
        assert!(made[0].contains(word) && made[0].ends_with(CLOSED), "{made:?}");
        assert!(!made[0].contains("c2VjcmV0"), "{made:?}");
    }
}

#[test]
fn what_does_not_count_is_said() {
    let with = |fields: &str| format!("{{jwtRules: [{{issuer: i, jwks: '{JWKS}', {fields}}}]}}");
    for (spec, expected) in [
        (
            "{}".into(),
            "p: accepted; spec.jwtRules: is empty, so the policy looks for no tokens",
        ),
        (
            with("novel: 1"),
            "p: accepted; spec.jwtRules[0].novel: is not honoured yet; it has no effect",
        ),
        (
            with("timeout: 3s"),
            "p: accepted; spec.jwtRules[0].timeout: has no effect: there is nothing to fetch",
        ),
        (
            "{jwtRules: [{issuer: i, jwksUri: 'http://keys/'}]}".into(),
            "p: accepted; spec.jwtRules[0].jwksUri: is fetched without TLS: whoever can change that answer decides whose tokens count",
        ),
        (
            with("").replace(
                "jwtRules",
                "targetRef: {kind: Gateway, group: g, name: a}, jwtRules",
            ),
            "p: accepted; spec.targetRef: Gateway has no workload with a sidecar of this mesh, so nothing is enforced there; name a Service, or use spec.selector",
        ),
    ] {
        assert_eq!(verdicts(&spec), [expected]);
    }
}

#[test]
fn a_policy_that_breaks_keeps_its_last_good_version_and_one_that_never_worked_refuses() {
    let bad = manifest(
        "p",
        "shop",
        "{jwtRules: [{issuer: i, jwks: x, fromHeaders: [{name: x-jwt}], fromCookies: [c]}]}",
    );
    let good = manifest(
        "p",
        "shop",
        &format!("{{jwtRules: [{{issuer: i, jwks: '{JWKS}'}}]}}"),
    );
    let mut index = index();
    apply(&mut index, &bad);
    let closed = told(&index).unwrap();
    let places: Vec<String> = closed.places().iter().map(ToString::to_string).collect();
    assert_eq!(
        places,
        [
            "header authorization",
            "parameter access_token",
            "header x-jwt",
            "cookie c"
        ]
    );
    assert_eq!(rules(&index)[0].keys, []);
    apply(&mut index, &good);
    assert_eq!(rules(&index)[0].keys, keys());
    apply(&mut index, &bad);
    assert_eq!(rules(&index)[0].keys, keys());
}

#[test]
fn fetched_keys_are_those_of_the_last_good_answer() {
    let mut index = index();
    apply(
        &mut index,
        &manifest(
            "p",
            "shop",
            "{jwtRules: [{issuer: 'https://idp/', timeout: 2s}, {issuer: i, jwksUri: 'https://keys/a'}]}",
        ),
    );
    let sources: Vec<KeySource> = index.key_sources().into_keys().collect();
    let [openid, named] = &sources[..] else {
        panic!("two sources: {sources:?}");
    };
    assert_eq!(&*openid.url, "https://idp/.well-known/openid-configuration");
    assert_eq!(
        (openid.openid, openid.timeout),
        (true, Duration::from_secs(2))
    );
    assert_eq!((&*named.url, named.openid), ("https://keys/a", false));
    assert_eq!(
        rules(&index)[1].problem.as_deref(),
        Some("https://keys/a has not answered yet")
    );

    let pod = Name::new("shop", "db-0");
    let mut take = |keys: Result<Vec<Jwk>, &str>| {
        index.take_affected();
        let fetched = KeyFetch {
            keys: keys.map(Arc::from).map_err(str::to_owned),
            notes: vec![],
        };
        index.apply(Change::Keys(named.clone(), fetched));
        let touched = index.take_affected().pod(&pod);
        (
            touched,
            rules(&index).swap_remove(1),
            index.verdicts().swap_remove(0).to_string(),
        )
    };
    let (touched, rule, verdict) = take(Err("it is away"));
    assert!(touched && rule.keys.is_empty());
    assert_eq!(rule.problem.as_deref(), Some("it is away"));
    assert!(
        verdict.contains(
            "spec.jwtRules[1].jwksUri: it is away; the tokens of this issuer are refused until then"
        ),
        "{verdict}"
    );
    let (touched, rule, verdict) = take(Ok(keys()));
    assert!(touched && rule.keys == keys() && rule.problem.is_none());
    assert!(!verdict.contains("away"), "{verdict}");
    let (touched, rule, verdict) = take(Err("it is away"));
    assert!(!touched && rule.keys == keys() && rule.problem.is_none());
    assert!(
        verdict.contains("it is away; the keys of the last good answer stay in force"),
        "{verdict}"
    );
    let (touched, ..) = take(Ok(keys()));
    assert!(!touched, "the same keys are no change");

    // Nobody wants them any more: they are forgotten.
    apply(&mut index, &manifest("p", "shop", "{}"));
    assert_eq!(index.key_sources().len(), 0);
}

#[test]
fn a_namespace_has_so_many_sources_of_keys_and_others_have_theirs() {
    let mut index = index();
    let policy = |namespace: &str, name: &str, source: usize| {
        let spec = format!("{{jwtRules: [{{issuer: i, jwksUri: 'https://keys/{source}'}}]}}");
        manifest(name, namespace, &spec)
    };
    for source in 0..256 {
        apply(&mut index, &policy("shop", &format!("p{source}"), source));
    }
    let rejected = |index: &Index| {
        let verdicts = index.verdicts();
        let texts = verdicts.iter().map(ToString::to_string);
        texts
            .filter(|text| text.contains("rejected"))
            .collect::<Vec<_>>()
    };
    apply(&mut index, &policy("shop", "one-more", 256));
    let told = rejected(&index);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("shop/one-more"), "{told:?}");
    assert!(told[0].contains("257 sources of keys"), "{told:?}");
    // A source that is known costs nothing more, and one may take another's place.
    apply(&mut index, &policy("shop", "again", 0));
    apply(&mut index, &policy("shop", "p7", 300));
    apply(&mut index, &policy("blog", "p", 256));
    assert_eq!(rejected(&index).len(), 1);
    assert_eq!(index.key_sources().len(), 257);
}

#[test]
fn remarks_on_fetched_keys_are_bounded() {
    let mut index = index();
    let spec = "{jwtRules: [{issuer: i, jwksUri: 'https://keys/a'}]}";
    apply(&mut index, &manifest("p", "shop", spec));
    let source = index.key_sources().into_keys().next().unwrap();
    let fetched = KeyFetch {
        keys: Ok(keys().into()),
        notes: (0..5000).map(|key| format!("key {key} is odd")).collect(),
    };
    index.apply(Change::Keys(source, fetched));
    let verdict = index.verdicts().swap_remove(0).to_string();
    assert!(verdict.contains("key 15 is odd"), "{verdict}");
    assert!(!verdict.contains("key 16 is odd"), "{verdict}");
    assert!(verdict.contains("4984 more"), "{verdict}");
}
