use super::*;
use crate::authentication::Claims;
use http::{HeaderName, HeaderValue};
use proptest::{collection::vec, option, prelude::*, sample::select};

pub(super) fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    Policy {
        source: ResourceRef {
            kind: "AuthorizationPolicy".into(),
            namespace: "shop".into(),
            name: name.into(),
        },
        action,
        dry_run: false,
        rules,
    }
}

fn any(texts: &[&str]) -> Match<Pattern> {
    Match {
        any: texts.iter().map(|text| text.parse().unwrap()).collect(),
        none: Vec::new(),
    }
}

fn methods(texts: &[&str]) -> Rule {
    Rule {
        to: vec![Operation {
            methods: any(texts),
            ..Operation::default()
        }],
        ..Rule::default()
    }
}

pub(super) fn plaintext() -> Connection<'static> {
    Connection {
        identity: None,
        source: [10, 0, 0, 9].into(),
        destination: ([10, 0, 0, 1], 8080).into(),
        server_name: None,
        federated: false,
    }
}

#[test]
fn wildcards_stand_where_they_mean_something() {
    for (text, matched, unmatched) in [
        ("a", "a", "ab"),
        ("a*", "ab", "ba"),
        ("*a", "ba", "ab"),
        ("*", "x", ""),
        ("a*", "a", ""),
    ] {
        let pattern: Pattern = text.parse().unwrap();
        assert!(pattern.matches(matched), "{text} {matched}");
        assert!(!pattern.matches(unmatched), "{text} {unmatched}");
        assert_eq!(pattern.to_string(), text);
    }
    for bad in ["", "a*b", "*a*", "**", "a**"] {
        assert!(bad.parse::<Pattern>().is_err(), "{bad}");
    }
    for bad in [
        "/{*}x",
        "/{**}/{*}",
        "/{**}/{**}",
        "/{*}*",
        "{*}",
        "/{a}",
        "/a{",
    ] {
        assert!(Pattern::path(bad).is_err(), "{bad}");
    }
}

#[test]
fn templates_match_by_segment() {
    for (template, path, expected) in [
        ("/a/{*}", "/a/b", true),
        ("/a/{*}", "/a/b/c", false),
        ("/a/{*}", "/a/", false),
        ("/a/{*}/c", "/a/b/c", true),
        ("/a/{*}/c", "/a/b/d", false),
        ("/{*}/b/{**}", "/a/b/c/d", true),
        ("/{*}/b/{**}", "/a/b/", true),
        ("/{*}/b/{**}", "/a/b", false),
        ("/a/{**}/z", "/a/b/c/z", true),
        ("/a/{**}/z", "/a/b/c", false),
        ("/a.b/{*}", "/axb/c", false),
    ] {
        let pattern = Pattern::path(template).unwrap();
        assert_eq!(pattern.matches(path), expected, "{template} {path}");
    }
}

#[test]
fn hosts_compare_without_case_at_any_length() {
    let host: Pattern = "*.Example.com".parse().unwrap();
    assert!(host.matches_ignoring_case("A.EXAMPLE.com"));
    assert!(!host.matches_ignoring_case("com"));
    let host: Pattern = "É*".parse().unwrap();
    assert!(!host.matches_ignoring_case("e"));
    assert!(host.matches_ignoring_case("Éa"));
}

