use super::*;
use linnet_mesh::{
    AppProtocol, InboundPort, MtlsMode, ResourceRef,
    access_log::AccessLogs,
    destination::Locality,
    route::{
        Abort, AbortStatus, Answer, Backend, ConnectionMatch, Cors, Delay, DirectResponse, Fault,
        Filters, HeaderEdits, HeaderFilters, HeaderMatch, HttpRoutes, HttpRule, Mirror,
        OriginMatch, PathRewrite, QueryMatch, Redirect, RedirectPath, RequestMatch, RetryPolicy,
        Rewrite, Share, StringMatch, TcpRoutes, TcpRule, UnmatchedPreflights, Unresolved,
        WholeRegex,
    },
};
use std::collections::BTreeMap;

fn key() -> ServicePort {
    ServicePort {
        namespace: "default".into(),
        name: "payment".into(),
        port: 80,
    }
}

fn endpoint() -> Arc<Endpoint> {
    Arc::new(Endpoint {
        identity: Some(
            "spiffe://cluster.local/ns/default/sa/payment"
                .parse()
                .unwrap(),
        ),
        workload: Arc::new(Workload {
            name: "payment-v1".into(),
            namespace: "default".into(),
            ..Workload::default()
        }),
        subsets: vec!["v1".into()],
        terminating: true,
        mtls_only: true,
        locality: Arc::new(Locality {
            region: "eu".into(),
            zone: "a".into(),
            subzone: String::new(),
        }),
        weight: 3,
        labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
        ..Endpoint::at("[fd00::1]:8080".parse().unwrap())
    })
}

fn headers(name: &'static str) -> HeaderFilters {
    let name = http::HeaderName::from_static(name);
    let value = http::HeaderValue::from_bytes(b"caf\xe9").unwrap();
    let edits = HeaderEdits {
        remove: vec![name.clone()],
        set: vec![(name.clone(), value.clone())],
        add: vec![(name, value)],
    };
    HeaderFilters {
        request: edits.clone(),
        response: edits,
    }
}

fn filters() -> Filters {
    Filters {
        answer: Some(Answer::Redirect(Redirect {
            status: http::StatusCode::FOUND,
            scheme: Some("https".into()),
            authority: Some("b".into()),
            port: Some(8443),
            path: Some(RedirectPath::Prefix("/new".into())),
        })),
        fault: Some(Fault {
            delay: Some(Delay {
                share: Share::percent(1.5),
                duration: std::time::Duration::from_millis(7),
            }),
            abort: Some(Abort {
                share: Share::ALL,
                status: AbortStatus::Grpc(14),
            }),
        }),
        rewrite: Some(Rewrite {
            path: Some(PathRewrite::regex("a(b)", r"\1").unwrap()),
            authority: Some("ratings:80".parse().unwrap()),
        }),
        headers: headers("x-rule"),
        timeout: Some(std::time::Duration::from_millis(1500)),
        retry: Some(RetryPolicy {
            statuses: vec![418],
            per_try_timeout: Some(std::time::Duration::from_millis(9)),
            ..RetryPolicy::DEFAULT
        }),
        mirrors: vec![Mirror {
            backend: Backend {
                service: key(),
                subset: None,
                weight: 1,
                unresolved: None,
                headers: HeaderFilters::default(),
            },
            share: Share::percent(12.5),
        }],
        cors: Some(Cors {
            origins: vec![
                OriginMatch::Text(StringMatch::Prefix("https://".into())),
                OriginMatch::Around("https://".into(), ".example.com".into()),
            ],
            methods: Some(http::HeaderValue::from_static("GET")),
            headers: Some(http::HeaderValue::from_static("x-a,x-b")),
            expose: Some(http::HeaderValue::from_static("*")),
            max_age: Some(0),
            credentials: true,
            unmatched: UnmatchedPreflights::Answer,
        }),
    }
}

#[test]
fn each_kind_of_filter_arrives() {
    let direct = Filters {
        answer: Some(Answer::Direct(DirectResponse {
            status: http::StatusCode::IM_A_TEAPOT,
            body: b"short and stout".to_vec(),
        })),
        rewrite: Some(Rewrite {
            path: Some(PathRewrite::Matched("/v2".into())),
            authority: None,
        }),
        fault: Some(Fault {
            delay: None,
            abort: Some(Abort {
                share: Share::percent(0.0),
                status: AbortStatus::Http(http::StatusCode::BAD_GATEWAY),
            }),
        }),
        cors: Some(Cors {
            origins: vec![OriginMatch::Any],
            ..Cors::default()
        }),
        ..Filters::default()
    };
    let full = Filters {
        rewrite: Some(Rewrite {
            path: Some(PathRewrite::Full("/v2".into())),
            authority: None,
        }),
        ..Filters::default()
    };
    for filters in [filters(), direct, full, Filters::default()] {
        let message = proto::Filters::from(&filters);
        assert_eq!(Filters::try_from(message).unwrap(), filters);
    }
}

