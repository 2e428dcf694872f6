use super::*;
use crate::{
    ResourceRef,
    route::{Filters, RequestMatch, WholeRegex},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::{collection::vec, option, prelude::*, sample::select};
use std::sync::Arc;

fn routes(rules: Vec<Vec<RequestMatch>>) -> HttpRoutes {
    let rules = rules
        .into_iter()
        .map(|matches| HttpRule { matches, ..rule() });
    HttpRoutes {
        sources: vec![resource()],
        rules: rules.collect(),
    }
}

fn resource() -> Arc<ResourceRef> {
    Arc::new(ResourceRef {
        kind: "VirtualService".into(),
        namespace: "shop".into(),
        name: "payment".into(),
    })
}

fn rule() -> HttpRule {
    HttpRule {
        source: resource(),
        position: 0,
        name: None,
        matches: Vec::new(),
        backends: Vec::new(),
        filters: Filters::default(),
    }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.to_owned())
}

fn header(name: &'static str, value: Option<StringMatch>, negate: bool) -> RequestMatch {
    RequestMatch {
        headers: vec![HeaderMatch {
            name: HeaderName::from_static(name),
            value,
            negate,
        }],
        ..RequestMatch::default()
    }
}

#[test]
fn each_condition_says_what_it_wants_and_what_is_there() {
    let mut headers = HeaderMap::new();
    headers.append("x-user", HeaderValue::from_static("a"));
    headers.append("x-user", HeaderValue::from_static("b"));
    let request = RequestParts {
        method: &Method::GET,
        path: "/pay",
        query: "q=1",
        authority: "payment",
        scheme: "http",
        headers: &headers,
    };
    let query = |name: &str, wanted| RequestMatch {
        query: vec![(name.to_owned(), wanted)],
        ..RequestMatch::default()
    };
    for (entry, words) in [
        (
            RequestMatch {
                path: Some(StringMatch::Prefix("/api".into())),
                ..RequestMatch::default()
            },
            r#"path is "/pay", rule wants starts with "/api""#,
        ),
        (
            RequestMatch {
                method: Some(exact("POST")),
                ..RequestMatch::default()
            },
            r#"method is "GET", rule wants = "POST""#,
        ),
        (
            RequestMatch {
                authority: Some(StringMatch::Regex(WholeRegex::new("x.*").unwrap())),
                ..RequestMatch::default()
            },
            r#"authority is "payment", rule wants ~ "x.*""#,
        ),
        (
            RequestMatch {
                scheme: Some(exact("https")),
                ..RequestMatch::default()
            },
            r#"scheme is "http", rule wants = "https""#,
        ),
        (
            header("x-vip", Some(exact("yes")), false),
            r#"header x-vip is absent, rule wants = "yes""#,
        ),
        (
            header("x-vip", None, false),
            "header x-vip is absent, rule wants it",
        ),
        (
            header("x-user", None, true),
            r#"header x-user is "a,b", rule wants none"#,
        ),
        (
            header("x-user", Some(exact("a,b")), true),
            r#"header x-user is "a,b", rule wants anything but = "a,b""#,
        ),
        (
            query("q", QueryMatch::Value(exact("2"))),
            r#"query parameter q is "1", rule wants = "2""#,
        ),
        (
            query("r", QueryMatch::Present),
            "query parameter r is absent, rule wants it",
        ),
    ] {
        let mismatch = entry.mismatch(&request).unwrap();
        assert_eq!(mismatch.words(&request), words);
    }
}

#[test]
fn rules_behind_the_one_that_matches_are_not_looked_at() {
    let routes = routes(vec![
        vec![header("x-vip", None, false), header("x-beta", None, false)],
        vec![],
        vec![],
    ]);
    let request = RequestParts {
        method: &Method::GET,
        path: "/",
        query: "",
        authority: "payment",
        scheme: "http",
        headers: &HeaderMap::new(),
    };
    let considered = routes.explain(&request);
    let seen: Vec<_> = considered
        .iter()
        .map(|rule| (rule.position, rule.mismatches.len(), rule.matches()))
        .collect();
    assert_eq!(seen, [(0, 2, false), (1, 0, true)]);
}

fn text() -> impl Strategy<Value = StringMatch> {
    let words = select(&["", "a", "ab", "/a", "/A/b"][..]);
    (words, 0..3).prop_map(|(word, kind)| match kind {
        0 => StringMatch::Exact(word.to_owned()),
        1 => StringMatch::Prefix(word.to_owned()),
        _ => StringMatch::Regex(WholeRegex::new(&format!("{word}.*")).unwrap()),
    })
}

fn entry() -> impl Strategy<Value = RequestMatch> {
    let header = (
        select(&["x-a", "x-b"][..]),
        option::of(text()),
        prop::bool::ANY,
    )
        .prop_map(|(name, value, negate)| HeaderMatch {
            name: HeaderName::from_static(name),
            value,
            negate,
        });
    let query = (select(&["q", "r"][..]), option::of(text())).prop_map(|(name, value)| {
        let wanted = value.map_or(QueryMatch::Present, QueryMatch::Value);
        (name.to_owned(), wanted)
    });
    (
        option::weighted(0.3, text()),
        prop::bool::ANY,
        option::weighted(0.2, text()),
        option::weighted(0.2, text()),
        vec(header, 0..2),
        vec(query, 0..2),
    )
        .prop_map(
            |(path, ignore_path_case, method, authority, headers, query)| RequestMatch {
                path,
                ignore_path_case,
                method,
                authority,
                headers,
                query,
                ..RequestMatch::default()
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_explained_is_what_is_decided(
        rules in vec(vec(entry(), 0..3), 0..4),
        method in select(&["a", "ab", "GET"][..]),
        path in select(&["/", "/a", "/A/b", "/a/b/c"][..]),
        query in select(&["", "q=a", "r=ab&q", "q=&q=a"][..]),
        values in vec((select(&["x-a", "x-b"][..]), select(&["a", "ab", "c"][..])), 0..3),
    ) {
        let routes = routes(rules);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let request = RequestParts {
            method: &method,
            path,
            query,
            authority: "ab",
            scheme: "http",
            headers: &headers,
        };
        let decided = routes.rule(&request).map(|(position, _)| position);
        let considered = routes.explain(&request);
        let explained = considered.iter().find(|rule| rule.matches()).map(|rule| rule.position);
        prop_assert_eq!(explained, decided);
        let looked_at = decided.map_or(routes.rules.len(), |position| position + 1);
        prop_assert_eq!(considered.len(), looked_at);
        for rule in considered.iter().filter(|rule| !rule.matches()) {
            prop_assert_eq!(rule.mismatches.len(), rule.rule.matches.len());
            for mismatch in &rule.mismatches {
                prop_assert!(mismatch.words(&request).contains("rule wants"));
            }
        }
    }
}
