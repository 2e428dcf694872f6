use super::*;
use crate::{
    compile::Status,
    manifest::parse_yaml,
    object::{Kind, ObjectRef},
};
use linnet_discovery::{Resolution, Target};
use linnet_mesh::{AppProtocol, MtlsMode, ServicePort, SpiffeId, destination::LocalityPolicy};

pub(super) fn index(yaml: &str) -> Index {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let mut index = Index::new(context, TrustDomain::default());
    apply(&mut index, yaml);
    index
}

pub(super) fn apply(index: &mut Index, yaml: &str) {
    for object in parse_yaml(yaml, "test").unwrap() {
        index.apply(Change::Apply(object));
    }
}

fn delete(index: &mut Index, kind: Kind, namespace: &str, name: &str) {
    let name = Name::new(namespace, name);
    index.apply(Change::Delete(ObjectRef { kind, name }));
}

fn payment() -> ServicePort {
    ServicePort {
        namespace: "default".into(),
        name: "payment".into(),
        port: 80,
    }
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "default", account).unwrap()
}

const CLUSTER: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: payment}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: http, port: 80}, {name: grpc, port: 90, appProtocol: grpc}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: payment-1
  labels: {app: payment, version: v1, linnet.io/sidecar: injected}
  annotations: {linnet.io/skip-inbound-ports: "9999"}
spec: {serviceAccountName: pay}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: plain-1, labels: {app: payment}}
status: {podIP: 10.0.0.2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: payment-a, labels: {kubernetes.io/service-name: payment}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: grpc, port: 9090}]
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: payment-1}}
- {addresses: [10.0.0.2], targetRef: {kind: Pod, name: plain-1}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless-a, labels: {kubernetes.io/service-name: headless}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: payment-1}}]
"#;

fn identities(index: &Index) -> Vec<(String, Option<String>)> {
    index
        .endpoints(&payment(), "default")
        .values()
        .map(|endpoint| {
            (
                endpoint.address.to_string(),
                endpoint.identity.as_ref().map(ToString::to_string),
            )
        })
        .collect()
}

const PAY: &str = "spiffe://cluster.local/ns/default/sa/pay";

#[test]
fn an_endpoint_has_an_identity_where_a_sidecar_answers() {
    let mut index = index(CLUSTER);
    let expected = |identity: Option<&str>| {
        vec![
            ("10.0.0.1:8080".to_owned(), identity.map(str::to_owned)),
            ("10.0.0.2:8080".to_owned(), None),
        ]
    };
    assert_eq!(identities(&index), expected(Some(PAY)));
    // DISABLE on its port takes it away.
    apply(
        &mut index,
        r"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ports}
spec:
  selector: {matchLabels: {app: payment}}
  mtls: {mode: STRICT}
  portLevelMtls: {8080: {mode: DISABLE}}
",
    );
    assert_eq!(identities(&index), expected(None));
    let inbound = index.inbound(&Name::new("default", "payment-1"), &id("pay"));
    assert_eq!(inbound.mode(8080), MtlsMode::Disable);
    assert_eq!(inbound.mode(9090), MtlsMode::Strict);
}

#[test]
fn inbound_ports_name_the_services_that_lead_to_them() {
    let index = index(CLUSTER);
    let inbound = index.inbound(&Name::new("default", "payment-1"), &id("pay"));
    let ports: Vec<_> = inbound
        .ports
        .iter()
        .map(|port| {
            let services: Vec<_> = port.services.iter().map(ToString::to_string).collect();
            (port.port, port.protocol, services.join(" "))
        })
        .collect();
    assert_eq!(
        ports,
        [
            (
                8080,
                linnet_mesh::AppProtocol::Http1,
                "default/payment:80 default/headless:8080".to_owned()
            ),
            (
                9090,
                linnet_mesh::AppProtocol::Http2,
                "default/payment:90".to_owned()
            ),
        ]
    );
    assert_eq!(inbound.workload.canonical_revision, "v1");
}

fn policy(name: &str, namespace: &str, year: u32, mode: &str, selector: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z'}}\n\
         spec: {{mtls: {{mode: {mode}}}{selector}}}\n"
    )
}

const MESH_POLICY: &str = include_str!("../../../manifests/examples/meshpolicy.yaml");
const SELECTOR: &str = ", selector: {matchLabels: {app: payment}}";

