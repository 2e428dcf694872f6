//! Applications that accept nothing behind sidecars that answer, and what is not to be taken
//! for such a thing.

use super::*;
use crate::{connect, error::Error};
use linnet_mesh::{
    AppProtocol, InboundPort, ResourceRef,
    authorization::{Action, Match, Operation, Policies, Policy, Rule},
    destination::{Distribution, LocalityPattern},
};

fn balanced(balance: Balance) -> DestinationPolicy {
    DestinationPolicy {
        balance,
        ..DestinationPolicy::default()
    }
}

/// Whether a client that speaks first hears its own words.
async fn is_echoed(sidecar: &Sidecar) -> bool {
    let words = b"\0\0\0\x08\x04\xd2\x16\x2f";
    let mut client = sidecar.connect().await;
    client.write_all(words).await.unwrap();
    let mut heard = [0; 8];
    let read = client.read_exact(&mut heard);
    let read = tokio::time::timeout(Duration::from_secs(5), read).await;
    read.is_ok_and(|read| read.is_ok()) && heard == *words
}

/// One client that speaks first finds out that an application accepts nothing; whoever looks
/// later whether it is back is not reset for it.
#[tokio::test]
async fn one_client_that_speaks_first_is_reset_for_want_of_an_application() {
    for balance in [
        Balance::PeakEwma,
        Balance::RoundRobin,
        Balance::LeastRequest,
    ] {
        local(async {
            let sidecar = Sidecar::by(balanced(balance.clone()), None, &[]);
            let good = Callee::start(&sidecar.authority, "payment", echo().await).await;
            let bad = Callee::start(&sidecar.authority, "payment", closed()).await;
            sidecar.replace(vec![good.endpoint(), bad.endpoint()]);
            let began = Instant::now();
            let mut failed = 0;
            while began.elapsed() < Duration::from_secs(2) {
                failed += usize::from(!is_echoed(&sidecar).await);
            }
            assert_eq!(failed, 1, "{balance:?}");
            assert!(bad.connections.get() >= 2, "{balance:?}");
        })
        .await;
    }
}

/// An application that accepts a client and resets it has been reached: it stays.
#[tokio::test]
async fn an_application_that_resets_a_client_that_spoke_stays() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read_u8().await;
                crate::stream::abort(&stream);
            }
        });
        let sidecar = Sidecar::new(None, &[]);
        let callee = Callee::start(&sidecar.authority, "payment", app).await;
        sidecar.replace(vec![callee.endpoint()]);
        let mut client = sidecar.connect().await;
        client.write_all(b"\0\x01hello").await.unwrap();
        let end = client.read_u8().await.unwrap_err();
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
        let cell = sidecar.thread.directory().service(&key()).unwrap();
        assert!(!cell.states(Instant::now())[0].unavailable);
    })
    .await;
}

/// An application whose queue is full accepts nothing and refuses nothing: its sidecar gives
/// it up in time for its callers to go elsewhere, also within a timeout.
#[tokio::test]
async fn an_application_whose_queue_is_full_is_passed_over_soon() {
    local(async {
        let timeout = rule(Filters {
            timeout: Some(Duration::from_secs(4)),
            ..Filters::default()
        });
        let policy = balanced(Balance::RoundRobin);
        let sidecar = Rc::new(Sidecar::by(policy, Some(vec![timeout]), &[]));
        let app = Upstream::ok().await;
        let good = Callee::start(&sidecar.authority, "payment", app.address).await;
        let bad = Callee::start(&sidecar.authority, "payment", vanished().await).await;
        sidecar.replace(vec![good.endpoint(), bad.endpoint()]);
        let asked: Vec<_> = (0..20)
            .map(|_| {
                let sidecar = sidecar.clone();
                tokio::task::spawn_local(async move { sidecar.get("/").await.status() })
            })
            .collect();
        for one in asked {
            assert_eq!(one.await.unwrap(), 200);
        }
        assert!(bad.refused() > 0);
    })
    .await;
}

/// The same of clients that wait for their server's word.
#[tokio::test]
async fn a_silent_client_goes_past_an_application_whose_queue_is_full() {
    local(async {
        let sidecar = Rc::new(Sidecar::by(balanced(Balance::RoundRobin), None, &[]));
        let good = Callee::start(&sidecar.authority, "payment", greeting().await).await;
        let bad = Callee::start(&sidecar.authority, "payment", vanished().await).await;
        sidecar.replace(vec![good.endpoint(), bad.endpoint()]);
        let (one, two, three, four) = tokio::join!(
            is_greeted(&sidecar),
            is_greeted(&sidecar),
            is_greeted(&sidecar),
            is_greeted(&sidecar),
        );
        assert!(one && two && three && four);
    })
    .await;
}

