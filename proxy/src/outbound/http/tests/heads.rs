//! What rules see of a request's target, cookies and scheme, over both versions of HTTP.

use super::support::{Sidecar, get, local, rule};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header::COOKIE};
use http_body_util::Full;
use linnet_mesh::route::{
    Answer, DirectResponse, Filters, HeaderMatch, HttpRule, QueryMatch, Redirect, RequestMatch,
    StringMatch, WholeRegex,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn answers(status: u16, condition: RequestMatch) -> HttpRule {
    let direct = DirectResponse {
        status: StatusCode::from_u16(status).unwrap(),
        body: Vec::new(),
    };
    let mut rule = rule(Filters {
        answer: Some(Answer::Direct(direct)),
        ..Filters::default()
    });
    rule.matches = vec![condition];
    rule
}

fn exact(text: &str) -> Option<StringMatch> {
    Some(StringMatch::Exact(text.into()))
}

/// The first line of the answer to a request, and its `Location`.
async fn asked(sidecar: &Sidecar, target: &[u8]) -> (String, Option<String>) {
    let mut stream = sidecar.connect().await;
    let end = b" HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    let request = [b"GET ", target, end].concat();
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let mut lines = answer.lines();
    let first = lines.next().unwrap().to_owned();
    let location = lines.find_map(|line| line.strip_prefix("location: "));
    (first, location.map(str::to_owned))
}

#[tokio::test]
async fn rules_see_a_target_as_it_was_sent() {
    local(async {
        let path = answers(
            211,
            RequestMatch {
                path: exact("/<a>`"),
                ..RequestMatch::default()
            },
        );
        let query = answers(
            212,
            RequestMatch {
                query: vec![(
                    "q".into(),
                    QueryMatch::Value(exact(r#"up{job="x"}"#).unwrap()),
                )],
                ..RequestMatch::default()
            },
        );
        let mut elsewhere = rule(Filters {
            answer: Some(Answer::Redirect(Redirect {
                status: StatusCode::FOUND,
                scheme: None,
                authority: Some("other".into()),
                port: None,
                path: None,
            })),
            ..Filters::default()
        });
        elsewhere.matches = vec![RequestMatch {
            path: Some(StringMatch::Prefix("/caf".into())),
            ..RequestMatch::default()
        }];
        let sidecar = Sidecar::new(Some(vec![path, query, elsewhere]), &[]);
        for (target, status) in [
            (&b"/<a>`"[..], 211),
            (b"/<a>`?b", 211),
            (b"/?q=up{job=\"x\"}", 212),
            (b"/?q=up{job=%22x%22}", 404),
        ] {
            let (first, _) = asked(&sidecar, target).await;
            assert_eq!(first.get(9..12), Some(&*status.to_string()), "{target:?}");
        }
        let (_, location) = asked(&sidecar, b"/caf\xe9/<a>?\"").await;
        assert_eq!(location.as_deref(), Some("http://other/caf%E9/%3Ca%3E?%22"));
    })
    .await;
}

#[tokio::test]
async fn a_cookie_in_several_fields_is_matched_as_one() {
    local(async {
        let cookie = |value| RequestMatch {
            headers: vec![HeaderMatch {
                name: COOKIE,
                value: Some(value),
                negate: false,
            }],
            ..RequestMatch::default()
        };
        let usual = WholeRegex::new("^(.*?; )?(session=7)(;.*)?$").unwrap();
        let rules = vec![
            answers(211, cookie(exact("a=1; b=2").unwrap())),
            answers(212, cookie(StringMatch::Regex(usual))),
        ];
        let sidecar = Sidecar::new(Some(rules), &[]);
        for (cookies, status) in [
            (&["a=1", "b=2"][..], 211),
            (&["a=1; b=2"], 211),
            (&["a=1", "session=7", "b=2"], 212),
            (&["session=7"], 212),
            (&["b=2", "a=1"], 404),
        ] {
            for uri in ["/", "http://payment/"] {
                let mut request = Request::get(uri);
                for cookie in cookies {
                    request = request.header(COOKIE, *cookie);
                }
                let response = match uri {
                    "/" => {
                        let request = request.header("host", "payment");
                        sidecar.send(request.body(Full::default()).unwrap()).await
                    }
                    _ => {
                        sidecar
                            .send_http2(request.body(Full::default()).unwrap())
                            .await
                    }
                };
                assert_eq!(response.status(), status, "{cookies:?} {uri}");
            }
        }
    })
    .await;
}

/// The pod's own application ends TLS, or hears of who did, and says so.
#[tokio::test]
async fn the_application_s_word_for_the_scheme_is_the_scheme() {
    local(async {
        let secure = answers(
            211,
            RequestMatch {
                path: exact("/match"),
                scheme: exact("https"),
                ..RequestMatch::default()
            },
        );
        let sidecar = Sidecar::new(Some(vec![secure, redirect()]), &[]);
        let name = HeaderName::from_static("x-forwarded-proto");
        for (says, scheme) in [
            (None, "http"),
            (Some("https"), "https"),
            (Some("HTTPS"), "https"),
            (Some("https, http"), "https"),
            (Some("http"), "http"),
            (Some("other"), "http"),
        ] {
            for http2 in [false, true] {
                let ask = |path: &str| {
                    let mut request: Request<Full<Bytes>> = get(path);
                    if http2 {
                        request.headers_mut().remove("host");
                        *request.uri_mut() = format!("http://payment{path}").parse().unwrap();
                    }
                    if let Some(says) = says {
                        let value = HeaderValue::from_static(says);
                        request.headers_mut().insert(&name, value);
                    }
                    async {
                        match http2 {
                            true => sidecar.send_http2(request).await,
                            false => sidecar.send(request).await,
                        }
                    }
                };
                let status = ask("/match").await.status().as_u16();
                let expected = if scheme == "https" { 211 } else { 302 };
                assert_eq!(status, expected, "{says:?} {http2}");
                let redirected = ask("/a").await;
                let location = redirected.headers()["location"]
                    .to_str()
                    .unwrap()
                    .to_owned();
                assert_eq!(
                    location,
                    format!("{scheme}://payment/a"),
                    "{says:?} {http2}"
                );
            }
        }
    })
    .await;
}

/// A redirect to where the request went.
fn redirect() -> HttpRule {
    rule(Filters {
        answer: Some(Answer::Redirect(Redirect {
            status: StatusCode::FOUND,
            scheme: None,
            authority: None,
            port: None,
            path: None,
        })),
        ..Filters::default()
    })
}

/// A target that names its scheme is sent on without it, and is the same to rules.
#[tokio::test]
async fn the_scheme_of_an_absolute_target_is_the_request_s() {
    local(async {
        let sidecar = Sidecar::new(Some(vec![redirect()]), &[]);
        for target in ["https://payment/a", "http://payment/a"] {
            let (_, location) = asked(&sidecar, target.as_bytes()).await;
            assert_eq!(location.as_deref(), Some(target));
        }
    })
    .await;
}
