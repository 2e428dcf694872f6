use super::*;
use linnet_mesh::ResourceRef;
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);

fn source(name: &str) -> Option<ResourceRef> {
    Some(ResourceRef {
        kind: "DestinationRule".into(),
        namespace: "shop".into(),
        name: name.into(),
    })
}

fn hashed(key: HashKey, algorithm: HashAlgorithm) -> DestinationPolicy {
    DestinationPolicy {
        balance: Balance::ConsistentHash(ConsistentHash { key, algorithm }),
        ..DestinationPolicy::default()
    }
}

fn full() -> DestinationPolicy {
    DestinationPolicy {
        pool: ConnectionPool {
            max_connections: Some(1),
            connect_timeout: SECOND,
            keepalive: Some(TcpKeepalive {
                probes: Some(3),
                time: Some(SECOND),
                interval: None,
            }),
            max_connection_duration: Some(SECOND * 2),
            tcp_idle_timeout: None,
            max_pending_requests: Some(0),
            max_requests: Some(4),
            max_requests_per_connection: Some(5),
            max_retries: Some(6),
            http_idle_timeout: Some(SECOND * 3),
            max_concurrent_streams: Some(7),
        },
        outlier: Some(OutlierDetection {
            consecutive_5xx: None,
            consecutive_gateway_errors: Some(8),
            split_local_origin: true,
            consecutive_local_origin_failures: Some(9),
            interval: SECOND,
            base_ejection_time: SECOND * 4,
            max_ejection_percent: 100,
            min_health_percent: 50,
        }),
        balance: Balance::LeastRequest,
        locality: Some(LocalityPolicy::Failover(vec![Failover {
            from: "eu".into(),
            to: "us".into(),
        }])),
        warmup: Some(Warmup {
            duration: SECOND,
            minimum_percent: 20.0,
            aggression: 2.5,
        }),
        tls: ClientTls::Mutual {
            server: Origination {
                sni: Some("a.example".into()),
                ca_certificates: Some("/certs/ca.pem".into()),
                subject_alt_names: vec!["b.example".into()],
                insecure_skip_verify: true,
            },
            certificate: "/certs/c.pem".into(),
            private_key: "/certs/k.pem".into(),
        },
        sources: Sources {
            pool: source("a"),
            outlier: source("b"),
            balance: source("c"),
            tls: source("d"),
        },
    }
}

fn policies() -> Vec<DestinationPolicy> {
    let place = |text| LocalityPattern::parse(text).unwrap();
    let with = |tls| DestinationPolicy {
        tls,
        ..DestinationPolicy::default()
    };
    let near = |locality| DestinationPolicy {
        locality: Some(locality),
        ..DestinationPolicy::default()
    };
    let simple = |balance| DestinationPolicy {
        balance,
        ..DestinationPolicy::default()
    };
    let cookie = HashKey::Cookie {
        name: "user".into(),
        path: Some("/".into()),
        ttl: Some(Duration::ZERO),
    };
    vec![
        DestinationPolicy::default(),
        full(),
        simple(Balance::RoundRobin),
        simple(Balance::Random),
        simple(Balance::Passthrough),
        hashed(cookie, HashAlgorithm::default()),
        hashed(
            HashKey::Header(http::HeaderName::from_static("x-user")),
            HashAlgorithm::Maglev { table_size: 251 },
        ),
        hashed(HashKey::SourceIp, HashAlgorithm::Ring { minimum_size: 1 }),
        hashed(
            HashKey::QueryParameter("q".into()),
            HashAlgorithm::default(),
        ),
        near(LocalityPolicy::Failover(Vec::new())),
        near(LocalityPolicy::Distribute(vec![Distribution {
            from: place("eu/a/*"),
            to: vec![(place("eu/a/*"), 80), (place("eu/b/c"), 20)],
        }])),
        near(LocalityPolicy::FailoverPriority(vec![
            PriorityLabel {
                key: "rack".into(),
                value: None,
            },
            PriorityLabel {
                key: "tier".into(),
                value: Some("gold".into()),
            },
        ])),
        with(ClientTls::Disable),
        with(ClientTls::IstioMutual),
        with(ClientTls::Simple(Origination::default())),
    ]
}

#[test]
fn each_policy_arrives_as_it_was_sent() {
    for policy in policies() {
        let destination = Destination {
            policy: Arc::new(policy.clone()),
            subsets: BTreeMap::from([("v2".to_owned(), Arc::new(policy))]),
        };
        let message = proto::Destination::from(&destination);
        assert_eq!(Destination::try_from(message).unwrap(), destination);
    }
}

#[test]
fn the_default_is_an_empty_message() {
    let message = proto::DestinationPolicy::from(&DestinationPolicy::default());
    assert_eq!(message, proto::DestinationPolicy::default());
}

#[test]
fn what_no_controller_sends_is_refused() {
    let refused = |change: &dyn Fn(&mut proto::DestinationPolicy)| {
        let mut message = proto::DestinationPolicy::from(&full());
        change(&mut message);
        DestinationPolicy::try_from(message).unwrap_err().field
    };
    let hash = |algorithm| proto::Balance {
        kind: Some(proto::balance::Kind::ConsistentHash(
            proto::ConsistentHash {
                key: Some(proto::consistent_hash::Key::SourceIp(true)),
                algorithm: Some(algorithm),
            },
        )),
    };
    use proto::consistent_hash::Algorithm;
    assert_eq!(
        refused(&|m| m.outlier.as_mut().unwrap().max_ejection_percent = 101),
        "outlier.max_ejection_percent"
    );
    assert_eq!(
        refused(&|m| m.outlier.as_mut().unwrap().interval_micros = 0),
        "outlier.interval"
    );
    assert_eq!(
        refused(&|m| m.warmup.as_mut().unwrap().aggression = f64::NAN),
        "warmup.aggression"
    );
    assert_eq!(refused(&|m| m.tls.as_mut().unwrap().mode = 9), "tls.mode");
    assert_eq!(
        refused(&|m| m.balance = Some(hash(Algorithm::MinimumRingSize(u32::MAX)))),
        "balance.minimum_ring_size"
    );
    assert_eq!(
        refused(&|m| m.balance = Some(hash(Algorithm::MaglevTableSize(0)))),
        "balance.maglev_table_size"
    );
}