/// However few requests its failures keep in flight.
#[tokio::test]
async fn a_fast_error_attracts_nobody_by_any_balance() {
    for balance in [
        Balance::PeakEwma,
        Balance::LeastRequest,
        Balance::RoundRobin,
    ] {
        for clients in [1, 8] {
            local(async {
                let failing = Upstream::start(|_| async { status(500) }).await;
                let serving = Upstream::start(|_| async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    status(200)
                })
                .await;
                let addresses = [failing.address, serving.address];
                let sidecar = Rc::new(Sidecar::by(balanced(balance.clone()), None, &addresses));
                let all: Vec<_> = (0..clients)
                    .map(|_| {
                        let sidecar = sidecar.clone();
                        tokio::task::spawn_local(async move {
                            for _ in 0..80 / clients {
                                sidecar.get("/").await;
                            }
                        })
                    })
                    .collect();
                for one in all {
                    one.await.unwrap();
                }
                let (failed, served) = (failing.count(), serving.count());
                assert!(
                    failed <= served + 4,
                    "{balance:?}, {clients}: {failed}, {served}"
                );
            })
            .await;
        }
    }
}

/// A relay in front of a server, that begins to pass bytes on after a while.
async fn slow_to(target: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(delay).await;
                let mut far = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

/// All of a caller's share goes to one zone, whose one endpoint is slow to shake hands once
/// (400 ms). There is another endpoint elsewhere, without a share.
#[tokio::test]
async fn a_slow_handshake_fails_nobody_where_one_place_has_the_whole_share() {
    for with_rule in [false, true] {
        for elsewhere in [false, true] {
            local(async {
                let locality = LocalityPolicy::Distribute(vec![Distribution {
                    from: LocalityPattern::parse("*").unwrap(),
                    to: vec![(LocalityPattern::parse("eu/*").unwrap(), 100)],
                }]);
                let policy = DestinationPolicy {
                    locality: with_rule.then_some(locality),
                    ..DestinationPolicy::default()
                };
                let sidecar = Rc::new(Sidecar::by(policy, None, &[]));
                let place = |region: &str| {
                    Arc::new(Locality {
                        region: region.to_owned(),
                        ..Locality::default()
                    })
                };
                let app = Upstream::ok().await;
                let callee = Callee::start(&sidecar.authority, "payment", app.address).await;
                let near = slow_to(callee.address, Duration::from_millis(400)).await;
                let near = Endpoint {
                    locality: place("eu"),
                    ..meshed(near)
                };
                let other = Upstream::ok().await;
                let far = Endpoint {
                    locality: place("us"),
                    ..Endpoint::at(other.address)
                };
                let endpoints = match elsewhere {
                    true => vec![near, far],
                    false => vec![near],
                };
                sidecar.replace(endpoints);
                let mut asked = Vec::new();
                for _ in 0..20 {
                    let sidecar = sidecar.clone();
                    asked.push(tokio::task::spawn_local(async move {
                        let answer = sidecar.get("/").await;
                        let status = answer.status().as_u16();
                        (status, text(answer).await)
                    }));
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                let mut failed = Vec::new();
                for one in asked {
                    let (status, said) = one.await.unwrap();
                    if status != 200 {
                        failed.push(format!("{status} {said}"));
                    }
                }
                assert!(failed.is_empty(), "{failed:?}");
            })
            .await;
        }
    }
}

/// The caller's own want of files is no endpoint's fault.
#[tokio::test]
async fn what_the_caller_itself_is_short_of_takes_nobody_out() {
    for (name, code) in [
        ("EMFILE", rustix::io::Errno::MFILE),
        ("ENFILE", rustix::io::Errno::NFILE),
        ("EADDRNOTAVAIL", rustix::io::Errno::ADDRNOTAVAIL),
        ("ENOBUFS", rustix::io::Errno::NOBUFS),
        ("ENOMEM", rustix::io::Errno::NOMEM),
    ] {
        let availability = crate::availability::Availability::new(Instant::now(), Arc::default());
        let address = ([127, 0, 0, 1], 9).into();
        let failed = async {
            let source = std::io::Error::from_raw_os_error(code.raw_os_error());
            Err(Error::Connect {
                address,
                source: Arc::new(source),
            })
        };
        let opened = connect::watched(&availability, true, address, failed).await;
        let error = opened.err().unwrap();
        assert!(!error.is_endpoint_s(), "{name}");
        assert!(error.reached_nobody(), "{name}");
        assert!(!availability.is_unavailable(), "{name}");
    }
}

/// What denies `/denied` at a port, whatever else is asked there.
fn denying(operation: Operation) -> Option<Arc<Policies>> {
    let policy = Policy {
        source: ResourceRef {
            kind: "AuthorizationPolicy".into(),
            namespace: "default".into(),
            name: "p".into(),
        },
        action: Action::Deny,
        dry_run: false,
        rules: vec![Rule {
            to: vec![operation],
            ..Rule::default()
        }],
    };
    Some(Arc::new(Policies::new([policy])))
}

/// What the callee's sidecar answers by itself says nothing of its application.
#[tokio::test]
async fn a_denial_does_not_bring_back_who_has_no_application() {
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let app = Upstream::ok().await;
        let good = Callee::start(&sidecar.authority, "payment", app.address).await;
        let bad = Callee::start(&sidecar.authority, "payment", closed()).await;
        for callee in [&good, &bad] {
            let update = Update::Inbound(Arc::new(Inbound {
                mtls: MtlsMode::Strict,
                authorization: denying(Operation {
                    paths: Match {
                        any: vec!["/denied".parse().unwrap()],
                        none: vec![],
                    },
                    ..Operation::default()
                }),
                ..Inbound::default()
            }));
            callee.thread.directory().apply(vec![update]);
        }
        sidecar.replace(vec![good.endpoint(), bad.endpoint()]);
        let is_out = || {
            let cell = sidecar.thread.directory().service(&key()).unwrap();
            cell.states(Instant::now()).iter().any(|s| s.unavailable)
        };
        while !is_out() {
            assert_eq!(ask(&sidecar, Speaks::Http1, "").await.status(), 200);
        }
        let (began, before) = (Instant::now(), bad.denied());
        while began.elapsed() < Duration::from_secs(2) {
            for speaks in Speaks::ALL {
                let request = Request::get("http://payment/denied").header("host", "payment");
                let request = match speaks {
                    Speaks::Grpc => request.header("content-type", "application/grpc"),
                    Speaks::Http1 | Speaks::Http2 => request,
                };
                let request = request.body(Full::new(Bytes::new())).unwrap();
                let answer = match speaks {
                    Speaks::Http1 => sidecar.send(request).await,
                    Speaks::Http2 | Speaks::Grpc => sidecar.send_http2(request).await,
                };
                assert!(!answer.headers().contains_key(UNDELIVERED), "{speaks:?}");
                assert!(answer.status() == 403 || speaks == Speaks::Grpc);
            }
            assert!(is_out());
        }
        // It was looked whether it is back.
        assert!(bad.denied() > before);
    })
    .await;
}

