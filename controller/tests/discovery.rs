//! Discovery over real gRPC and mutual TLS, on loopback, from a directory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

mod support;

use linnet_discovery::{Resolution, Target, Update, proto::proxy_message::Kind};
use linnet_mesh::{MtlsMode, Service};
use std::sync::Arc;
use support::{Mesh, Proxy, host};
use tonic::Code;

/// A service with one slice a pod, as standalone writes them: all on
/// loopback, each on its own port.
const PAYMENT: &str = r"
apiVersion: v1
kind: Service
metadata: {name: payment}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata:
  name: payment-v1
  labels: {app: payment, version: v1, linnet.io/sidecar: injected}
spec: {serviceAccountName: payment}
status: {podIP: 127.0.0.1}
---
apiVersion: v1
kind: Pod
metadata:
  name: payment-v2
  labels: {app: payment, version: v2, linnet.io/sidecar: injected}
spec: {serviceAccountName: payment}
status: {podIP: 127.0.0.1}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: payment-v1, labels: {kubernetes.io/service-name: payment}}
addressType: IPv4
ports: [{name: http, port: 7001}]
endpoints: [{addresses: [127.0.0.1], targetRef: {kind: Pod, name: payment-v1}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: payment-v2, labels: {kubernetes.io/service-name: payment}}
addressType: IPv4
ports: [{name: http, port: 7002}]
endpoints: [{addresses: [127.0.0.1], targetRef: {kind: Pod, name: payment-v2}}]
";

const SUBSETS: &str = r"
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: payment}
spec:
  host: payment
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

fn split(first: u32, second: u32) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {{name: payment}}
spec:
  hosts: [payment]
  http:
  - route:
    - {{destination: {{host: payment, subset: v1}}, weight: {first}}}
    - {{destination: {{host: payment, subset: v2}}, weight: {second}}}
"
    )
}

const PAYMENT_HOST: &str = "payment.default.svc.cluster.local:80";

fn service(update: &Update) -> Option<Arc<Service>> {
    match update {
        Update::Service(service) => Some(service.clone()),
        _ => None,
    }
}

fn weights(service: &Service) -> Vec<u32> {
    let http = service.http.as_ref().unwrap();
    http.rules[0]
        .backends
        .iter()
        .map(|backend| backend.weight)
        .collect()
}

#[tokio::test]
async fn a_proxy_hears_of_what_it_asked_for_and_of_its_own_workload() {
    let routes = split(90, 10);
    let mesh = Mesh::start(&[
        ("a.yaml", PAYMENT),
        ("b.yaml", SUBSETS),
        ("c.yaml", &routes),
    ])
    .await;
    let mut proxy = mesh.proxy_of_pod("default", "payment", "payment-v1").await;
    let inbound = proxy
        .until(|update| match update {
            Update::Inbound(inbound) => Some(inbound.clone()),
            _ => None,
        })
        .await;
    assert_eq!(inbound.mtls, MtlsMode::Permissive);
    assert_eq!(inbound.workload.app, "payment");
    assert_eq!(inbound.ports[0].port, 7001);
    assert_eq!(
        inbound.ports[0].services[0].to_string(),
        "default/payment:80"
    );

    proxy
        .subscribe(&[
            host(PAYMENT_HOST),
            host("unknown.default.svc.cluster.local:80"),
        ])
        .await;
    let updates = proxy.next().await.unwrap();
    let service = updates.iter().find_map(service).unwrap();
    assert_eq!(weights(&service), [90, 10]);
    assert_eq!(service.subsets, ["v1", "v2"]);
    let endpoints = updates
        .iter()
        .find_map(|update| match update {
            Update::Endpoints(endpoints) => Some(endpoints),
            _ => None,
        })
        .unwrap();
    assert!(endpoints.replace);
    let told: Vec<_> = endpoints
        .upserts
        .iter()
        .map(|e| {
            (
                e.address.port(),
                e.subsets.join(","),
                e.identity.as_ref().unwrap().to_string(),
            )
        })
        .collect();
    let identity = "spiffe://cluster.local/ns/default/sa/payment".to_owned();
    assert_eq!(
        told,
        [
            (7001, "v1".to_owned(), identity.clone()),
            (7002, "v2".to_owned(), identity)
        ]
    );
    let resolutions: Vec<_> = updates
        .iter()
        .filter_map(|update| match update {
            Update::Resolution(target, resolution) => Some((target.to_string(), resolution)),
            _ => None,
        })
        .collect();
    for (target, resolution) in resolutions {
        let known = target == PAYMENT_HOST;
        assert_eq!(
            matches!(resolution, Resolution::Service(_)),
            known,
            "{target}"
        );
    }
}

