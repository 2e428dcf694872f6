//! Policies by the server name of a TLS hello: the application's own TLS tells one,
//! and a caller of the mesh tells none.

use super::*;
use linnet_mesh::authorization::Condition;

/// The first bytes of a client's own TLS that asks for a name.
fn hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn named(action: Action, name: &str) -> Vec<Policy> {
    let values = [name.to_owned()];
    let condition = Condition::new("connection.sni", &values, &[], "shop").unwrap();
    let rule = Rule {
        when: vec![condition],
        ..Rule::default()
    };
    vec![policy(action, vec![rule])]
}

/// Whether the application, which sends back what it gets, gets these bytes.
async fn reaches(
    world: &World,
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    bytes: &[u8],
) -> bool {
    let before = world.reached.get();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; bytes.len()];
    // An end or a reset where it is denied.
    let answered = stream.read_exact(&mut answer).await.is_ok();
    let reached = world.reached.get() > before;
    assert_eq!(answered, reached);
    reached
}

#[tokio::test]
async fn a_policy_goes_by_the_name_that_the_applications_own_tls_asks_for() {
    let test = async {
        let world = World::start(false).await;
        for (action, fits) in [(Action::Allow, true), (Action::Deny, false)] {
            world.set(named(action, "db.shop"));
            for (name, same) in [("db.shop", true), ("DB.Shop", true), ("web.shop", false)] {
                let reached = reaches(&world, world.plain().await, &hello(name)).await;
                assert_eq!(reached, same == fits, "{action:?} {name}");
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

/// It asks for no name: the policy can't be evaluated, and so it lets nobody through.
#[tokio::test]
async fn a_caller_of_the_mesh_passes_no_policy_by_server_name() {
    let test = async {
        let world = World::start(false).await;
        for action in [Action::Allow, Action::Deny] {
            world.set(named(action, "db.shop"));
            let stream = world.mesh("frontend", OPAQUE).await;
            assert!(!reaches(&world, stream, b"bytes").await, "{action:?}");
            // Not even by what it says inside of mutual TLS.
            let stream = world.mesh("frontend", OPAQUE).await;
            assert!(
                !reaches(&world, stream, &hello("db.shop")).await,
                "{action:?}"
            );
            let plain = world.plain().await;
            assert!(!reaches(&world, plain, b"\0 no hello").await, "{action:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

/// A connection that was let through by its name is asked for by it again.
#[tokio::test]
async fn an_open_connection_is_cut_when_a_policy_forbids_its_name() {
    let test = async {
        let world = World::start(false).await;
        world.set(named(Action::Allow, "db.shop"));
        let mut stream = world.plain().await;
        let bytes = hello("db.shop");
        stream.write_all(&bytes).await.unwrap();
        stream.read_exact(&mut vec![0; bytes.len()]).await.unwrap();
        world.set(named(Action::Deny, "web.*"));
        stream.write_all(b"more").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        world.set(named(Action::Deny, "db.*"));
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    };
    LocalSet::new().run_until(test).await;
}
