//! What the access log says of what policies decided.

use super::*;
use linnet_workload::testing::Leaf;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const FRONTEND: &str = "spiffe://cluster.local/ns/shop/sa/frontend";
const DB: &str = "spiffe://cluster.local/ns/shop/sa/db";

#[tokio::test]
async fn denials_are_written_unless_told_otherwise() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![policy(Action::Allow, vec![from("web")])]);
        let allowed = world.mesh("web", HTTP1).await;
        assert_eq!(world.request(allowed, get("/")).await.0, 200);
        let denied = world.mesh("frontend", HTTP1).await;
        let mut request = get("/card?token=secret");
        let id = ::http::HeaderValue::from_static("r-1");
        request.headers_mut().insert("x-request-id", id);
        assert_eq!(world.request(denied, request).await.0, 403);
        let line = world.line().await;
        assert_eq!(line.log, "access");
        assert_eq!(line.reporter, "destination");
        assert_eq!((&*line.method, &*line.path), ("GET", "/card"));
        assert_eq!((&*line.authority, &*line.request_id), ("db", "r-1"));
        assert_eq!(line.source_principal, FRONTEND);
        assert_eq!(line.destination_principal, DB);
        assert_eq!(line.source_workload, "frontend");
        assert_eq!(line.decision, "denied");
        assert_eq!(line.decided_by, "no ALLOW rule matched");
        assert_eq!((line.status, &*line.flags), (Some(403), "UAEX"));
        assert!(line.time.ends_with('Z') && line.duration_ms.is_some());

        world.set_logged(vec![policy(Action::Deny, vec![Rule::default()])], "off");
        let denied = world.mesh("frontend", HTTP1).await;
        assert_eq!(world.request(denied, get("/")).await.0, 403);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.lines(), []);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn all_names_what_let_a_request_through() {
    let test = async {
        let world = World::start(true).await;
        world.set_logged(vec![policy(Action::Allow, vec![from("web")])], "all");
        let allowed = world.mesh("web", HTTP1).await;
        assert_eq!(world.request(allowed, get("/")).await.0, 200);
        let line = world.line().await;
        assert_eq!((&*line.decision, line.status), ("allowed", Some(200)));
        assert_eq!(
            line.decided_by,
            "AuthorizationPolicy shop/p (ALLOW), spec.rules[0]"
        );
        assert_eq!(line.source_principal, WEB);
        assert_eq!(line.upstream, world.app.to_string());

        world.set_logged(vec![], "all;sample=0");
        let allowed = world.mesh("web", HTTP1).await;
        assert_eq!(world.request(allowed, get("/")).await.0, 200);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.lines(), []);
    };
    LocalSet::new().run_until(test).await;
}