#[test]
fn the_narrowest_mode_that_says_something_counts() {
    use MtlsMode::{Disable, Permissive, Strict};
    let cases: [(&str, String, MtlsMode); 10] = [
        ("nothing", String::new(), Permissive),
        ("MeshPolicy", MESH_POLICY.to_owned(), Strict),
        (
            "mesh-wide PeerAuthentication before MeshPolicy",
            format!(
                "{MESH_POLICY}{}",
                policy("a", "istio-system", 2020, "PERMISSIVE", "")
            ),
            Permissive,
        ),
        (
            "an UNSET one inherits from MeshPolicy",
            format!(
                "{MESH_POLICY}{}",
                policy("a", "istio-system", 2020, "UNSET", "")
            ),
            Strict,
        ),
        (
            "Linnet's own root",
            policy("a", "linnet-system", 2020, "STRICT", ""),
            Strict,
        ),
        (
            "the older root",
            policy("a", "linnet-system", 2021, "STRICT", "")
                + &policy("a", "istio-system", 2020, "DISABLE", ""),
            Disable,
        ),
        (
            "namespace before mesh",
            policy("a", "istio-system", 2020, "STRICT", "")
                + &policy("a", "default", 2020, "DISABLE", ""),
            Disable,
        ),
        (
            "workload before namespace",
            policy("a", "default", 2020, "DISABLE", "")
                + &policy("b", "default", 2021, "STRICT", SELECTOR),
            Strict,
        ),
        (
            "the oldest of a namespace",
            policy("a", "default", 2021, "DISABLE", "")
                + &policy("z", "default", 2020, "STRICT", ""),
            Strict,
        ),
        (
            "an UNSET workload inherits from its namespace",
            policy("a", "default", 2020, "STRICT", "")
                + &policy("b", "default", 2021, "UNSET", SELECTOR),
            Strict,
        ),
    ];
    for (case, policies, expected) in cases {
        let mut index = index(CLUSTER);
        apply(&mut index, &policies);
        let inbound = index.inbound(&Name::new("default", "payment-1"), &id("pay"));
        assert_eq!(inbound.mtls, expected, "{case}");
        assert_eq!(inbound.mtls_source.is_some(), case != "nothing", "{case}");
    }
}

#[test]
fn policies_elsewhere_are_for_elsewhere() {
    let mut index = index(CLUSTER);
    apply(&mut index, &policy("a", "shop", 2020, "STRICT", ""));
    apply(
        &mut index,
        &policy("b", "istio-system", 2020, "STRICT", SELECTOR),
    );
    let inbound = index.inbound(&Name::new("default", "payment-1"), &id("pay"));
    assert_eq!(inbound.mtls, MtlsMode::Permissive);
}

