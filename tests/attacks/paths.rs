//! Walking around a policy: other spellings of a path, a host or a protocol. The
//! caller is a mesh peer that sends what it likes; nothing of a denied request may
//! reach the application.

use crate::{
    app::App,
    support::Mesh,
    wire::{peer, send},
};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use linnet_proxy::server::Running;
use tokio::net::TcpStream;

/// A workload, its application and the policy before it.
struct Guarded {
    mesh: Mesh,
    app: App,
    server: Running,
    _controller: linnet_controller::Running,
    _signal: linnet_runtime::drain::Signal,
    _files: tempfile::TempDir,
}

impl Guarded {
    /// With one AuthorizationPolicy: its action and its rules, YAML.
    async fn by(action: &str, rules: &str) -> Self {
        let mesh = Mesh::new();
        let files = tempfile::tempdir().unwrap();
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: guard}}\n\
             spec: {{action: {action}, rules: [{rules}]}}\n"
        );
        std::fs::write(files.path().join("policy.yaml"), policy).unwrap();
        let (controller, signal) = mesh.controller(files.path()).await;
        let app = App::start().await;
        let inbound = format!("127.0.0.1:0={}", app.address);
        let address = controller.discovery_address;
        let server = mesh.start_told("payment", inbound, address).await;
        Self {
            mesh,
            app,
            server,
            _controller: controller,
            _signal: signal,
            _files: files,
        }
    }

    async fn get(&self, target: &str, headers: &str) -> String {
        let request = format!("GET {target} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
        let stream = peer(&self.mesh, self.server.inbound[0], b"linnet/http1").await;
        send(stream, request.as_bytes()).await
    }

    /// Each target is refused, and an honest one is served.
    async fn refuses(&self, targets: &[&str]) {
        for target in targets {
            let answer = self.get(target, "host: payment\r\n").await;
            let status = answer.get(..12).unwrap_or_default();
            let refused = ["HTTP/1.1 403", "HTTP/1.1 400"];
            assert!(refused.contains(&status), "{target}: {answer}");
        }
        assert!(self.app.seen().is_empty(), "{:?}", self.app.targets());
        let answer = self.get("/public/a", "host: payment\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(self.app.targets(), ["/public/a"]);
    }
}

const DENY_ADMIN: &str = "{to: [{operation: {paths: ['/admin', '/admin/*']}}]}";

macro_rules! refused_by_deny {
    ($($test:ident: [$($target:literal),* $(,)?]),* $(,)?) => {$(
        #[tokio::test]
        async fn $test() {
            Guarded::by("DENY", DENY_ADMIN).await.refuses(&[$($target),*]).await;
        }
    )*};
}

refused_by_deny! {
    slashes_do_not_hide_a_path: ["/admin", "//admin", "///admin", "/admin//", "/admin//x"],
    dot_segments_do_not_hide_a_path: [
        "/./admin", "/.//admin", "/public/../admin", "/public/./../admin", "/../admin",
        "/a/b/../../admin/x", "/admin/.", "/admin/./x", "/admin/y/../x",
    ],
    path_parameters_of_dot_segments_do_not_hide_a_path: [
        "/..;/admin", "/public/..;/admin", "/public/..;x=y/admin", "/.;/admin",
    ],
    encoded_letters_do_not_hide_a_path: ["/%61dmin", "/%61%64%6d%69%6e", "/%61DMIN/../admin"],
    encoded_dots_do_not_hide_a_path: [
        "/%2e/admin", "/public/%2e%2e/admin", "/public/%2E%2E/admin", "/public/.%2e/admin",
        "/public/%2e./admin", "/public/%2e%2e;/admin",
    ],
    encoded_slashes_do_not_hide_a_path: [
        "/%2fadmin", "/%2Fadmin", "/public%2f..%2fadmin", "/public%2F%2e%2e%2Fadmin", "/admin%2fx",
    ],
    backslashes_do_not_hide_a_path: [
        "/\\admin", "\\admin", "/public\\..\\admin", "/public/..\\admin", "/public%5c..%5Cadmin",
        "/admin\\x",
    ],
    query_and_fragment_do_not_hide_a_path: [
        "/admin?/public", "/admin?x=/../public", "/admin/x#/public", "/admin#", "/admin?#",
    ],
    dots_before_slashes_do_not_hide_a_path: [
        "/a//../admin/x", "/b/../admin//../x", "/admin//../../x", "/a/b//../../admin/x", "/v1//..//../admin",
    ],
    an_encoded_slash_counts_as_a_letter_or_as_a_slash: [
        "/a/b%2fc/../../admin/x", "/a%2f../admin", "/a/b%5cc/../../admin/x",
        "/a%2fb/%2e%2e/admin", "/admin%2f..%2f..%2fadmin/x",
    ],
    parameters_of_segments_do_not_hide_a_path: [
        "/admin;v=1", "/admin;v=1/x", "/v1/q/..;/../../admin/x", "/;x/admin", "/ad;x/../admin",
    ],
    a_second_decoding_does_not_hide_a_path: [
        "/%2561dmin", "/x/%252e%252e/admin", "/x%252f..%252fadmin", "/%25252561dmin",
    ],
    a_host_before_the_path_does_not_hide_it: [
        "//elsewhere/admin/x", "///elsewhere/admin", "/\\elsewhere/admin",
        "/x/..//elsewhere/admin", "/%2felsewhere/admin",
    ],
    an_encoded_query_does_not_hide_a_path: ["/admin%3fx", "/x/../admin%23/../../b"],
    an_absolute_target_does_not_hide_a_path: [
        "http://payment/admin", "http://payment//admin", "http://payment/public/../admin",
        "HTTP://PAYMENT/admin", "http://payment/%61dmin",
    ],
}

#[tokio::test]
async fn a_path_does_not_leave_what_allows_it() {
    let allow = "{to: [{operation: {paths: ['/public/*']}}]}";
    let guarded = Guarded::by("ALLOW", allow).await;
    let targets = [
        "/admin",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..;/admin",
        "/public\\..\\admin",
        "/public/..%2fadmin",
        "/public/x/../../admin",
        "/PUBLIC/a",
        "/%2561dmin",
        "/public/a%2fb/../../admin/x",
        "/public//../admin",
        "/public/q/..;/../admin",
        "/public/a%3f/../../admin",
    ];
    guarded.refuses(&targets).await;
}

/// A path that no common server takes for another one is another path to a policy.
/// The sidecar sends it on unchanged. Who takes these for `/admin` must deny them by a
/// prefix (`/admin*`), or allow instead of deny.
#[tokio::test]
async fn other_paths_are_others_and_go_on_unchanged() {
    let guarded = Guarded::by("DENY", DENY_ADMIN).await;
    let targets = [
        "/ADMIN",
        "/admin%00",
        "/admin%20",
        "/admins;x",
        "/a%2Fb//c/../d;v=1?q=%2e",
    ];
    for target in targets {
        let answer = guarded.get(target, "host: payment\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{target}: {answer}");
    }
    assert_eq!(guarded.app.targets(), targets);
}

#[tokio::test]
async fn a_grpc_method_has_one_name() {
    let deny = "{to: [{operation: {paths: ['/shop.Admin/Delete']}}]}";
    let guarded = Guarded::by("DENY", deny).await;
    let call = async |path: &str| {
        let stream = peer(&guarded.mesh, guarded.server.inbound[0], b"linnet/http2").await;
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://payment{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Empty::<Bytes>::new())
            .unwrap();
        sender.send_request(request).await
    };
    for path in [
        "/shop.Admin/Delete",
        "//shop.Admin/Delete",
        "/shop.Admin//Delete",
        "/shop.Admin/./Delete",
        "/x/../shop.Admin/Delete",
        "/shop.Admin/%44elete",
        "/shop%2EAdmin/Delete",
        "/shop.Admin%2fDelete",
        "/shop.Admin/Delete?x",
    ] {
        let response = call(path).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "7", "{path}");
    }
    assert!(guarded.app.seen().is_empty());
    // It speaks no HTTP/2, but it is asked.
    let _ = call("/shop.Admin/List").await;
    assert!(!guarded.app.seen().is_empty());
}

