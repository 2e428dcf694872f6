//! TLS of the applications' own kind, by real handshakes with a server that has a
//! certificate of its own authority.

use super::{
    resilience::policy_of,
    support::{HOST, Sidecar, get, local, text},
};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use linnet_mesh::destination::{ClientTls, Origination};
use linnet_runtime::tls::provider;
use linnet_workload::testing::{Authority, Leaf};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{cell::RefCell, convert::Infallible, path::PathBuf, rc::Rc, sync::Arc};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a server has learnt of a connection.
#[derive(Debug, PartialEq)]
struct Heard {
    server_name: Option<String>,
    alpn: Vec<u8>,
    client_certificate: bool,
}

/// A server with a certificate for one name, and a sidecar that calls it.
struct World {
    sidecar: Sidecar,
    heard: Rc<RefCell<Vec<Heard>>>,
    files: TempDir,
    authority: Authority,
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes());
    all.collect::<Result<_, _>>().unwrap()
}

fn leaf(authority: &Authority, name: &str) -> (String, String) {
    authority.issue_pem(&Leaf {
        dns_names: vec![name.to_owned()],
        ..Leaf::new(&[])
    })
}

impl World {
    async fn start(name: &str, asks_for_certificate: bool) -> Self {
        Self::speaking(&[b"h2", b"http/1.1"], name, asks_for_certificate).await
    }