#[tokio::test]
async fn an_edit_reaches_the_proxy_and_its_convergence_is_measured() {
    let mesh = Mesh::start(&[
        ("a.yaml", PAYMENT),
        ("b.yaml", SUBSETS),
        ("c.yaml", &split(90, 10)),
    ])
    .await;
    let mut proxy = mesh.proxy("default", "frontend").await;
    proxy.subscribe(&[host(PAYMENT_HOST)]).await;
    proxy.until(service).await;

    mesh.write("c.yaml", &split(100, 0));
    let updates = proxy.next().await.unwrap();
    assert_eq!(updates.len(), 1, "the routes and nothing else: {updates:?}");
    assert_eq!(weights(&service(&updates[0]).unwrap()), [100, 0]);
    assert_ne!(proxy.last_changed_at, 0);

    // The acknowledgement is on its way; a later question comes after it.
    proxy
        .subscribe(&[host("another.default.svc.cluster.local:80")])
        .await;
    proxy.next().await.unwrap();
    let proxies = mesh.running.handle.proxies().await.unwrap();
    assert_eq!(proxies.len(), 1);
    assert!(proxies[0].convergence_ms.is_some_and(|ms| ms > 0.0));
}

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_routes_in_force() {
    let mesh = Mesh::start(&[
        ("a.yaml", PAYMENT),
        ("b.yaml", SUBSETS),
        ("c.yaml", &split(90, 10)),
    ])
    .await;
    let mut proxy = mesh.proxy("default", "frontend").await;
    proxy.subscribe(&[host(PAYMENT_HOST)]).await;
    proxy.until(service).await;

    mesh.write("c.yaml", &split(90, 10).replace("weight: 10", "weight: -5"));
    mesh.write(
        "d.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {ports: [{port: 80}]}\n",
    );
    // The later edit shows that the earlier one has been taken.
    proxy
        .subscribe(&[host("other.default.svc.cluster.local:80")])
        .await;
    let target = host("other.default.svc.cluster.local:80");
    let expected = |update: &Update| match update {
        Update::Service(service) if service.http.is_some() => panic!("bad routes were sent"),
        Update::Resolution(asked, Resolution::Service(_)) if *asked == target => Some(()),
        _ => None,
    };
    proxy.until(expected).await;
    let verdicts = mesh.running.handle.verdicts().await.unwrap();
    let rejected: Vec<_> = verdicts
        .iter()
        .map(ToString::to_string)
        .filter(|verdict| verdict.contains("rejected"))
        .collect();
    assert_eq!(
        rejected,
        [
            "c.yaml, document 1: VirtualService default/payment: rejected; \
          spec.http[0].route[1].weight: -5 is out of range; a weight is a share from 0 upwards"
        ]
    );
}

#[tokio::test]
async fn a_route_before_its_destination_rule_is_unresolved_until_that_comes() {
    let mesh = Mesh::start(&[("a.yaml", PAYMENT), ("c.yaml", &split(90, 10))]).await;
    let mut proxy = mesh.proxy("default", "frontend").await;
    proxy.subscribe(&[host(PAYMENT_HOST)]).await;
    let before = proxy.until(service).await;
    let backends = &before.http.as_ref().unwrap().rules[0].backends;
    assert_eq!(
        backends[1]
            .unresolved
            .as_ref()
            .map(|found| found.reason.as_str()),
        Some("subset v2 of payment is not defined by any DestinationRule")
    );
    mesh.write("b.yaml", SUBSETS);
    let after = proxy.until(service).await;
    let backends = &after.http.as_ref().unwrap().rules[0].backends;
    assert!(backends.iter().all(|backend| backend.unresolved.is_none()));
}

#[tokio::test]
async fn endpoints_change_by_difference() {
    let mesh = Mesh::start(&[("a.yaml", PAYMENT)]).await;
    let mut proxy = mesh.proxy("default", "frontend").await;
    proxy.subscribe(&[host(PAYMENT_HOST)]).await;
    proxy.until(service).await;
    mesh.write("a.yaml", &PAYMENT.replace("7002", "7003"));
    let difference = proxy
        .until(|update| match update {
            Update::Endpoints(endpoints) => Some(endpoints.clone()),
            _ => None,
        })
        .await;
    assert!(!difference.replace);
    assert_eq!(difference.upserts.len(), 1);
    assert_eq!(difference.upserts[0].address.port(), 7003);
    assert_eq!(difference.removed[0].port(), 7002);
}

#[tokio::test]
async fn strict_reaches_the_workload_it_is_for() {
    let mesh = Mesh::start(&[("a.yaml", PAYMENT)]).await;
    let mut proxy = mesh.proxy_of_pod("default", "payment", "payment-v1").await;
    proxy.next().await.unwrap();
    mesh.write(
        "strict.yaml",
        include_str!("../../manifests/examples/mesh-strict.yaml"),
    );
    let inbound = proxy
        .until(|update| match update {
            Update::Inbound(inbound) => Some(inbound.clone()),
            _ => None,
        })
        .await;
    assert_eq!(inbound.mtls, MtlsMode::Strict);
    let source = inbound.mtls_source.as_ref().unwrap().to_string();
    assert_eq!(source, "PeerAuthentication istio-system/default");
}

