//! The hub without a network: queues in place of streams.

use super::{
    handle::{Command, Handle, Open},
    hub,
    stream::Message,
};
use crate::{
    compile::Context,
    index::Index,
    manifest::parse_yaml,
    object::{Kind, Name, ObjectRef},
    source::{self, Change, Sink},
};
use linnet_discovery::{Resolution, Target, Update, limits, proto};
use linnet_mesh::TrustDomain;
use std::{
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(20);

struct Hub {
    handle: Handle,
    sink: Sink,
    next: u64,
}

struct Proxy {
    id: u64,
    queue: mpsc::Receiver<Message>,
    admitted: oneshot::Receiver<Result<(), Status>>,
    ended: oneshot::Receiver<Status>,
}

impl Hub {
    fn start() -> Self {
        let (sink, events) = source::channel();
        let context = Context {
            cluster_domain: "cluster.local".to_owned(),
        };
        let index = Index::new(context, TrustDomain::default())
            .with_aliases(vec!["old.example".parse().unwrap()]);
        let (handle, _) = hub::spawn(index, events, ());
        Self {
            handle,
            sink,
            next: 0,
        }
    }

    async fn synced(yaml: &str) -> Self {
        let hub = Self::start();
        hub.apply(yaml).await;
        hub.sink.send(Change::Synced).await.unwrap();
        hub
    }

    async fn apply(&self, yaml: &str) {
        for object in parse_yaml(yaml, "test").unwrap() {
            self.sink.send(Change::Apply(object)).await.unwrap();
        }
    }

    async fn open(&mut self, pod: &str, pod_must_exist: bool) -> Proxy {
        let identity = "spiffe://cluster.local/ns/default/sa/app";
        self.open_as(identity, pod, pod_must_exist).await
    }

    async fn open_as(&mut self, identity: &str, pod: &str, pod_must_exist: bool) -> Proxy {
        self.next += 1;
        let (queue, messages) = mpsc::channel(1);
        let (reply, admitted) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let open = Open {
            id: self.next,
            identity: identity.parse().unwrap(),
            pod: pod.to_owned(),
            proxy_version: "test".to_owned(),
            pod_must_exist,
            queue,
            reply,
            end,
        };
        self.handle.send(Command::Open(open)).await.unwrap();
        Proxy {
            id: self.next,
            queue: messages,
            admitted,
            ended,
        }
    }

    async fn subscribe(&self, proxy: &Proxy, hosts: &[&str]) {
        let targets = hosts
            .iter()
            .map(|host| Target::Host((*host).into()))
            .collect();
        let command = Command::Subscribe(proxy.id, targets);
        self.handle.send(command).await.unwrap();
    }

    async fn ask(&self, proxy: &Proxy, targets: impl Iterator<Item = Target>) {
        let command = Command::Subscribe(proxy.id, targets.collect());
        self.handle.send(command).await.unwrap();
    }

    async fn acknowledge(&self, proxy: &Proxy, version: u64) {
        let command = Command::Acknowledge(proxy.id, version, None);
        self.handle.send(command).await.unwrap();
    }
}

impl Proxy {
    async fn next(&mut self) -> (u64, Vec<Update>) {
        let message = timeout(PATIENCE, self.queue.recv())
            .await
            .expect("a message comes in time")
            .expect("the hub lives")
            .unwrap();
        let message = proto::ControllerMessage::from(*message);
        let updates = message.updates.into_iter();
        (
            message.version,
            updates
                .map(|update| Update::decode(update).unwrap())
                .collect(),
        )
    }
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n---\n"
    )
}

fn slice(port: u16) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: a, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\n\
         ports: [{{port: {port}}}]\nendpoints: [{{addresses: [10.0.0.1]}}]\n---\n"
    )
}

fn endpoint_ports(updates: &[Update]) -> Vec<u16> {
    updates
        .iter()
        .filter_map(|update| match update {
            Update::Endpoints(endpoints) => Some(endpoints),
            _ => None,
        })
        .flat_map(|endpoints| &endpoints.upserts)
        .map(|endpoint| endpoint.address.port())
        .collect()
}

