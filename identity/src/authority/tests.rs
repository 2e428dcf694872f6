mod store;

use linnet_mesh::TrustDomain;
use linnet_workload::Workload;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn authority(lifetime: Duration) -> Authority {
    Authority::new(root(), lifetime, now()).unwrap()
}

fn root() -> Root {
    Root::generate(&TrustDomain::default(), root::LIFETIME, now()).unwrap()
}

fn payment() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/payment".parse().unwrap()
}

fn chain_of(signed: &Signed) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(signed.chain_pem.as_bytes())
        .map(Result::unwrap)
        .collect()
}

/// Panics unless a peer would take this chain at this time.
fn verify(signed: &Signed, bundle_pem: &str, at: OffsetDateTime) {
    use rustls::pki_types::UnixTime;
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let chain = chain_of(signed);
    let at = u64::try_from(at.unix_timestamp()).unwrap();
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap(),
        &roots,
        &chain[1..],
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(at)),
        linnet_runtime::tls::provider()
            .signature_verification_algorithms
            .all,
    )
    .unwrap();
}

/// All of the chain is new: root, issuer and leaf.
#[test]
fn a_clock_two_minutes_off_takes_a_certificate_at_once() {
    let authority = authority(Duration::DAY);
    let key = KeyPair::generate().unwrap();
    let at = now();
    let signed = authority
        .sign(&key, &payment(), Duration::minutes(5), at)
        .unwrap();
    for skew in [-120, 0, 120] {
        let theirs = at + Duration::seconds(skew);
        verify(&signed, &authority.bundle_pem(), theirs);
    }
}

#[test]
fn a_leaf_says_what_it_was_told_and_nothing_else() {
    let authority = authority(Duration::DAY);
    let key = KeyPair::generate().unwrap();
    let at = now();
    let signed = authority
        .sign(&key, &payment(), Duration::HOUR, at)
        .unwrap();
    verify(&signed, &authority.bundle_pem(), at);
    assert_eq!(signed.not_after, whole_seconds(at + Duration::HOUR));

    let chain = chain_of(&signed);
    assert_eq!(chain.len(), 2, "leaf and issuer");
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(
        leaf.validity().not_before.to_datetime(),
        whole_seconds(at - Duration::minutes(3))
    );
    assert!(leaf.subject().iter().next().is_none());
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    let names: Vec<String> = names
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["URI(spiffe://cluster.local/ns/shop/sa/payment)"]);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digital signature only");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);

    let (_, issuer) = X509Certificate::from_der(&chain[1]).unwrap();
    let constraints = issuer.basic_constraints().unwrap().unwrap().value;
    assert_eq!(
        (constraints.ca, constraints.path_len_constraint),
        (true, Some(0))
    );

    let pem = key.serialize_pem();
    let workload = Workload::from_pem(&signed.chain_pem, &pem, &authority.bundle_pem()).unwrap();
    assert_eq!(*workload.id(), payment());
}

