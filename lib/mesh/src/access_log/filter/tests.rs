use super::*;
use std::collections::HashMap;

/// What requests are, by the attribute's name as text.
fn holds(expression: &str, known: &[(Attribute, Value<'static>)]) -> bool {
    let filter: Filter = expression
        .parse()
        .unwrap_or_else(|error| panic!("{expression}: {error}"));
    filter.holds(&|attribute| {
        let found = known.iter().find(|(name, _)| *name == attribute);
        found.map(|(_, value)| value.clone())
    })
}

fn get(code: i64) -> Vec<(Attribute, Value<'static>)> {
    vec![
        (Attribute::ResponseCode, Value::Number(code)),
        (Attribute::Method, "GET".into()),
        (Attribute::UrlPath, "/api/v1beta3/cards".into()),
        (Attribute::Path, "/api/v1beta3/cards?id=1".into()),
        (Attribute::Host, "payment.shop".into()),
        (Attribute::Mtls, Value::Bool(true)),
        (Attribute::Header(0), "curl/8".into()),
        (
            Attribute::Duration,
            Value::Duration(Duration::from_millis(700)),
        ),
        (
            Attribute::PeerIdentity,
            "spiffe://cluster.local/ns/shop/sa/web".into(),
        ),
    ]
}

#[test]
fn the_forms_of_the_guides() {
    for (expression, yes, no) in [
        ("response.code >= 400", 404, 200),
        ("response.code >= 500", 503, 404),
        ("response.code == 503 || response.code == 504", 504, 500),
        ("response.code >= 400 && response.code < 500", 404, 500),
        ("response.code in [403, 404]", 403, 500),
        ("!(response.code in [200, 204])", 500, 204),
        ("500 <= response.code", 500, 499),
        ("response.code != 200", 500, 200),
        (
            "connection.mtls && request.url_path.contains('v1beta3') && response.code > 399",
            400,
            399,
        ),
        (
            "request.url_path.startsWith(\"/api\") && response.code >= 500",
            500,
            200,
        ),
        ("request.method == 'GET' && response.code > 200", 201, 200),
        (
            "request.duration > duration('0.5s') && response.code == 200",
            200,
            500,
        ),
        (
            "request.headers['User-Agent'].matches('^curl/\\\\d$') && response.code == 200",
            200,
            500,
        ),
        (
            "'user-agent' in request.headers && response.code == 200",
            200,
            500,
        ),
        (
            "connection.uri_san_peer_certificate.endsWith('/sa/web') && response.code == 200",
            200,
            500,
        ),
        (
            "has(response.code) && response.code >= 400 || request.path.endsWith('?id=2')",
            400,
            200,
        ),
    ] {
        assert!(holds(expression, &get(yes)), "{expression} {yes}");
        assert!(!holds(expression, &get(no)), "{expression} {no}");
    }
}

#[test]
fn what_is_not_there_leaves_it_undecided() {
    let tcp = [(Attribute::Mtls, Value::Bool(false))];
    assert!(!holds("response.code >= 400", &tcp));
    assert!(!holds("!(response.code >= 400)", &tcp));
    assert!(holds("response.code >= 400 || !connection.mtls", &tcp));
    assert!(holds("!connection.mtls || response.code >= 400", &tcp));
    assert!(!holds("response.code >= 400 && !connection.mtls", &tcp));
    assert!(holds("!has(response.code)", &tcp));
    assert!(holds("!(connection.mtls && response.code == 1)", &tcp));
    assert!(holds("connection.mtls == false", &tcp));
    assert!(holds("true", &tcp));
}

#[test]
fn what_is_more_is_refused() {
    let deep = "(".repeat(40) + "true" + &")".repeat(40);
    let long = format!("request.method == '{}'", "x".repeat(5000));
    let cases: HashMap<&str, &str> = HashMap::from([
        ("", "something is missing at the end"),
        ("response.code", "it is no condition"),
        ("response.code >= '400'", "is compared with one, as in 500"),
        ("request.method == 3", "is compared with one, as in 'GET'"),
        ("xds.cluster_name == 'a'", "xds.cluster_name is not known"),
        ("response.code / 100 == 5", "'/' is not understood"),
        ("response.code >= 400 &", "'&' is not understood"),
        ("response.code >= 400 true", "true is not expected"),
        ("request.method == 'GET", "a quote is not closed"),
        (
            "request.url_path.matches('(')",
            "is not a usable regular expression: unclosed group",
        ),
        (
            "request.url_path.size() > 3",
            "a text in quotes is expected",
        ),
        ("response.code.contains('4')", "is no text"),
        ("connection.mtls > true", "have no order"),
        ("request.duration > duration('fast')", "no period"),
        ("response.code == request.size", "with a literal alone"),
        ("request.headers['a b'] == ''", "not a header's name"),
        ("99999999999999999999 == response.code", "is too large"),
        ("(response.code == 1", "\")\" is expected at the end"),
        (&deep, "nested deeper"),
        (&long, "longer than"),
    ]);
    for (expression, reason) in cases {
        let error = expression.parse::<Filter>().unwrap_err().to_string();
        assert!(error.contains(reason), "{expression}: {error}");
    }
}

proptest::proptest! {
    /// Whatever is written, reading it ends without a panic, and what is read is
    /// evaluated without one.
    #[test]
    fn anything_may_be_written(text in "[a-z.()'\"!&|=<>0-9\\[\\], \\\\-]{0,60}") {
        if let Ok(filter) = text.parse::<Filter>() {
            filter.holds(&|_| None);
        }
    }
}