#[tokio::test]
async fn a_slow_proxy_holds_up_nobody_and_hears_the_newest_state() {
    let mut hub = Hub::synced(&(service("a", "10.1.0.1") + &slice(1))).await;
    let mut slow = hub.open("slow", false).await;
    let mut fast = hub.open("fast", false).await;
    for proxy in [&mut slow, &mut fast] {
        proxy.next().await;
    }
    hub.subscribe(&slow, &["a:80"]).await;
    hub.subscribe(&fast, &["a:80"]).await;
    fast.next().await;
    // The answer to the subscription lies in the slow one's queue.
    for port in 2..100 {
        hub.apply(&slice(port)).await;
        let (_, updates) = fast.next().await;
        assert_eq!(endpoint_ports(&updates), [port]);
    }
    let (first, updates) = slow.next().await;
    assert_eq!(endpoint_ports(&updates), [1]);
    let (second, updates) = slow.next().await;
    assert_eq!(endpoint_ports(&updates), [99]);
    assert_eq!(second, first + 1, "98 changes came as one message");
}

#[tokio::test]
async fn nobody_is_answered_before_the_source_has_told_all() {
    let mut hub = Hub::start();
    let mut proxy = hub.open("early", false).await;
    hub.subscribe(&proxy, &["a:80"]).await;
    // The question has been taken: the hub answers another.
    hub.handle.proxies().await.unwrap();
    assert!(proxy.queue.try_recv().is_err());
    hub.apply(&service("a", "10.1.0.1")).await;
    hub.sink.send(Change::Synced).await.unwrap();
    let (_, updates) = proxy.next().await;
    let known = |update: &Update| matches!(update, Update::Resolution(_, Resolution::Service(_)));
    assert!(updates.iter().any(known), "{updates:?}");
}

#[tokio::test]
async fn a_change_that_makes_no_difference_sends_nothing() {
    let mut hub = Hub::synced(&(service("a", "10.1.0.1") + &service("b", "10.1.0.2"))).await;
    let mut proxy = hub.open("p", false).await;
    proxy.next().await;
    hub.subscribe(&proxy, &["a:80"]).await;
    let (before, _) = proxy.next().await;
    hub.apply(&service("b", "10.1.0.3")).await;
    // A subset that no endpoint is in and no route leads to.
    hub.apply("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a}\n").await;
    hub.apply(&slice(7)).await;
    let (after, updates) = proxy.next().await;
    assert_eq!(endpoint_ports(&updates), [7]);
    assert_eq!(after, before + 1);
}

/// Whether a proxy is let in.
async fn admitted(proxy: Proxy) -> Result<(), Status> {
    timeout(PATIENCE, proxy.admitted).await.unwrap().unwrap()
}

