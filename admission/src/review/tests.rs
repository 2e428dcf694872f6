use super::*;

fn review(request: &Value) -> Vec<u8> {
    let review = json!({"apiVersion": API_VERSION, "kind": KIND, "request": request});
    review.to_string().into_bytes()
}

#[test]
fn what_can_not_be_answered_says_why() {
    assert!(matches!(
        parse(&review(&json!(null))),
        Err(ReviewError::NoRequest)
    ));
    assert!(matches!(
        parse(&review(&json!({"uid": "u"}))),
        Err(ReviewError::Malformed(_))
    ));
    assert!(matches!(parse(b"\xff\xfe"), Err(ReviewError::Malformed(_))));
    assert!(matches!(
        parse(b"{}"),
        Err(ReviewError::WrongVersion { .. })
    ));
    let old = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": KIND, "request": 5});
    assert!(matches!(
        parse(old.to_string().as_bytes()),
        Err(ReviewError::WrongVersion { .. })
    ));
}

#[test]
fn an_answer_is_an_admission_review() {
    let answer = Answer::denied("u".to_owned(), "no")
        .with_warnings(vec!["w".to_owned()])
        .with_audit("k", "v");
    assert_eq!(
        serde_json::to_value(answer).unwrap(),
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": {
            "uid": "u", "allowed": false, "warnings": ["w"], "auditAnnotations": {"k": "v"},
            "status": {"status": "Failure", "code": 422, "reason": "Invalid", "message": "no"},
        }})
    );
}