#[test]
fn serial_numbers_differ() {
    let authority = authority(Duration::DAY);
    let key = KeyPair::generate().unwrap();
    let serial = || {
        let signed = authority
            .sign(&key, &payment(), Duration::HOUR, now())
            .unwrap();
        let chain = chain_of(&signed);
        X509Certificate::from_der(&chain[0])
            .unwrap()
            .1
            .raw_serial_as_string()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn a_longer_lifetime_is_not_given() {
    let authority = authority(Duration::HOUR);
    let key = KeyPair::generate().unwrap();
    let at = now();
    let signed = authority.sign(&key, &payment(), Duration::DAY, at).unwrap();
    assert_eq!(signed.not_after, whole_seconds(at + Duration::HOUR));
}

#[test]
fn issuers_are_replaced_before_they_cut_certificates_short() {
    let authority = authority(Duration::days(30));
    let key = KeyPair::generate().unwrap();
    let start = now();
    let mut issuers = std::collections::BTreeSet::new();
    for day in 0..200 {
        let at = start + Duration::days(day);
        let signed = authority
            .sign(&key, &payment(), Duration::days(30), at)
            .unwrap();
        assert_eq!(
            signed.not_after,
            whole_seconds(at + Duration::days(30)),
            "day {day}"
        );
        verify(&signed, &authority.bundle_pem(), at);
        verify(&signed, &authority.bundle_pem(), signed.not_after);
        issuers.insert(chain_of(&signed)[1].as_ref().to_vec());
    }
    assert_eq!(issuers.len(), 7, "one a month");
}

#[test]
fn nothing_outlives_the_root() {
    let authority = authority(Duration::DAY);
    let key = KeyPair::generate().unwrap();
    let end = authority.root().not_after();
    let signed = authority
        .sign(&key, &payment(), Duration::DAY, end - Duration::HOUR)
        .unwrap();
    assert_eq!(signed.not_after, end);
    verify(&signed, &authority.bundle_pem(), end);
    let late = authority.sign(&key, &payment(), Duration::DAY, end + Duration::DAY);
    assert!(matches!(late, Err(SignError::RootExpired(_))));
}

#[test]
fn an_intermediate_may_be_brought() {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("corporate root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let corporate = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("mesh");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let mesh = params.signed_by(&key, &corporate).unwrap();

    let root = Root::from_pem(&mesh.pem(), &key.serialize_pem(), &corporate.pem()).unwrap();
    let authority = Authority::new(root, Duration::DAY, now()).unwrap();
    let signed = authority
        .sign(&key, &payment(), Duration::DAY, now())
        .unwrap();
    assert_eq!(chain_of(&signed).len(), 3);
    verify(&signed, &corporate.pem(), now());
}

#[test]
fn a_root_that_cannot_sign_names_the_field() {
    let (good, other) = (root(), root());
    let (certificate, key) = (good.certificate_pem(), good.key_pem());
    let told = |certificate: &str, key: &str, bundle: &str| {
        Root::from_pem(certificate, key, bundle)
            .unwrap_err()
            .to_string()
    };
    assert!(told(certificate, other.key_pem(), certificate).starts_with("tls.key: not the key"));
    assert!(told(certificate, "", certificate).starts_with("tls.key:"));
    assert!(told("", key, certificate).starts_with("tls.crt: no certificate"));
    assert!(told(certificate, key, "").starts_with("ca.crt: no certificate"));
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default()
        .self_signed(&leaf_key)
        .unwrap()
        .pem();
    assert!(told(&leaf, &leaf_key.serialize_pem(), &leaf).contains("not a certificate authority"));
    let authority = authority(Duration::DAY);
    let (issuer, _) = authority.issuer(now()).unwrap();
    let issuer_key = issuer.signer.key().serialize_pem();
    assert!(told(&issuer.signer.pem(), &issuer_key, certificate).contains("path length of 0"));
}

/// An authority in a chain: its certificate and key, and itself for signing.
fn corporate(
    name: &str,
    length: Option<u8>,
    above: Option<&CertifiedIssuer<'static, KeyPair>>,
    change: impl FnOnce(&mut CertificateParams),
) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params.is_ca = IsCa::Ca(length.map_or(BasicConstraints::Unconstrained, |length| {
        BasicConstraints::Constrained(length)
    }));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = now() - Duration::DAY;
    params.not_after = now() + Duration::days(100);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    match above {
        Some(above) => CertifiedIssuer::signed_by(params, key, above).unwrap(),
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
    }
}

fn usable(chain: &[&CertifiedIssuer<'static, KeyPair>], bundle: &str) -> Result<Root, String> {
    let certificates: String = chain.iter().map(|ca| ca.pem()).collect();
    Root::from_pem(&certificates, &chain[0].key().serialize_pem(), bundle)
        .and_then(|root| root.usable(&TrustDomain::default(), now()))
        .map_err(|error| error.to_string())
}

#[test]
fn an_offline_root_may_stay_away() {
    let offline = corporate("offline", None, None, |_| {});
    let policy = corporate("policy", Some(2), Some(&offline), |_| {});
    let mesh = corporate("mesh", Some(1), Some(&policy), |params| {
        params.not_after = now() + Duration::days(9);
    });
    let end = whole_seconds(now() + Duration::days(9));
    // With the chain in tls.crt, as cert-manager writes it, with the root at its
    // end or without.
    for chain in [&[&mesh, &policy][..], &[&mesh, &policy, &offline]] {
        let root = usable(chain, &offline.pem()).unwrap();
        assert!(!root.is_self_signed());
        assert_eq!(root.not_after(), end, "the shortest of the chain");
        let authority = Authority::new(root, Duration::days(30), now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = authority
            .sign(&key, &payment(), Duration::days(30), now())
            .unwrap();
        assert_eq!(chain_of(&signed).len(), 4, "without the root");
        assert_eq!(signed.not_after, end);
        verify(&signed, &offline.pem(), now());
        verify(&signed, &offline.pem(), signed.not_after);
    }
    // Or with both roots while one follows the other.
    let both = corporate("other", None, None, |_| {}).pem() + &offline.pem();
    usable(&[&mesh, &policy], &both).unwrap();
}

#[test]
fn what_peers_would_refuse_is_refused_with_its_reason() {
    let offline = corporate("offline", None, None, |_| {});
    let told = |chain: &[&CertifiedIssuer<'static, KeyPair>], bundle: &str, reason: &str| {
        let error = usable(chain, bundle).unwrap_err();
        assert!(error.contains(reason), "{error}");
    };
    let mesh = corporate("mesh", Some(1), Some(&offline), |_| {});
    let stranger = corporate("stranger", None, None, |_| {});
    told(
        &[&mesh],
        &stranger.pem(),
        "ca.crt: no certificate in it is tls.crt's root",
    );
    told(
        &[&mesh, &stranger],
        &offline.pem().replace('A', "B"),
        "ca.crt",
    );
    let deep = corporate("deep", Some(1), Some(&mesh), |_| {});
    told(
        &[&deep, &mesh],
        &offline.pem(),
        "path length of 1 allows no issuer beneath it; 2",
    );
    let shallow = corporate("shallow", Some(1), None, |_| {});
    let below = corporate("below", None, Some(&shallow), |_| {});
    told(&[&below], &shallow.pem(), "ca.crt: no certificate");
    told(&[&deep, &stranger], &offline.pem(), "certificate 1");
    let expired = corporate("expired", Some(1), Some(&offline), |params| {
        params.not_after = now() - Duration::HOUR;
    });
    told(&[&expired], &offline.pem(), "tls.crt: expired on");
    let early = corporate("early", Some(1), Some(&offline), |params| {
        params.not_before = now() + Duration::HOUR;
    });
    told(&[&early], &offline.pem(), "tls.crt: not valid before");
    let silent = corporate("silent", Some(1), Some(&offline), |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    told(&[&silent], &offline.pem(), "key usage");
    let constrained = corporate("constrained", Some(1), Some(&offline), |params| {
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: Vec::new(),
            excluded_subtrees: vec![rcgen::GeneralSubtree::DnsName("example.org".to_owned())],
        });
    });
    // Names that a mesh does not use may be excluded.
    usable(&[&constrained], &offline.pem()).unwrap();
}

#[test]
fn keys_may_be_in_the_forms_that_cert_manager_writes() {
    for text in [
        include_str!("tests/ec-sec1.key"),
        include_str!("tests/rsa-pkcs1.key"),
    ] {
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
        let key = KeyPair::try_from(&key).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("brought");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        let root = Root::from_pem(&certificate, text, &certificate).unwrap();
        assert_eq!(root.key_pem().trim(), text.trim(), "kept as it was brought");
        root.usable(&TrustDomain::default(), now()).unwrap();
    }
}