#[tokio::test]
async fn discovery_is_for_the_own_trust_domain_and_its_aliases() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: own}\nspec: {serviceAccountName: app, containers: []}\n";
    let mut hub = Hub::synced(pod).await;
    for (domain, is_own) in [
        ("cluster.local", true),
        ("old.example", true),
        ("west.example", false),
        ("cluster.local.example", false),
    ] {
        for pod_must_exist in [true, false] {
            for pod in ["own", "unknown"] {
                if is_own && pod_must_exist && pod == "unknown" {
                    // It waits for its pod.
                    continue;
                }
                let identity = format!("spiffe://{domain}/ns/default/sa/app");
                let proxy = hub.open_as(&identity, pod, pod_must_exist).await;
                let outcome = admitted(proxy).await;
                assert_eq!(
                    outcome.is_ok(),
                    is_own,
                    "{identity}, pod {pod}: {outcome:?}"
                );
                if let Err(refused) = outcome {
                    assert_eq!(refused.code(), Code::PermissionDenied);
                    assert!(refused.message().contains(domain), "{refused}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_is_let_in_once_its_pod_is_known() {
    let mut hub = Hub::synced("").await;
    let mut own = hub.open("own", true).await;
    let other = hub.open("other", true).await;
    hub.handle.proxies().await.unwrap();
    assert!(own.admitted.try_recv().is_err());
    hub.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: own}\nspec: {serviceAccountName: app, containers: []}\n").await;
    hub.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: other}\nspec: {serviceAccountName: root, containers: []}\n").await;
    timeout(PATIENCE, own.admitted)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let refused = timeout(PATIENCE, other.admitted)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_service_that_goes_and_comes_back_is_told_each_time() {
    let mut hub = Hub::synced(&service("a", "10.1.0.1")).await;
    let mut proxy = hub.open("p", false).await;
    proxy.next().await;
    hub.subscribe(&proxy, &["a:80"]).await;
    proxy.next().await;
    let reference = ObjectRef {
        kind: Kind::Service,
        name: Name::new("default", "a"),
    };
    hub.sink.send(Change::Delete(reference)).await.unwrap();
    let (_, updates) = proxy.next().await;
    let external = |u: &Update| matches!(u, Update::Resolution(_, Resolution::External));
    assert!(updates.iter().any(external), "{updates:?}");
    assert!(
        updates
            .iter()
            .any(|u| matches!(u, Update::ServiceRemoved(_)))
    );
    hub.apply(&service("a", "10.1.0.1")).await;
    let (_, updates) = proxy.next().await;
    assert!(
        updates.iter().any(|u| matches!(u, Update::Service(_))),
        "{updates:?}"
    );
}

#[tokio::test]
async fn backends_of_a_route_are_told_with_it_and_go_with_it() {
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n\
                 spec: {hosts: [a], http: [{route: [{destination: {host: b}}]}]}\n";
    let hub_services = service("a", "10.1.0.1") + &service("b", "10.1.0.2");
    let mut hub = Hub::synced(&(hub_services + route)).await;
    let mut proxy = hub.open("p", false).await;
    proxy.next().await;
    hub.subscribe(&proxy, &["a:80"]).await;
    let (_, updates) = proxy.next().await;
    let mut told: Vec<_> = updates
        .iter()
        .filter_map(|update| match update {
            Update::Service(service) => Some(service.key.name.to_string()),
            _ => None,
        })
        .collect();
    told.sort();
    assert_eq!(told, ["a", "b"]);
    let reference = ObjectRef {
        kind: Kind::VirtualService,
        name: Name::new("default", "v"),
    };
    hub.sink.send(Change::Delete(reference)).await.unwrap();
    let (_, updates) = proxy.next().await;
    let removed = |u: &Update| matches!(u, Update::ServiceRemoved(key) if &*key.name == "b");
    assert!(updates.iter().any(removed), "{updates:?}");
}

#[tokio::test]
async fn convergence_is_over_with_the_last_acknowledgement() {
    let mut hub = Hub::synced(&(service("a", "10.1.0.1") + &slice(1))).await;
    let mut first = hub.open("first", false).await;
    let mut second = hub.open("second", false).await;
    let mut versions = Vec::new();
    for proxy in [&mut first, &mut second] {
        proxy.next().await;
        hub.subscribe(proxy, &["a:80"]).await;
        proxy.next().await;
    }
    hub.apply(&slice(2)).await;
    for proxy in [&mut first, &mut second] {
        versions.push(proxy.next().await.0);
    }
    let took = async |hub: &Hub| -> Vec<bool> {
        let proxies = hub.handle.proxies().await.unwrap();
        proxies
            .iter()
            .map(|proxy| proxy.convergence_ms.is_some())
            .collect()
    };
    hub.acknowledge(&first, versions[0]).await;
    assert_eq!(took(&hub).await, [true, false]);
    hub.acknowledge(&second, versions[1]).await;
    assert_eq!(took(&hub).await, [true, true]);
    let proxies = hub.handle.proxies().await.unwrap();
    assert_eq!(proxies[1].acknowledged, proxies[1].sent);
}

#[tokio::test]
async fn a_proxy_that_leaves_is_forgotten() {
    let mut hub = Hub::synced(&service("a", "10.1.0.1")).await;
    let proxy = hub.open("p", false).await;
    hub.subscribe(&proxy, &["a:80"]).await;
    assert_eq!(hub.handle.proxies().await.unwrap().len(), 1);
    hub.handle.close(proxy.id);
    assert!(hub.handle.proxies().await.unwrap().is_empty());
}

fn route(number: usize, timeout: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r{number}}}\n\
         spec: {{hosts: [s{number}], http: [{{timeout: {timeout}, route: [{{destination: {{host: s{number}}}}}]}}]}}\n---\n"
    )
}