#[test]
fn custom_comes_before_deny_and_deny_before_allow() {
    let all = vec![Rule::default()];
    let headers = HeaderMap::new();
    let request = HttpRequest {
        method: "GET",
        authority: "a",
        path: "/",
        headers: &headers,
        token: None,
    };
    let mut policies = vec![
        policy("allow", Action::Allow, all.clone()),
        policy("deny", Action::Deny, all.clone()),
        policy("custom", Action::Custom, all.clone()),
        policy("audit", Action::Audit, all),
    ];
    for (expected, allowed) in [("custom", false), ("deny", false), ("allow", true)] {
        let set = Policies::new(policies.clone());
        let connection = plaintext();
        let decision = set.decide(Scope::Enforced, &connection, Some(&request));
        assert_eq!(decision.allowed, allowed);
        let By::Rule { policy, rule: 0 } = decision.by else {
            panic!("{decision:?}");
        };
        assert_eq!(policy.source.name, expected);
        assert!(set.audit(&connection, Some(&request)).is_some());
        policies.retain(|policy| policy.source.name != expected);
    }
    let set = Policies::new(policies);
    let decision = set.decide(Scope::Enforced, &plaintext(), None);
    assert!(decision.allowed, "AUDIT never blocks");
    assert_eq!(decision.by, By::NoPolicy);
}

#[test]
fn a_decision_names_what_decided() {
    let set = Policies::new([
        policy(
            "deny",
            Action::Deny,
            vec![methods(&["PUT"]), methods(&["GET"])],
        ),
        policy("allow", Action::Allow, vec![]),
    ]);
    let headers = HeaderMap::new();
    let by = |method| {
        let request = HttpRequest {
            method,
            authority: "a",
            path: "/",
            headers: &headers,
            token: None,
        };
        let connection = plaintext();
        let decision = set.decide(Scope::Enforced, &connection, Some(&request));
        assert!(!decision.allowed);
        decision.by.to_string()
    };
    assert_eq!(
        by("GET"),
        "AuthorizationPolicy shop/deny (DENY), spec.rules[1]"
    );
    assert_eq!(by("POST"), "no ALLOW rule matched");
}

#[test]
fn dry_run_blocks_nothing_and_says_what_it_would() {
    let mut dry = policy("dry", Action::Deny, vec![Rule::default()]);
    dry.dry_run = true;
    let set = Policies::new([dry]);
    assert!(set.has_dry_run());
    assert!(set.decide(Scope::Enforced, &plaintext(), None).allowed);
    assert!(!set.decide(Scope::WithDryRun, &plaintext(), None).allowed);
}

#[test]
fn on_tcp_an_http_attribute_voids_allow_and_widens_deny() {
    let allow = Policies::new([policy("allow", Action::Allow, vec![methods(&["GET"])])]);
    assert!(!allow.decide(Scope::Enforced, &plaintext(), None).allowed);
    let deny = Policies::new([policy("deny", Action::Deny, vec![methods(&["GET"])])]);
    assert!(!deny.decide(Scope::Enforced, &plaintext(), None).allowed);
}

fn words(list: &'static [&'static str]) -> impl Strategy<Value = Match<Pattern>> {
    let one = select(list).prop_map(|text| Pattern::path(text).unwrap());
    (vec(one.clone(), 0..3), vec(one, 0..2)).prop_map(|(any, none)| Match { any, none })
}

fn path_values() -> impl Strategy<Value = Match<PathPattern>> {
    let one = select(PATHS).prop_map(|text| text.parse().unwrap());
    (vec(one.clone(), 0..3), vec(one, 0..2)).prop_map(|(any, none)| Match { any, none })
}

fn sparse<T: Default + std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
) -> impl Strategy<Value = T> {
    option::weighted(0.4, strategy).prop_map(Option::unwrap_or_default)
}

fn blocks() -> impl Strategy<Value = Match<ipnet::IpNet>> {
    let one = select(&["10.0.0.0/24", "10.0.0.9", "fd00::/8", "0.0.0.0/0"][..])
        .prop_map(|text| pattern::block(text).unwrap());
    (vec(one.clone(), 0..2), vec(one, 0..2)).prop_map(|(any, none)| Match { any, none })
}

const PRINCIPALS: &[&str] = &[
    "cluster.local/ns/shop/sa/web",
    "cluster.local/*",
    "*/sa/db",
    "*",
];
const REQUEST_PRINCIPALS: &[&str] = &["issuer/ann", "issuer/*", "*/bob", "*"];
const NAMESPACES: &[&str] = &["shop", "sh*", "*op", "other"];
const ACTIONS: &[Action] = &[Action::Custom, Action::Deny, Action::Allow, Action::Audit];
const PATHS: &[&str] = &["/a", "/a/*", "*/b", "/{*}/b", "/a/{**}", "*"];

