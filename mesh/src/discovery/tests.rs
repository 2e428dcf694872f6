use super::*;
use crate::{
    AppProtocol, InboundPort, MtlsMode, ResourceRef,
    route::{Backend, HeaderMatch, HttpRoutes, HttpRule, RequestMatch, StringMatch, WholeRegex},
};

fn key() -> ServicePort {
    ServicePort {
        namespace: "default".into(),
        name: "payment".into(),
        port: 80,
    }
}

fn endpoint() -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: "[fd00::1]:8080".parse().unwrap(),
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
        ..RequestMatch::default()
    };
    Service {
        key: key(),
        hostname: "payment.default.svc.cluster.local".into(),
        protocol: AppProtocol::Http2,
        http: Some(Arc::new(HttpRoutes {
            source: ResourceRef {
                kind: "VirtualService".into(),
                namespace: "default".into(),
                name: "payment".into(),
            },
            rules: vec![HttpRule {
                name: Some("canary".into()),
                matches: vec![entry],
                backends: vec![Backend {
                    service: key(),
                    subset: Some("v1".into()),
                    weight: 90,
                    unresolved: Some("subset v1 is not defined".into()),
                }],
            }],
        })),
        subsets: vec!["v1".into()],
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