#[tokio::test]
async fn pods_of_a_workload_share_one_encoding_of_their_policies_whenever_they_come() {
    const PODS: usize = 20;
    let policies = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {name: paths}\nspec: {rules: [{to: [{operation: {paths: [/a, /b]}}]}]}\n---\n\
         apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: tokens}\n\
         spec: {jwtRules: [{issuer: a, jwksUri: 'https://a.example/keys'}, {issuer: b, jwksUri: 'https://b.example/keys'}]}\n---\n";
    let mut hub = Hub::synced(policies).await;
    let mut proxies = Vec::new();
    for number in 0..PODS {
        proxies.push(hub.open(&format!("p{number}"), false).await);
        // Each is told in a round of its own, and nobody has taken anything yet.
        hub.handle.proxies().await.unwrap();
    }
    let mut shared = Vec::new();
    for (number, proxy) in proxies.iter_mut().enumerate() {
        let message = proxy.queue.recv().await.unwrap().unwrap();
        let pieces = &message.updates[0];
        assert_eq!(pieces.len(), 1 + 3, "its own, a policy and two rules");
        shared.push(pieces[1..].to_vec());
        let places = |pieces: &Vec<_>| -> Vec<_> {
            pieces
                .iter()
                .map(AsRef::<[u8]>::as_ref)
                .map(<[u8]>::as_ptr)
                .collect()
        };
        assert_eq!(places(&shared[0]), places(&shared[number]));
        let message = proto::ControllerMessage::from(*message);
        let Update::Inbound(inbound) = Update::decode(message.updates[0].clone()).unwrap() else {
            panic!("it is told how it is called");
        };
        assert_eq!(inbound.workload.pod, format!("p{number}"));
        assert_eq!(inbound.authorization.as_ref().unwrap().shared().len(), 1);
        assert_eq!(inbound.authentication.as_ref().unwrap().rules().len(), 2);
    }
}

#[tokio::test]
async fn an_edit_of_one_route_is_sent_to_its_subscribers_alone_and_encoded_once() {
    const SERVICES: usize = 1000;
    const PROXIES: usize = 1000;
    let mut hub = Hub::synced("").await;
    for number in 0..SERVICES {
        hub.apply(&(service(&format!("s{number}"), "10.1.0.1") + &route(number, "1s")))
            .await;
    }
    let mut proxies = Vec::new();
    for number in 0..PROXIES {
        let mut proxy = hub.open(&format!("p{number}"), false).await;
        proxy.next().await;
        let wanted: Vec<_> = (0..20)
            .map(|n| format!("s{}:80", (number + 53 * n) % SERVICES))
            .collect();
        let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
        hub.subscribe(&proxy, &wanted).await;
        proxy.next().await;
        proxies.push(proxy);
    }
    hub.apply(&route(500, "2s")).await;
    let mut told = Vec::new();
    let subscribed = |number: usize| (0..20).any(|n| (number + 53 * n) % SERVICES == 500);
    for number in (0..PROXIES).filter(|number| subscribed(*number)) {
        let message = timeout(PATIENCE, proxies[number].queue.recv()).await;
        told.push(message.unwrap().unwrap().unwrap());
    }
    assert_eq!(told.len(), 20);
    for message in &told {
        assert_eq!(message.updates.len(), 1, "the route and nothing else");
        assert_eq!(
            message.updates[0][0].as_ptr(),
            told[0].updates[0][0].as_ptr(),
            "one encoding for all"
        );
    }
    // The hub has done all it had to do: it answers another question.
    hub.handle.proxies().await.unwrap();
    for proxy in &mut proxies {
        assert!(proxy.queue.try_recv().is_err(), "nobody is told more");
    }
}

/// Why a stream ended.
async fn ended(proxy: &mut Proxy) -> Status {
    timeout(PATIENCE, &mut proxy.ended).await.unwrap().unwrap()
}

fn ip(number: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0b00_0000 + u32::try_from(number).unwrap()).into()
}

fn peers(numbers: Range<usize>) -> impl Iterator<Item = Target> {
    numbers.map(|number| Target::Peer(ip(number)))
}

