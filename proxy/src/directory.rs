//! What discovery has answered: the process's one view of services, endpoints
//! and of the workload's own inbound settings.
//!
//! Asked for on demand, once a target, and kept while the controller is away.
//! A request reads it through cells that it already holds, without a lock; only
//! a new connection takes one.

pub(crate) mod client;
pub(crate) mod fixed;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod view;

use crate::{balance::standing::Standing, pool::Pools};
use arc_swap::{ArcSwap, ArcSwapOption};
use linnet_discovery::{EndpointsUpdate, Resolution, Target, Update, limits};
use linnet_mesh::{Endpoint, Inbound, Service, ServicePort, Workload};
use state::{State, TargetCell, micros};
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// How long a new connection waits for the controller's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(600);
/// Commands that wait for the client at most: all targets, let go of and asked for.
const COMMANDS: usize = 2 * (limits::TARGETS + limits::PEERS);

/// A service with its endpoints, both as they are now.
#[derive(Debug)]
pub(crate) struct ServiceCell {
    pub(crate) key: ServicePort,
    /// What all data threads share about the endpoints.
    pub(crate) standing: Arc<Standing>,
    /// How the proxy's own workload is to be called, and where it is.
    own: Arc<ArcSwap<Inbound>>,
    /// Whether the endpoints have been told.
    told: AtomicBool,
    /// When a connection was last seen to use it, as the directory counts time; 0: never.
    used: AtomicU64,
    /// As it was told.
    whole: ArcSwapOption<Service>,
    /// With the rules that are for workloads like the proxy's own.
    service: ArcSwapOption<Service>,
    pools: ArcSwap<Pools>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
}

impl ServiceCell {
    fn new(key: ServicePort, own: Arc<ArcSwap<Inbound>>) -> Self {
        Self {
            standing: Arc::new(Standing::new(&key)),
            own,
            told: AtomicBool::default(),
            used: AtomicU64::default(),
            key,
            whole: ArcSwapOption::empty(),
            service: ArcSwapOption::empty(),
            pools: ArcSwap::from_pointee(Pools::unknown()),
            endpoints: ArcSwap::default(),
        }
    }

    /// The service; `None` once it is gone.
    pub(crate) fn service(&self) -> Option<Arc<Service>> {
        self.service.load_full()
    }

    /// The service, if requests follow routes of its own.
    pub(crate) fn routed(&self) -> Option<Arc<Service>> {
        let service = self.service.load();
        service.clone().filter(|service| service.http.is_some())
    }

    /// By what policies the endpoints are called.
    pub(crate) fn pools(&self) -> arc_swap::Guard<Arc<Pools>> {
        self.pools.load()
    }

    pub(crate) fn endpoints(&self) -> arc_swap::Guard<Arc<Vec<Arc<Endpoint>>>> {
        self.endpoints.load()
    }

    /// The proxy's own workload.
    pub(crate) fn own(&self) -> Arc<Inbound> {
        self.own.load_full()
    }

    /// How the endpoints are, as all data threads see them.
    pub(crate) fn states(&self, now: Instant) -> Vec<EndpointState> {
        let endpoints = self.endpoints();
        let state = |endpoint: &Arc<Endpoint>| {
            let health = self.standing.of(endpoint.address);
            let (in_flight, latency) = health.load();
            EndpointState {
                endpoint: endpoint.clone(),
                ejected_for: health.ejected_until(now).map(|until| until - now),
                unavailable: health.availability.is_unavailable(),
                in_flight,
                latency,
            }
        };
        endpoints.iter().map(state).collect()
    }

    /// The own workload's labels are others.
    fn relabelled(&self) {
        if let Some(whole) = self.whole.load_full() {
            let service = whole.of_workload(&self.own.load().labels);
            self.service.store(Some(service));
        }
    }