fn source() -> impl Strategy<Value = Source> {
    let account = select(&["shop/web", "shop/db"][..])
        .prop_map(|text| ServiceAccount::parse(text, "").unwrap());
    let accounts = vec(account, 0..2).prop_map(|any| Match { any, none: vec![] });
    (
        sparse(words(PRINCIPALS)),
        sparse(words(NAMESPACES)),
        sparse(accounts),
        sparse(blocks()),
        sparse(blocks()),
        sparse(words(REQUEST_PRINCIPALS)),
    )
        .prop_map(
            |(
                principals,
                namespaces,
                service_accounts,
                ip_blocks,
                remote_ip_blocks,
                request_principals,
            )| {
                Source {
                    principals,
                    namespaces,
                    service_accounts,
                    ip_blocks,
                    remote_ip_blocks,
                    request_principals,
                }
            },
        )
}

fn operation() -> impl Strategy<Value = Operation> {
    let ports = vec(select(&[80u16, 8080][..]), 0..2).prop_map(|any| Match { any, none: vec![] });
    (
        sparse(words(&["shop", "*.shop", "SHOP*", "*"])),
        sparse(ports),
        sparse(words(&["GET", "P*", "*"])),
        sparse(path_values()),
    )
        .prop_map(|(hosts, ports, methods, paths)| Operation {
            hosts,
            ports,
            methods,
            paths,
        })
}

fn condition() -> impl Strategy<Value = Condition> {
    let keys = select(
        &[
            ("request.headers[x-a]", "1"),
            ("request.headers[x-a]", "*"),
            ("request.headers[x-a]", "1*"),
            ("source.namespace", "shop"),
            ("source.principal", "*"),
            ("source.ip", "10.0.0.0/24"),
            ("destination.port", "80"),
            ("destination.ip", "10.0.0.1"),
            ("connection.sni", "*.Shop"),
            ("connection.sni", "x"),
            ("custom.attribute", "x"),
            ("request.auth.principal", "issuer/*"),
            ("request.auth.audiences", "shop"),
            ("request.auth.presenter", "web"),
            ("request.auth.claims[groups]", "admin"),
            ("request.auth.claims[realm][role]", "r*"),
            ("request.auth.claims[scope]", "read"),
        ][..],
    );
    (keys, any_bool()).prop_map(|((key, value), negate)| {
        let values = [value.to_owned()];
        let (any, none): (&[String], &[String]) = if negate {
            (&[], &values)
        } else {
            (&values, &[])
        };
        Condition::new(key, any, none, "shop").unwrap()
    })
}

fn any_bool() -> impl Strategy<Value = bool> {
    prop::bool::ANY
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        vec(source(), 0..3),
        vec(operation(), 0..3),
        vec(condition(), 0..3),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(from, to, when, void)| Rule {
            from,
            to,
            when,
            void,
        })
}

fn policies() -> impl Strategy<Value = Policies> {
    let one = (
        select(ACTIONS),
        prop::bool::weighted(0.2),
        vec(rule(), 0..3),
    );
    vec(one, 0..4).prop_map(|all| {
        Policies::new(
            all.into_iter()
                .enumerate()
                .map(|(at, (action, dry_run, rules))| Policy {
                    dry_run,
                    ..policy(&at.to_string(), action, rules)
                }),
        )
    })
}

fn path() -> impl Strategy<Value = String> {
    vec(
        select(
            &[
                "/", "a", "b", ".", "..", "%2e", "%2F", "%5c", "%252e", "c", "\\", ";x", "?q",
                "%3f", "%61", "//",
            ][..],
        ),
        0..7,
    )
    .prop_map(|parts| format!("/{}", parts.concat()))
}