#[test]
fn destinations_resolve_to_what_they_are() {
    let index = index(CLUSTER);
    let resolve = |target: Target| index.resolve(&target, "default");
    let address = |text: &str| Target::Address(text.parse().unwrap());
    assert_eq!(
        resolve(address("10.96.0.10:80")),
        Resolution::Service(payment())
    );
    assert_eq!(
        resolve(address("[::ffff:10.96.0.10]:80")),
        Resolution::Service(payment())
    );
    assert_eq!(resolve(address("10.96.0.10:81")), Resolution::External);
    assert_eq!(resolve(address("93.184.216.34:443")), Resolution::External);
    for (text, identity) in [
        ("10.0.0.1:8080", Some(PAY)),
        // Ports that never reach the sidecar are called in plaintext.
        ("10.0.0.1:9999", None),
        ("10.0.0.1:15020", None),
        ("10.0.0.2:8080", None),
    ] {
        match resolve(address(text)) {
            Resolution::Endpoint(endpoint) => {
                assert_eq!(
                    endpoint.identity.as_ref().map(SpiffeId::as_str),
                    identity,
                    "{text}"
                );
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    for (text, known) in [
        ("payment:80", true),
        ("payment.default.svc.cluster.local:80", true),
        ("payment.default.svc.cluster.local:81", false),
        ("payment.shop.svc.cluster.local:80", false),
        ("www.example.com:80", false),
        ("payment", false),
    ] {
        let resolution = resolve(Target::Host(text.into()));
        assert_eq!(resolution != Resolution::External, known, "{text}");
    }
    assert_eq!(
        index.peer("10.0.0.1".parse().unwrap()).unwrap().pod,
        "payment-1"
    );
    assert_eq!(index.peer("10.0.0.7".parse().unwrap()), None);
}

#[test]
fn a_terminating_endpoint_stays_while_it_answers() {
    let mut index = index(CLUSTER);
    let slice = |conditions: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: payment-a, labels: {{kubernetes.io/service-name: payment}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
             endpoints: [{{addresses: [10.0.0.1], conditions: {{{conditions}}}, targetRef: {{kind: Pod, name: payment-1}}}}]\n"
        )
    };
    for (conditions, expected) in [
        ("ready: true", vec![false]),
        ("ready: false, serving: true, terminating: true", vec![true]),
        ("ready: false, serving: false, terminating: true", vec![]),
        ("ready: false, serving: true, terminating: false", vec![]),
    ] {
        apply(&mut index, &slice(conditions));
        let endpoints = index.endpoints(&payment(), "default");
        let terminating: Vec<_> = endpoints.values().map(|e| e.terminating).collect();
        assert_eq!(terminating, expected, "{conditions}");
    }
}

#[test]
fn a_dual_stack_pod_is_drawn_once() {
    let mut index = index(CLUSTER);
    apply(
        &mut index,
        r"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: payment-v6, labels: {kubernetes.io/service-name: payment}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ['fd00::1'], targetRef: {kind: Pod, name: payment-1}}]
",
    );
    let endpoints = index.endpoints(&payment(), "default");
    assert!(endpoints.keys().all(std::net::SocketAddr::is_ipv4));
    delete(&mut index, Kind::EndpointSlice, "default", "payment-a");
    assert_eq!(index.endpoints(&payment(), "default").len(), 1);
}

#[test]
fn a_change_touches_what_hangs_on_it() {
    let mut index = index(CLUSTER);
    apply(
        &mut index,
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front}
spec: {hosts: [front], http: [{route: [{destination: {host: payment}}]}]}
",
    );
    index.take_affected();
    let touched = |index: &mut Index| {
        let affected = index.take_affected();
        let mut services: Vec<_> = affected
            .services
            .iter()
            .map(|name| name.name.to_string())
            .collect();
        services.sort();
        services.join(" ")
    };
    // The same again is no change.
    apply(&mut index, CLUSTER);
    assert!(
        index
            .take_affected()
            .services
            .iter()
            .all(|name| &*name.name == "front")
    );
    // A pod touches the services it is an endpoint of.
    apply(
        &mut index,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: plain-1, labels: {app: other}}\nstatus: {podIP: 10.0.0.2}\n",
    );
    assert_eq!(touched(&mut index), "payment");
    // Subsets of a service touch the routes that lead to it.
    apply(
        &mut index,
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: payment}\n",
    );
    assert_eq!(touched(&mut index), "front payment");
    // So does its end.
    delete(&mut index, Kind::Service, "default", "payment");
    assert_eq!(touched(&mut index), "front headless payment");
    // A namespace's mode touches its pods and what they serve.
    apply(&mut index, &policy("a", "default", 2020, "STRICT", ""));
    let affected = index.take_affected();
    assert!(affected.pod(&Name::new("default", "unknown-yet")));
    assert!(!affected.pod(&Name::new("shop", "other")));
    assert!(
        affected
            .services
            .contains(&Name::new("default", "headless"))
    );
}

#[test]
fn an_invalid_edit_keeps_the_last_good_version_until_a_good_one_comes() {
    let rule = |weight: i32| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: p}}\n\
             spec: {{hosts: [payment], http: [{{name: 'w{weight}', route: [{{destination: {{host: payment}}, weight: {weight}}}]}}]}}\n"
        )
    };
    let name = |index: &Index| {
        let service = index.service(&payment(), "default").unwrap();
        service
            .http
            .as_ref()
            .map(|http| http.rules[0].name.clone().unwrap())
    };
    let mut index = index(CLUSTER);
    apply(&mut index, &rule(-1));
    assert_eq!(name(&index), None, "never good, never in force");
    apply(&mut index, &rule(5));
    assert_eq!(name(&index).as_deref(), Some("w5"));
    apply(&mut index, &rule(-2));
    assert_eq!(name(&index).as_deref(), Some("w5"));
    assert_eq!(index.verdicts()[0].status, crate::compile::Status::Rejected);
    apply(&mut index, &rule(6));
    assert_eq!(name(&index).as_deref(), Some("w6"));
    assert_eq!(index.verdicts()[0].status, crate::compile::Status::Accepted);
    apply(&mut index, &rule(-3));
    delete(&mut index, Kind::VirtualService, "default", "p");
    assert_eq!(name(&index), None);
    assert!(index.verdicts().is_empty());
}

