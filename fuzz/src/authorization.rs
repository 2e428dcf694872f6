//! What a fuzzer asks of the policies: the evaluator says what the naive reference
//! says.

#![allow(
    clippy::needless_update,
    reason = "messages get further fields, which are not said here"
)]
use http::{HeaderMap, HeaderName, HeaderValue};
use linnet_discovery::proto;
use linnet_mesh::{
    SpiffeId,
    authorization::{By, Connection, HttpRequest, Policies, Policy, Scope, reference},
};

const PRINCIPALS: &[&str] = &[
    "cluster.local/ns/shop/sa/web",
    "cluster.local/*",
    "*/sa/db",
    "*",
];
const NAMESPACES: &[&str] = &["shop", "sh*", "*op", "other", "*"];
const ACCOUNTS: &[&str] = &["shop/web", "shop/db", "other/web"];
const BLOCKS: &[&str] = &["10.0.0.0/24", "10.0.0.9", "fd00::/8", "0.0.0.0/0"];
const HOSTS: &[&str] = &["shop", "*.shop", "SHOP*", "*", "a.shop"];
const PORTS: &[&str] = &["80", "8080"];
const METHODS: &[&str] = &["GET", "P*", "*", "*T"];
const PATHS: &[&str] = &[
    "/a", "/a/*", "*/b", "/{*}/b", "/a/{**}", "*", "/", "/a/b", "/b*", "*c", "/{*}/{*}",
];
const CONDITIONS: &[(&str, &[&str])] = &[
    ("request.headers[x-a]", &["1", "*", "2*", "*2"]),
    ("source.namespace", NAMESPACES),
    ("source.principal", PRINCIPALS),
    ("source.ip", BLOCKS),
    ("remote.ip", BLOCKS),
    ("destination.port", PORTS),
    ("destination.ip", &["10.0.0.1", "10.1.0.0/16"]),
    ("connection.sni", HOSTS),
];
const PIECES: &[&str] = &[
    "/", "a", "b", ".", "..", "%2e", "%2F", "c", "\\", ";x", "?q", "//", "/./", "%252e", "%3f",
    "%61",
];

/// Choices, made by the fuzzer's bytes; the first one when there are no more.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first) % limit
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn list<T>(&mut self, limit: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(limit)).map(|_| one(self)).collect()
    }

    fn values(&mut self, list: &[&str]) -> Option<proto::AuthorizationValues> {
        if self.below(3) == 0 {
            return None;
        }
        Some(proto::AuthorizationValues {
            any: self.list(3, |choices| choices.of(list).to_owned()),
            none: self.list(2, |choices| choices.of(list).to_owned()),
        })
    }

    fn rule(&mut self) -> proto::AuthorizationRule {
        proto::AuthorizationRule {
            from: self.list(3, |choices| proto::AuthorizationSource {
                principals: choices.values(PRINCIPALS),
                namespaces: choices.values(NAMESPACES),
                service_accounts: choices.values(ACCOUNTS),
                ip_blocks: choices.values(BLOCKS),
                remote_ip_blocks: choices.values(BLOCKS),
                ..Default::default()
            }),
            to: self.list(3, |choices| proto::AuthorizationOperation {
                hosts: choices.values(HOSTS),
                ports: choices.values(PORTS),
                methods: choices.values(METHODS),
                paths: choices.values(PATHS),
                ..Default::default()
            }),
            when: self.list(3, |choices| {
                let (key, values) = choices.of(CONDITIONS);
                let values = choices.values(values);
                let values =
                    values.filter(|values| !(values.any.is_empty() && values.none.is_empty()));
                proto::AuthorizationCondition {
                    key: key.to_owned(),
                    values: Some(values.unwrap_or_else(|| proto::AuthorizationValues {
                        any: vec![],
                        none: vec!["x".to_owned()],
                    })),
                    ..Default::default()
                }
            }),
            void: self.below(16) == 1,
            ..Default::default()
        }
    }

    fn policy(&mut self) -> proto::AuthorizationPolicy {
        proto::AuthorizationPolicy {
            source: Some(proto::ResourceRef {
                kind: "AuthorizationPolicy".to_owned(),
                namespace: "shop".to_owned(),
                name: self.below(256).to_string(),
            }),
            action: self.of(&[2, 3, 1, 4]),
            dry_run: self.below(4) == 1,
            rules: self.list(3, Self::rule),
            ..Default::default()
        }
    }
}

/// Policies and a request, of words by the fuzzer's choice: the evaluator and the
/// naive reference decide alike, for the same reason.
pub fn authorization(data: &[u8]) {
    let mut choices = Choices(data);
    let policies = choices.list(4, Choices::policy);
    let policies: Result<Vec<Policy>, _> = policies.into_iter().map(TryInto::try_into).collect();
    let Ok(policies) = policies else {
        // A value that its condition does not take.
        return;
    };
    let policies = Policies::new(policies);
    let identity: Option<SpiffeId> = match choices.below(4) {
        0 => None,
        _ => {
            let (namespace, account) = choices.of(ACCOUNTS).split_once('/').unwrap();
            let text = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
            Some(text.parse().unwrap())
        }
    };
    let source = choices.of(&["10.0.0.9", "10.0.1.9", "fd00::9", "::ffff:10.0.0.9"]);
    let connection = Connection {
        identity: identity.as_ref(),
        source: source.parse().unwrap(),
        destination: ([10, 0, 0, 1], choices.of(&[80, 8080])).into(),
        server_name: choices.of(&[None, Some("shop"), Some("A.Shop."), Some("x")]),
        federated: choices.below(4) == 1,
    };
    let mut headers = HeaderMap::new();
    for value in choices.list(3, |choices| choices.of(&["1", "2", "", "22"])) {
        headers.append(
            HeaderName::from_static("x-a"),
            HeaderValue::from_static(value),
        );
    }
    let path = format!(
        "/{}",
        choices.list(8, |choices| choices.of(PIECES)).concat()
    );
    let request = HttpRequest {
        method: choices.of(&["GET", "POST", "PUT"]),
        authority: choices.of(&["shop", "a.Shop", "shop:80", "Shop.", "other", ""]),
        path: &path,
        headers: &headers,
        token: None,
    };
    let request = (choices.below(5) > 0).then_some(&request);
    for scope in [Scope::Enforced, Scope::WithDryRun] {
        let decision = policies.decide(scope, &connection, request);
        let by = match decision.by {
            By::Rule { policy, rule } => Some((policy.source.name.clone(), rule)),
            By::NoAllowRule | By::NoPolicy | By::TooManyReadings => None,
        };
        let expected = reference::decide(&policies, scope, &connection, request);
        let agrees = match &expected {
            None => decision.by == By::TooManyReadings && !decision.allowed,
            Some(all) => {
                decision.allowed == all.iter().all(|(allowed, _)| *allowed)
                    && all.contains(&(decision.allowed, by))
            }
        };
        assert!(
            agrees,
            "{decision:?} is not {expected:?}\n\
             {policies:#?}\n{connection:?}\n{request:?}"
        );
    }
}
