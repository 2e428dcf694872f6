//! AuthorizationPolicies from a file, through a controller, to the sidecar that
//! enforces them.

use crate::support::{Mesh, Sidecar, identity, sample};
use linnet_proxy::server::Running;
use linnet_sample::client::{Call, Client, Protocol};
use std::{fs, time::Duration};

const HTTP: usize = 0;
const TCP: usize = 1;

/// No edit on loopback takes this long; a test that waits for one fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn policy(name: &str, action: &str, principal: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{action: {action}, rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}\n"
    )
}

fn allow(account: &str) -> String {
    policy(
        "payment",
        "ALLOW",
        &format!("cluster.local/ns/default/sa/{account}"),
    )
}

async fn caller(mesh: &Mesh, account: &str, server: &Running) -> Running {
    let mut services = String::from("accessLog: all\nservices:\n");
    let mut outbound = Vec::new();
    for (position, address) in server.inbound.iter().enumerate() {
        let host = format!("payment.default.svc.cluster.local:{}", 8001 + position);
        let identity = identity("payment");
        services += &format!("  {host}:\n    - address: {address}\n      identity: {identity}\n");
        outbound.push(format!("127.0.0.1:0={host}"));
    }
    mesh.start(Sidecar {
        account,
        outbound: outbound.join(","),
        inbound: String::new(),
        services,
    })
    .await
}

async fn call(caller: &Running, protocol: Protocol) -> Result<(), String> {
    let port = match protocol {
        Protocol::Tcp => TCP,
        _ => HTTP,
    };
    let target = caller.outbound[port].to_string().parse().unwrap();
    let mut client = Client::new(Call::new(protocol, target));
    let answer = client.call().await;
    answer.map(|_| ()).map_err(|error| error.to_string())
}

async fn until(wanted: bool, caller: &Running) {
    let change = async {
        while call(caller, Protocol::Http1).await.is_ok() != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, change)
        .await
        .expect("an edit of a policy acts");
}

#[tokio::test]
async fn a_policy_says_who_may_call_and_an_edit_says_otherwise() {
    let mesh = Mesh::new();
    let manifests = tempfile::tempdir().unwrap();
    let file = manifests.path().join("policy.yaml");
    fs::write(&file, allow("checkout")).unwrap();
    let (controller, _signal) = mesh.controller(manifests.path()).await;
    let app = sample().await;
    let addresses = app.addresses();
    let (http, tcp) = (addresses.http.unwrap(), addresses.tcp.unwrap());
    let inbound = format!("127.0.0.1:0={http},127.0.0.1:0={tcp}");
    let address = controller.discovery_address;
    let server = mesh.start_told("payment", inbound, address).await;
    let checkout = caller(&mesh, "checkout", &server).await;
    let frontend = caller(&mesh, "frontend", &server).await;

    for protocol in [
        Protocol::Http1,
        Protocol::Http2,
        Protocol::Grpc,
        Protocol::Tcp,
    ] {
        let allowed = call(&checkout, protocol).await;
        assert_eq!(allowed, Ok(()), "{protocol:?}");
        let denied = call(&frontend, protocol).await;
        assert!(denied.is_err(), "{protocol:?}");
    }
    let denied = call(&frontend, Protocol::Http1).await.unwrap_err();
    assert!(denied.contains("403"), "{denied}");

    fs::write(&file, allow("frontend")).unwrap();
    until(true, &frontend).await;
    assert!(call(&checkout, Protocol::Http1).await.is_err());

    // What can't be compiled leaves the last good version in force.
    fs::write(&file, allow("a*b")).unwrap();
    let deny = manifests.path().join("deny.yaml");
    fs::write(&deny, policy("deny", "DENY", "*")).unwrap();
    until(false, &frontend).await;
    fs::remove_file(deny).unwrap();
    until(true, &frontend).await;
    assert!(call(&checkout, Protocol::Http1).await.is_err());
}

#[tokio::test]
async fn the_access_log_names_both_identities_and_what_decided() {
    let mesh = Mesh::new();
    let manifests = tempfile::tempdir().unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: payment, labels: {linnet.io/sidecar: injected}, \
               annotations: {linnet.io/access-log: all}}\nspec: {serviceAccountName: payment, containers: []}\n";
    fs::write(manifests.path().join("pod.yaml"), pod).unwrap();
    fs::write(manifests.path().join("policy.yaml"), allow("checkout")).unwrap();
    let (controller, _signal) = mesh.controller(manifests.path()).await;
    let addresses = sample().await.addresses();
    let (http, tcp) = (addresses.http.unwrap(), addresses.tcp.unwrap());
    let inbound = format!("127.0.0.1:0={http},127.0.0.1:0={tcp}");
    let server = mesh
        .start_told("payment", inbound, controller.discovery_address)
        .await;
    let checkout = caller(&mesh, "checkout", &server).await;
    let frontend = caller(&mesh, "frontend", &server).await;
    until(true, &checkout).await;
    assert!(call(&frontend, Protocol::Http1).await.is_err());
    assert!(call(&frontend, Protocol::Tcp).await.is_err());

    let lines = async {
        loop {
            let mut lines = mesh.access_log("payment");
            // A handshake that its caller gave up, on a slow machine, is nobody's.
            lines.retain(|line| !line.source_principal.is_empty());
            let denied = lines.iter().filter(|line| line.decision == "denied");
            if denied.count() == 2 && lines.len() >= 3 {
                break lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let lines = tokio::time::timeout(PATIENCE, lines)
        .await
        .unwrap_or_else(|_| panic!("not two denials: {:#?}", mesh.access_log("payment")));
    for line in &lines {
        assert_eq!(line.reporter, "destination");
        assert_eq!(line.destination_principal, identity("payment"));
        let (account, by) = match &*line.decision {
            "allowed" => (
                "checkout",
                "AuthorizationPolicy default/payment (ALLOW), spec.rules[0]",
            ),
            _ => ("frontend", "no ALLOW rule matched"),
        };
        assert_eq!(line.source_principal, identity(account), "{line:?}");
        assert_eq!(line.decided_by, by);
    }
    let denied = lines.iter().filter(|line| line.decision == "denied");
    let mut denied: Vec<_> = denied.map(|line| (&*line.protocol, line.status)).collect();
    denied.sort_unstable();
    assert_eq!(denied, [("http/1.1", Some(403)), ("tcp", None)]);

    // The caller's own log says the same, from its end.
    let refused = async {
        loop {
            let mut own = mesh.access_log("frontend").into_iter();
            if let Some(line) = own.find(|line| line.status == Some(403)) {
                break line;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused)
        .await
        .expect("the caller's sidecar writes it, too");
    assert_eq!(refused.reporter, "source");
    assert_eq!(refused.source_principal, identity("frontend"));
    assert_eq!(refused.destination_principal, identity("payment"));
}
