use super::*;
use std::io::Write;

/// What the injector sets.
const INJECTED: &[(&str, &str)] = &[
    (env::POD_NAME, "payment-1"),
    (env::POD_NAMESPACE, "default"),
    (env::SERVICE_ACCOUNT, "payment"),
    (env::POD_IPS, "10.0.0.7,fd00::7"),
    (
        env::IDENTITY_URL,
        "https://linnet-identity.linnet-system.svc:15443",
    ),
    (
        env::DISCOVERY_ADDRESS,
        "linnet-controller.linnet-system.svc:15010",
    ),
];

fn read(sets: &[&[(&str, &str)]]) -> Result<Config, SettingsError> {
    Config::read(Settings::new(&|name| {
        let pairs = sets.iter().rev().flat_map(|set| set.iter());
        pairs
            .clone()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    }))
}

#[test]
fn injected_sidecar_needs_no_more_than_the_injector_sets() {
    let config = read(&[INJECTED]).unwrap();
    let [OutboundListener::Redirected(outbound)] = config.outbound[..] else {
        panic!("{:?}", config.outbound);
    };
    let [InboundListener::Redirected(inbound)] = config.inbound[..] else {
        panic!("{:?}", config.inbound);
    };
    assert!(outbound.ip().is_unspecified() && outbound.port() == 15001);
    assert!(inbound.ip().is_unspecified() && inbound.port() == 15006);
    assert!(config.metrics.ip().is_unspecified() && config.metrics.port() == 15020);
    assert_eq!(config.admin, "127.0.0.1:15000".parse().unwrap());
    assert_eq!(config.trust_domain, TrustDomain::default());
    let CertificateSource::Identity(source) = &config.certificate else {
        panic!("{:?}", config.certificate);
    };
    assert_eq!(
        source.identity_url.to_string(),
        "https://linnet-identity.linnet-system.svc:15443"
    );
    assert!(matches!(&source.token, TokenSource::File(path)
        if path == Path::new("/var/run/linnet/token/token")));
    assert!(matches!(&source.trust_bundle, BundleSource::File(path)
        if path == Path::new("/var/run/linnet/trust/ca.pem")));
    assert_eq!(
        config.discovery,
        Discovery::Controller("linnet-controller.linnet-system.svc:15010".to_owned())
    );
    assert_eq!(config.pod.name, "payment-1");
    assert_eq!(config.pod.ips.len(), 2);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.max_connections.get(), 50_000);
    assert!(config.opaque_ports.is_empty());
}

#[test]
fn settings_are_taken_over() {
    let config = read(&[
        INJECTED,
        &[
            (env::TRUST_DOMAIN, "example.org"),
            (env::OPAQUE_PORTS, "3306, 25"),
            (env::DATA_THREADS, "3"),
            (env::DRAIN_SECONDS, "5"),
            (env::MAX_CONNECTIONS, "7"),
            (env::OUTBOUND_LISTEN, "127.0.0.1:0"),
            (env::INBOUND_LISTEN, "127.0.0.1:1"),
            (env::METRICS_LISTEN, "127.0.0.1:2"),
            (env::ADMIN_LISTEN, "[::1]:3"),
            (env::TOKEN_FILE, "/token"),
            (
                env::PROBES,
                r#"[{"path": "/probe/app/readiness", "kind": "tcp", "port": 80}]"#,
            ),
        ],
    ])
    .unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!(config.opaque_ports, BTreeSet::from([25, 3306]));
    assert_eq!(config.data_threads.get(), 3);
    assert_eq!(config.drain_timeout, Duration::from_secs(5));
    assert_eq!(config.max_connections.get(), 7);
    assert_eq!(
        config.outbound,
        [OutboundListener::Redirected("127.0.0.1:0".parse().unwrap())]
    );
    assert_eq!(
        config.inbound,
        [InboundListener::Redirected("127.0.0.1:1".parse().unwrap())]
    );
    assert_eq!(config.metrics, "127.0.0.1:2".parse().unwrap());
    assert_eq!(config.admin, "[::1]:3".parse().unwrap());
    let CertificateSource::Identity(source) = &config.certificate else {
        panic!("{:?}", config.certificate);
    };
    assert_eq!(source.trust_domain, config.trust_domain);
    assert!(matches!(&source.token, TokenSource::File(path) if path == Path::new("/token")));
    assert_eq!(
        config.probes,
        Probes::parse(r#"[{"path": "/probe/app/readiness", "kind": "tcp", "port": 80}]"#)
            .unwrap()
            .at("10.0.0.7".parse().ok())
    );
}

#[test]
fn sidecar_run_by_hand_needs_neither_identity_nor_controller() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"services: {'payment:80': [{address: '10.0.0.7:8443'}]}")
        .unwrap();
    let config = read(&[&[
        (
            env::OUTBOUND_LISTENERS,
            "127.0.0.1:20901=payment:80, 127.0.0.1:20902=ledger.default:90",
        ),
        (env::INBOUND_LISTENERS, "127.0.0.1:20903=127.0.0.1:19080"),
        (env::CERTIFICATE_DIR, "/certificates"),
        (env::STATIC_CONFIG, file.path().to_str().unwrap()),
    ]])
    .unwrap();
    assert_eq!(config.outbound.len(), 2);
    assert_eq!(
        config.outbound[1],
        OutboundListener::Explicit {
            listen: "127.0.0.1:20902".parse().unwrap(),
            host: "ledger.default:90".to_owned(),
        }
    );
    assert_eq!(
        config.inbound,
        [InboundListener::Explicit {
            listen: "127.0.0.1:20903".parse().unwrap(),
            app: "127.0.0.1:19080".parse().unwrap(),
        }]
    );
    assert!(
        matches!(&config.certificate, CertificateSource::Directory(path)
        if path == Path::new("/certificates"))
    );
    let Discovery::Static(fixed) = &config.discovery else {
        panic!("{:?}", config.discovery);
    };
    assert_eq!(fixed.services[0].host, "payment:80");
}