#[test]
fn conflicting_policies_are_told() {
    let mut index = index(MESH_POLICY);
    apply(&mut index, &policy("old", "default", 2020, "STRICT", ""));
    apply(&mut index, &policy("new", "default", 2021, "DISABLE", ""));
    apply(
        &mut index,
        &policy("root", "istio-system", 2020, "PERMISSIVE", ""),
    );
    let conflicts: Vec<_> = index
        .verdicts()
        .iter()
        .map(ToString::to_string)
        .filter(|verdict| verdict.contains("conflicting"))
        .collect();
    assert_eq!(
        conflicts,
        [
            "test, document 1: PeerAuthentication default/new: conflicting; spec: PeerAuthentication default/old goes first: its mode counts",
            "test, document 1: MeshPolicy default: conflicting; spec: PeerAuthentication istio-system/root goes first: its mode counts",
        ]
    );
    // Two that say the same do not conflict.
    apply(
        &mut index,
        &policy("root", "istio-system", 2020, "STRICT", ""),
    );
    let mesh = index.verdicts().pop().unwrap();
    assert_eq!(
        mesh.to_string(),
        "test, document 1: MeshPolicy default: accepted"
    );
}

#[test]
fn a_pod_that_has_finished_gives_its_address_back() {
    let mut index = index(CLUSTER);
    apply(
        &mut index,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: payment-1}\nstatus: {phase: Succeeded, podIP: 10.0.0.1}\n",
    );
    apply(
        &mut index,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: next}\nstatus: {podIP: 10.0.0.1}\n",
    );
    assert_eq!(index.peer("10.0.0.1".parse().unwrap()).unwrap().pod, "next");
}

#[test]
fn an_endpoint_waits_for_its_pod_where_all_pods_are_told() {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let mut index = Index::new(context, TrustDomain::default()).with_all_pods();
    apply(&mut index, CLUSTER);
    assert_eq!(index.endpoints(&payment(), "default").len(), 2);
    delete(&mut index, Kind::Pod, "default", "payment-1");
    assert!(
        index
            .take_affected()
            .services
            .contains(&Name::new("default", "payment"))
    );
    assert_eq!(index.endpoints(&payment(), "default").len(), 1);
}

const PLACES: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: n1
  labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-a}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {clusterIP: 10.96.0.20, ports: [{port: 80}], trafficDistribution: PreferClose}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-1, labels: {tier: web}}
spec: {nodeName: n1}
status: {podIP: 10.0.1.1}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-2, labels: {istio-locality: us.us-b.rack7}}
spec: {nodeName: n1}
status: {podIP: 10.0.1.2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-x, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{port: 80}]
endpoints:
- {addresses: [10.0.1.1], targetRef: {kind: Pod, name: shop-1}, zone: eu-a}
- {addresses: [10.0.1.2], targetRef: {kind: Pod, name: shop-2}, zone: eu-a}
- {addresses: [10.0.1.3], zone: eu-c}
"#;

#[test]
fn endpoints_are_where_their_nodes_are() {
    let shop = ServicePort {
        name: "shop".into(),
        ..payment()
    };
    let mut index = index(PLACES);
    let places = |index: &Index| -> Vec<String> {
        let endpoints = index.endpoints(&shop, "default");
        endpoints.values().map(|e| e.locality.to_string()).collect()
    };
    assert_eq!(places(&index), ["eu/eu-a/", "us/us-b/rack7", "/eu-c/"]);
    let own = |index: &Index| index.inbound(&Name::new("default", "shop-1"), &id("default"));
    assert_eq!(own(&index).locality.to_string(), "eu/eu-a/");
    assert_eq!(own(&index).labels["tier"], "web");

    index.take_affected();
    let node = |zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{topology.kubernetes.io/zone: {zone}}}}}\nstatus: {{phase: Running}}\n"
        )
    };
    apply(&mut index, &node("eu-b"));
    let affected = index.take_affected();
    assert!(affected.services.contains(&Name::new("default", "shop")));
    assert!(affected.pods.contains(&Name::new("default", "shop-1")));
    assert_eq!(places(&index)[0], "/eu-b/");
    // A heartbeat changes nothing.
    apply(&mut index, &node("eu-b"));
    assert!(index.take_affected().is_empty());
    delete(&mut index, Kind::Node, "", "n1");
    // What the slice says is left.
    assert_eq!(places(&index)[0], "/eu-a/");
}