    fn update_service(&self, service: Option<Arc<Service>>) {
        self.whole.store(service.clone());
        let labels = &self.own.load().labels;
        let service = service.map(|service| service.of_workload(labels));
        let destination = |service: &Option<Arc<Service>>| {
            let service = service.as_ref()?;
            service.destination.clone()
        };
        let policy = destination(&service);
        let pools = self.pools.load();
        let fresh = service.as_deref().and_then(|service| pools.follow(service));
        let before = self.service.swap(service);
        let other_pools = fresh.map(|fresh| self.pools.store(Arc::new(fresh)));
        if other_pools.is_some() || destination(&before) != policy {
            self.standing.changed();
        }
    }

    fn forget_endpoints(&self) {
        self.standing.follow(&self.endpoints(), &[], false);
        self.endpoints.store(Arc::default());
        self.standing.changed();
    }

    fn update_endpoints(&self, update: EndpointsUpdate) {
        let mut endpoints = if update.replace {
            Vec::new()
        } else {
            self.endpoints.load().as_ref().clone()
        };
        let touched: HashSet<SocketAddr> = update
            .removed
            .iter()
            .copied()
            .chain(update.upserts.iter().map(|e| e.address))
            .collect();
        endpoints.retain(|known| !touched.contains(&known.address));
        endpoints.extend(update.upserts);
        endpoints.sort_by_key(|endpoint| endpoint.address);
        let first = !self.told.swap(true, Ordering::Relaxed);
        self.standing.follow(&self.endpoints(), &endpoints, first);
        self.endpoints.store(Arc::new(endpoints));
        self.standing.changed();
    }
}

/// How an endpoint is.
#[derive(Clone, Debug)]
pub(crate) struct EndpointState {
    pub(crate) endpoint: Arc<Endpoint>,
    /// How long it will still be ejected; `None`: it is not.
    pub(crate) ejected_for: Option<Duration>,
    /// Whether it, or its application, accepts no connection.
    pub(crate) unavailable: bool,
    /// Requests on their way to it.
    pub(crate) in_flight: u32,
    /// The highest that a data thread has seen of late, milliseconds; 1 before
    /// the first answer.
    pub(crate) latency: f64,
}

/// What a target is, with what is needed to go there.
#[derive(Clone, Debug)]
pub(crate) enum Resolved {
    Service(Arc<ServiceCell>),
    Endpoint(Arc<Endpoint>),
    External,
    Peer(Option<Arc<Workload>>),
}

/// What the discovery client is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Subscribe(Target),
    Unsubscribe(Target),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Directory {
    state: Mutex<State>,
    inbound: Arc<ArcSwap<Inbound>>,
    /// Grows after each change of it.
    inbound_version: AtomicU64,
    /// How often it was told.
    inbound_told: watch::Sender<u64>,
    commands: mpsc::Sender<Command>,
    /// A command found no room: the client has to ask for all again.
    behind: AtomicBool,
    started: Instant,
    own_ips: Vec<IpAddr>,
    /// The controller is known not to answer.
    away: AtomicBool,
}

impl Directory {
    /// An empty directory of a pod with these addresses, and the commands its
    /// client has to carry out.
    pub(crate) fn new(own_ips: Vec<IpAddr>) -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let inbound = Arc::<ArcSwap<Inbound>>::default();
        let state = State {
            own: inbound.clone(),
            ..State::default()
        };
        let directory = Self {
            state: Mutex::new(state),
            inbound,
            // Nobody has seen anything yet, which is 0.
            inbound_version: AtomicU64::new(1),
            inbound_told: watch::Sender::new(0),
            commands,
            behind: AtomicBool::new(false),
            started: Instant::now(),
            own_ips,
            away: AtomicBool::new(false),
        };
        (Arc::new(directory), receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; and if it did, the maps would
        // still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        micros(self.started.elapsed())
    }

    /// The pod's addresses.
    pub(crate) fn own_ips(&self) -> &[IpAddr] {
        &self.own_ips
    }

    /// How the workload is to be called.
    pub(crate) fn inbound(&self) -> arc_swap::Guard<Arc<Inbound>> {
        self.inbound.load()
    }

