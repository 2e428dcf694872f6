use super::*;
use crate::route::WholeRegex;

const SHOP: &str = "https://shop.example.com";

fn value(text: &str) -> HeaderValue {
    text.parse().unwrap()
}

fn cors() -> Cors {
    Cors {
        origins: vec![OriginMatch::Text(StringMatch::Exact(SHOP.into()))],
        methods: Some(value("GET,POST")),
        headers: Some(value("x-user")),
        expose: Some(value("x-trace")),
        max_age: Some(86_400),
        credentials: true,
        unmatched: UnmatchedPreflights::default(),
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs
        .iter()
        .map(|(name, text)| (HeaderName::from_static(name), value(text)));
    pairs.collect()
}

fn preflight_of(origin: &str) -> HeaderMap {
    headers(&[
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a,x-b"),
    ])
}

#[test]
fn a_preflight_is_told_all_that_is_allowed() {
    let answer = cors().preflight(&Method::OPTIONS, &preflight_of(SHOP));
    assert_eq!(
        answer,
        Some(headers(&[
            ("vary", "origin"),
            ("access-control-allow-origin", SHOP),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET,POST"),
            ("access-control-allow-headers", "x-user"),
            ("access-control-max-age", "86400"),
        ]))
    );
}

#[test]
fn what_is_not_set_is_not_sent() {
    let bare = Cors {
        origins: vec![OriginMatch::Any],
        ..Cors::default()
    };
    let answer = bare.preflight(&Method::OPTIONS, &preflight_of(SHOP));
    let expected = [("vary", "origin"), ("access-control-allow-origin", SHOP)];
    assert_eq!(answer, Some(headers(&expected)));
    let mut response = HeaderMap::new();
    bare.respond(&value(SHOP), &mut response);
    assert_eq!(response, headers(&expected));
}

#[test]
fn other_requests_are_no_preflights() {
    let cors = cors();
    assert_eq!(cors.preflight(&Method::GET, &preflight_of(SHOP)), None);
    for missing in ["origin", "access-control-request-method"] {
        let mut request = preflight_of(SHOP);
        request.remove(missing);
        assert_eq!(cors.preflight(&Method::OPTIONS, &request), None);
        request.insert(missing, value(""));
        assert_eq!(cors.preflight(&Method::OPTIONS, &request), None);
    }
}

#[test]
fn preflights_of_other_origins_are_forwarded_or_get_no_permission() {
    let request = preflight_of("https://evil.example.com");
    let mut cors = cors();
    assert_eq!(cors.preflight(&Method::OPTIONS, &request), None);
    cors.unmatched = UnmatchedPreflights::Answer;
    let answer = cors.preflight(&Method::OPTIONS, &request);
    assert_eq!(answer, Some(headers(&[("vary", "origin")])));
}

#[test]
fn with_credentials_everything_is_what_was_asked_for() {
    let mut any = Cors {
        methods: Some(value("*")),
        headers: Some(value("*")),
        ..cors()
    };
    let answer = |cors: &Cors| {
        let answer = cors
            .preflight(&Method::OPTIONS, &preflight_of(SHOP))
            .unwrap();
        let text = |name: HeaderName| answer[name].to_str().unwrap().to_owned();
        (
            text(ACCESS_CONTROL_ALLOW_METHODS),
            text(ACCESS_CONTROL_ALLOW_HEADERS),
        )
    };
    assert_eq!(answer(&any), ("PUT".into(), "x-a,x-b".into()));
    any.credentials = false;
    assert_eq!(answer(&any), ("*".into(), "*".into()));
}

#[test]
fn a_response_shows_itself_to_allowed_origins_only() {
    let own = [
        ("access-control-allow-origin", "http://own"),
        ("vary", "Accept, Origin"),
    ];
    let mut response = headers(&own);
    cors().respond(&value("https://evil.example.com"), &mut response);
    assert_eq!(response, headers(&own));
    cors().respond(&value(SHOP), &mut response);
    assert_eq!(
        response,
        headers(&[
            ("vary", "Accept, Origin"),
            ("access-control-allow-origin", SHOP),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-trace"),
        ])
    );
}

#[test]
fn origins_are_compared_as_a_whole() {
    let around = OriginMatch::Around("https://".into(), ".example.com".into());
    let regex = WholeRegex::new(r"https://[a-z]+\.example\.com").unwrap();
    let regex = OriginMatch::Text(StringMatch::Regex(regex));
    for (origin, by_around, by_regex) in [
        (SHOP, true, true),
        ("https://a.b.example.com", true, false),
        ("https://.example.com", false, false),
        ("https://example.com", false, false),
        ("http://shop.example.com", false, false),
        ("https://shop.example.com.evil.net", false, false),
        ("https://evil.net/.example.com", false, false),
        ("https://evil.net:80.example.com", false, false),
        ("null", false, false),
    ] {
        assert_eq!(around.matches(origin), by_around, "{origin}");
        assert_eq!(regex.matches(origin), by_regex, "{origin}");
        assert!(OriginMatch::Any.matches(origin));
    }
}