#[test]
fn a_service_that_prefers_close_says_so() {
    let index = index(&format!("{CLUSTER}---{PLACES}"));
    let locality = |name: &str| {
        let key = ServicePort {
            name: name.into(),
            ..payment()
        };
        let destination = index.service(&key, "default").unwrap().destination?;
        destination.policy.locality.clone()
    };
    assert!(locality("shop").is_some());
    assert_eq!(locality("payment"), None);
}

#[test]
fn a_rule_that_makes_nothing_of_places_comes_before_what_the_service_prefers() {
    let mut index = index(&format!("{CLUSTER}---{PLACES}"));
    let shop = ServicePort {
        name: "shop".into(),
        ..payment()
    };
    let rule = |policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: shop}}\n\
             spec: {{host: shop, trafficPolicy: {policy}}}\n"
        )
    };
    for (policy, wanted) in [
        (
            "{loadBalancer: {localityLbSetting: {enabled: false}}}",
            false,
        ),
        ("{loadBalancer: {simple: RANDOM}}", true),
        ("{outlierDetection: {consecutive5xxErrors: 3}}", true),
    ] {
        apply(&mut index, &rule(policy));
        let service = index.service(&shop, "default").unwrap();
        let locality = service.destination.unwrap().policy.locality.clone();
        let near = matches!(locality, Some(LocalityPolicy::FailoverPriority(_)));
        assert_eq!(near, wanted, "{policy}: {locality:?}");
        assert_eq!(locality.is_some(), wanted, "{policy}");
    }
}

#[test]
fn an_edit_of_one_route_among_a_thousand_services_compiles_that_route_alone() {
    let service = |number: usize| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n"
        )
    };
    let route = |number: usize, timeout: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r{number}}}\n\
             spec: {{hosts: [s{number}], http: [{{timeout: {timeout}, route: [{{destination: {{host: s{number}}}}}]}}]}}\n---\n"
        )
    };
    let mut index = index("");
    for number in 0..1000 {
        apply(&mut index, &(service(number) + &route(number, "1s")));
    }
    index.take_affected();
    assert_eq!(index.compilations(), 1000);
    apply(&mut index, &route(500, "2s"));
    assert_eq!(index.compilations(), 1001);
    let affected = index.take_affected();
    assert_eq!(affected.services, [Name::new("default", "s500")].into());
    assert!(affected.ips.is_empty() && !affected.has_pods());
    // A change of a service or of its endpoints compiles nothing.
    apply(&mut index, &service(501).replace("80", "81"));
    assert_eq!(index.compilations(), 1001);
}

fn plain_service(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n"
    )
}

fn route_of(namespace: &str, name: &str, hosts: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{hosts: [{hosts}], http: [{http}]}}\n---\n"
    )
}

/// The services that a change touched, by name and by pattern.
fn touched(index: &mut Index) -> Vec<String> {
    let Affected {
        services,
        scopes,
        ips,
        pods,
        pods_of,
        all_pods,
        all_services,
    } = index.take_affected();
    assert!(ips.is_empty() && pods.is_empty() && pods_of.is_empty());
    assert!(!all_pods && !all_services);
    let services = services.iter().map(ToString::to_string);
    let scopes = scopes.iter().map(|scope| format!("all of {scope}"));
    let mut all: Vec<_> = services.chain(scopes).collect();
    all.sort();
    all
}

