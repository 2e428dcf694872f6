use super::*;
use crate::{manifest::parse_yaml, object::Object};
use linnet_mesh::MtlsMode;

fn policy(peers: &str) -> (Result<MtlsMode, Vec<Note>>, Vec<String>) {
    let yaml = format!(
        "apiVersion: authentication.istio.io/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: default}}\nspec: {peers}\n"
    );
    let objects = parse_yaml(&yaml, "file").unwrap();
    let Object::Configuration(configuration) = &objects[0] else {
        panic!("{objects:?}");
    };
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    match compile(configuration, &context) {
        Ok((Compiled::PeerAuthentication(policy), notes)) => {
            let notes = notes.iter().map(ToString::to_string).collect();
            (Ok(policy.mode.unwrap()), notes)
        }
        Ok(other) => panic!("{other:?}"),
        Err(errors) => (Err(errors), Vec::new()),
    }
}

#[test]
fn a_mesh_policy_s_mtls_without_a_mode_is_strict() {
    for (peers, mode) in [
        ("{peers: [{mtls: {}}]}", MtlsMode::Strict),
        ("{peers: [{mtls: }]}", MtlsMode::Strict),
        ("{peers: [{mtls: {mode: STRICT}}]}", MtlsMode::Strict),
        (
            "{peers: [{mtls: {mode: PERMISSIVE}}]}",
            MtlsMode::Permissive,
        ),
    ] {
        assert_eq!(policy(peers), (Ok(mode), Vec::new()), "{peers}");
    }
}

#[test]
fn a_mesh_policy_without_mtls_takes_plaintext_and_says_so() {
    let (mode, notes) = policy("{peers: [{jwt: {issuer: a}}]}");
    assert_eq!(mode, Ok(MtlsMode::Permissive));
    assert_eq!(
        notes,
        [
            "spec.peers: names no mtls, so plaintext is taken beside mutual TLS",
            "spec.peers[0].jwt: is not honoured yet; it has no effect"
        ]
    );
    assert!(policy("{peers: [{mtls: {mode: LOUD}}]}").0.is_err());
}
