use super::*;
use linnet_mesh::{Inbound, ResourceRef};

fn texts(any: &[&str], none: &[&str]) -> Match<Pattern> {
    let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Match {
        any: list(any),
        none: list(none),
    }
}

fn policies() -> Policies {
    let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let paths = Match {
        any: list(&["/a", "/b*", "*c", "/d%2Fe//f", "/{*}/d/{**}"]),
        none: list(&["*"]),
    };
    let source = Source {
        principals: texts(&["cluster.local/ns/a/sa/b"], &["cluster.local/*"]),
        namespaces: texts(&["shop"], &[]),
        service_accounts: Match {
            any: vec![ServiceAccount::parse("b", "a").unwrap()],
            none: vec![],
        },
        ip_blocks: Match {
            any: vec!["10.0.0.0/8".parse().unwrap()],
            none: vec!["10.1.0.0/16".parse().unwrap()],
        },
        remote_ip_blocks: Match {
            any: vec!["fd00::/8".parse().unwrap()],
            none: vec![],
        },
        request_principals: texts(&["issuer/*"], &["issuer/bob"]),
    };
    let operation = Operation {
        hosts: texts(&["*.shop"], &[]),
        ports: Match {
            any: vec![8080],
            none: vec![9090],
        },
        methods: texts(&["GET"], &["DELETE"]),
        paths,
    };
    let condition = |key: &str, value: &str| {
        let values = [value.to_owned()];
        Condition::new(key, &values, &values, "a").unwrap()
    };
    let rule = Rule {
        from: vec![source, Source::default()],
        to: vec![operation],
        when: vec![
            condition("request.headers[x-role]", "adm*"),
            condition("source.ip", "10.0.0.1/32"),
            condition("remote.ip", "10.0.0.1/32"),
            condition("source.namespace", "shop"),
            condition("source.principal", "*"),
            condition("source.serviceAccount", "a/b"),
            condition("destination.ip", "10.0.0.0/8"),
            condition("destination.port", "80"),
            condition("request.auth.claims[group][inner]", "x"),
            condition("request.auth.principal", "i/*"),
            condition("request.auth.audiences", "x"),
            condition("request.auth.presenter", "x"),
            condition("connection.sni", "*.shop"),
            condition("custom.attribute", "x"),
        ],
        void: true,
    };
    Policies::new(
        [Action::Custom, Action::Deny, Action::Allow, Action::Audit].map(|action| Policy {
            source: ResourceRef {
                kind: "AuthorizationPolicy".into(),
                namespace: "a".into(),
                name: action.as_str().to_lowercase(),
            },
            action,
            dry_run: action == Action::Deny,
            rules: vec![rule.clone(), Rule::default()],
        }),
    )
}

#[test]
fn policies_arrive_as_they_were_sent() {
    let inbound = Inbound {
        authorization: Some(Arc::new(policies())),
        ..Inbound::default()
    };
    let message = proto::Inbound::from(&inbound);
    assert_eq!(Inbound::try_from(message).unwrap(), inbound);
    for normalization in PathNormalization::EACH {
        let policies = policies().with_normalization(normalization);
        let inbound = Inbound {
            authorization: Some(Arc::new(policies)),
            ..Inbound::default()
        };
        let message = proto::Inbound::from(&inbound);
        assert_eq!(Inbound::try_from(message).unwrap(), inbound);
    }
}

/// A policy that is only half understood protects half.
#[test]
fn a_policy_that_can_t_be_read_is_refused() {
    let message = || {
        proto::Inbound::from(&Inbound {
            authorization: Some(Arc::new(policies())),
            ..Inbound::default()
        })
    };
    let field = |message: proto::Inbound| Inbound::try_from(message).unwrap_err().field;
    let mut bad = message();
    bad.authorization[0].action = 0;
    assert_eq!(field(bad), "authorization.action");
    let mut bad = message();
    bad.authorization[0].action = 99;
    assert_eq!(field(bad), "authorization.action");
    let mut bad = message();
    bad.path_normalization = 99;
    assert_eq!(field(bad), "inbound.path_normalization");
    let mut bad = message();
    bad.authorization[1].source = None;
    assert_eq!(field(bad), "authorization.source");
    type Break = fn(&mut proto::AuthorizationRule);
    let breaks: [(&str, Break); 6] = [
        ("authorization.rules.from.ipBlocks", |rule| {
            let blocks = rule.from[0].ip_blocks.as_mut().unwrap();
            blocks.none.push("10.0.0.0/33".into());
        }),
        ("authorization.rules.from.principals", |rule| {
            let principals = rule.from[0].principals.as_mut().unwrap();
            principals.any.push("a*b".into());
        }),
        ("authorization.rules.from.serviceAccounts", |rule| {
            let accounts = rule.from[0].service_accounts.as_mut().unwrap();
            accounts.any.push("b".into());
        }),
        ("authorization.rules.to.ports", |rule| {
            rule.to[0].ports.as_mut().unwrap().any.push("70000".into());
        }),
        ("authorization.rules.to.paths", |rule| {
            rule.to[0]
                .paths
                .as_mut()
                .unwrap()
                .any
                .push("/{**}/{*}".into());
        }),
        ("authorization.rules.when", |rule| {
            rule.when[1].values.as_mut().unwrap().any.push("x".into());
        }),
    ];
    for (expected, damage) in breaks {
        let mut bad = message();
        damage(&mut bad.authorization[0].rules[0]);
        assert_eq!(field(bad), expected);
    }
}