fn addresses(numbers: Range<usize>) -> impl Iterator<Item = Target> {
    numbers.map(|number| Target::Address((ip(number), 80).into()))
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {linnet.io/sidecar: injected}}\nspec: {serviceAccountName: app, containers: []}\n";
const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict}\nspec: {mtls: {mode: STRICT}}\n";

/// Reads messages until one tells the workload's own settings.
async fn inbound(hub: &Hub, proxy: &mut Proxy) {
    loop {
        let (version, updates) = proxy.next().await;
        hub.acknowledge(proxy, version).await;
        if updates.iter().any(|u| matches!(u, Update::Inbound(_))) {
            return;
        }
    }
}

#[tokio::test]
async fn callers_from_any_number_of_addresses_end_no_stream_and_policies_go_on() {
    let mut hub = Hub::synced(POD).await;
    let mut proxy = hub.open("p", true).await;
    inbound(&hub, &mut proxy).await;
    for batch in 0..64 {
        hub.ask(&proxy, peers(batch * 512..(batch + 1) * 512)).await;
        let (version, _) = proxy.next().await;
        hub.acknowledge(&proxy, version).await;
    }
    let status = hub.handle.proxies().await.unwrap();
    assert_eq!(status[0].targets, limits::PEERS);
    hub.apply(STRICT).await;
    inbound(&hub, &mut proxy).await;
    assert!(proxy.ended.try_recv().is_err());
    // The newest are told of; the oldest are not known any more.
    let pod = |number: usize| format!("{POD}status: {{podIP: {}}}\n", ip(number));
    hub.apply(&pod(64 * 512 - 1)).await;
    let (_, updates) = proxy.next().await;
    assert!(
        updates
            .iter()
            .any(|u| matches!(u, Update::Peer(_, Some(_)))),
        "{updates:?}"
    );
}

#[tokio::test]
async fn a_stream_that_asks_for_too_many_targets_ends_and_is_told_the_bound() {
    let mut hub = Hub::synced("").await;
    let mut proxy = hub.open("p", false).await;
    let mut other = hub.open("q", false).await;
    hub.ask(&proxy, addresses(0..limits::TARGETS)).await;
    // What is known already is not counted twice.
    hub.ask(&proxy, addresses(0..limits::TARGETS)).await;
    assert_eq!(
        hub.handle.proxies().await.unwrap()[0].targets,
        limits::TARGETS
    );
    hub.ask(&proxy, addresses(limits::TARGETS..limits::TARGETS + 1))
        .await;
    let refused = ended(&mut proxy).await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("4096"), "{refused}");
    hub.ask(&other, addresses(0..1)).await;
    other.next().await;
    assert!(other.ended.try_recv().is_err());
}

#[tokio::test]
async fn all_streams_of_an_identity_together_keep_so_many_targets() {
    let mut hub = Hub::synced("").await;
    let mut proxies = Vec::new();
    for number in 0..24 {
        let mut proxy = hub.open(&format!("pod-{number}"), false).await;
        hub.ask(&proxy, addresses(0..limits::TARGETS)).await;
        hub.ask(&proxy, peers(0..2 * limits::PEERS)).await;
        let (version, _) = proxy.next().await;
        hub.acknowledge(&proxy, version).await;
        proxies.push(proxy);
    }
    let status = hub.handle.proxies().await.unwrap();
    let kept: usize = status.iter().map(|proxy| proxy.targets).sum();
    assert_eq!(kept, limits::TARGETS_OF_IDENTITY);
    for proxy in &mut proxies {
        assert!(proxy.ended.try_recv().is_err());
    }
    // Another identity has its own.
    let identity = "spiffe://cluster.local/ns/default/sa/other";
    let other = hub.open_as(identity, "other", false).await;
    hub.ask(&other, peers(0..512)).await;
    let status = hub.handle.proxies().await.unwrap();
    let other = status.iter().find(|proxy| proxy.pod == "other").unwrap();
    assert_eq!(other.targets, 512);
}