#[test]
fn an_edit_of_a_delegate_touches_the_hosts_of_those_that_delegate_to_it() {
    let mut index = index("");
    for name in ["a", "b", "c", "d"] {
        apply(&mut index, &plain_service("shop", name));
    }
    let delegating = |to: &str| format!("{{delegate: {{name: {to}, namespace: team}}}}");
    let routing = |timeout: &str| {
        format!(
            "{{timeout: {timeout}, route: [{{destination: {{host: d.shop.svc.cluster.local}}}}]}}"
        )
    };
    apply(&mut index, &route_of("shop", "a", "a", &delegating("leaf")));
    apply(&mut index, &route_of("shop", "b", "b", &delegating("leaf")));
    apply(
        &mut index,
        &route_of("shop", "c", "c", &delegating("other")),
    );
    apply(&mut index, &route_of("team", "other", "", &routing("1s")));
    index.take_affected();
    apply(&mut index, &route_of("team", "leaf", "", &routing("1s")));
    assert_eq!(touched(&mut index), ["shop/a", "shop/b"]);
    let compiled = index.compilations();
    apply(&mut index, &route_of("team", "leaf", "", &routing("2s")));
    assert_eq!(touched(&mut index), ["shop/a", "shop/b"]);
    assert_eq!(index.compilations(), compiled + 1, "the delegate alone");
    let timeout = |index: &Index, name: &str| {
        let key = ServicePort {
            namespace: "shop".into(),
            name: name.into(),
            port: 80,
        };
        let routes = index.service(&key, "default").unwrap().http?;
        routes.rules.first()?.filters.timeout
    };
    let seconds = |count| Some(std::time::Duration::from_secs(count));
    assert_eq!(timeout(&index, "b"), seconds(2));
    assert_eq!(timeout(&index, "c"), seconds(1));
    // One that nobody delegates to any more touches nobody.
    apply(
        &mut index,
        &route_of("shop", "a", "a", &delegating("other")),
    );
    assert_eq!(touched(&mut index), ["shop/a"]);
    apply(&mut index, &route_of("team", "leaf", "", &routing("3s")));
    assert_eq!(touched(&mut index), ["shop/b"]);
    delete(&mut index, Kind::VirtualService, "team", "leaf");
    assert_eq!(touched(&mut index), ["shop/b"]);
    assert_eq!(timeout(&index, "b"), None);
}

#[test]
fn an_edit_of_a_wildcard_host_touches_the_services_of_its_pattern() {
    let mut index = index("");
    for (namespace, name) in [("shop", "a"), ("shop", "b"), ("other", "a")] {
        apply(&mut index, &plain_service(namespace, name));
    }
    let to = |name: &str| {
        format!("{{name: {name}, route: [{{destination: {{host: a.other.svc.cluster.local}}}}]}}")
    };
    apply(&mut index, &route_of("shop", "exact", "b", &to("exact")));
    let wide = |name: &str| route_of("ops", "wide", "'*.shop.svc.cluster.local'", &to(name));
    apply(&mut index, &wide("old"));
    index.take_affected();
    let compiled = index.compilations();
    apply(&mut index, &wide("new"));
    assert_eq!(index.compilations(), compiled + 1, "the edited one alone");
    // That of a name too: who does not see the one that names it follows the pattern.
    assert_eq!(
        touched(&mut index),
        ["all of *.shop.svc", "shop/a", "shop/b"]
    );
    let rule = |namespace: &str, name: &str| {
        let key = ServicePort {
            namespace: namespace.into(),
            name: name.into(),
            port: 80,
        };
        let routes = index.service(&key, "default").unwrap().http?;
        routes.rules.first()?.name.clone()
    };
    assert_eq!(rule("shop", "a").as_deref(), Some("new"));
    assert_eq!(rule("shop", "b").as_deref(), Some("exact"));
    assert_eq!(rule("other", "a"), None);
}

#[test]
fn ten_thousand_rules_are_refused_by_name_and_the_neighbour_works() {
    let mut index = index("");
    for name in ["large", "small"] {
        apply(&mut index, &plain_service("shop", name));
    }
    let rule = |number: usize| {
        format!(
            "{{match: [{{uri: {{exact: /{number}}}}}], route: [{{destination: {{host: large}}}}]}}"
        )
    };
    let rules: Vec<_> = (0..10_000).map(rule).collect();
    apply(&mut index, &route_of("shop", "large", "large", &rule(1)));
    apply(
        &mut index,
        &route_of("shop", "large", "large", &rules.join(", ")),
    );
    let neighbour = "{timeout: 1s, route: [{destination: {host: small}}]}";
    apply(&mut index, &route_of("shop", "small", "small", neighbour));
    let verdicts: Vec<_> = index.verdicts().iter().map(ToString::to_string).collect();
    assert_eq!(
        verdicts,
        [
            "test, document 1: VirtualService shop/large: rejected; spec.http: has 10000 rules or match entries; more than 5000 are not taken, so spread them over the services' own resources or delegates",
            "test, document 1: VirtualService shop/small: accepted",
        ]
    );
    let rules = |name: &str| {
        let key = ServicePort {
            namespace: "shop".into(),
            name: name.into(),
            port: 80,
        };
        index
            .service(&key, "shop")
            .unwrap()
            .http
            .unwrap()
            .rules
            .len()
    };
    assert_eq!(rules("large"), 1, "the last good version");
    assert_eq!(rules("small"), 1);
}