#[tokio::test]
async fn a_host_has_one_name() {
    let deny = "{to: [{operation: {hosts: ['admin.example']}}]}";
    let guarded = Guarded::by("DENY", deny).await;
    for host in [
        "admin.example",
        "ADMIN.example",
        "Admin.Example:443",
        "admin.example:80",
        "admin.example:",
        "admin.example.",
        "admin.example.:80",
    ] {
        let answer = guarded.get("/", &format!("host: {host}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
    }
    for host in [
        "somebody@admin.example",
        "public.example@admin.example:80",
        "%61dmin.example",
        "admin.example/",
        "admin.example, public.example",
    ] {
        let answer = guarded.get("/", &format!("host: {host}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
    }
    for (target, hosts) in [
        ("http://admin.example/", "host: public.example\r\n"),
        ("http://public.example/", "host: admin.example\r\n"),
        ("/", "host: public.example\r\nhost: admin.example\r\n"),
        ("http://a@admin.example/", "host: a@admin.example\r\n"),
    ] {
        let answer = guarded.get(target, hosts).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{target}: {answer}");
    }
    assert!(guarded.app.seen().is_empty());
    let answer = guarded.get("/", "host: public.example\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// A header that is there twice: the application may go by either.
#[tokio::test]
async fn a_second_value_does_not_hide_the_first() {
    let deny = "{when: [{key: 'request.headers[x-role]', values: [admin]}]}";
    let guarded = Guarded::by("DENY", deny).await;
    for roles in [
        "x-role: admin\r\n",
        "x-role: user\r\nx-role: admin\r\n",
        "x-role: admin\r\nx-role: user\r\n",
        "X-ROLE: admin\r\n",
    ] {
        let answer = guarded.get("/", &format!("host: payment\r\n{roles}")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{roles}: {answer}");
    }
    assert!(guarded.app.seen().is_empty());
}

/// One field with a list, several fields, and another spelling of the name that CGI and
/// WSGI take for the same: the application may go by any of them.
#[tokio::test]
async fn a_list_or_an_underscore_does_not_hide_a_header() {
    let deny = "{when: [{key: 'request.headers[x-role]', values: [admin]}]}";
    let guarded = Guarded::by("DENY", deny).await;
    for roles in [
        "x-role: user, admin\r\n",
        "x-role: admin,user\r\n",
        "x_role: admin\r\n",
        "x-role: user\r\nX_Role: user,admin\r\n",
    ] {
        let answer = guarded.get("/", &format!("host: payment\r\n{roles}")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{roles}: {answer}");
    }
    assert!(guarded.app.seen().is_empty());
    let answer = guarded
        .get("/", "host: payment\r\nx-role: administrator, user\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_header_without_a_value_is_there() {
    let deny = "{when: [{key: 'request.headers[x-debug]', values: ['*']}]}";
    let guarded = Guarded::by("DENY", deny).await;
    for debug in [
        "x-debug:\r\n",
        "x-debug: 1\r\n",
        "x-debug: 1\r\nx-debug:\r\n",
    ] {
        let answer = guarded.get("/", &format!("host: payment\r\n{debug}")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{debug}: {answer}");
    }
    assert!(guarded.app.seen().is_empty());
}

/// Some applications take a method in any case.
#[tokio::test]
async fn a_method_in_small_letters_is_denied_too() {
    let guarded = Guarded::by("DENY", "{to: [{operation: {methods: [GET]}}]}").await;
    let request = b"get / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    let stream = peer(&guarded.mesh, guarded.server.inbound[0], b"linnet/http1").await;
    let answer = send(stream, request).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(guarded.app.seen().is_empty());
}

/// What a policy allows by goes on to the application, or the policy does not go by it.
#[tokio::test]
async fn a_header_that_is_taken_off_allows_nothing() {
    let allow = "{when: [{key: 'request.headers[x-tenant]', values: [a]}]}";
    let guarded = Guarded::by("ALLOW", allow).await;
    for connection in ["x-tenant", "keep-alive, X-Tenant", "upgrade, x-tenant"] {
        let headers = format!("host: payment\r\nx-tenant: a\r\nconnection: {connection}\r\n");
        let answer = guarded.get("/", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{connection}: {answer}");
    }
    assert!(guarded.app.seen().is_empty());
    let answer = guarded.get("/", "host: payment\r\nx-tenant: a\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// A caller says that it speaks no HTTP, and does.
#[tokio::test]
async fn another_protocol_does_not_hide_a_request() {
    let guarded = Guarded::by("DENY", DENY_ADMIN).await;
    let request = b"GET /admin HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    let address = guarded.server.inbound[0];
    let denied = |answer: &str| answer.starts_with("HTTP/1.1 403");
    let opaque = peer(&guarded.mesh, address, b"linnet/opaque").await;
    let answer = send(opaque, request).await;
    assert!(denied(&answer), "{answer}");
    // Servers skip empty lines before a request.
    let skipped = [b"\r\n", &request[..]].concat();
    let plain = TcpStream::connect(address).await.unwrap();
    let answer = send(plain, &skipped).await;
    assert!(denied(&answer), "{answer}");
    let http2 = peer(&guarded.mesh, address, b"linnet/http2").await;
    let answer = send(http2, request).await;
    assert!(!answer.contains("HTTP/1.1 2"), "{answer}");
    assert!(guarded.app.seen().is_empty(), "{:?}", guarded.app.seen());
}
