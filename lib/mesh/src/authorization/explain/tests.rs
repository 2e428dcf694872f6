use super::*;
use crate::{
    SpiffeId,
    authorization::{
        Rule, Scope,
        pattern::{Pattern, block},
        tests::{plaintext, policy},
    },
};
use http::HeaderMap;

fn one<T>(value: T) -> Match<T> {
    Match {
        any: vec![value],
        none: Vec::new(),
    }
}

fn pattern(text: &str) -> Match<Pattern> {
    one(text.parse().unwrap())
}

fn from(source: Source) -> Rule {
    Rule {
        from: vec![source],
        ..Rule::default()
    }
}

fn to(operation: Operation) -> Rule {
    Rule {
        to: vec![operation],
        ..Rule::default()
    }
}

fn when(key: &str, value: &str) -> Rule {
    let values = [value.to_owned()];
    Rule {
        when: vec![Condition::new(key, &values, &[], "shop").unwrap()],
        ..Rule::default()
    }
}

#[test]
fn every_part_says_what_it_wants_and_what_is_there() {
    let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let connection = Connection {
        identity: Some(&identity),
        ..plaintext()
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-a", "1".parse().unwrap());
    let request = HttpRequest {
        method: "GET",
        authority: "pay",
        path: "/a/../admin",
        headers: &headers,
        token: None,
    };
    let source = Source::default;
    let operation = Operation::default;
    for (rule, words) in [
        (
            from(Source {
                principals: pattern("cluster.local/ns/x/*"),
                ..source()
            }),
            "from[0] principals: the caller is cluster.local/ns/shop/sa/web, rule wants cluster.local/ns/x/*",
        ),
        (
            from(Source {
                namespaces: Match {
                    any: vec![],
                    none: vec!["shop".parse().unwrap()],
                },
                ..source()
            }),
            "from[0] namespaces: the caller is cluster.local/ns/shop/sa/web, rule wants not shop",
        ),
        (
            from(Source {
                ip_blocks: one(block("10.1.0.0/16").unwrap()),
                ..source()
            }),
            "from[0] ipBlocks: the caller's address is 10.0.0.9, rule wants 10.1.0.0/16",
        ),
        (
            to(Operation {
                methods: pattern("POST"),
                ..operation()
            }),
            r#"to[0] methods: it is "GET", rule wants POST"#,
        ),
        (
            to(Operation {
                ports: one(80),
                ..operation()
            }),
            "to[0] ports: it is 8080, rule wants 80",
        ),
        (
            to(Operation {
                paths: one("/a/*".parse().unwrap()),
                ..operation()
            }),
            r#"to[0] paths: it is "/admin", rule wants /a/*"#,
        ),
        (
            to(Operation {
                hosts: pattern("other"),
                ..operation()
            }),
            r#"to[0] hosts: it is "pay", rule wants other"#,
        ),
        (
            when("request.headers[x-a]", "2"),
            r#"when request.headers[x-a]: it is "1", rule wants 2"#,
        ),
        (
            when("request.headers[x-b]", "2"),
            "when request.headers[x-b]: it is absent, rule wants 2",
        ),
        (
            when("request.auth.claims[iss]", "x"),
            "when request.auth.claims[iss]: the request has no token, rule wants x",
        ),
        (
            when("connection.sni", "x"),
            "when connection.sni: nobody knows it: only the application's own TLS tells one, rule wants x",
        ),
        (
            when("custom.attribute", "x"),
            "when custom.attribute: it is not known to this version, rule wants x",
        ),
        (
            Rule {
                void: true,
                ..Rule::default()
            },
            "it says something that can't be evaluated, so it allows nobody",
        ),
    ] {
        let policies = Policies::new([policy("p", Action::Allow, vec![rule])]);
        let considered = policies.explain(Scope::Enforced, &connection, Some(&request));
        assert_eq!(considered[0].rule, None, "{words}");
        assert_eq!(considered[0].misfits, [words]);
    }
}

#[test]
fn a_policy_behind_the_deciding_one_is_explained_too() {
    let policies = Policies::new([
        policy(
            "allow",
            Action::Allow,
            vec![when("destination.port", "80"), Rule::default()],
        ),
        policy("deny", Action::Deny, vec![Rule::default()]),
    ]);
    let considered = policies.explain(Scope::Enforced, &plaintext(), None);
    let seen: Vec<_> = considered
        .iter()
        .map(|c| (c.policy.source.name.as_str(), c.rule, c.misfits.len()))
        .collect();
    assert_eq!(seen, [("deny", Some(0), 0), ("allow", Some(1), 1)]);
    assert_eq!(
        considered[1].misfits,
        ["when destination.port: it is 8080, rule wants 80"]
    );
}

#[test]
fn what_is_in_dry_run_is_explained_by_the_path_without_its_query() {
    let paths = one("/admin".parse().unwrap());
    let rule = to(Operation {
        paths,
        ..Operation::default()
    });
    let mut dry = policy("dry", Action::Deny, vec![rule.clone()]);
    dry.dry_run = true;
    let policies = Policies::new([dry, policy("audit", Action::Audit, vec![rule])]);
    let headers = HeaderMap::new();
    let request = HttpRequest {
        method: "GET",
        authority: "pay",
        path: "/admin?q",
        headers: &headers,
        token: None,
    };
    let considered = policies.explain(Scope::Enforced, &plaintext(), Some(&request));
    let rules: Vec<_> = considered.iter().map(|c| c.rule).collect();
    assert_eq!(rules, [Some(0), Some(0)]);
}

#[test]
fn plaintext_and_tcp_are_named() {
    let by_principal = from(Source {
        principals: pattern("*"),
        ..Source::default()
    });
    let by_method = to(Operation {
        methods: pattern("GET"),
        ..Operation::default()
    });
    let policies = Policies::new([policy("p", Action::Allow, vec![by_principal, by_method])]);
    assert_eq!(
        policies.explain(Scope::Enforced, &plaintext(), None)[0].misfits,
        [
            "from[0] principals: the caller has no identity (plaintext), rule wants *",
            "it speaks of HTTP, and the connection is not HTTP",
        ]
    );
}

#[test]
fn rules_are_listed_in_words() {
    let source = Source {
        principals: pattern("a"),
        namespaces: Match {
            any: vec!["b".parse().unwrap(), "c".parse().unwrap()],
            none: vec!["d".parse().unwrap()],
        },
        ..Source::default()
    };
    assert_eq!(
        source.to_string(),
        "principal a, namespace b or c and not d"
    );
    assert_eq!(Source::default().to_string(), "anybody");
    let operation = Operation {
        methods: pattern("GET"),
        ports: one(80),
        ..Operation::default()
    };
    assert_eq!(operation.to_string(), "method GET, port 80");
    assert_eq!(Operation::default().to_string(), "anything");
}