const TOKENS: &[&str] = &[
    r#"{"iss": "issuer", "sub": "ann", "aud": "shop", "azp": "web", "groups": ["admin", "dev"], "scope": "read write"}"#,
    r#"{"iss": "issuer", "sub": "bob", "aud": ["a", "shop"], "groups": "admin", "realm": {"role": "root"}}"#,
    r#"{"iss": "issuer", "groups": {"admin": true}, "realm": ["role"], "scope": "readwrite"}"#,
    r#"{"iss": "other", "sub": "bob", "groups": [1, "dev"], "realm": {"role": ["x", "reader"]}}"#,
];

fn token(claims: &str) -> Token {
    Claims::new(serde_json::from_str(claims).unwrap()).into()
}

/// The decision that follows from what each policy is explained to say.
fn explained<'a>(
    policies: &'a Policies,
    scope: Scope,
    connection: &Connection<'_>,
    http: Option<&HttpRequest<'_>>,
) -> (bool, By<'a>) {
    let considered = policies.explain(scope, connection, http);
    let counts = |c: &&explain::Considered<'_>| {
        let before = c.rule.unwrap_or(c.policy.rules.len());
        assert_eq!(
            c.misfits.len(),
            before,
            "each rule that does not fit has a reason"
        );
        c.policy.action != Action::Audit && (scope == Scope::WithDryRun || !c.policy.dry_run)
    };
    let counted: Vec<_> = considered.iter().filter(counts).collect();
    let deciding = counted.iter().find_map(|c| Some((c.policy, c.rule?)));
    match deciding {
        Some((policy, rule)) => (policy.action == Action::Allow, By::Rule { policy, rule }),
        None if counted.iter().any(|c| c.policy.action == Action::Allow) => {
            (false, By::NoAllowRule)
        }
        None => (true, By::NoPolicy),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_evaluator_agrees_with_the_naive_reference(
        policies in policies(),
        identity in option::of(select(&["shop/web", "shop/db", "other/web"][..])),
        source in select(&["10.0.0.9", "10.0.1.9", "fd00::9", "::ffff:10.0.0.9"][..]),
        port in select(&[80u16, 8080][..]),
        federated in prop::bool::weighted(0.3),
        server_name in select(&[None, Some("shop"), Some("A.Shop."), Some("x")][..]),
        http in option::weighted(0.8, (
            select(&["GET", "get", "POST", "PUT"][..]),
            select(&["shop", "a.Shop", "shop:80", "Shop.", "shop.:80", "other", ""][..]),
            path(),
            vec(
                (select(&["x-a", "x_a", "x.a"][..]), select(&["1", "2", "", "2,1", "1, 2"][..])),
                0..3,
            ),
            option::of(select(TOKENS)),
        )),
    ) {
        let identity: Option<SpiffeId> = identity.map(|text| {
            let (namespace, account) = text.split_once('/').unwrap();
            format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().unwrap()
        });
        let connection = Connection {
            identity: identity.as_ref(),
            source: source.parse().unwrap(),
            destination: ([10, 0, 0, 1], port).into(),
            server_name,
            federated,
        };
        let mut headers = HeaderMap::new();
        let token = http.as_ref().and_then(|(.., token)| *token).map(token);
        for (name, value) in http.iter().flat_map(|(.., values, _)| values) {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let request = http.as_ref().map(|(method, authority, path, ..)| HttpRequest {
            method,
            authority,
            path,
            headers: &headers,
            token: token.as_ref(),
        });
        for scope in [Scope::Enforced, Scope::WithDryRun] {
            let decision = policies.decide(scope, &connection, request.as_ref());
            let by = match decision.by {
                By::Rule { policy, rule } => Some((policy.source.name.clone(), rule)),
                By::NoAllowRule | By::NoPolicy | By::TooManyReadings => None,
            };
            let verdict = (decision.allowed, by);
            let expected = reference::decide(&policies, scope, &connection, request.as_ref());
            let Some(expected) = expected else {
                prop_assert_eq!(decision.by, By::TooManyReadings);
                prop_assert!(!decision.allowed);
                continue;
            };
            prop_assert_ne!(decision.by, By::TooManyReadings);
            prop_assert_eq!(decision.allowed, expected.iter().all(|(allowed, _)| *allowed));
            prop_assert!(expected.contains(&verdict), "{:?} is none of {:?}", verdict, expected);
            if decision.reading.is_none() {
                prop_assert_eq!(&verdict, &expected[0]);
            }
            let (allowed, by) = explained(&policies, scope, &connection, request.as_ref());
            prop_assert_eq!((allowed, by), (decision.allowed, decision.by));
        }
    }
}

/// An attribute of a request: absent, empty, or with a value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Absent,
    Empty,
    Text(&'static str),
}

/// What an attribute is to a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A header: `*` is presence.
    Header,
    /// A claim: `*` fits an empty one only where that is against the caller.
    Claim,
    /// It is never empty, where it is present.
    Name,
}

