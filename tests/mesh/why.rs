//! What the sidecars say becomes of a request, and what becomes of it.

use crate::support::{Mesh, identity, sample};
use linnet_proxy::{
    server::Running,
    why::{
        Authorization, DestinationKind, EndpointState, InboundAnswer, InboundQuestion,
        OutboundAnswer, OutboundQuestion, Values,
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HOST: &str = "payment.default.svc.cluster.local";

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment}
spec:
  host: payment
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payment}
spec:
  hosts: [payment]
  http:
  - match: [{headers: {x-user: {exact: vip}}}]
    route: [{destination: {host: payment, subset: v2}}]
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /new/}
    timeout: 5s
    route: [{destination: {host: payment, subset: v1}}]
  - route:
    - {destination: {host: payment, subset: v1}, weight: 90}
    - {destination: {host: payment, subset: v2}, weight: 10}
";

const SECURITY: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payment}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/admin]}}]
  - from: [{source: {principals: [cluster.local/ns/default/sa/checkout]}}]
    to: [{operation: {methods: [GET]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: later, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{}]}
";

fn workload(inbound: SocketAddr) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: payment, namespace: default}}
spec:
  selector: {{app: payment}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: payment
  namespace: default
  labels: {{app: payment, version: v1, linnet.io/sidecar: injected}}
spec:
  serviceAccountName: payment
  containers: [{{name: app, ports: [{{name: http, containerPort: {port}}}]}}]
status: {{podIP: 127.0.0.1}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: payment
  namespace: default
  labels: {{kubernetes.io/service-name: payment}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints:
- addresses: [127.0.0.1]
  conditions: {{ready: true}}
  targetRef: {{kind: Pod, name: payment, namespace: default}}
",
        port = inbound.port()
    )
}

/// What an admin endpoint answers.
async fn admin(sidecar: &Running, method: &str, path: &str, body: &Value) -> (u16, String) {
    let body = body.to_string();
    let mut stream = TcpStream::connect(sidecar.admin).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

pub(crate) async fn why(sidecar: &Running, url: &str, headers: &[(&str, &str)]) -> OutboundAnswer {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Values::One((*value).to_owned())));
    let question = OutboundQuestion {
        method: None,
        url: url.to_owned(),
        headers: headers.collect(),
    };
    let question = serde_json::to_value(question).unwrap();
    let (status, body) = admin(sidecar, "POST", "/why", &question).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn why_inbound(sidecar: &Running, question: InboundQuestion) -> InboundAnswer {
    let question = serde_json::to_value(question).unwrap();
    let (status, body) = admin(sidecar, "POST", "/why/inbound", &question).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Calls the first outbound listener; what is not 200 is told whole. A tenth of
/// the calls draws the subset that nobody is in: those are no answer.
async fn status(caller: &Running) -> Result<(), String> {
    loop {
        let mut stream = TcpStream::connect(caller.outbound[0]).await.unwrap();
        let request = "GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        if answer.starts_with("HTTP/1.1 200 ") {
            return Ok(());
        }
        if !answer.ends_with("subset v2 has no endpoint") {
            return Err(answer);
        }
    }
}

struct Shop {
    _mesh: Mesh,
    _files: tempfile::TempDir,
    _keep: (linnet_controller::Running, linnet_runtime::drain::Signal),
    payment: Running,
    checkout: Running,
    frontend: Running,
    app: SocketAddr,
}

async fn shop() -> Shop {
    let mesh = Mesh::new();
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("routes.yaml"), ROUTES).unwrap();
    fs::write(files.path().join("security.yaml"), SECURITY).unwrap();
    let keep = mesh.controller(files.path()).await;
    let controller = keep.0.discovery_address;
    let app = sample().await.addresses().http.unwrap();
    let inbound = format!("127.0.0.1:0={app}");
    let payment = mesh.start_told("payment", inbound, controller).await;
    let manifests = workload(payment.inbound[0]);
    fs::write(files.path().join("payment.yaml"), manifests).unwrap();
    let outbound = format!("127.0.0.1:0={HOST}:80");
    let checkout = mesh.start_caller("checkout", &outbound, controller).await;
    let frontend = mesh.start_caller("frontend", &outbound, controller).await;
    let called = async {
        // The manifests are read by and by.
        while status(&checkout).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), called)
        .await
        .expect("checkout may call payment");
    Shop {
        _mesh: mesh,
        _files: files,
        _keep: keep,
        payment,
        checkout,
        frontend,
        app,
    }
}