/// One identity that names pods that there are not, then many.
#[tokio::test]
async fn so_many_proxies_wait_for_their_pods_and_no_more() {
    let mut hub = Hub::synced(POD).await;
    // It is answered once all has been told.
    hub.open("p", true).await.next().await;
    let mut waiting = Vec::new();
    for identity in 0..40 {
        let identity = format!("spiffe://cluster.local/ns/default/sa/app-{identity}");
        for pod in 0..33 {
            let mut proxy = hub.open_as(&identity, &format!("none-{pod}"), true).await;
            hub.handle.proxies().await.unwrap();
            match proxy.admitted.try_recv() {
                Err(_) => waiting.push(proxy),
                Ok(answer) => assert_eq!(answer.unwrap_err().code(), Code::ResourceExhausted),
            }
        }
    }
    assert_eq!(waiting.len(), 1024);
    // Whose pod is known is let in, and who has gone makes room.
    let known = hub.open("p", true).await;
    admitted(known).await.unwrap();
    let identity = "spiffe://cluster.local/ns/default/sa/app-0";
    hub.handle
        .send(Command::Close(waiting[0].id))
        .await
        .unwrap();
    let mut next = hub.open_as(identity, "none", true).await;
    hub.handle.proxies().await.unwrap();
    assert!(next.admitted.try_recv().is_err(), "it waits");
}

/// Pods that become known one by one, and early proxies of any number.
#[tokio::test]
async fn who_comes_before_all_is_told_waits_in_any_number() {
    let mut hub = Hub::start();
    let mut early = Vec::new();
    for pod in 0..100 {
        early.push(hub.open(&format!("p-{pod}"), true).await);
    }
    for pod in 0..99 {
        hub.apply(&POD.replace("name: p,", &format!("name: p-{pod},")))
            .await;
    }
    hub.sink.send(Change::Synced).await.unwrap();
    let last = early.pop().unwrap();
    for proxy in early {
        admitted(proxy).await.unwrap();
    }
    hub.apply(&POD.replace("name: p,", "name: p-99,")).await;
    admitted(last).await.unwrap();
}

/// Callers of an identity's pods have filled its quota with peers: a new pod, which has
/// none to give, is served all the same.
#[tokio::test]
async fn callers_of_sibling_pods_do_not_end_a_new_pods_stream() {
    let mut hub = Hub::synced(&(service("a", "10.1.0.1") + &slice(1))).await;
    let mut siblings = Vec::new();
    for number in 0..limits::TARGETS_OF_IDENTITY / limits::PEERS {
        let sibling = hub.open(&format!("pod-{number}"), false).await;
        hub.ask(&sibling, peers(0..limits::PEERS)).await;
        siblings.push(sibling);
    }
    let mut new = hub.open("new", false).await;
    new.next().await;
    hub.subscribe(&new, &["a:80"]).await;
    let (_, updates) = new.next().await;
    assert_eq!(endpoint_ports(&updates), [1]);
    assert!(new.ended.try_recv().is_err());
    let status = hub.handle.proxies().await.unwrap();
    let kept: usize = status.iter().map(|proxy| proxy.targets).sum();
    assert_eq!(kept, limits::TARGETS_OF_IDENTITY);
    for sibling in &mut siblings {
        assert!(sibling.ended.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_pods_third_stream_ends_its_first() {
    let mut hub = Hub::synced(POD).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut proxy = hub.open("p", true).await;
        let admitted = timeout(PATIENCE, &mut proxy.admitted).await;
        admitted.unwrap().unwrap().unwrap();
        streams.push(proxy);
    }
    for stream in &mut streams[..2] {
        assert_eq!(ended(stream).await.code(), Code::Aborted);
    }
    assert_eq!(hub.handle.proxies().await.unwrap().len(), 2);
    // Those that wait for their pod count too.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(hub.open("unknown", true).await);
    }
    let first = waiting.remove(0);
    assert_eq!(admitted(first).await.unwrap_err().code(), Code::Aborted);
    // Streams that closed are not counted any more.
    for id in streams.iter().map(|proxy| proxy.id) {
        hub.handle.send(Command::Close(id)).await.unwrap();
    }
    for _ in 0..2 {
        streams.push(hub.open("p", true).await);
    }
    assert_eq!(hub.handle.proxies().await.unwrap().len(), 2);
    assert!(streams[4].ended.try_recv().is_err());
}