/// Istio's meaning of a positive list, one value against one attribute.
fn hits(kind: Kind, pattern: &str, value: Value, against_the_caller: bool) -> bool {
    let text = match value {
        Value::Absent => return false,
        Value::Empty => "",
        Value::Text(text) => text,
    };
    match pattern {
        "*" => kind == Kind::Header || !text.is_empty() || against_the_caller,
        _ if pattern.ends_with('*') => text.starts_with(pattern.trim_end_matches('*')),
        _ if pattern.starts_with('*') => text.ends_with(pattern.trim_start_matches('*')),
        _ => text == pattern,
    }
}

/// Each attribute that a value of text is compared with, absent, empty and with a value,
/// by each form of a pattern, in `values` and in `notValues`, to allow and to deny.
#[test]
fn every_form_of_a_value_means_what_istio_says() {
    const KEYS: &[(&str, Kind)] = &[
        ("request.headers[x-a]", Kind::Header),
        ("request.auth.claims[a]", Kind::Claim),
        ("request.auth.claims[a][b]", Kind::Claim),
        ("request.auth.audiences", Kind::Claim),
        ("request.auth.presenter", Kind::Claim),
        ("request.auth.principal", Kind::Name),
        ("source.principal", Kind::Name),
        ("source.namespace", Kind::Name),
    ];
    let mut cases = 0;
    for (key, kind) in KEYS {
        let texts: &[&str] = match *key {
            "request.auth.principal" => &["i/s"],
            "source.principal" => &["cluster.local/ns/shop/sa/web"],
            "source.namespace" => &["shop"],
            _ => &["abc", "b"],
        };
        let mut values = vec![Value::Absent];
        values.extend((*kind != Kind::Name).then_some(Value::Empty));
        values.extend(texts.iter().map(|text| Value::Text(text)));
        let first = texts[0];
        let patterns = [
            "*".to_owned(),
            first.to_owned(),
            format!("{}*", &first[..2]),
            format!("*{}", &first[2..]),
            "other".to_owned(),
        ];
        for (value, pattern) in values
            .iter()
            .flat_map(|v| patterns.iter().map(move |p| (*v, p)))
        {
            for (negative, action) in [
                (false, Action::Allow),
                (true, Action::Allow),
                (false, Action::Deny),
                (true, Action::Deny),
            ] {
                let against = (action == Action::Deny) != negative;
                let holds = hits(*kind, pattern, value, against) != negative;
                let expected = holds == (action == Action::Allow);
                let allowed = asks(key, pattern, negative, action, value);
                assert_eq!(
                    allowed, expected,
                    "{action:?} {key} {pattern} negative={negative} {value:?}"
                );
                cases += 1;
            }
        }
    }
    assert!(cases > 500, "{cases}");
}

