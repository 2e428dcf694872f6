use super::*;
use serde_json::json;

fn review(request: &Value) -> Vec<u8> {
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
    review.to_string().into_bytes()
}

fn creation() -> Value {
    json!({
        "uid": "u", "operation": "CREATE", "namespace": "shop",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "object": {"metadata": {"name": "p", "namespace": "own"}},
    })
}

#[test]
fn a_pods_creation_is_the_question() {
    let Question::CreatePod {
        uid,
        namespace,
        dry_run,
        ..
    } = parse(&review(&creation())).unwrap()
    else {
        panic!("another question");
    };
    assert_eq!(
        (uid.as_str(), namespace.as_str(), dry_run),
        ("u", "shop", false)
    );
}

#[test]
fn the_requests_namespace_comes_before_the_pods() {
    for (own, expected) in [(json!({"namespace": "own"}), "own"), (json!({}), "default")] {
        let mut request = creation();
        request["namespace"] = json!("");
        request["object"]["metadata"] = own;
        let Question::CreatePod { namespace, .. } = parse(&review(&request)).unwrap() else {
            panic!("another question");
        };
        assert_eq!(namespace, expected);
    }
}

#[test]
fn all_else_is_allowed_by_name() {
    for (field, value, what) in [
        ("operation", json!("DELETE"), "DELETE of a Pod"),
        ("operation", json!("UPDATE"), "UPDATE of a Pod"),
        ("subResource", json!("eviction"), "CREATE of a Pod/eviction"),
        (
            "kind",
            json!({"group": "metrics.k8s.io", "version": "v1", "kind": "Pod"}),
            "CREATE of a Pod",
        ),
    ] {
        let mut request = creation();
        request[field] = value;
        let Question::Other { uid, what: found } = parse(&review(&request)).unwrap() else {
            panic!("{what}");
        };
        assert_eq!((uid.as_str(), found.as_str()), ("u", what));
    }
}

#[test]
fn a_creation_needs_a_pod() {
    let mut no_object = creation();
    no_object["object"] = json!(null);
    assert!(matches!(
        parse(&review(&no_object)),
        Err(ReviewError::NoObject { .. })
    ));
}