#[tokio::test]
async fn what_is_asked_for_again_is_told_whole() {
    let mesh = Mesh::start(&[("a.yaml", PAYMENT)]).await;
    let mut proxy = mesh.proxy("default", "frontend").await;
    proxy.subscribe(&[host(PAYMENT_HOST)]).await;
    proxy.until(service).await;
    proxy.unsubscribe(&[host(PAYMENT_HOST)]).await;
    proxy.subscribe(&[host(PAYMENT_HOST)]).await;
    let mut whole = false;
    proxy
        .until(|update| {
            whole |= matches!(update, Update::Endpoints(endpoints) if endpoints.replace);
            match update {
                Update::Resolution(_, Resolution::Service(_)) => Some(()),
                _ => None,
            }
        })
        .await;
    assert!(whole);
}

#[tokio::test]
async fn a_pod_of_another_service_account_is_refused() {
    let mesh = Mesh::start(&[("a.yaml", PAYMENT)]).await;
    let mut proxy = mesh.proxy_of_pod("default", "frontend", "payment-v1").await;
    let refused = proxy.next().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("service account payment"),
        "{refused}"
    );
}

#[tokio::test]
async fn bad_first_messages_are_refused() {
    let mesh = Mesh::start(&[]).await;
    let address = mesh.running.discovery_address;
    let mut proxy = Proxy::connect(address, &mesh.authority, "default", "a")
        .await
        .unwrap();
    proxy.subscribe(&[host(PAYMENT_HOST)]).await;
    assert_eq!(
        proxy.next().await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let mut proxy = Proxy::connect(address, &mesh.authority, "default", "a")
        .await
        .unwrap();
    proxy.send(Kind::Hello(Default::default())).await;
    assert_eq!(
        proxy.next().await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn requests_beyond_their_bounds_are_refused_and_the_bound_is_named() {
    let mesh = Mesh::start(&[("payment.yaml", PAYMENT)]).await;
    let long = format!("{}:80", "a".repeat(254));
    let many: Vec<_> = (0..513).map(|n| host(&format!("a{n}:80"))).collect();
    for (targets, named) in [
        (
            vec![host(&long)],
            "Target.host: has 257 bytes or entries; at most 259",
        ),
        (
            vec![host(&format!("aaa{long}"))],
            "Target.host: has 260 bytes or entries; at most 259",
        ),
        (
            many,
            "Targets.targets: has 513 bytes or entries; at most 512",
        ),
    ] {
        let mut proxy = mesh.proxy("default", "payment").await;
        proxy.next().await.unwrap();
        proxy.subscribe(&targets).await;
        let outcome = proxy.next().await;
        if named.contains("257") {
            assert!(outcome.is_ok(), "{outcome:?}");
            continue;
        }
        let refused = outcome.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(named), "{refused}");
    }
}

#[tokio::test]
async fn another_mesh_s_certificate_is_refused() {
    let mesh = Mesh::start(&[]).await;
    let other = linnet_workload::testing::Authority::default();
    let refused = Proxy::connect(mesh.running.discovery_address, &other, "default", "a").await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_peer_that_shares_its_address_is_unknown() {
    let mesh = Mesh::start(&[("a.yaml", PAYMENT)]).await;
    let mut proxy = mesh.proxy("default", "frontend").await;
    let ip = "127.0.0.1".parse().unwrap();
    proxy.subscribe(&[Target::Peer(ip)]).await;
    let peer = proxy
        .until(|update| match update {
            Update::Peer(told, workload) if *told == ip => Some(workload.clone()),
            _ => None,
        })
        .await;
    assert_eq!(peer, None);
    mesh.write(
        "a.yaml",
        &PAYMENT.replacen("podIP: 127.0.0.1", "podIP: 10.0.0.9", 1),
    );
    let peer = proxy
        .until(|update| match update {
            Update::Peer(told, workload) if *told == ip => Some(workload.clone()),
            _ => None,
        })
        .await;
    assert_eq!(peer.unwrap().pod, "payment-v2");
}

#[tokio::test]
async fn a_drain_ends_streams_and_the_controller() {
    let mesh = Mesh::start(&[("a.yaml", PAYMENT)]).await;
    let mut proxy = mesh.proxy("default", "frontend").await;
    proxy.next().await.unwrap();
    let Mesh { running, drain, .. } = mesh;
    let drained = tokio::spawn(drain.drain());
    let end = proxy.next().await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    drop(proxy);
    drained.await.unwrap();
    running.stopped().await;
}