/// Whether a request passes one rule with one condition.
fn asks(key: &str, pattern: &str, negative: bool, action: Action, value: Value) -> bool {
    let values = [pattern.to_owned()];
    let (any, none): (&[String], &[String]) = if negative {
        (&[], &values)
    } else {
        (&values, &[])
    };
    let rule = Rule {
        when: vec![Condition::new(key, any, none, "shop").unwrap()],
        ..Rule::default()
    };
    let text = match value {
        Value::Absent => None,
        Value::Empty => Some(""),
        Value::Text(text) => Some(text),
    };
    let mut headers = HeaderMap::new();
    let mut claims = serde_json::json!({"iss": "i"});
    let mut identity = None;
    if let Some(text) = text {
        match key {
            "request.headers[x-a]" => {
                headers.insert("x-a", HeaderValue::from_static(text));
            }
            "request.auth.claims[a]" => claims["a"] = text.into(),
            "request.auth.claims[a][b]" => claims["a"] = serde_json::json!({"b": [text]}),
            "request.auth.audiences" => claims["aud"] = text.into(),
            "request.auth.presenter" => claims["azp"] = text.into(),
            "request.auth.principal" => claims["sub"] = "s".into(),
            _ => identity = Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
        }
    }
    let token = token(&claims.to_string());
    let request = HttpRequest {
        method: "GET",
        authority: "shop",
        path: "/",
        headers: &headers,
        token: Some(&token),
    };
    let connection = Connection {
        identity: identity.as_ref(),
        ..plaintext()
    };
    let policies = Policies::new([policy("p", action, vec![rule])]);
    policies
        .decide(Scope::Enforced, &connection, Some(&request))
        .allowed
}

#[test]
fn a_star_in_an_operation_is_any() {
    let headers = HeaderMap::new();
    for (method, authority, path) in [("GET", "", ""), ("GET", "", "/"), ("get", "shop", "*")] {
        let request = HttpRequest {
            method,
            authority,
            path,
            headers: &headers,
            token: None,
        };
        let star = || Match {
            any: vec!["*".parse().unwrap()],
            none: vec![],
        };
        for operation in [
            Operation {
                hosts: star(),
                ..Operation::default()
            },
            Operation {
                methods: star(),
                ..Operation::default()
            },
            Operation {
                paths: Match {
                    any: vec!["*".parse().unwrap()],
                    none: vec![],
                },
                ..Operation::default()
            },
        ] {
            let rule = Rule {
                to: vec![operation],
                ..Rule::default()
            };
            for action in [Action::Deny, Action::Allow] {
                let policies = Policies::new([policy("p", action, vec![rule.clone()])]);
                let connection = plaintext();
                let decision = policies.decide(Scope::Enforced, &connection, Some(&request));
                assert_eq!(
                    decision.allowed,
                    action == Action::Allow,
                    "{request:?} {rule:?}"
                );
            }
        }
    }
}