#[tokio::test]
async fn the_chain_is_the_one_that_requests_take() {
    let shop = shop().await;
    let url = format!("http://{HOST}/charge");

    let vip = why(&shop.checkout, &url, &[("x-user", "vip")]).await;
    assert_eq!(vip.destination.kind, DestinationKind::Service);
    assert_eq!(
        vip.destination.service.as_deref(),
        Some("default/payment:80")
    );
    assert_eq!(vip.caller.identity, Some(identity("checkout")));
    let route = vip.route.unwrap();
    assert_eq!((route.rules.len(), route.total), (1, 3));
    assert!(route.rules[0].matched);
    assert_eq!(route.rules[0].resource, "VirtualService default/payment");
    // Subset v2 has no pod.
    assert!(!vip.outcome.sent);
    assert_eq!(
        vip.outcome.text,
        "503: default/payment:80 subset v2 has no endpoint"
    );

    let others = why(&shop.checkout, &url, &[]).await;
    let route = others.route.unwrap();
    let because: Vec<_> = route
        .rules
        .iter()
        .map(|rule| rule.because.join("|"))
        .collect();
    assert_eq!(
        because,
        [
            r#"header x-user is absent, rule wants = "vip""#,
            r#"path is "/charge", rule wants starts with "/old/""#,
            "",
        ]
    );
    let shares: Vec<_> = others
        .backends
        .iter()
        .map(|backend| backend.percent)
        .collect();
    assert_eq!(shares, [90.0, 10.0]);
    let endpoint = &others.backends[0].endpoints[0];
    assert_eq!(endpoint.address, shop.payment.inbound[0]);
    assert_eq!(endpoint.pod, "payment");
    assert_eq!(endpoint.state, EndpointState::Healthy);
    assert_eq!(endpoint.identity, Some(identity("payment")));

    // Short names mean what is known already; the request is shown as it leaves.
    let old = why(&shop.checkout, "http://payment/old/a?x=1", &[]).await;
    let filters: Vec<_> = old
        .filters
        .iter()
        .map(|f| format!("{}: {}", f.name, f.does))
        .collect();
    assert_eq!(
        filters,
        [
            "rewrite: path /old/a becomes /new/a",
            "timeout: 5s",
            "retries: by default: up to 2 more attempts where nobody looked at the request",
        ]
    );
    let sent = old.backends[0].request.as_ref().unwrap();
    assert_eq!(
        (sent.path.as_str(), sent.authority.as_str()),
        ("/new/a?x=1", "payment")
    );
    assert!(old.outcome.sent);
}

#[tokio::test]
async fn the_callee_says_who_gets_in_and_so_it_is() {
    let shop = shop().await;
    let question = |account: Option<&str>, method: &str| InboundQuestion {
        identity: account.map(identity),
        port: shop.app.port(),
        method: Some(method.to_owned()),
        path: "/charge".to_owned(),
        authority: HOST.to_owned(),
        headers: BTreeMap::new(),
        ip: None,
    };
    let allowed = why_inbound(&shop.payment, question(Some("checkout"), "GET")).await;
    assert!(allowed.allowed);
    assert_eq!(
        allowed.by,
        "AuthorizationPolicy default/payment (ALLOW), spec.rules[1]"
    );
    assert_eq!(allowed.mtls.mode, "STRICT");
    assert_eq!(allowed.mtls.source, "PeerAuthentication default/strict");
    assert_eq!(
        allowed.dry_run.as_deref(),
        Some("AuthorizationPolicy default/later (DENY), spec.rules[0]")
    );

    let denied = why_inbound(&shop.payment, question(Some("frontend"), "GET")).await;
    assert_eq!(
        (denied.allowed, denied.by.as_str()),
        (false, "no ALLOW rule matched")
    );
    let payment = &denied.policies[1];
    assert_eq!(payment.resource, "AuthorizationPolicy default/payment");
    assert_eq!(
        payment.because,
        [
            "from[0] principals: the caller is cluster.local/ns/default/sa/frontend, rule wants cluster.local/ns/default/sa/admin",
            "from[0] principals: the caller is cluster.local/ns/default/sa/frontend, rule wants cluster.local/ns/default/sa/checkout",
        ]
    );
    let posted = why_inbound(&shop.payment, question(Some("checkout"), "POST")).await;
    assert_eq!(
        posted.policies[1].because[1],
        r#"to[0] methods: it is "POST", rule wants GET"#
    );
    let plain = why_inbound(&shop.payment, question(None, "GET")).await;
    assert_eq!(plain.by, "PeerAuthentication default/strict says STRICT");

    assert_eq!(status(&shop.checkout).await, Ok(()));
    let refused = status(&shop.frontend).await.unwrap_err();
    assert!(refused.contains("403"), "{refused}");
}

#[tokio::test]
async fn who_may_call_is_listed_by_the_sidecar() {
    let shop = shop().await;
    let (code, body) = admin(&shop.payment, "GET", "/authorization", &json!(null)).await;
    assert_eq!(code, 200);
    let listed: Authorization = serde_json::from_str(&body).unwrap();
    assert_eq!(listed.mtls.source, "PeerAuthentication default/strict");
    let rules: Vec<_> = listed
        .rules
        .iter()
        .map(|rule| {
            let from = rule.from.join("|");
            (
                rule.action.as_str(),
                rule.dry_run,
                rule.rule,
                from,
                rule.to.join("|"),
            )
        })
        .collect();
    let principal = |account: &str| format!("principal cluster.local/ns/default/sa/{account}");
    assert_eq!(
        rules,
        [
            ("DENY", true, Some(0), String::new(), String::new()),
            ("ALLOW", false, Some(0), principal("admin"), String::new()),
            (
                "ALLOW",
                false,
                Some(1),
                principal("checkout"),
                "method GET".to_owned()
            ),
        ]
    );
}

#[tokio::test]
async fn questions_that_make_no_sense_are_answered_with_the_field() {
    let shop = shop().await;
    for (path, question, field) in [
        ("/why", json!({"url": "https://payment/"}), "url"),
        ("/why", json!({"url": "payment"}), "url"),
        (
            "/why",
            json!({"url": "http://a/", "method": "a b"}),
            "method",
        ),
        (
            "/why",
            json!({"url": "http://a/", "headers": {"a b": "c"}}),
            "headers",
        ),
        (
            "/why/inbound",
            json!({"port": 80, "identity": "payment"}),
            "identity",
        ),
    ] {
        let (status, body) = admin(&shop.payment, "POST", path, &question).await;
        assert_eq!(status, 400, "{question} {body}");
        assert!(body.starts_with(field), "{question} {body}");
    }
    let (status, body) = admin(&shop.payment, "POST", "/why", &json!({"uri": "http://a/"})).await;
    assert_eq!(status, 422, "{body}");
}