/// A filter is asked at the end, when the answer is known, and hides no denial.
#[tokio::test]
async fn a_filter_decides_about_what_was_let_through() {
    let test = async {
        let world = World::start(true).await;
        let ask = async |log: &str, account: &str, path: &str| {
            world.set_logged(vec![policy(Action::Allow, vec![from("web")])], log);
            let stream = world.mesh(account, HTTP1).await;
            let mut request = get(path);
            let agent = ::http::HeaderValue::from_static("curl/8");
            request.headers_mut().insert("user-agent", agent);
            let name = ::http::HeaderValue::from_bytes("Jos\u{e9}".as_bytes()).unwrap();
            request.headers_mut().insert("x-name", name);
            world.request(stream, request).await.0
        };
        for (filter, written) in [
            ("response.code >= 400", false),
            ("response.code == 200 && connection.mtls", true),
            ("request.path == '/card?id=1'", true),
            ("request.url_path == '/card?id=1'", false),
            ("request.useragent.startsWith('curl/')", true),
            ("'x-none' in request.headers", false),
            ("request.headers['x-name'] == 'Jos\u{e9}'", true),
            (
                "connection.uri_san_peer_certificate.endsWith('/sa/web')",
                true,
            ),
            (
                "request.host == 'db' && request.protocol == 'HTTP/1.1'",
                true,
            ),
            ("request.duration > duration('1h')", false),
        ] {
            let log = format!("all;filter={filter}");
            assert_eq!(ask(&log, "web", "/card?id=1").await, 200);
            // A line that comes in any case, so that there is one to wait for.
            assert_eq!(ask("all", "web", "/last").await, 200);
            let mut paths = Vec::new();
            while !paths.iter().any(|path| path == "/last") {
                tokio::task::yield_now().await;
                paths.extend(world.lines().into_iter().map(|line| line.path));
            }
            let found = paths.iter().any(|path| path == "/card");
            assert_eq!(found, written, "{filter}");
        }
        let denied = ask("all;filter=response.code >= 500", "frontend", "/").await;
        assert_eq!(denied, 403);
        assert_eq!(world.line().await.decision, "denied");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_have_denied() {
    let test = async {
        let world = World::start(true).await;
        let mut dry = policy(Action::Deny, vec![from("web")]);
        dry.dry_run = true;
        world.set(vec![dry]);
        let stream = world.mesh("web", HTTP1).await;
        assert_eq!(world.request(stream, get("/")).await.0, 200);
        let line = world.line().await;
        assert_eq!(
            (&*line.decision, line.status),
            ("dry_run_denied", Some(200))
        );
        assert_eq!(
            line.decided_by,
            "AuthorizationPolicy shop/p (DENY), spec.rules[0]"
        );
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_opaque_connection_is_one_line_with_its_bytes() {
    let test = async {
        let world = World::start(false).await;
        world.set_logged(vec![policy(Action::Allow, vec![from("web")])], "all");
        let mut denied = world.mesh("frontend", OPAQUE).await;
        let mut nothing = Vec::new();
        // An end or a reset.
        let _ = denied.read_to_end(&mut nothing).await;
        let line = world.line().await;
        assert_eq!((&*line.protocol, &*line.decision), ("tcp", "denied"));
        assert_eq!(
            (&*line.source_principal, line.bytes_in),
            (FRONTEND, Some(0))
        );

        let mut stream = world.mesh("web", OPAQUE).await;
        let mut answer = [0; 5];
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        world.set_logged(vec![policy(Action::Allow, vec![from("x")])], "denied");
        let _ = stream.read_to_end(&mut nothing).await;
        let line = world.line().await;
        assert_eq!((&*line.decision, &*line.flags), ("denied", "UAEX"));
        assert_eq!((line.bytes_in, line.bytes_out), (Some(5), Some(5)));
        assert_eq!(line.source_principal, WEB);
    };
    LocalSet::new().run_until(test).await;
}

/// Nobody takes lines out of the queue: requests are answered all the same.
#[tokio::test]
async fn a_full_log_holds_up_no_request() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![policy(Action::Allow, vec![])]);
        let io = TokioIo::new(world.mesh("web", HTTP1).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::task::spawn_local(connection);
        let log = &world.thread.shared.access_log;
        while log.untold() == 0 {
            let response = sender.send_request(get("/")).await.unwrap();
            assert_eq!(read(response).await.0, 403);
        }
        let waiting = world.lines.take();
        // One more would not have fitted.
        assert!(waiting.len() <= LOG && waiting.len() > LOG - 1024);
        assert!(waiting.ends_with("}\n"));
    };
    LocalSet::new().run_until(test).await;
}

/// Nobody is known by then, but where the caller was, and what it lacked.
#[tokio::test]
async fn a_caller_with_another_roots_certificate_is_written() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![]);
        let (chain, key) = Authority::default().issue_pem(&Leaf::new(&[WEB]));
        let bundle = world.authority.bundle_pem();
        let own = linnet_workload::Workload::from_pem(&chain, &key, &bundle).unwrap();
        let stream = world.plain().await;
        let from = stream.local_addr().unwrap();
        let tls = Tls::new(linnet_workload::Handle::fixed(own), &[]);
        let expected: SpiffeId = DB.parse().unwrap();
        // By TLS 1.3 a client is done before its certificate is looked at.
        let _stream = tls.connect(stream, world.app, &expected, HTTP1).await;
        let line = world.line().await;
        assert_eq!((&*line.decision, &*line.flags), ("denied", "UAEX"));
        assert!(line.decided_by.starts_with("mutual TLS: "), "{line:?}");
        assert_eq!(line.source_address, from.to_string());
        assert_eq!(line.source_principal, "");
    };
    LocalSet::new().run_until(test).await;
}

