use super::*;
use crate::authorization::{
    Action, By, Decision, HttpRequest, Match, Operation, Policies, Rule, Scope,
    reference::{STEPS, spellings},
    tests::{plaintext, policy},
};
use http::HeaderMap;
use proptest::{collection::vec, prelude::*, sample::select};
use std::collections::BTreeSet;

fn paths(any: &[&str], none: &[&str]) -> Rule {
    let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Rule {
        to: vec![Operation {
            paths: Match {
                any: list(any),
                none: list(none),
            },
            ..Operation::default()
        }],
        ..Rule::default()
    }
}

fn policies(action: Action, rules: Vec<Rule>) -> Policies {
    Policies::new([policy("guard", action, rules)])
}

fn decide<'a>(policies: &'a Policies, path: &str) -> Decision<'a> {
    let headers = HeaderMap::new();
    let request = HttpRequest {
        method: "GET",
        authority: "shop",
        path,
        headers: &headers,
        token: None,
    };
    policies.decide(Scope::Enforced, &plaintext(), Some(&request))
}

fn denies(value: &str, path: &str) -> bool {
    !decide(&policies(Action::Deny, vec![paths(&[value], &[])]), path).allowed
}

fn allows(value: &str, path: &str) -> bool {
    decide(&policies(Action::Allow, vec![paths(&[value], &[])]), path).allowed
}

/// The readings, or nothing where there are too many.
fn texts(path: &str, normalization: PathNormalization) -> Option<BTreeSet<String>> {
    match readings(path, normalization, Steps::NONE) {
        Readings::One(text) => Some([text.to_owned()].into()),
        Readings::Several(all) => Some(all.iter().map(|r| r.text.to_string()).collect()),
        Readings::TooMany(_) => None,
    }
}

#[test]
fn ordinary_paths_have_one_reading() {
    for path in [
        "/",
        "/a",
        "/a/b.c/d-e_f~g",
        "/a/",
        "/a?b=%2e//",
        "/a#..",
        "/shop.Cart/Add",
    ] {
        let readings = readings(path, PathNormalization::All, Steps::NONE);
        assert!(matches!(readings, Readings::One(_)), "{path}: {readings:?}");
    }
}