#[test]
fn listeners_of_one_direction_leave_the_other_shut() {
    let outbound = (env::OUTBOUND_LISTENERS, "127.0.0.1:20901=payment:80");
    let config = read(&[INJECTED, &[outbound]]).unwrap();
    assert_eq!((config.outbound.len(), config.inbound.len()), (1, 0));
    let inbound = (env::INBOUND_LISTEN, "127.0.0.1:15006");
    let config = read(&[INJECTED, &[outbound, inbound]]).unwrap();
    assert_eq!((config.outbound.len(), config.inbound.len()), (1, 1));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = read(&[&[
        (env::POD_NAME, "payment-1"),
        (env::POD_NAMESPACE, ""),
        (env::POD_IPS, "10.0.0.7,10.0.0"),
        (env::IDENTITY_URL, "http://identity"),
        (env::TRUST_DOMAIN, "Example.org"),
        (env::OPAQUE_PORTS, "3306,mysql,70000"),
        (env::DATA_THREADS, "many"),
        (env::DRAIN_SECONDS, "-1"),
        (env::METRICS_LISTEN, "15020"),
        (env::ADMIN_LISTEN, "0.0.0.0:15000"),
        (env::OUTBOUND_LISTENERS, "127.0.0.1:20901"),
        (env::INBOUND_LISTENERS, "127.0.0.1:20903=app:80"),
        (env::PROBES, "{}"),
    ]])
    .unwrap_err();
    let mut expected = [
        (env::POD_NAMESPACE, "is not set"),
        (env::SERVICE_ACCOUNT, "is not set"),
        (env::POD_IPS, "\"10.0.0\""),
        (env::IDENTITY_URL, "https://host:port"),
        (env::DISCOVERY_ADDRESS, "is not set"),
        (env::TRUST_DOMAIN, "Example.org"),
        (env::OPAQUE_PORTS, "\"mysql\""),
        (env::OPAQUE_PORTS, "\"70000\""),
        (env::DATA_THREADS, "many"),
        (env::DRAIN_SECONDS, "-1"),
        (env::METRICS_LISTEN, "15020"),
        (env::ADMIN_LISTEN, "not a loopback address"),
        (env::OUTBOUND_LISTENERS, "no '='"),
        (env::INBOUND_LISTENERS, "\"app:80\""),
        (env::PROBES, "not a JSON list"),
    ];
    expected.sort_unstable();
    for (name, part) in expected {
        assert!(
            error
                .mistakes
                .iter()
                .any(|problem| problem.starts_with(&format!("{name}: ")) && problem.contains(part)),
            "{name} {part} in {error}"
        );
    }
    assert_eq!(error.mistakes.len(), expected.len(), "{error}");
    assert!(error.to_string().starts_with("15 of the settings"));
}

#[test]
fn contradictions_and_missing_files_are_mistakes() {
    let error = read(&[
        INJECTED,
        &[
            (env::CERTIFICATE_DIR, "/certificates"),
            (env::STATIC_CONFIG, "/no/such/file"),
            (env::DATA_THREADS, "257"),
        ],
    ])
    .unwrap_err();
    assert_eq!(error.mistakes.len(), 4, "{error}");
    assert!(error.mistakes.iter().any(|p| p.contains("/no/such/file: ")));
}
