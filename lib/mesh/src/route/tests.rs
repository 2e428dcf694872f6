use super::*;
use proptest::prelude::*;

pub(super) fn backend(name: &str, weight: u32) -> Backend {
    Backend {
        service: ServicePort {
            namespace: "default".into(),
            name: name.into(),
            port: 80,
        },
        subset: None,
        weight,
        unresolved: None,
        headers: HeaderFilters::default(),
    }
}

pub(super) fn resource() -> Arc<ResourceRef> {
    Arc::new(ResourceRef {
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: "r".into(),
    })
}

pub(super) fn rule(backends: Vec<Backend>) -> HttpRule {
    HttpRule {
        source: resource(),
        position: 0,
        name: None,
        matches: vec![],
        backends,
        filters: Filters::default(),
    }
}

pub(super) fn request<'a>(
    method: &'a Method,
    path: &'a str,
    headers: &'a HeaderMap,
) -> RequestParts<'a> {
    RequestParts {
        method,
        path,
        query: "",
        authority: "payment",
        scheme: "http",
        headers,
    }
}

#[test]
fn prefix_is_raw_and_regex_is_whole() {
    assert!(StringMatch::Prefix("/api".into()).matches("/apiary"));
    let regex = StringMatch::Regex(WholeRegex::new("/a|/b").unwrap());
    assert!(regex.matches("/a"));
    assert!(!regex.matches("/a/b"));
    assert!(!regex.matches("x/a"));
}

#[test]
fn a_host_with_port_final_dot_or_capitals_still_matches() {
    let headers = HeaderMap::new();
    let fits = |wanted: StringMatch, authority: &str| {
        let condition = RequestMatch {
            authority: Some(wanted),
            ..RequestMatch::default()
        };
        let parts = RequestParts {
            authority,
            ..request(&Method::GET, "/", &headers)
        };
        condition.matches(&parts)
    };
    for host in [
        "shop.example",
        "SHOP.example",
        "shop.example:80",
        "shop.example.",
        "Shop.Example.:8080",
    ] {
        assert!(
            fits(StringMatch::Exact("shop.example".into()), host),
            "{host}"
        );
        assert!(fits(StringMatch::Prefix("shop.".into()), host), "{host}");
    }
    assert!(fits(
        StringMatch::Exact("shop.example:80".into()),
        "Shop.example:80"
    ));
    for host in [
        "shop",
        "shop.example.com",
        "a.shop.example",
        "shop.examples:80",
    ] {
        assert!(
            !fits(StringMatch::Exact("shop.example".into()), host),
            "{host}"
        );
    }
}

#[test]
fn segments_end_at_a_slash_or_the_end() {
    let under = |prefix: &str, path: &str| StringMatch::Segments(prefix.into()).matches(path);
    for path in ["/api", "/api/", "/api/v1"] {
        assert!(under("/api", path), "{path}");
    }
    for path in ["/apiary", "/ap", "/", ""] {
        assert!(!under("/api", path), "{path}");
    }
    assert!(under("", "/") && under("", "/a"));
    assert!(!under("", "*"));
    assert!(StringMatch::Segments("/é".into()).matches_ignoring_case("/é/A"));
    assert!(!StringMatch::Segments("/aa".into()).matches_ignoring_case("/é"));
}

#[test]
fn case_is_ignored_for_exact_and_prefix_only() {
    let headers = HeaderMap::new();
    let request = request(&Method::GET, "/API/v1", &headers);
    for (path, expected) in [
        (StringMatch::Exact("/api/V1".into()), true),
        (StringMatch::Prefix("/aPi".into()), true),
        (StringMatch::Segments("/aPi".into()), true),
        (StringMatch::Segments("/aP".into()), false),
        (
            StringMatch::Regex(WholeRegex::new("/api/.*").unwrap()),
            false,
        ),
    ] {
        let condition = RequestMatch {
            path: Some(path),
            ignore_path_case: true,
            ..RequestMatch::default()
        };
        assert_eq!(condition.matches(&request), expected);
    }
}

#[test]
fn header_presence_value_and_absence() {
    let mut headers = HeaderMap::new();
    headers.insert("x-user", "vip".parse().unwrap());
    headers.append("x-many", "a".parse().unwrap());
    headers.append("x-many", "b".parse().unwrap());
    let matches = |name: &'static str, value: Option<StringMatch>, negate| {
        HeaderMatch {
            name: HeaderName::from_static(name),
            value,
            negate,
        }
        .matches(&headers)
    };
    assert!(matches("x-user", None, false));
    assert!(!matches("x-none", None, false));
    assert!(matches("x-none", None, true));
    assert!(matches(
        "x-user",
        Some(StringMatch::Exact("vip".into())),
        false
    ));
    assert!(!matches(
        "x-user",
        Some(StringMatch::Exact("vip".into())),
        true
    ));
    assert!(matches(
        "x-many",
        Some(StringMatch::Exact("a,b".into())),
        false
    ));
}