/// A file from Node, Python, Go and Java: `tests/fixtures/readings/README.md`.
#[test]
fn what_a_server_serves_can_be_denied() {
    let table = include_str!("../../../tests/fixtures/readings/readers.tsv");
    let (mut rows, mut wrong) = (0, Vec::new());
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let [target, path, readers] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        rows += 1;
        // Who denies a path and not what is below it denies it with a slash too.
        let with_slash = format!("{}/", path.trim_end_matches('/'));
        let values = [path, &with_slash];
        if values
            .iter()
            .any(|value| value.parse::<PathPattern>().is_err())
        {
            // So many readings that the request is refused as well.
            if texts(target, PathNormalization::All).is_some() {
                wrong.push(format!(
                    "{target} is read as {path} by {readers}; no value says so"
                ));
            }
            continue;
        }
        if decide(&policies(Action::Deny, vec![paths(&values, &[])]), target).allowed {
            wrong.push(format!("{target} is read as {path} by {readers}"));
        }
    }
    assert!(rows > 4000, "{rows} rows");
    assert!(
        wrong.is_empty(),
        "{} of {rows}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}

#[test]
fn every_common_reading_of_a_target_is_denied() {
    for (value, target, reading) in [
        ("/admin*", "/a/b%2fc/../../admin/x", "/admin/x"),
        ("/v1/secret*", "/v1//../secret/x", "/v1/secret/x"),
        ("/secret*", "/v1//../secret/x", "/secret/x"),
        ("/secret*", "/v1/q/..;/../../secret/x", "/secret/x"),
        ("/admin*", "//host/admin", "/admin"),
        ("/admin", "/x/../admin%3f", "/admin"),
        ("/admin", "/%2561dmin", "/admin"),
        ("/admin", "/admin%0a", "/admin"),
        ("/admin/", "/admin/%250A", "/admin/"),
        ("/*", "*", "/*"),
    ] {
        let policies = policies(Action::Deny, vec![paths(&[value], &[])]);
        let decision = decide(&policies, target);
        assert!(!decision.allowed, "{value} {target}");
        let read = decision.reading.as_deref();
        assert_eq!(read, Some(reading), "{value} {target}");
        assert_eq!(
            decision.to_string(),
            format!(
                "AuthorizationPolicy shop/guard (DENY), spec.rules[0]; a server may read the path as {reading:?}"
            )
        );
    }
    assert!(!allows("/public/*", "/public/a%2fb/../../admin/x"));
    // As it was sent, it needs no name.
    let policies = policies(Action::Deny, vec![paths(&["/a*"], &[])]);
    assert_eq!(decide(&policies, "/a%20b").reading, None);
}

#[test]
fn mixed_rules_are_decided_reading_by_reading() {
    // One reading is allowed by one rule, the other by another one.
    let either = policies(
        Action::Allow,
        vec![paths(&["/a/%2e%2e/b"], &[]), paths(&["/b"], &[])],
    );
    assert!(decide(&either, "/a/%2e%2e/b").allowed);
    let all_but = policies(Action::Allow, vec![paths(&[], &["/admin*"])]);
    assert!(!decide(&all_but, "/x/..%2fadmin").allowed);
    assert!(decide(&all_but, "/x/..%2fpublic").allowed);
    let nothing_but = policies(Action::Deny, vec![paths(&[], &["/public/*"])]);
    assert!(!decide(&nothing_but, "/public/..%2fadmin").allowed);
    assert!(decide(&nothing_but, "/public/a%2fb").allowed);
}

#[test]
fn values_are_compared_in_the_form_of_the_reading() {
    for (value, path, denied, allowed) in [
        ("/f/a%2Fb", "/f/a%2Fb", true, true),
        ("/f/a%2Fb", "/f/a%2fb", true, false),
        ("/f/a%2Fb", "/f/a/b", true, false),
        ("/f/a/b", "/f/a%2Fb", true, false),
        ("/x//y", "/x//y", true, true),
        ("/x//y", "/x/y", true, false),
        ("/x/y", "/x//y", true, false),
        ("/a b", "/a%20b", true, false),
        ("/a%20b", "/a%20b", true, true),
        ("/a%20b*", "/a%20b/c", true, true),
        ("*%20b", "/a%20b", true, true),
        ("/é", "/%C3%A9", true, false),
        ("/%c3%a9", "/%c3%a9", true, true),
        ("/a;v=1", "/a;v=1", true, true),
        ("/a;v=1", "/a", true, false),
        ("/a;v*", "/a;v=1/b", true, false),
        ("/a;v*", "/ab", false, false),
        ("*;v", "/ab", false, false),
        ("/{*}/a%20b", "/x/a%20b", true, true),
        ("/f/{*}", "/f/a%2Fb", true, false),
        ("/f/{**}", "/f/a%2Fb", true, true),
        ("/f/*", "/f/a%2Fb", true, true),
        ("/..*", "/..a", true, true),
        ("*..", "/a", false, false),
        ("*", "/a/../b", true, true),
    ] {
        assert_eq!(denies(value, path), denied, "DENY {value} {path}");
        assert_eq!(allows(value, path), allowed, "ALLOW {value} {path}");
    }
    assert!(
        "/%2525252525252525252525252525252525252525252f"
            .parse::<PathPattern>()
            .is_err()
    );
}

#[test]
fn more_than_sixteen_readings_are_refused() {
    let chain = |length| format!("/%{}61", "25".repeat(length));
    assert_eq!(
        texts(&chain(14), PathNormalization::All).map(|all| all.len()),
        Some(16)
    );
    assert_eq!(texts(&chain(15), PathNormalization::All), None);
    let deny = policies(Action::Deny, vec![paths(&["/admin"], &[])]);
    let decision = decide(&deny, &chain(15));
    assert_eq!(
        (decision.allowed, decision.by),
        (false, By::TooManyReadings)
    );
    // A long path has fewer, and none of its work is without a bound.
    let long = |length: usize| format!("/{}%20", "a".repeat(length));
    assert!(decide(&deny, &long(MAX_BYTES / 2 - 4)).allowed);
    assert!(!decide(&deny, &long(MAX_BYTES / 2)).allowed);
    assert!(!decide(&deny, &long(MAX_BYTES)).allowed);
    assert!(decide(&deny, &format!("/{}", "a".repeat(MAX_BYTES))).allowed);
    // A policy that does not go by paths has nothing to read, nor has one in dry run.
    let other = policies(
        Action::Deny,
        vec![Rule {
            void: false,
            ..methods("PUT")
        }],
    );
    assert!(decide(&other, &chain(15)).allowed);
    let mut dry = policy("dry", Action::Deny, vec![paths(&["/admin"], &[])]);
    dry.dry_run = true;
    assert!(decide(&Policies::new([dry]), &chain(15)).allowed);
}

fn methods(method: &str) -> Rule {
    Rule {
        to: vec![Operation {
            methods: Match {
                any: vec![method.parse().unwrap()],
                none: vec![],
            },
            ..Operation::default()
        }],
        ..Rule::default()
    }
}

#[test]
fn a_normalization_narrows_the_readings() {
    use PathNormalization::{All, Base, DecodeAndMergeSlashes, MergeSlashes, None};
    for (target, normalization, expected) in [
        ("/f/a%2Fb", All, &["/f/a%2Fb", "/f/a/b"][..]),
        ("/f/a%2Fb", None, &["/f/a%2Fb"]),
        ("/f/a%2Fb", Base, &["/f/a%2Fb"]),
        ("/f/a%2Fb", MergeSlashes, &["/f/a%2Fb"]),
        ("/f/a%2Fb", DecodeAndMergeSlashes, &["/f/a%2Fb", "/f/a/b"]),
        ("/a//../%61", None, &["/a//../%61"]),
        (
            "/a//../%61",
            Base,
            &["/a//../%61", "/a//../a", "/a/%61", "/a/a"],
        ),
        ("/a//b", MergeSlashes, &["/a//b", "/a/b"]),
        ("/a\\b", Base, &["/a\\b", "/a/b"]),
        ("/a;b", DecodeAndMergeSlashes, &["/a;b"]),
        ("/%2561", DecodeAndMergeSlashes, &["/%2561"]),
    ] {
        let expected = expected.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(
            texts(target, normalization),
            Some(expected),
            "{target} {normalization}"
        );
    }
    let allow = policies(Action::Allow, vec![paths(&["/f/{*}"], &[])]);
    assert!(!decide(&allow, "/f/a%2Fb").allowed);
    assert!(decide(&allow.with_normalization(MergeSlashes), "/f/a%2Fb").allowed);
    for one in PathNormalization::EACH {
        assert_eq!(one.as_str().parse(), Ok(one));
    }
    assert!("base".parse::<PathNormalization>().is_err());
}

fn target() -> impl Strategy<Value = String> {
    let pieces = [
        "/", "//", "a", "b", ".", "..", "%2e", "%2E%2e", "%2f", "%2F", "%5c", "\\", ";", ";x",
        "%25", "%252e", "%3b", "%3f", "%61", "%c3", "?", "%", "%0a",
    ];
    vec(select(pieces.to_vec()), 0..8).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// A path whose escapes of other bytes than ASCII have capital digits.
fn in_capitals(path: &str) -> String {
    let mut bytes = path.as_bytes().to_vec();
    for at in 0..bytes.len().saturating_sub(2) {
        let code = &bytes[at..at + 3];
        let high = matches!(code[1], b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F');
        if code[0] == b'%' && high && code[2].is_ascii_hexdigit() {
            bytes[at + 1..at + 3].make_ascii_uppercase();
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Pairs of a path and a value after the same steps, in every order; what only a path
/// can have, a host or a query, is taken from it alone.
fn pairs(path: &str, value: &str) -> Option<Vec<(String, String)>> {
    const OF_THE_PATH_ALONE: std::ops::Range<usize> = 7..10;
    let sent = path.split(['?', '#']).next().unwrap().to_owned();
    let mut all = vec![(sent, value.to_owned())];
    let mut at = 0;
    while at < all.len() {
        for (number, step) in STEPS.iter().enumerate() {
            let (path, value) = &all[at];
            let value = if OF_THE_PATH_ALONE.contains(&number) {
                value.clone()
            } else {
                step(value)
            };
            let made = (step(path), value);
            if !all.contains(&made) {
                all.push(made);
            }
        }
        if all.len() > 400 {
            return None;
        }
        at += 1;
    }
    Some(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn readings_are_what_every_order_of_the_steps_makes(path in target()) {
        let naive = spellings(&path).map(|all| all.into_iter().collect::<BTreeSet<_>>());
        // The naive steps write other bytes as they are.
        let capitals = |all: BTreeSet<String>| -> BTreeSet<String> {
            all.iter().map(|text| in_capitals(text)).collect()
        };
        let own = texts(&path, PathNormalization::All);
        match (own, naive) {
            (Some(own), Some(naive)) => prop_assert_eq!(capitals(own), capitals(naive)),
            (None, _) => {}
            (own, naive) => prop_assert_eq!(own, naive),
        }
    }

    #[test]
    fn a_value_that_fits_after_the_same_steps_is_denied(path in target(), value in target()) {
        let Ok(pattern) = value.parse::<PathPattern>() else {
            return Ok(());
        };
        let denied = denies(&value, &path);
        let Some(pairs) = pairs(&path, &value) else {
            return Ok(());
        };
        for (path, value) in pairs {
            prop_assert!(denied || path != value, "{} {:?}", value, pattern);
        }
    }

    #[test]
    fn an_allowed_path_may_be_sent_as_it_is_written(path in "/[ab/.;%2f5cex]{0,10}") {
        let readings = texts(&path, PathNormalization::All);
        let is_host = |all: &BTreeSet<String>| all.iter().any(|text| text.starts_with("//"));
        if path.parse::<PathPattern>().is_ok() && readings.is_some_and(|all| !is_host(&all)) {
            prop_assert!(allows(&path, &path));
        }
    }

    #[test]
    fn narrower_normalizations_have_fewer_readings(path in target()) {
        use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
        let order = [None, Base, MergeSlashes, DecodeAndMergeSlashes];
        for pair in order.windows(2) {
            if let (Some(few), Some(more)) = (texts(&path, pair[0]), texts(&path, pair[1])) {
                prop_assert!(few.is_subset(&more), "{:?} {:?}", few, more);
            }
        }
    }
}
