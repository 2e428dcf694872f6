//! The matchers against references that are slow and plain.

use super::{tests::*, *};
use proptest::{prelude::*, sample::select};

/// Few letters, so that texts often have something in common.
fn text() -> impl Strategy<Value = String> {
    "[aAé/]{0,5}"
}

fn path() -> impl Strategy<Value = String> {
    "/[aAb/]{0,6}"
}

/// The segments of a path; what stands before the first slash is none.
fn segments(path: &str) -> Vec<&str> {
    path.split('/').skip(1).collect()
}

fn same(a: char, b: char, ignoring_case: bool) -> bool {
    a == b || (ignoring_case && a.eq_ignore_ascii_case(&b))
}

/// Whether `text` begins with `start`, character by character.
fn begins(text: &str, start: &str, ignoring_case: bool) -> bool {
    let mut text = text.chars();
    start.chars().all(|wanted| {
        text.next()
            .is_some_and(|is| same(is, wanted, ignoring_case))
    })
}

fn holds(path: StringMatch, ignore_path_case: bool, text: &str) -> bool {
    let condition = RequestMatch {
        path: Some(path),
        ignore_path_case,
        ..RequestMatch::default()
    };
    condition.matches(&request(&Method::GET, text, &HeaderMap::new()))
}

/// A request's headers, as sent: the same name may come again, and a value be no text.
fn headers() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    let part = select(vec![
        &b"a"[..],
        b"b",
        b",",
        b"; ",
        "é".as_bytes(),
        b"\xe9",
        b"\xff",
    ]);
    let value = proptest::collection::vec(part, 0..3).prop_map(|parts| parts.concat());
    proptest::collection::vec((select(vec!["x-a", "x-b", "cookie"]), value), 0..4)
}

