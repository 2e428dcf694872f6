use super::*;
use proptest::prelude::*;

fn apply(rewrite: &Rewrite, matched: Option<&StringMatch>, uri: &str) -> (String, HeaderMap) {
    let mut uri: Uri = uri.parse().unwrap();
    let mut headers = HeaderMap::new();
    if uri.authority().is_none() {
        headers.insert(HOST, HeaderValue::from_static("payment"));
    }
    rewrite
        .apply(matched, None, &mut uri, &mut headers)
        .unwrap();
    (uri.to_string(), headers)
}

fn to(path: &str) -> Rewrite {
    Rewrite {
        path: Some(PathRewrite::Matched(path.into())),
        authority: None,
    }
}

/// A target that the URI has escaped is rewritten as it was sent.
#[test]
fn a_rewrite_goes_by_the_path_that_was_sent() {
    let prefix = StringMatch::Prefix("/<a>".into());
    for (rewrite, expected) in [(to("/b"), "/b/`?q=%22"), (to("/<b>"), "/%3Cb%3E/`?q=%22")] {
        let mut uri: Uri = "/%3Ca%3E/%60?q=%22".parse().unwrap();
        let sent = Some("/<a>/`");
        let applied = rewrite.apply(Some(&prefix), sent, &mut uri, &mut HeaderMap::new());
        assert_eq!(applied, Ok(()));
        assert_eq!(uri, expected.replace('`', "%60").as_str());
    }
}

#[test]
fn a_rewrite_replaces_what_was_matched_and_keeps_the_query() {
    let prefix = StringMatch::Prefix("/api".into());
    let exact = StringMatch::Exact("/api/a".into());
    let regex = StringMatch::Regex(super::super::WholeRegex::new("/api/.").unwrap());
    for (matched, new, expected) in [
        (Some(&prefix), "/v2", "/v2/a?q=1"),
        (Some(&prefix), "", "/a?q=1"),
        (Some(&prefix), "/", "//a?q=1"),
        (Some(&exact), "/v2", "/v2?q=1"),
        (Some(&regex), "/v2", "/v2?q=1"),
        (None, "/v2/", "/v2/api/a?q=1"),
        (None, "/", "/api/a?q=1"),
    ] {
        assert_eq!(apply(&to(new), matched, "/api/a?q=1").0, expected, "{new}");
    }
}

#[test]
fn a_prefix_by_segment_is_replaced_by_segment() {
    // The table of Gateway API's HTTPPathModifier.
    for (prefix, new, path, expected) in [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "", "/foo/bar", "/bar"),
        ("/foo", "", "/foo/", "/"),
        ("/foo", "", "/foo", "/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo", "/"),
        ("", "/xyz", "/bar", "/xyz/bar"),
    ] {
        let matched = StringMatch::Segments(prefix.into());
        assert!(matched.matches(path));
        let rewritten = apply(&to(new), Some(&matched), path).0;
        assert_eq!(rewritten, expected, "{prefix} by {new} in {path}");
    }
    let full = Rewrite {
        path: Some(PathRewrite::Full("/one".into())),
        authority: None,
    };
    let matched = StringMatch::Segments("/foo".into());
    assert_eq!(apply(&full, Some(&matched), "/foo/bar?q=1").0, "/one?q=1");
}

#[test]
fn a_prefix_matched_without_case_goes_by_its_length() {
    let prefix = StringMatch::Prefix("/API".into());
    assert_eq!(apply(&to("/v2"), Some(&prefix), "/api/a").0, "/v2/a");
}

#[test]
fn a_regex_rewrite_knows_its_groups() {
    let regex = |pattern, substitution| Rewrite {
        path: Some(PathRewrite::regex(pattern, substitution).unwrap()),
        authority: None,
    };
    let swap = regex("^/service/([^/]+)(/.*)$", r"\2/instance/\1");
    assert_eq!(
        apply(&swap, None, "/service/foo/v1/api?x=1").0,
        "/v1/api/instance/foo?x=1"
    );
    assert_eq!(apply(&regex("one", "two"), None, "/one/one").0, "/two/two");
    assert_eq!(apply(&regex("/a", r"\\b\0"), None, "/a?q").0, "/\\b/a?q");
}

#[test]
fn what_is_no_path_is_refused_and_asterisk_is_left() {
    let spaced = Rewrite {
        path: Some(PathRewrite::regex("%20", " ").unwrap()),
        authority: None,
    };
    let mut uri: Uri = "/a%20b".parse().unwrap();
    let refused = spaced.apply(None, None, &mut uri, &mut HeaderMap::new());
    assert!(refused.is_err());
    assert_eq!(uri, "/a%20b");
    assert_eq!(apply(&to("/v2"), None, "*").0, "*");
}

#[test]
fn the_authority_goes_where_the_version_has_it() {
    let rewrite = Rewrite {
        path: None,
        authority: Some(Authority::from_static("ratings:9080")),
    };
    let (uri, headers) = apply(&rewrite, None, "/a");
    assert_eq!(
        (uri.as_str(), &headers[HOST]),
        ("/a", &"ratings:9080".parse().unwrap())
    );
    let (uri, headers) = apply(&rewrite, None, "http://payment/a?b");
    assert_eq!(uri, "http://ratings:9080/a?b");
    assert!(headers.is_empty());
}

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    )
}

#[test]
fn headers_are_removed_then_set_then_added() {
    let mut headers: HeaderMap = [pair("a", "0"), pair("b", "0"), pair("c", "0")]
        .into_iter()
        .collect();
    let edits = HeaderEdits {
        remove: vec![HeaderName::from_static("a"), HeaderName::from_static("b")],
        set: vec![pair("b", "1"), pair("c", "1")],
        add: vec![pair("c", "2"), pair("d", "3")],
    };
    edits.apply(&mut headers);
    let mut seen: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    seen.sort();
    assert_eq!(seen, ["b=1", "c=1", "c=2", "d=3"]);
}

#[test]
fn setting_host_sets_the_authority() {
    let edits = HeaderEdits {
        set: vec![pair("host", "other")],
        ..HeaderEdits::default()
    };
    let (mut uri, mut headers) = (Uri::from_static("http://payment/a"), HeaderMap::new());
    edits.apply_to_request(&mut uri, &mut headers);
    assert_eq!(uri, "http://other/a");
    assert!(headers.is_empty());
    let mut uri = Uri::from_static("/a");
    edits.apply_to_request(&mut uri, &mut headers);
    assert_eq!(headers[HOST], "other");
}

proptest! {
    #[test]
    fn a_prefix_rewrite_keeps_what_follows(rest in "[a-z/]{0,20}", query in "[a-z=&]{0,10}") {
        let prefix = StringMatch::Prefix("/api".into());
        let (uri, _) = apply(&to("/new"), Some(&prefix), &format!("/api{rest}?{query}"));
        prop_assert_eq!(uri, format!("/new{rest}?{query}"));
    }
}