/// Each place of a policy that takes an identity apart, against a federated one of the
/// same namespace and account.
#[test]
fn a_federated_identity_has_no_namespace_and_account_of_ours() {
    let ours: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let theirs: SpiffeId = "spiffe://west.example/ns/shop/sa/web".parse().unwrap();
    let account = || ServiceAccount::parse("shop/web", "").unwrap();
    let names = |negative| {
        let list: Vec<Pattern> = vec!["shop".parse().unwrap()];
        let accounts = vec![account()];
        let condition = |key: &str, value: &str| {
            let values = [value.to_owned()];
            let (any, none): (&[String], &[String]) = if negative {
                (&[], &values)
            } else {
                (&values, &[])
            };
            Rule {
                when: vec![Condition::new(key, any, none, "shop").unwrap()],
                ..Rule::default()
            }
        };
        let source = |source| Rule {
            from: vec![source],
            ..Rule::default()
        };
        let sides = |list: Vec<Pattern>| match negative {
            true => Match {
                any: vec![],
                none: list,
            },
            false => Match {
                any: list,
                none: vec![],
            },
        };
        let accounts = match negative {
            true => Match {
                any: vec![],
                none: accounts,
            },
            false => Match {
                any: accounts,
                none: vec![],
            },
        };
        [
            source(Source {
                namespaces: sides(list),
                ..Source::default()
            }),
            source(Source {
                service_accounts: accounts,
                ..Source::default()
            }),
            condition("source.namespace", "shop"),
            condition("source.namespace", "*"),
            condition("source.serviceAccount", "shop/web"),
        ]
    };
    for (identity, federated) in [(&ours, false), (&theirs, true)] {
        let connection = Connection {
            identity: Some(identity),
            federated,
            ..plaintext()
        };
        for negative in [false, true] {
            for rule in names(negative) {
                for action in [Action::Allow, Action::Deny] {
                    let policies = Policies::new([policy("p", action, vec![rule.clone()])]);
                    let decision = policies.decide(Scope::Enforced, &connection, None);
                    let fits = federated == negative;
                    assert_eq!(
                        decision.allowed,
                        fits == (action == Action::Allow),
                        "{rule:?}"
                    );
                }
            }
        }
        let principal = format!("{}/ns/shop/sa/web", identity.trust_domain());
        for rule in [
            Rule {
                from: vec![Source {
                    principals: Match {
                        any: vec![principal.parse().unwrap()],
                        none: vec![],
                    },
                    ..Source::default()
                }],
                ..Rule::default()
            },
            Rule {
                when: vec![Condition::new("source.principal", &[principal], &[], "").unwrap()],
                ..Rule::default()
            },
        ] {
            let policies = Policies::new([policy("p", Action::Allow, vec![rule])]);
            assert!(policies.decide(Scope::Enforced, &connection, None).allowed);
        }
    }
}

fn with_headers(headers: &HeaderMap) -> HttpRequest<'_> {
    HttpRequest {
        method: "GET",
        authority: "shop",
        path: "/",
        headers,
        token: None,
    }
}

/// Reports whether one rule with one condition lets a request through.
fn passes_by(
    request: &HttpRequest<'_>,
    action: Action,
    key: &str,
    any: &[&str],
    none: &[&str],
) -> bool {
    let list = |list: &[&str]| list.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    let condition = Condition::new(key, &list(any), &list(none), "shop").unwrap();
    let rule = Rule {
        when: vec![condition],
        ..Rule::default()
    };
    let policies = Policies::new([policy("p", action, vec![rule])]);
    policies
        .decide(Scope::Enforced, &plaintext(), Some(request))
        .allowed
}

/// A value that is not UTF-8 is what a reader of Latin-1 takes it for, too; one that is UTF-8
/// has one reading.
#[test]
fn a_value_that_is_not_text_is_no_way_around_a_policy() {
    for (value, action, any, none, passes) in [
        (&b"Jos\xe9"[..], Action::Deny, &["José"][..], &[][..], false),
        (b"Jos\xe9", Action::Deny, &["Jos*"], &[], false),
        (b"Jos\xe9", Action::Deny, &[], &["José"], false),
        (b"Jos\xe9", Action::Allow, &["José"], &[], false),
        (b"Jos\xe9", Action::Allow, &["Jos*"], &[], true),
        (b"Jos\xe9", Action::Allow, &[], &["José"], false),
        ("José".as_bytes(), Action::Deny, &["José"], &[], false),
        ("José".as_bytes(), Action::Allow, &["José"], &[], true),
        ("José".as_bytes(), Action::Allow, &[], &["José"], false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_bytes(value).unwrap());
        let request = with_headers(&headers);
        let key = "request.headers[x-a]";
        let decided = passes_by(&request, action, key, any, none);
        assert_eq!(decided, passes, "{value:?} {action:?} {any:?} {none:?}");
    }
}