    /// Another number whenever the workload is to be called differently.
    pub(crate) fn inbound_version(&self) -> u64 {
        self.inbound_version.load(Ordering::Acquire)
    }

    /// Whether the controller has said how the workload is to be called.
    pub(crate) fn is_inbound_known(&self) -> bool {
        *self.inbound_told.borrow() > 0
    }

    /// Until the controller has said how the workload is to be called.
    pub(crate) async fn inbound_known(&self) {
        // The sender lives in `self`, so waiting can't fail.
        let _ = self
            .inbound_told
            .subscribe()
            .wait_for(|times| *times > 0)
            .await;
    }

    /// Wakes whoever must act when the workload is to be called differently.
    pub(crate) fn inbound_changes(&self) -> watch::Receiver<u64> {
        self.inbound_told.subscribe()
    }

    /// A service that some resolved target leads to.
    pub(crate) fn service(&self, key: &ServicePort) -> Option<Arc<ServiceCell>> {
        self.state().services.get(key).cloned()
    }

    /// What a target is: what is known, or else what the controller answers;
    /// `None` when it does not answer in time.
    pub(crate) async fn resolve(&self, target: Target) -> Option<Resolved> {
        let cell = self.subscribed(target)?;
        let mut value = cell.value.subscribe();
        if let Some(known) = value.borrow_and_update().clone() {
            return Some(known);
        }
        let answer = value.wait_for(Option::is_some);
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(known)) => known.clone(),
            _ => None,
        }
    }

    /// The workload behind a peer's address. It is for telemetry alone: a caller
    /// does not wait for it while the controller is away.
    pub(crate) async fn peer(&self, ip: IpAddr) -> Option<Arc<Workload>> {
        let target = Target::Peer(ip);
        let resolved = if self.away.load(Ordering::Relaxed) {
            self.subscribed(target)
                .and_then(|cell| cell.value.borrow().clone())
        } else {
            self.resolve(target).await
        };
        match resolved {
            Some(Resolved::Peer(workload)) => workload,
            _ => None,
        }
    }

    /// Notes that connections use a service, so that the directory does not let go of it.
    pub(crate) fn mark_used(&self, service: &ServiceCell) {
        // 0 is never.
        service.used.store(self.now().max(1), Ordering::Relaxed);
    }

    /// Whether the controller is known not to answer.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// A target of that host, whole or short, that is known to be a service.
    pub(crate) fn known_host(&self, host: &str, port: u16) -> Option<Target> {
        let port = format!(":{port}");
        let is_that = |name: &str| {
            let name = name.strip_suffix(&port);
            let rest = name.and_then(|name| name.strip_prefix(host));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let state = self.state();
        let mut targets = state.targets.iter();
        let (target, _) = targets.find(|(target, cell)| {
            matches!(target, Target::Host(name) if is_that(name))
                && matches!(*cell.value.borrow(), Some(Resolved::Service(_)))
        })?;
        Some(target.clone())
    }

    /// What is known of a target, which is asked for where it is new. `None`: there is
    /// no room for it, or the controller would not take it.
    fn subscribed(&self, target: Target) -> Option<Arc<TargetCell>> {
        if matches!(&target, Target::Host(host) if host.len() > limits::HOST) {
            return None;
        }
        let mut state = self.state();
        if let Some(cell) = state.targets.get(&target) {
            cell.used.store(self.now(), Ordering::Relaxed);
            return Some(cell.clone());
        }
        for idle in state.make_room(&target, self.now())? {
            self.tell(Command::Unsubscribe(idle));
        }
        let cell = Arc::new(TargetCell {
            value: watch::Sender::new(None),
            used: AtomicU64::new(self.now()),
        });
        state.insert(target.clone(), cell.clone());
        self.tell(Command::Subscribe(target));
        Some(cell)
    }

    fn tell(&self, command: Command) {
        // A client that is gone leaves the directory as it is: no answer.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(command) {
            self.behind.store(true, Ordering::Relaxed);
        }
    }

    /// Whether commands were lost since it was last asked, so that the client has to
    /// ask for all again.
    pub(crate) fn take_behind(&self) -> bool {
        self.behind.swap(false, Ordering::Relaxed)
    }

    /// All that is subscribed to: what a new stream has to ask for.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.state().targets.keys().cloned().collect()
    }

    /// Puts the updates of one message in force, all before anybody who waits
    /// is woken.
    pub(crate) fn apply(&self, updates: Vec<Update>) {
        let mut resolutions = Vec::new();
        let mut state = self.state();
        for update in updates {
            match update {
                Update::Resolution(target, resolution) => resolutions.push((target, resolution)),
                Update::Service(service) => {
                    let cell = state.service_cell(&service.key);
                    cell.update_service(Some(service));
                }
                Update::Endpoints(mut update) => {
                    for endpoint in &mut update.upserts {
                        self.localize(endpoint);
                        state.shared.share(endpoint);
                    }
                    state.service_cell(&update.service).update_endpoints(update);
                }
                Update::ServiceRemoved(key) => {
                    // The cell stays: connections hold it, and the service may return.
                    if let Some(cell) = state.services.get(&key) {
                        cell.update_service(None);
                        cell.forget_endpoints();
                    }
                }
                Update::Inbound(inbound) => {
                    let inbound = inbound.after(&self.inbound.load());
                    let place = (inbound.locality.clone(), inbound.labels.clone());
                    let before = self.inbound.swap(inbound);
                    self.inbound_version.fetch_add(1, Ordering::Release);
                    if place != (before.locality.clone(), before.labels.clone()) {
                        for cell in state.services.values() {
                            cell.relabelled();
                            cell.standing.changed();
                        }
                    }
                    self.inbound_told.send_modify(|times| *times += 1);
                }
                Update::Peer(ip, workload) => {
                    if let Some(cell) = state.targets.get(&Target::Peer(ip)) {
                        cell.value.send_replace(Some(Resolved::Peer(workload)));
                    }
                }
            }
        }
        for (target, resolution) in resolutions {
            let resolved = match resolution {
                Resolution::Service(key) => Resolved::Service(state.service_cell(&key)),
                Resolution::Endpoint(mut endpoint) => {
                    self.localize(&mut endpoint);
                    Resolved::Endpoint(endpoint)
                }
                Resolution::External => Resolved::External,
            };
            if let Some(cell) = state.targets.get(&target) {
                cell.value.send_replace(Some(resolved));
            }
        }
    }

    /// A connection to the pod itself never leaves it nor meets a redirect: it
    /// leads straight to the application, which speaks no mesh TLS.
    fn localize(&self, endpoint: &mut Arc<Endpoint>) {
        if self.own_ips.contains(&endpoint.address.ip()) {
            let endpoint = Arc::make_mut(endpoint);
            endpoint.identity = None;
            endpoint.mtls_only = false;
        }
    }

    /// Lets go of targets that nobody has used for a while and of services that
    /// none of the others leads to.
    pub(crate) fn expire(&self) {
        let now = self.now();
        let before = now.saturating_sub(micros(IDLE));
        let mut state = self.state();
        let idle = state.unused(now).into_iter();
        let idle: Vec<Target> = idle
            .take_while(|(used, _)| *used < before)
            .map(|(_, target)| target)
            .collect();
        for target in idle {
            state.remove(&target);
            self.tell(Command::Unsubscribe(target));
        }
        let needed = state.needed_services();
        // A connection that still holds a cell keeps it, and keeps it current.
        state
            .services
            .retain(|key, cell| needed.contains(key) || Arc::strong_count(cell) > 1);
        state.shared.expire();
    }

    /// Keeps the gauges of ejected endpoints true.
    pub(crate) fn show_ejected(&self, now: Instant) {
        for cell in self.state().services.values() {
            cell.standing.show(now);
        }
    }
}