#[test]
fn query_parameters_match_by_value_or_presence() {
    let exact = |text: &str| QueryMatch::Value(StringMatch::Exact(text.into()));
    let query = "a=1&b&c=x%20y&a=2&d=";
    for (name, condition, expected) in [
        ("a", exact("1"), true),
        ("a", exact("2"), false),
        ("b", QueryMatch::Present, true),
        ("b", exact(""), true),
        ("d", exact(""), true),
        ("c", exact("x%20y"), true),
        ("e", QueryMatch::Present, false),
        ("", QueryMatch::Present, false),
    ] {
        assert_eq!(condition.matches(name, query), expected, "{name}");
    }
}

#[test]
fn the_first_matching_rule_decides() {
    let mut routes = HttpRoutes {
        sources: vec![resource()],
        rules: vec![rule(vec![backend("a", 1)]), rule(vec![backend("b", 1)])],
    };
    routes.rules[0].matches = vec![RequestMatch {
        path: Some(StringMatch::Exact("/a".into())),
        ..RequestMatch::default()
    }];
    let headers = HeaderMap::new();
    let position = |path: &'static str| {
        routes
            .rule(&request(&Method::GET, path, &headers))
            .map(|(position, _)| position)
    };
    assert_eq!(position("/a"), Some(0));
    assert_eq!(position("/b"), Some(1));
}

#[test]
fn weight_zero_gets_nothing_but_a_single_backend_gets_all() {
    let two = rule(vec![backend("v1", 0), backend("v2", 100)]);
    for random in [0, 1, u64::MAX / 2, u64::MAX] {
        assert_eq!(&*two.backend(random).unwrap().service.name, "v2");
    }
    assert!(rule(vec![backend("v1", 0)]).backend(7).is_some());
    assert!(
        rule(vec![backend("v1", 0), backend("v2", 0)])
            .backend(7)
            .is_none()
    );
}

proptest! {
    #[test]
    fn weights_hold_over_an_even_spread(a in 0u32..1000, b in 0u32..1000, c in 1u32..1000) {
        let rule = rule(vec![backend("a", a), backend("b", b), backend("c", c)]);
        let total = u64::from(a) + u64::from(b) + u64::from(c);
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        // One draw in the middle of each of `total` equal parts.
        for part in 0..total {
            let random = ((u128::from(part) * 2 + 1) << 64) / (u128::from(total) * 2);
            let name = rule.backend(random as u64).unwrap().service.name.to_string();
            *counts.entry(name).or_default() += 1;
        }
        for (name, weight) in [("a", a), ("b", b), ("c", c)] {
            prop_assert_eq!(counts.get(name).copied().unwrap_or(0), u64::from(weight));
        }
    }
}

#[test]
fn header_values_that_are_not_ascii_are_compared_by_bytes() {
    let text = |text: &str| Some(StringMatch::Exact(text.into()));
    let regex = |pattern: &str| Some(StringMatch::Regex(WholeRegex::new(pattern).unwrap()));
    for (value, condition, positive, negative) in [
        ("José".as_bytes(), text("José"), true, false),
        ("José".as_bytes(), text("Jose"), false, true),
        ("José".as_bytes(), regex(".+"), true, false),
        // Latin-1: no text, and still there.
        (b"Jos\xe9", text("José"), false, false),
        (b"Jos\xe9", text("x"), false, false),
        (b"Jos\xe9", regex(".+"), true, false),
        (b"Jos\xe9", regex("x"), false, false),
        (b"Jos\xe9", None, true, false),
        (
            b"Jos\xe9",
            Some(StringMatch::Prefix("Jos".into())),
            true,
            false,
        ),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", http::HeaderValue::from_bytes(value).unwrap());
        for (negate, expected) in [(false, positive), (true, negative)] {
            let condition = HeaderMatch {
                name: HeaderName::from_static("x-user"),
                value: condition.clone(),
                negate,
            };
            let holds = condition.matches(&headers);
            assert_eq!(holds, expected, "{value:?} {condition:?}");
        }
    }
}

#[test]
fn cookies_in_several_fields_match_as_one() {
    let mut headers = HeaderMap::new();
    for cookie in ["a=1", "session=7", "b=2"] {
        headers.append("cookie", http::HeaderValue::from_static(cookie));
    }
    let matches = |condition: StringMatch| {
        let condition = HeaderMatch {
            name: http::header::COOKIE,
            value: Some(condition),
            negate: false,
        };
        condition.matches(&headers)
    };
    assert!(matches(StringMatch::Exact("a=1; session=7; b=2".into())));
    let usual = "^(.*?;)?( )?(session=7)(;.*)?$";
    assert!(matches(StringMatch::Regex(WholeRegex::new(usual).unwrap())));
}