/// Nothing but uploads of unknown length, longer than what is kept, comes to look whether
/// somebody is back.
#[tokio::test]
async fn an_upload_that_looks_whether_somebody_is_back_is_not_lost() {
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let (_app, attempts) = half(&sidecar, Trouble::NoApplication).await;
        for _ in 0..20 {
            assert_eq!(ask(&sidecar, Speaks::Http1, "").await.status(), 200);
        }
        let before = attempts();
        let mut upload =
            b"POST / HTTP/1.1\r\nhost: payment\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..100 {
            upload.extend_from_slice(b"1000\r\n");
            upload.extend_from_slice(&[b'x'; 4096]);
            upload.extend_from_slice(b"\r\n");
        }
        upload.extend_from_slice(b"0\r\n\r\n");
        let began = Instant::now();
        let mut failed = Vec::new();
        while began.elapsed() < Duration::from_secs(9) {
            let mut client = sidecar.connect().await;
            let (mut reader, mut writer) = client.split();
            let mut said = [0; 1024];
            let (_, read) = tokio::join!(writer.write_all(&upload), reader.read(&mut said));
            let said = String::from_utf8_lossy(&said[..read.unwrap_or(0)]).into_owned();
            if !said.starts_with("HTTP/1.1 200") {
                failed.push((
                    began.elapsed().as_secs_f32(),
                    said.lines().next().unwrap_or("").to_owned(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(attempts() > before, "nobody looked");
        assert!(failed.is_empty(), "{failed:?}");
    })
    .await;
}

/// A port that is declared to carry bytes, which the caller's sidecar does not know, as of one
/// that is called by its address: HTTP comes through, and policies judge it as bytes.
#[tokio::test]
async fn http_to_a_port_declared_tcp_is_judged_as_bytes() {
    for speaks in Speaks::ALL {
        for denied in [false, true] {
            local(async {
                let sidecar = Sidecar::new(None, &[]);
                let app = Upstream::ok().await;
                let callee = Callee::start(&sidecar.authority, "payment", app.address).await;
                let methods = Match {
                    any: vec!["DELETE".parse().unwrap()],
                    none: vec![],
                };
                let policies = denying(Operation {
                    methods,
                    ..Operation::default()
                });
                let update = Update::Inbound(Arc::new(Inbound {
                    mtls: MtlsMode::Strict,
                    ports: vec![InboundPort {
                        port: app.address.port(),
                        mtls: None,
                        protocol: AppProtocol::Opaque,
                        services: vec![],
                    }],
                    authorization: policies.filter(|_| denied),
                    ..Inbound::default()
                }));
                callee.thread.directory().apply(vec![update]);
                sidecar.replace(vec![callee.endpoint()]);
                let answer = ask(&sidecar, speaks, "FLUSHALL").await;
                let passed = answer.status() == 200 && app.count() == 1;
                assert!(app.count() <= 1);
                assert_eq!(passed, !denied, "{speaks:?}");
            })
            .await;
        }
    }
}