/// HTTP/2 clients cut a cookie into fields, which applications read as one.
#[test]
fn cookies_in_several_fields_are_one_value() {
    let mut headers = HeaderMap::new();
    for cookie in ["a=1", "b=2"] {
        headers.append("cookie", HeaderValue::from_static(cookie));
    }
    let request = with_headers(&headers);
    let key = "request.headers[cookie]";
    assert!(passes_by(&request, Action::Allow, key, &["a=1; b*"], &[]));
    assert!(!passes_by(&request, Action::Deny, key, &["a=1; b=2"], &[]));
}

/// A header by each way in which an application may read it.
#[test]
fn a_header_is_compared_by_every_reading() {
    for (lines, denied, allowed) in [
        (&[("x-a", "b")][..], true, true),
        (&[("x-a", "B")], false, false),
        (&[("x-a", "a, b")], true, false),
        (&[("x-a", "a,b"), ("x-a", "c")], true, false),
        (&[("x-a", "b"), ("x-a", "b")], true, true),
        (&[("x-a", "b"), ("x-a", "c")], true, false),
        (&[("x_a", "b")], true, false),
        (&[("x.a", "b")], true, false),
        (&[("x~a", "b")], true, false),
        (&[("x-a", "b"), ("x.a", "c")], true, false),
        (&[("x-a", "b"), ("x_a", "c")], true, false),
        (&[("x-a", "c"), ("x_a", "b")], true, false),
        (&[("x-ab", "b")], false, false),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let request = HttpRequest {
            method: "GET",
            authority: "Admin.shop:80",
            path: "/",
            headers: &headers,
            token: None,
        };
        let passes = |action, key: &str, any: &[&str], none: &[&str]| {
            passes_by(&request, action, key, any, none)
        };
        let key = "request.headers[x-a]";
        assert_eq!(!passes(Action::Deny, key, &["b"], &[]), denied, "{lines:?}");
        assert_eq!(
            passes(Action::Allow, key, &["b"], &[]),
            allowed,
            "{lines:?}"
        );
        // Nothing but `b` may pass, and `b` may not pass.
        assert_eq!(passes(Action::Deny, key, &[], &["b"]), allowed, "{lines:?}");
        assert_eq!(
            !passes(Action::Allow, key, &[], &["b"]),
            denied,
            "{lines:?}"
        );
        // The joined lines.
        let joined: Vec<&str> = lines.iter().map(|(_, value)| *value).collect();
        if lines.iter().all(|(name, _)| *name != "x-ab") {
            assert!(
                !passes(Action::Deny, key, &[&joined.join(", ")], &[]),
                "{lines:?}"
            );
        }
        // HTTP/2 has `:authority` alone.
        assert!(!passes(
            Action::Deny,
            "request.headers[host]",
            &["admin.shop"],
            &[]
        ));
        assert!(passes(
            Action::Allow,
            "request.headers[Host]",
            &["admin.*"],
            &[]
        ));
    }
}

/// A policy that names a port is passed by no final dot.
#[test]
fn a_host_with_a_port_is_the_same_with_a_final_dot() {
    for (value, authority, fits) in [
        ("shop:8080", "shop:8080", true),
        ("shop:8080", "shop.:8080", true),
        ("shop:8080", "SHOP.:8080", true),
        ("*.example:8080", "shop.example.:8080", true),
        ("shop:8080", "shop.:8081", false),
        ("shop", "shop.:8080", true),
    ] {
        let rule = Rule {
            to: vec![Operation {
                hosts: Match {
                    any: vec![value.parse().unwrap()],
                    none: vec![],
                },
                ..Operation::default()
            }],
            ..Rule::default()
        };
        let policies = Policies::new([policy("p", Action::Deny, vec![rule])]);
        let headers = HeaderMap::new();
        let request = HttpRequest {
            method: "GET",
            authority,
            path: "/",
            headers: &headers,
            token: None,
        };
        let decision = policies.decide(Scope::Enforced, &plaintext(), Some(&request));
        assert_eq!(!decision.allowed, fits, "{value} {authority}");
    }
}
