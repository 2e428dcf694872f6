//! A token through two sidecars: the controller fetches the issuer's keys, the
//! callee's sidecar goes by them, and the application sees what it is to see.

use crate::support::{Mesh, Sidecar, identity};
use linnet_proxy::server::Running;
use linnet_workload::token::Issuer;
use serde_json::json;
use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that reads a head and answers what `answer` makes of it.
async fn server(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let body = answer(&String::from_utf8_lossy(&head));
                let text = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                // Who asked may be gone.
                let _ = stream.write_all(text.as_bytes()).await;
            });
        }
    });
    address
}

async fn get(caller: &Running, target: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(caller.outbound[0]).await.unwrap();
    let request =
        format!("GET {target} HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn until(status: &str, ask: impl AsyncFn() -> String) -> String {
    let asking = async {
        loop {
            let answer = ask().await;
            if answer.starts_with(&format!("HTTP/1.1 {status}")) {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| panic!("never {status}"))
}

fn policies(keys: SocketAddr, path: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt}}\n\
         spec: {{jwtRules: [{{issuer: 'https://idp', jwksUri: 'http://{keys}{path}', outputPayloadToHeader: x-payload, \
         outputClaimToHeaders: [{{header: x-user, claim: sub}}]}}]}}\n\
         ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: guard}}\n\
         spec: {{rules: [{{from: [{{source: {{requestPrincipals: ['https://idp/*']}}}}], when: [{{key: 'request.auth.claims[groups]', values: [admin]}}]}},\n\
         {{to: [{{operation: {{paths: [/open]}}}}]}}]}}\n"
    )
}

#[tokio::test]
async fn a_token_says_who_may_and_its_issuer_s_keys_say_whose_it_is() {
    let mesh = Mesh::new();
    let (issuer, next) = (Issuer::default(), Issuer::default());
    let sets = [issuer.jwks().to_string(), next.jwks().to_string()];
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let heads = asked.clone();
    let keys = server(move |head| {
        heads.lock().unwrap().push(head.to_owned());
        sets[usize::from(head.contains("/next"))].clone()
    })
    .await;
    let manifests = tempfile::tempdir().unwrap();
    let file = manifests.path().join("policies.yaml");
    fs::write(&file, policies(keys, "/keys")).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: payment, labels: {linnet.io/sidecar: injected}, \
               annotations: {linnet.io/access-log: all}}\nspec: {serviceAccountName: payment, containers: []}\n";
    fs::write(manifests.path().join("pod.yaml"), pod).unwrap();
    let (controller, _signal) = mesh.controller(manifests.path()).await;
    let app = server(str::to_owned).await;
    let server = mesh
        .start_told(
            "payment",
            format!("127.0.0.1:0={app}"),
            controller.discovery_address,
        )
        .await;
    let caller = mesh
        .start(Sidecar {
            account: "checkout",
            outbound: "127.0.0.1:0=payment.default.svc.cluster.local:8001".into(),
            inbound: String::new(),
            services: format!(
                "services:\n  payment.default.svc.cluster.local:8001:\n    - address: {}\n      identity: {}\n",
                server.inbound[0],
                identity("payment")
            ),
        })
        .await;

    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let claims = |groups: &str| json!({"iss": "https://idp", "sub": "ann", "groups": [groups], "exp": since.as_secs() + 600});
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let admin = bearer(&issuer.token("RS256", &claims("admin")));
    let guest = bearer(&issuer.token("RS256", &claims("guest")));
    let rotated = bearer(&next.token("RS256", &claims("admin")));

    let answer = until("200", async || {
        get(&caller, "/", &(admin.clone() + "x-user: root\r\n")).await
    })
    .await;
    let answer = answer.to_lowercase();
    assert!(
        answer.contains("x-user: ann\r\n") && !answer.contains("x-user: root"),
        "{answer}"
    );
    assert!(
        answer.contains("x-payload: ey") && !answer.contains("authorization"),
        "{answer}"
    );
    let starts = |answer: String, status: &str| {
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&expected), "{answer}");
        answer
    };
    starts(get(&caller, "/", &guest).await, "403");
    starts(get(&caller, "/", "").await, "403");
    starts(get(&caller, "/open", "").await, "200");
    let refused = starts(get(&caller, "/open", &rotated).await, "401");
    assert!(
        refused.contains("www-authenticate: Bearer error=\"invalid_token\""),
        "{refused}"
    );
    assert!(refused.contains("its signature is wrong"), "{refused}");
    assert!(
        refused.contains("RequestAuthentication default/jwt, spec.jwtRules[0]"),
        "{refused}"
    );

    let heads = asked.lock().unwrap().clone();
    assert_eq!(heads.len(), 1, "the controller asks, once, and nobody else");
    assert!(heads[0].contains("user-agent: linnet/"), "{heads:?}");

    // Other keys: what was accepted under the ones before is forgotten.
    fs::write(&file, policies(keys, "/next")).unwrap();
    until("200", async || get(&caller, "/", &rotated).await).await;
    starts(get(&caller, "/", &admin).await, "401");

    // Keys that can't be had: the last good version's are another URL's.
    fs::write(&file, policies(SocketAddr::from(([127, 0, 0, 1], 1)), "/")).unwrap();
    until("401", async || get(&caller, "/", &rotated).await).await;
    starts(get(&caller, "/open", "").await, "200");
    let verdicts = controller.handle.verdicts().await.unwrap();
    let words = verdicts.iter().map(ToString::to_string).collect::<String>();
    assert!(
        words.contains("the tokens of this issuer are refused until then"),
        "{words}"
    );

    let lines = async {
        loop {
            let lines = mesh.access_log("payment");
            if lines.len() >= 5 {
                break lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let lines = tokio::time::timeout(PATIENCE, lines).await.unwrap();
    let served = lines.iter().find(|line| line.status == Some(200)).unwrap();
    assert_eq!(served.request_principal, "https://idp/ann");
    let refused = lines.iter().find(|line| line.status == Some(401)).unwrap();
    assert_eq!(refused.decision, "denied");
    let text = fs::read_to_string(mesh.access_log_file("payment")).unwrap();
    assert!(!text.contains("eyJ"), "no token is written");
}