fn resource(name: &str) -> Arc<ResourceRef> {
    Arc::new(ResourceRef {
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: name.into(),
    })
}

fn service() -> Service {
    let entry = RequestMatch {
        path: Some(StringMatch::Regex(WholeRegex::new("/a.*").unwrap())),
        method: Some(StringMatch::Exact("GET".into())),
        headers: vec![HeaderMatch {
            name: http::HeaderName::from_static("x-user"),
            value: Some(StringMatch::Prefix("vip".into())),
            negate: true,
        }],
        ignore_path_case: true,
        query: vec![
            ("user".into(), QueryMatch::Present),
            (
                "kind".into(),
                QueryMatch::Value(StringMatch::Exact("a".into())),
            ),
        ],
        source_labels: [("app".to_owned(), "checkout".to_owned())].into(),
        ..RequestMatch::default()
    };
    let backend = Backend {
        service: key(),
        subset: None,
        weight: 1,
        unresolved: None,
        headers: HeaderFilters::default(),
    };
    Service {
        tcp: Some(Arc::new(TcpRoutes {
            rules: vec![TcpRule {
                place: "tls[1]".to_owned(),
                source: resource("payment"),
                matches: vec![ConnectionMatch {
                    server_names: vec!["*.example.com".into()],
                    subnets: vec!["10.0.0.0/8".parse().unwrap()],
                    source_labels: [("app".to_owned(), "a".to_owned())].into(),
                }],
                backends: vec![backend],
            }],
        })),
        key: key(),
        hostname: "payment.default.svc.cluster.local".into(),
        protocol: AppProtocol::Http2,
        http: Some(Arc::new(HttpRoutes {
            sources: vec![resource("oldest"), resource("payment")],
            rules: vec![HttpRule {
                source: resource("payment"),
                position: 7,
                name: Some("canary".into()),
                matches: vec![entry],
                backends: vec![Backend {
                    service: key(),
                    subset: Some("v1".into()),
                    weight: 90,
                    unresolved: Some(Unresolved {
                        status: http::StatusCode::INTERNAL_SERVER_ERROR,
                        reason: "subset v1 is not defined".into(),
                    }),
                    headers: headers("x-backend"),
                }],
                filters: filters(),
            }],
        })),
        subsets: vec!["v1".into()],
        destination: Some(Arc::default()),
    }
}

#[test]
fn what_is_sent_is_what_arrives() {
    let updates = [
        Update::Resolution(
            Target::Address("10.0.0.1:80".parse().unwrap()),
            Resolution::Service(key()),
        ),
        Update::Resolution(
            Target::Host("a.b:80".into()),
            Resolution::Endpoint(endpoint()),
        ),
        Update::Resolution(
            Target::Address("[::1]:80".parse().unwrap()),
            Resolution::External,
        ),
        Update::Service(Arc::new(service())),
        Update::ServiceRemoved(key()),
        Update::Endpoints(EndpointsUpdate {
            service: key(),
            replace: true,
            upserts: vec![endpoint()],
            removed: vec!["10.0.0.2:80".parse().unwrap()],
        }),
        Update::Inbound(Arc::new(Inbound {
            mtls: MtlsMode::Strict,
            ports: vec![InboundPort {
                port: 8080,
                mtls: Some(MtlsMode::Disable),
                protocol: AppProtocol::Opaque,
                services: vec![key()],
            }],
            locality: (*endpoint().locality).clone(),
            labels: endpoint().labels.clone(),
            access_log: AccessLogs {
                server: "all;sample=0.25;format=text".parse().unwrap(),
                client: "all;filter=response.code >= 500".parse().unwrap(),
            },
            ..Inbound::default()
        })),
        Update::Peer("10.0.0.9".parse().unwrap(), None),
    ];
    for update in updates {
        let message = proto::Update::from(&update);
        assert_eq!(Update::try_from(message).unwrap(), update);
    }
}

#[test]
fn a_bad_field_is_named() {
    let mut message = proto::Endpoint::from(endpoint().as_ref());
    message.identity = "spiffe://other".into();
    assert_eq!(
        Endpoint::try_from(message).unwrap_err().field,
        "endpoint.identity"
    );
    let message = proto::ServicePort {
        port: 70_000,
        ..proto::ServicePort::default()
    };
    assert_eq!(
        ServicePort::try_from(message).unwrap_err().field,
        "service.port"
    );
    let update = proto::Update { kind: None };
    assert_eq!(Update::try_from(update).unwrap_err().field, "update");
}