/// Whatever is declared first: the pod's sidecar reads HTTP where either Service says so, and
/// the other one is told.
#[test]
fn http_wins_where_two_services_declare_one_port_differently() {
    let inbound = |index: &Index| {
        let pod = Name::new("default", "payment-1");
        let inbound = index.inbound(&pod, &id("pay"));
        inbound.port(8080).unwrap().protocol
    };
    let verdicts = |index: &Index| -> Vec<String> {
        let verdicts = index.verdicts();
        verdicts.iter().map(ToString::to_string).collect()
    };
    let mut index = index(CLUSTER);
    assert_eq!(inbound(&index), AppProtocol::Http1);
    assert!(verdicts(&index).is_empty());
    // `headless` declares the same port, and so does a Service that comes before both.
    for other in ["a-service", "z-service"] {
        let mut index = self::index(CLUSTER);
        apply(
            &mut index,
            &format!(
                r"
apiVersion: v1
kind: Service
metadata: {{name: {other}}}
spec: {{clusterIP: 10.96.0.11, ports: [{{name: tcp-x, port: 81}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {other}-a, labels: {{kubernetes.io/service-name: {other}}}}}
addressType: IPv4
ports: [{{name: tcp-x, port: 8080}}]
endpoints: [{{addresses: [10.0.0.1], targetRef: {{kind: Pod, name: payment-1}}}}]
"
            ),
        );
        assert_eq!(inbound(&index), AppProtocol::Http1, "{other}");
        let said = verdicts(&index);
        assert_eq!(said.len(), 1, "{said:?}");
        for part in [other, "port 81", "port 8080", "read as HTTP"] {
            assert!(said[0].contains(part), "{part}: {said:?}");
        }
    }
    apply(
        &mut index,
        r"
apiVersion: v1
kind: Service
metadata: {name: payment}
spec: {clusterIP: 10.96.0.10, ports: [{name: tcp-a, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{name: other, port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: payment-a, labels: {kubernetes.io/service-name: payment}}
addressType: IPv4
ports: [{name: tcp-a, port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: payment-1}}]
",
    );
    assert_eq!(inbound(&index), AppProtocol::Opaque, "nobody says HTTP");
    assert!(verdicts(&index).is_empty());
}

#[test]
fn delegates_that_multiply_are_left_out() {
    let mut index = index("");
    apply(&mut index, &plain_service("shop", "a"));
    let entries = |count: usize, field: &str| {
        let entries = (0..count).map(|n| format!("{{{field}: {{h{n}: {{exact: x}}}}}}"));
        entries.collect::<Vec<_>>().join(", ")
    };
    let delegate = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{namespace: shop, name: leaf}}\n\
         spec: {{http: [{{match: [{}], route: [{{destination: {{host: a}}}}]}}]}}\n",
        entries(100, "queryParams")
    );
    apply(&mut index, &delegate);
    let root = |count: usize| {
        format!(
            "{{match: [{}], delegate: {{name: leaf}}}}",
            entries(count, "headers")
        )
    };
    let made = |index: &Index| {
        let key = ServicePort {
            namespace: "shop".into(),
            name: "a".into(),
            port: 80,
        };
        let service = index.service(&key, "shop").unwrap();
        let rules = service.http.iter().flat_map(|http| &http.rules);
        rules.map(|rule| rule.matches.len()).sum::<usize>()
    };
    apply(&mut index, &route_of("shop", "root", "a", &root(50)));
    assert_eq!(made(&index), 5000);
    // Another rule finds no room any more.
    let two = format!("{}, {}", root(50), root(1));
    apply(&mut index, &route_of("shop", "root", "a", &two));
    assert_eq!(made(&index), 5000);
    apply(&mut index, &route_of("shop", "root", "a", &root(1000)));
    assert_eq!(made(&index), 0);
    let verdicts: Vec<_> = index.verdicts().iter().map(ToString::to_string).collect();
    let told = "with those of VirtualService shop/leaf there would be 100000 rules or match entries; more than 5000 are not taken; the rule is passed by";
    assert!(
        verdicts.iter().any(|verdict| verdict.contains(told)),
        "{verdicts:#?}"
    );
}

#[test]
fn remarks_on_a_resource_are_bounded_and_what_is_refused_counts() {
    let mut index = index("");
    let rules = "{route: [{destination: {host: a}, weight: -1}]}, ".repeat(500);
    let manifest = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{hosts: [a], http: [{rules}]}}\n"
        )
    };
    apply(&mut index, &manifest("wrong"));
    let verdict = index.verdicts().swap_remove(0);
    assert_eq!(verdict.status, Status::Rejected);
    assert_eq!(verdict.messages.len(), 33);
    let last = verdict.messages.last().unwrap();
    assert_eq!(last.text, "468 more; `linnet analyze` shows all");
}

