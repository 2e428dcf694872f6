//! The hub without a network: queues in place of streams.

use super::{
    hub::{self, Command, Open},
    stream::Message,
};
use crate::{
    compile::Context,
    index::Index,
    object::{Kind, Name, ObjectRef, parse_yaml},
    source::{self, Change, Sink},
};
use linnet_mesh::{
    SpiffeId, TrustDomain,
    discovery::{Resolution, Target, Update},
};
use std::time::Duration;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(20);

struct Hub {
    handle: hub::Handle,
    sink: Sink,
    next: u64,
}

struct Proxy {
    id: u64,
    queue: mpsc::Receiver<Message>,
    admitted: oneshot::Receiver<Result<(), Status>>,
}

impl Hub {
    fn start() -> Self {
        let (sink, events) = source::channel();
        let context = Context {
            cluster_domain: "cluster.local".to_owned(),
        };
        let index = Index::new(context, TrustDomain::default());
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
        self.next += 1;
        let (queue, messages) = mpsc::channel(1);
        let (reply, admitted) = oneshot::channel();
        let open = Open {
            id: self.next,
            identity: SpiffeId::new(&TrustDomain::default(), "default", "app").unwrap(),
            pod: pod.to_owned(),
            proxy_version: "test".to_owned(),
            pod_must_exist,
            queue,
            reply,
        };
        self.handle.send(Command::Open(open)).await.unwrap();
        Proxy {
            id: self.next,
            queue: messages,
            admitted,
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
            message.updates[0].as_ptr(),
            told[0].updates[0].as_ptr(),
            "one encoding for all"
        );
    }
    // The hub has done all it had to do: it answers another question.
    hub.handle.proxies().await.unwrap();
    for proxy in &mut proxies {
        assert!(proxy.queue.try_recv().is_err(), "nobody is told more");
    }
}