    /// A server that chooses one of these names, and speaks no HTTP/2 where that is not
    /// among them.
    async fn speaking(names: &[&[u8]], name: &str, asks_for_certificate: bool) -> Self {
        let authority = Authority::new("elsewhere");
        let (chain, key) = leaf(&authority, name);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_for_certificate {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(&authority.bundle_pem()));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(certificates(&chain), key).unwrap();
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        let speaks_http2 = names.contains(&&b"h2"[..]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sidecar = Sidecar::new(None, &[listener.local_addr().unwrap()]);
        let heard = Rc::<RefCell<Vec<_>>>::default();
        let log = heard.clone();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client may refuse the certificate.
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let session = stream.get_ref().1;
                log.borrow_mut().push(Heard {
                    server_name: session.server_name().map(str::to_owned),
                    alpn: session.alpn_protocol().unwrap_or_default().to_vec(),
                    client_certificate: session.peer_certificates().is_some(),
                });
                let executor = crate::http::LocalExecutor;
                let server = hyper_util::server::conn::auto::Builder::new(executor);
                let server = match speaks_http2 {
                    true => server,
                    false => server.http1_only(),
                };
                let service = hyper::service::service_fn(|request: Request<_>| async move {
                    let _: hyper::body::Incoming = request.into_body();
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                });
                tokio::task::spawn_local(async move {
                    // It ends with the test.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("ca.pem"), authority.bundle_pem()).unwrap();
        Self {
            sidecar,
            heard,
            files,
            authority,
        }
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.files.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    /// Makes `client.pem` and `client.key`, which the server's authority vouches for.
    fn make_client_certificate(&self) {
        let (chain, key) = leaf(&self.authority, "client.example");
        std::fs::write(self.path("client.pem"), chain).unwrap();
        std::fs::write(self.path("client.key"), key).unwrap();
    }

    /// Trusts the server's authority.
    fn origination(&self) -> Origination {
        Origination {
            ca_certificates: Some(self.path("ca.pem")),
            ..Origination::default()
        }
    }

    /// Status and body of a request of one kind or the other.
    async fn call(&self, tls: ClientTls, version: Version) -> (u16, String) {
        self.sidecar.called(policy_of(tls));
        let response = if version == Version::HTTP_2 {
            let request = Request::get("http://payment/").version(version);
            let request = request.body(Default::default()).unwrap();
            self.sidecar.send_http2(request).await
        } else {
            self.sidecar.send(get("/")).await
        };
        (response.status().as_u16(), text(response).await)
    }

    async fn simple(&self, server: Origination) -> (u16, String) {
        self.call(ClientTls::Simple(server), Version::HTTP_11).await
    }

    fn last(&self) -> Heard {
        self.heard.borrow_mut().pop().unwrap()
    }
}

fn assert_refused((status, body): &(u16, String), reason: &str) {
    assert_eq!(*status, 503, "{body}");
    assert!(body.contains(reason), "{body}");
}

#[tokio::test]
async fn simple_asks_for_the_service_by_its_name_in_the_client_s_version() {
    local(async {
        let name = HOST.strip_suffix(":80").unwrap();
        let world = World::start(name, false).await;
        for (version, alpn) in [
            (Version::HTTP_11, &b"http/1.1"[..]),
            (Version::HTTP_2, b"h2"),
        ] {
            let tls = ClientTls::Simple(world.origination());
            let (status, body) = world.call(tls, version).await;
            assert_eq!(status, 200, "{body}");
            let heard = Heard {
                server_name: Some(name.to_owned()),
                alpn: alpn.to_vec(),
                client_certificate: false,
            };
            assert_eq!(world.last(), heard);
        }
    })
    .await;
}

#[tokio::test]
async fn sni_is_asked_for_and_is_what_the_certificate_must_name() {
    local(async {
        let world = World::start("secure.example", false).await;
        let asking = |sni: &str| Origination {
            sni: Some(sni.to_owned()),
            ..world.origination()
        };
        let (status, body) = world.simple(asking("secure.example")).await;
        assert_eq!(status, 200, "{body}");
        let heard = world.last();
        assert_eq!(heard.server_name.as_deref(), Some("secure.example"));
        let refused = world.simple(asking("other.example")).await;
        assert_refused(&refused, "other.example");
        let flags = world.sidecar.flags(2).await;
        assert_eq!(flags, ["-", "UF"]);
    })
    .await;
}

#[tokio::test]
async fn subject_alt_names_are_asked_for_instead() {
    local(async {
        let world = World::start("secure.example", false).await;
        let asking = |names: &[&str]| Origination {
            sni: Some("front.example".to_owned()),
            subject_alt_names: names.iter().map(ToString::to_string).collect(),
            ..world.origination()
        };
        let good = asking(&["other.example", "secure.example"]);
        let (status, body) = world.simple(good).await;
        assert_eq!(status, 200, "{body}");
        let heard = world.last();
        assert_eq!(heard.server_name.as_deref(), Some("front.example"));
        assert_eq!(world.simple(asking(&["other.example"])).await.0, 503);
        assert!(world.heard.borrow().is_empty(), "no request was sent");
    })
    .await;
}

#[tokio::test]
async fn another_authority_is_refused_unless_nothing_is_asked() {
    local(async {
        let world = World::start("secure.example", false).await;
        let other = Authority::new("another");
        std::fs::write(world.path("other.pem"), other.bundle_pem()).unwrap();
        let of_other = Origination {
            sni: Some("secure.example".to_owned()),
            ca_certificates: Some(world.path("other.pem")),
            ..Origination::default()
        };
        assert_refused(
            &world.simple(of_other.clone()).await,
            "invalid peer certificate",
        );
        assert!(world.heard.borrow().is_empty(), "no request was sent");
        let skipping = Origination {
            insecure_skip_verify: true,
            ..of_other
        };
        assert_eq!(world.simple(skipping).await.0, 200);
        let missing = Origination {
            ca_certificates: Some(world.path("missing.pem")),
            ..Origination::default()
        };
        let refused = world.simple(missing).await;
        assert_refused(&refused, "caCertificates");
        assert_refused(&refused, "missing.pem");
        assert_refused(&refused, "VirtualService default/payment");
    })
    .await;
}

#[tokio::test]
async fn mutual_presents_a_certificate_where_simple_has_none() {
    local(async {
        let world = World::start("secure.example", true).await;
        world.make_client_certificate();
        let server = Origination {
            sni: Some("secure.example".to_owned()),
            ..world.origination()
        };
        assert_eq!(world.simple(server.clone()).await.0, 503);
        let mutual = |key: &str| ClientTls::Mutual {
            server: server.clone(),
            certificate: world.path("client.pem"),
            private_key: world.path(key),
        };
        let (status, body) = world.call(mutual("client.key"), Version::HTTP_11).await;
        assert_eq!(status, 200, "{body}");
        assert!(world.last().client_certificate);
        let without_key = world.call(mutual("missing.key"), Version::HTTP_11).await;
        assert_refused(&without_key, "privateKey");
    })
    .await;
}

/// An HTTP/2 caller of a server that speaks HTTP/1 alone: by the name that the server chose,
/// or as in plaintext where it chose none.
#[tokio::test]
async fn http2_is_translated_for_a_server_that_speaks_http1_alone() {
    for (names, last) in [(vec![&b"http/1.1"[..]], &b"http/1.1"[..]), (vec![], b"")] {
        for mutual in [false, true] {
            local(async {
                let world = World::speaking(&names, "secure.example", mutual).await;
                world.make_client_certificate();
                let server = Origination {
                    sni: Some("secure.example".to_owned()),
                    ..world.origination()
                };
                let tls = match mutual {
                    false => ClientTls::Simple(server),
                    true => ClientTls::Mutual {
                        server,
                        certificate: world.path("client.pem"),
                        private_key: world.path("client.key"),
                    },
                };
                for _ in 0..3 {
                    let (status, body) = world.call(tls.clone(), Version::HTTP_2).await;
                    assert_eq!(status, 200, "{names:?} {mutual}: {body}");
                }
                assert_eq!(world.last().alpn, last, "{names:?} {mutual}");
                assert_eq!(world.last().client_certificate, mutual);
                // gRPC has no such form.
                let request = Request::post("http://payment/a.B/C");
                let request = request.header("content-type", "application/grpc");
                let request = request.body(Default::default()).unwrap();
                let answer = world.sidecar.send_http2(request).await;
                assert_eq!(answer.headers()["grpc-status"], "14", "{names:?} {mutual}");
            })
            .await;
        }
    }
}

/// A rule that names a device, a pipe, a directory or a huge file costs one answer, not the
/// data thread that looks at it.
#[tokio::test]
async fn only_a_regular_file_of_a_bounded_size_is_read() {
    local(async {
        let world = World::start("secure.example", false).await;
        let huge = std::fs::File::create(world.path("huge")).unwrap();
        huge.set_len((1 << 20) + 1).unwrap();
        let pipe = world.path("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let not_regular = "is not a regular file";
        for (path, reason) in [
            (world.path("huge"), "has more than 1048576 bytes"),
            (world.path(""), not_regular),
            (pipe, not_regular),
            ("/dev/zero".to_owned(), not_regular),
            ("/dev/urandom".to_owned(), not_regular),
            ("/proc/self/mem".to_owned(), "error"),
        ] {
            let server = Origination {
                ca_certificates: Some(path.clone()),
                ..Origination::default()
            };
            let refused = world.simple(server).await;
            assert_refused(&refused, &format!("caCertificates: {path}: "));
            assert_refused(&refused, reason);
        }
        let device = || "/dev/zero".to_owned();
        for (certificate, private_key, field) in [
            (device(), world.path("client.key"), "clientCertificate"),
            (world.path("client.pem"), device(), "privateKey"),
        ] {
            world.make_client_certificate();
            let tls = ClientTls::Mutual {
                server: world.origination(),
                certificate,
                private_key,
            };
            let refused = world.call(tls, Version::HTTP_11).await;
            assert_refused(&refused, &format!("{field}: /dev/zero: {not_regular}"));
        }
    })
    .await;
}