#[test]
fn what_is_refused_counts_as_what_is_in_force_does() {
    let mut index = index("");
    // Of the longest texts that there may be, more than a MiB.
    let text = "x".repeat(64 << 10);
    let rule = format!("{{directResponse: {{status: 200, body: {{string: {text}}}}}}}, ");
    let manifest = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{hosts: [a], http: [{}{{route: [{{destination: {{host: a}}, weight: -1}}]}}]}}\n",
            rule.repeat(20)
        )
    };
    let without_room = |index: &Index| {
        let verdicts = index.verdicts().into_iter();
        let messages = verdicts.flat_map(|verdict| verdict.messages);
        let none = messages.filter(|note| note.text.contains("bytes of specs"));
        none.count()
    };
    for number in 0..26 {
        apply(&mut index, &manifest(&format!("wrong-{number}")));
    }
    assert_eq!(without_room(&index), 1, "25 take 31 MiB");
    // They leave with all that they took.
    for number in 0..26 {
        delete(
            &mut index,
            Kind::VirtualService,
            "default",
            &format!("wrong-{number}"),
        );
    }
    apply(&mut index, &manifest("again"));
    assert_eq!(without_room(&index), 0);
}

/// A pod is told with the name of each subset that it is in, so a thousand names times a
/// thousand pods would be a message that no sidecar takes.
#[test]
fn subsets_apply_until_endpoints_are_in_too_many() {
    let of = ServicePort {
        namespace: "evil".into(),
        name: "web".into(),
        port: 80,
    };
    let subsets: Vec<_> = (0..1000)
        .map(|n| format!("{{name: {:x<63}, labels: {{app: web}}}}", format!("s{n}-")))
        .collect();
    let mut index = index(&format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{namespace: evil, name: web}}\nspec: {{host: web, subsets: [{}]}}\n",
        subsets.join(", ")
    ));
    for (pods, ports, apply_still) in [(100, 1, true), (101, 1, false), (51, 2, false)] {
        let list = |first: u16| {
            let ports = (0..ports).map(|n| format!("{{name: p{n}, port: {}}}", first + n));
            ports.collect::<Vec<_>>().join(", ")
        };
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: evil}}\nspec: {{ports: [{}]}}\n",
            list(80)
        );
        let mut endpoints = Vec::new();
        for n in 1..=pods {
            endpoints.push(format!(
                "{{addresses: [10.0.0.{n}], targetRef: {{kind: Pod, name: web-{n}}}}}"
            ));
            yaml += &format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-{n}, namespace: evil, labels: {{app: web}}}}\nstatus: {{podIP: 10.0.0.{n}}}\n"
            );
        }
        yaml += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-a, namespace: evil, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{}]\nendpoints: [{}]\n",
            list(8000),
            endpoints.join(", ")
        );
        apply(&mut index, &yaml);
        let told = index.endpoints(&of, "shop");
        assert_eq!(told.len(), pods);
        let memberships: usize = told.values().map(|endpoint| endpoint.subsets.len()).sum();
        assert_eq!(memberships, if apply_still { pods * 1000 } else { 0 });
        let verdict = index.verdicts().pop().unwrap().to_string();
        let said = verdict.contains("spec.subsets: the endpoints of evil/web");
        assert_eq!(said, !apply_still, "{verdict}");
        let update = linnet_discovery::Update::Endpoints(linnet_discovery::EndpointsUpdate {
            service: of.clone(),
            replace: true,
            upserts: told.values().cloned().collect(),
            removed: Vec::new(),
        });
        assert!(update.encode().len() < 8 << 20);
    }
}
