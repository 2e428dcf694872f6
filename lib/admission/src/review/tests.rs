use super::*;

fn parse(body: &[u8]) -> Result<Request, ReviewError> {
    super::parse(body, Size::POD)
}

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
        .with_warnings(&["w".to_owned()])
        .with_audit("k", "v");
    assert_eq!(
        serde_json::to_value(answer).unwrap(),
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": {
            "uid": "u", "allowed": false, "warnings": ["w"], "auditAnnotations": {"k": "v"},
            "status": {"status": "Failure", "code": 422, "reason": "Invalid", "message": "no"},
        }})
    );
}

/// What takes hundreds of bytes a byte in memory is counted, not read.
#[test]
fn a_body_of_many_values_is_refused_before_it_is_read() {
    let many = |piece: &str, count: usize| {
        review(&json!(vec![0; 1]))
            .into_iter()
            .chain(piece.repeat(count).into_bytes())
            .collect::<Vec<u8>>()
    };
    for (piece, most) in [
        ("{}", Size::POD.objects),
        ("{\"\":0},", Size::POD.objects),
        (",", Size::POD.values),
        ("[", Size::POD.values),
        (":", Size::POD.values),
    ] {
        let few = parse(&many(piece, most / 2 - 100));
        assert!(
            matches!(few, Err(ReviewError::Malformed(_))),
            "{piece}: {few:?}"
        );
        let found = parse(&many(piece, most + 1));
        assert!(
            matches!(found, Err(ReviewError::TooLarge { .. })),
            "{piece}: {found:?}"
        );
    }
    // In a text they are nothing.
    let text = format!("\\\"{}", "{[,:".repeat(200_000));
    let request = json!({"uid": "u", "operation": text, "kind": {"version": "v1", "kind": "Pod"}});
    let found = parse(&review(&request));
    assert!(
        matches!(
            found,
            Err(ReviewError::TooLong {
                field: "operation",
                ..
            })
        ),
        "{found:?}"
    );
}

#[test]
fn every_name_of_a_request_has_a_limit() {
    let long = "x".repeat(LONGEST_NAME + 1);
    let pointers = [
        "/uid",
        "/namespace",
        "/operation",
        "/subResource",
        "/kind/group",
        "/kind/version",
        "/kind/kind",
    ];
    for pointer in pointers {
        let mut request = json!({
            "uid": "u", "namespace": "n", "operation": "CREATE", "subResource": "",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
        });
        assert!(parse(&review(&request)).is_ok());
        *request.pointer_mut(pointer).unwrap() = json!(long);
        let error = parse(&review(&request)).unwrap_err();
        assert!(
            matches!(error, ReviewError::TooLong { .. }),
            "{pointer}: {error}"
        );
        assert!(error.to_string().len() < 200, "{error}");
    }
}

#[test]
fn an_answer_repeats_no_text_at_any_length() {
    let long = "\u{e4}".repeat(100_000);
    let answer = Answer::denied("u".to_owned(), &long)
        .with_warnings(&vec![long.clone(); 500])
        .with_audit("a", long);
    let sent = json!(answer);
    assert!(
        sent.to_string().len() < 64 * 1024,
        "{}",
        sent.to_string().len()
    );
    let warnings = sent["response"]["warnings"].as_array().unwrap();
    assert_eq!(warnings.last().unwrap(), "468 more warnings");
    assert_eq!(shorten("\u{e4}b", 1), "\u{2026}");
    assert_eq!(shorten("ab", 2), "ab");
}
