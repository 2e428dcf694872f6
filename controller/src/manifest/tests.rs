use crate::{manifest::parse_yaml, object::Object};

fn error(yaml: &str) -> String {
    parse_yaml(yaml, "file").unwrap_err()
}

#[test]
fn other_kinds_pass_by() {
    let yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\n---\n# nothing\n";
    assert!(parse_yaml(yaml, "file").unwrap().is_empty());
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4\nendpoints: []\n";
    assert!(
        parse_yaml(slice, "file").unwrap().is_empty(),
        "it belongs to no service"
    );
}

#[test]
fn an_error_names_document_resource_and_field() {
    for (yaml, expected) in [
        ("a: [", "document 1: "),
        ("just text", "document 1: manifest: "),
        (
            "kind: Service\nmetadata: {name: a}",
            "document 1: manifest: apiVersion: is missing",
        ),
        (
            "apiVersion: v1\nkind: Service",
            "document 1: Service: metadata.name: is missing",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: [b]}",
            "document 1: Pod: metadata.labels: ",
        ),
        (
            "---\nkind: ConfigMap\napiVersion: v1\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: web}]}",
            "document 2: Service default/a: spec.ports[0].port: ",
        ),
        (
            "apiVersion: networking.istio.io/v2\nkind: VirtualService\nmetadata: {name: a}",
            "document 1: VirtualService: apiVersion: networking.istio.io/v2 is not served, use one of: v1, v1beta1, v1alpha3",
        ),
        ("? [a, b]\n: c", "document 1: "),
        ("a: !secret b", "document 1: "),
    ] {
        let error = error(yaml);
        assert!(error.starts_with(expected), "{yaml}\n{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn lists_are_taken_apart_and_the_namespace_is_default() {
    let yaml = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: v1, kind: Service, metadata: {name: b, namespace: n}}\n";
    let names: Vec<_> = parse_yaml(yaml, "file")
        .unwrap()
        .iter()
        .map(|object| object.reference().to_string())
        .collect();
    assert_eq!(names, ["Service default/a", "Service n/b"]);
}

#[test]
fn a_mesh_policy_has_no_namespace_and_nulls_drop_out() {
    let yaml = "apiVersion: authentication.istio.io/v1alpha1\nkind: MeshPolicy\nmetadata: {name: default, namespace: x}\nspec: {peers: [{mtls: null}], targets: null}\n";
    let objects = parse_yaml(yaml, "file").unwrap();
    let Object::Configuration(policy) = &objects[0] else {
        panic!("{objects:?}");
    };
    assert_eq!(policy.name.to_string(), "default");
    assert_eq!(policy.spec, serde_json::json!({"peers": [{}]}));
}

#[test]
fn numbers_as_keys_are_the_text_that_was_written() {
    let yaml = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {portLevelMtls: {8080: {mode: STRICT}}}\n";
    let objects = parse_yaml(yaml, "file").unwrap();
    let Object::Configuration(policy) = &objects[0] else {
        panic!("{objects:?}");
    };
    assert!(policy.spec["portLevelMtls"]["8080"].is_object());
}
