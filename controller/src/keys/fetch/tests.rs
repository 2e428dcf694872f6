use super::*;
use linnet_workload::token::Issuer;
use std::collections::HashMap;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(10);

/// A server that answers each path with some bytes, and hangs on others.
async fn server(answers: &[(&str, String)], tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = answers
        .iter()
        .map(|(path, answer)| ((*path).to_owned(), answer.clone()));
    let answers: Arc<HashMap<String, String>> = Arc::new(answers.collect());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answers, tls) = (answers.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => answer(stream, &answers).await,
                    // A client may refuse the server's certificate.
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            answer(stream, &answers).await;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: &HashMap<String, String>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    assert!(!head.to_lowercase().contains("authorization"));
    let path = head.split(' ').nth(1).unwrap();
    match answers.get(path) {
        // Who has read enough goes away.
        Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
        None => std::future::pending().await,
    }
    let _ = stream.shutdown().await;
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn to(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
}

fn fetcher(local: bool, roots: Option<&Path>) -> Fetcher {
    Fetcher::new(&Settings {
        local,
        roots: roots.map(Path::to_owned),
        ..Settings::default()
    })
}

fn source(url: String, openid: bool) -> KeySource {
    KeySource {
        url: url.into(),
        openid,
        timeout: PATIENCE,
    }
}

async fn outcome(fetcher: &Fetcher, source: KeySource) -> Result<usize, String> {
    let keys = fetcher.keys(&source, Arc::default()).await;
    keys.map(|(keys, _)| keys.len())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn keys_come_from_where_answers_lead_and_from_nothing_else() {
    let jwks = Issuer::default().jwks().to_string();
    let elsewhere = server(&[("/k", ok(&jwks))], None).await;
    let huge = format!(
        "{{\"keys\": [], \"x\": \"{}\"}}",
        "y".repeat(LONGEST_ANSWER)
    );
    let address = server(
        &[
            ("/keys?a=1", ok(&jwks)),
            ("/moved", to("/keys?a=1")),
            ("/away", to(&format!("http://{elsewhere}/k"))),
            ("/round", to("/round")),
            (
                "/nowhere",
                "HTTP/1.1 301 x\r\ncontent-length: 0\r\n\r\n".into(),
            ),
            ("/file", to("file:///etc/passwd")),
            (
                "/gone",
                "HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n".into(),
            ),
            ("/page", ok("<html>secret</html>")),
            ("/none", ok("{\"keys\": []}")),
            ("/huge", ok(&huge)),
            ("/noise", "SSH-2.0-x\r\n".into()),
            (
                "/.well-known/openid-configuration",
                ok(&format!("{{\"jwks_uri\": \"http://{elsewhere}/k\"}}")),
            ),
            ("/odd", ok("{\"jwks_uri\": 5}")),
        ],
        None,
    )
    .await;
    let fetcher = fetcher(true, None);
    let url = |path: &str| format!("http://{address}{path}");
    for (path, openid, expected) in [
        ("/keys?a=1", false, Ok(4)),
        ("/moved", false, Ok(4)),
        ("/away", false, Ok(4)),
        ("/.well-known/openid-configuration", true, Ok(4)),
        ("/round", false, Err("redirects too often")),
        ("/nowhere", false, Err("redirects nowhere")),
        (
            "/file",
            false,
            Err("redirects to what is no https or http URL"),
        ),
        ("/gone", false, Err("answered 404")),
        ("/page", false, Err("is not a JWKS")),
        ("/none", false, Err("has no usable key")),
        ("/huge", false, Err("length limit exceeded")),
        ("/noise", false, Err("broke")),
        ("/odd", true, Err("is no OpenID configuration")),
    ] {
        let made = outcome(&fetcher, source(url(path), openid)).await;
        match expected {
            Ok(_) => assert_eq!(made, expected.map_err(str::to_owned), "{path}"),
            Err(words) => {
                let made = made.unwrap_err();
                assert!(made.contains(words), "{path}: {made}");
                assert!(!made.contains("secret"), "{made}");
            }
        }
    }
}

#[tokio::test]
async fn what_only_the_pod_can_reach_is_not_asked() {
    let jwks = Issuer::default().jwks().to_string();
    let address = server(&[("/k", ok(&jwks))], None).await;
    let port = address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "169.254.169.254",
        "[fe80::1]",
        "0.0.0.0",
        "[fd00:ec2::254]",
        "2130706433",
    ] {
        let url = format!("http://{host}:{port}/k");
        let refused = outcome(&fetcher(false, None), source(url, false))
            .await
            .unwrap_err();
        let resolved =
            refused.contains("is not asked for keys") || refused.contains("cannot resolve");
        assert!(resolved, "{host}: {refused}");
    }
}

#[tokio::test]
async fn a_server_must_be_who_it_says_and_a_redirect_stays_with_tls() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let jwks = Issuer::default().jwks().to_string();
    let plain = server(&[("/k", ok(&jwks))], None).await;
    let down = format!("http://{plain}/k");
    let answers = [
        ("/k", ok(&jwks)),
        ("/down", to(&down)),
        ("/openid", ok(&format!("{{\"jwks_uri\": \"{down}\"}}"))),
    ];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let port = server(&answers, Some(acceptor)).await.port();
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), made.cert.pem()).unwrap();
    let knows = fetcher(true, Some(roots.path()));
    let url = |path: &str| format!("https://localhost:{port}{path}");
    assert_eq!(outcome(&knows, source(url("/k"), false)).await, Ok(4));
    for (fetcher, url, openid, words) in [
        (
            &fetcher(true, None),
            url("/k"),
            false,
            "invalid peer certificate",
        ),
        (
            &knows,
            format!("https://127.0.0.1:{port}/k"),
            false,
            "invalid peer certificate",
        ),
        (&knows, url("/down"), false, "from https to http"),
        (&knows, url("/openid"), true, "from https to http"),
        (
            &fetcher(true, Some(Path::new("/nowhere/at/all"))),
            url("/k"),
            false,
            "cannot use the roots",
        ),
    ] {
        let refused = outcome(fetcher, source(url, openid)).await.unwrap_err();
        assert!(refused.contains(words), "{refused}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let address = server(&[], None).await;
    let waiting = KeySource {
        timeout: Duration::from_millis(50),
        ..source(format!("http://{address}/k"), false)
    };
    let refused = outcome(&fetcher(true, None), waiting).await;
    assert_eq!(refused, Err("no answer within 50ms".to_owned()));
}

#[test]
fn hosts_are_those_of_urls() {
    for (url, host) in [
        ("https://a.b/c", "a.b"),
        ("https://a:443", "a"),
        ("http://[::1]:80/x", "::1"),
        ("http://a?b=c/d", "a"),
    ] {
        assert_eq!(host_of(url), host);
    }
}