/// The line and the answer name the reading of the path that decided.
#[tokio::test]
async fn a_denial_names_the_reading_that_decided() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![policy(Action::Deny, vec![path("/admin*")])]);
        let by = "AuthorizationPolicy shop/p (DENY), spec.rules[0]; a server may read the path as \"/admin/x\"";
        let caller = world.mesh("web", HTTP1).await;
        let (status, _, body) = world.request(caller, get("/b%2fc/../../admin/x")).await;
        assert_eq!((status, body), (403, format!("RBAC: access denied\n{by}")));
        let line = world.line().await;
        assert_eq!(
            (&*line.path, &*line.decided_by),
            ("/b%2fc/../../admin/x", by)
        );
        let caller = world.mesh("web", HTTP1).await;
        let (_, _, body) = world.request(caller, get("/admin")).await;
        let by = "AuthorizationPolicy shop/p (DENY), spec.rules[0]";
        assert_eq!(body, format!("RBAC: access denied\n{by}"));
        assert_eq!(world.line().await.decided_by, by);
        // A stranger is told nothing of it.
        let plain = Stream::Plain(Rewind::new(Bytes::new(), world.plain().await));
        let (_, _, body) = world.request(plain, get("//x/admin")).await;
        assert_eq!(body, "RBAC: access denied");
        let unread = format!("/%{}61", "25".repeat(20));
        let _ = world.lines();
        let caller = world.mesh("web", HTTP1).await;
        let (status, _, body) = world.request(caller, get(&unread)).await;
        assert_eq!(status, 400);
        assert!(
            body.contains("servers can read its path in more than 16 ways"),
            "{body}"
        );
        assert_eq!(world.line().await.decision, "denied");
        assert_eq!(world.reached.get(), 0);
    };
    LocalSet::new().run_until(test).await;
}

/// A caller of a federated trust domain whose namespace and account are called as ours.
#[tokio::test]
async fn a_federated_caller_is_of_no_namespace_of_ours() {
    let test = async {
        let (ours, theirs) = (Authority::default(), Authority::new("west.example"));
        let trusting = |of: &Authority, account: &str, domain: &str, other: &Authority| {
            let federation = linnet_workload::Federation {
                bundles: [(domain.to_owned(), other.bundle_pem())].into(),
                ..linnet_workload::Federation::default()
            };
            let own = of.workload("shop", account);
            own.trusting(&of.bundle_pem(), federation).unwrap()
        };
        let db = trusting(&ours, "db", "west.example", &theirs);
        let caller = || trusting(&theirs, "web", "cluster.local", &ours);
        let (caller, later) = (caller(), caller());
        let world = World::start_as(true, ours, db).await;
        let mut rule = Rule::default();
        let namespaces = Match {
            any: vec!["shop".parse().unwrap()],
            none: vec![],
        };
        rule.from.push(linnet_mesh::authorization::Source {
            namespaces,
            ..Default::default()
        });
        world.set(vec![policy(Action::Allow, vec![rule])]);
        let stream = world.mesh_as(caller, HTTP1).await;
        let (status, _, body) = world.request(stream, get("/")).await;
        assert_eq!((status, body.as_str()), (403, "RBAC: access denied"));
        let line = world.line().await;
        assert_eq!(
            line.source_principal,
            "spiffe://west.example/ns/shop/sa/web"
        );
        assert_eq!(
            (&*line.source_workload, &*line.source_namespace),
            ("web", "")
        );
        let stream = world.mesh("web", HTTP1).await;
        assert_eq!(world.request(stream, get("/")).await.0, 200);
        let mut rule = from("web");
        rule.from[0].principals.any = vec!["west.example/ns/shop/sa/web".parse().unwrap()];
        world.set(vec![policy(Action::Allow, vec![rule])]);
        let stream = world.mesh_as(later, HTTP1).await;
        assert_eq!(world.request(stream, get("/")).await.0, 200);
    };
    LocalSet::new().run_until(test).await;
}