fn header_map(headers: &[(&'static str, Vec<u8>)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, http::HeaderValue::from_bytes(value).unwrap());
    }
    map
}

/// The values of a header: by commas, but cookies by semicolons.
fn by_commas(headers: &[(&'static str, Vec<u8>)], name: &str) -> Option<Vec<u8>> {
    let values = headers.iter().filter(|(known, _)| *known == name);
    let values: Vec<_> = values.map(|(_, value)| value.clone()).collect();
    let between = if name == "cookie" { "; " } else { "," };
    (!values.is_empty()).then(|| values.join(between.as_bytes()))
}

/// A condition on a header, and whether text fulfils it. Of bytes that are no text, each that
/// is none is one character that no condition names.
type Condition = (Option<StringMatch>, Box<dyn Fn(&str) -> bool>);

fn conditions() -> impl Strategy<Value = (&'static str, String)> {
    let text = "(a|b|,|; |é){0,3}";
    let kind = select(vec!["present", "exact", "prefix", "regex"]);
    (kind, text).prop_flat_map(|(kind, text)| {
        let pattern = select(vec![".+", "", "a.*", ".*é", "[ab]+", "a; b|b"]);
        (Just(kind), pattern).prop_map(move |(kind, pattern)| match kind {
            "regex" => (kind, pattern.to_owned()),
            _ => (kind, text.clone()),
        })
    })
}

fn condition(kind: &str, text: String) -> Condition {
    let own = text.clone();
    match kind {
        "present" => (None, Box::new(|_| true)),
        "exact" => (
            Some(StringMatch::Exact(text)),
            Box::new(move |is| is == own),
        ),
        "prefix" => (
            Some(StringMatch::Prefix(text)),
            Box::new(move |is| is.get(..own.len()) == Some(&own)),
        ),
        _ => {
            let whole = WholeRegex::new(&text).unwrap();
            let holds: fn(&str) -> bool = match &*text {
                ".+" => |is| !is.is_empty(),
                "" => str::is_empty,
                "a.*" => |is| is.starts_with('a'),
                ".*é" => |is| is.ends_with('é'),
                "[ab]+" => |is| !is.is_empty() && is.chars().all(|c| c == 'a' || c == 'b'),
                _ => |is| is == "a; b" || is == "b",
            };
            (Some(StringMatch::Regex(whole)), Box::new(holds))
        }
    }
}

fn query() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    proptest::collection::vec(("[pq]", proptest::option::of("[ab=]{0,2}")), 0..4)
}

/// Patterns with a reference that needs no engine.
fn regexes() -> impl Strategy<Value = (&'static str, fn(&str) -> bool)> {
    select(vec![
        (
            "a+",
            (|t| !t.is_empty() && t.chars().all(|c| c == 'a')) as fn(&str) -> bool,
        ),
        ("a|b", |t| t == "a" || t == "b"),
        ("/.*", |t| t.starts_with('/')),
        ("[^/]*", |t| !t.contains('/')),
        (".*é", |t| t.ends_with('é')),
        ("", str::is_empty),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn exact_and_prefix(wanted in text(), is in text(), ignoring_case: bool) {
        let begins = begins(&is, &wanted, ignoring_case);
        let whole = begins && is.chars().count() == wanted.chars().count();
        let prefix = StringMatch::Prefix(wanted.clone());
        prop_assert_eq!(holds(prefix, ignoring_case, &is), begins);
        prop_assert_eq!(holds(StringMatch::Exact(wanted), ignoring_case, &is), whole);
    }

    #[test]
    fn segments_are_compared_one_by_one(wanted in "(/[aA]{1,2}){0,3}", is in path(), ignoring_case: bool) {
        let (ours, theirs) = (segments(&wanted), segments(&is));
        let expected = theirs.len() >= ours.len()
            && ours.iter().zip(&theirs).all(|(a, b)| {
                a.len() == b.len() && begins(b, a, ignoring_case)
            });
        prop_assert_eq!(holds(StringMatch::Segments(wanted), ignoring_case, &is), expected);
    }

    #[test]
    fn a_regular_expression_is_for_the_whole_text((pattern, reference) in regexes(), is in text(), ignoring_case: bool) {
        let regex = StringMatch::Regex(WholeRegex::new(pattern).unwrap());
        prop_assert_eq!(regex.matches(&is), reference(&is));
        prop_assert_eq!(holds(regex, ignoring_case, &is), reference(&is));
    }

    #[test]
    fn headers_by_bytes_presence_and_absence(
        sent in headers(),
        name in select(vec!["x-a", "x-b", "x-c", "cookie"]),
        (kind, text) in conditions(),
        negate: bool,
    ) {
        let is = by_commas(&sent, name);
        let (value, fulfils) = condition(kind, text);
        let present = value.is_none();
        let expected = match &is {
            None => negate,
            Some(is) => match std::str::from_utf8(is) {
                Ok(text) => fulfils(text) != negate,
                // It is there, and never what a negation lets through.
                Err(_) => !negate && (present || fulfils(&String::from_utf8_lossy(is))),
            },
        };
        let condition = HeaderMatch {
            name: HeaderName::from_static(name),
            value,
            negate,
        };
        prop_assert_eq!(condition.matches(&header_map(&sent)), expected);
    }

    #[test]
    fn of_several_parameters_the_first_counts(sent in query(), name in "[pqr]", wanted in "[ab=]{0,2}") {
        let pairs = sent.iter().map(|(name, value)| match value {
            None => name.clone(),
            Some(value) => format!("{name}={value}"),
        });
        let text = pairs.collect::<Vec<_>>().join("&");
        let first = sent.iter().find(|(known, _)| *known == name);
        let value = first.map(|(_, value)| value.clone().unwrap_or_default());
        prop_assert_eq!(QueryMatch::Present.matches(&name, &text), value.is_some());
        let condition = QueryMatch::Value(StringMatch::Exact(wanted.clone()));
        prop_assert_eq!(condition.matches(&name, &text), value == Some(wanted));
    }

    #[test]
    fn all_of_an_entry_any_entry_of_a_rule_the_first_of_the_rules(
        rules in proptest::collection::vec(
            proptest::collection::vec((path(), select(vec!["GET", "POST", ""])), 0..3),
            0..5,
        ),
        is in path(),
        method in select(vec![Method::GET, Method::POST]),
    ) {
        let entry = |(path, method): &(String, &str)| RequestMatch {
            path: Some(StringMatch::Prefix(path.clone())),
            method: (!method.is_empty()).then(|| StringMatch::Exact((*method).to_owned())),
            ..RequestMatch::default()
        };
        let expected = rules.iter().position(|entries| {
            entries.is_empty()
                || entries.iter().any(|(path, wanted)| {
                    is.starts_with(path.as_str()) && (wanted.is_empty() || method == *wanted)
                })
        });
        let routes = HttpRoutes {
            sources: vec![resource()],
            rules: rules
                .iter()
                .map(|entries| HttpRule {
                    matches: entries.iter().map(entry).collect(),
                    ..rule(vec![backend("a", 1)])
                })
                .collect(),
        };
        let headers = HeaderMap::new();
        let found = routes.rule(&request(&method, &is, &headers));
        prop_assert_eq!(found.map(|(position, _)| position), expected);
    }

    #[test]
    fn every_number_draws_by_weight(weights in proptest::collection::vec(0_u32..20, 2..6)) {
        let backends: Vec<_> = weights.iter().map(|weight| backend("a", *weight)).collect();
        let rule = rule(backends);
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        let place = |random: u64| {
            let drawn = rule.backend(random)?;
            rule.backends.iter().position(|known| std::ptr::eq(known, drawn))
        };
        if total == 0 {
            prop_assert_eq!(place(0), None);
            prop_assert_eq!(place(u64::MAX), None);
            return Ok(());
        }
        // A draw is monotonous in the number, so the numbers at each end of a
        // share tell where all of those between go.
        let mut before: u64 = 0;
        for (position, weight) in weights.iter().copied().map(u64::from).enumerate() {
            let start = |share: u64| ((u128::from(share) << 64).div_ceil(u128::from(total))) as u64;
            if weight > 0 {
                let last = match before + weight {
                    all if all == total => u64::MAX,
                    share => start(share) - 1,
                };
                prop_assert_eq!(place(start(before)), Some(position));
                prop_assert_eq!(place(last), Some(position));
            }
            before += weight;
        }
    }
}
