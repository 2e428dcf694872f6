//! Which endpoint takes a request: by default the better of two drawn ones, by
//! peak-EWMA latency times requests in flight; else as a DestinationRule says.
//!
//! Latency and what is in flight are a data thread's own: no lock, no sharing.
//! An endpoint keeps its state while it stays in the set, whatever else
//! changes. Ejections are known to all threads ([`standing`]).

mod group;
mod hash;
mod key;
mod locality;
mod outlier;
pub(crate) mod standing;

pub(crate) use group::Watch;
pub(crate) use key::Asker;
pub(crate) use outlier::Verdict;

use crate::{
    access_log::Ends,
    budget::Budget,
    clock,
    directory::ServiceCell,
    error::Error,
    http::{connection::Connections, exchange::Load},
    pool::{Plan, Pool, Room},
    telemetry::{HttpSeries, Parties, RequestProtocol, Telemetry},
};
use group::{Group, Settings};
use http::{HeaderValue, StatusCode};
use linnet_mesh::{AppProtocol, Endpoint, destination::DestinationPolicy};
use locality::Place;
use outlier::{Health, Seen};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How fast a past peak is forgotten. Finagle and its heirs take 10 s; at
/// sub-millisecond latencies one hiccup then starves an endpoint for as long.
const DECAY: Duration = Duration::from_secs(3);
/// What an endpoint is taken for before it has answered, milliseconds.
const UNKNOWN_LATENCY: f64 = 1.0;
/// Differences below this are the machine's noise, milliseconds.
const NOISE: f64 = 1.0;
/// What a failed connection counts as, milliseconds.
const FAILURE_LATENCY: f64 = 5_000.0;

/// An endpoint with what this thread has seen of it.
pub(crate) struct Candidate {
    pub(crate) endpoint: Arc<Endpoint>,
    health: Arc<Health>,
    /// What others may read of this thread's view.
    seen: Arc<Seen>,
    stamp: Cell<Instant>,
    series: RefCell<Series>,
    pub(crate) connections: Rc<Connections>,
}

/// The endpoint's metric series, by protocol, for the workload's own metadata
/// they were made with.
#[derive(Default)]
struct Series {
    made_for: Option<Arc<linnet_mesh::Workload>>,
    /// Whether by the mesh's own TLS, where it has an identity.
    meshed: bool,
    http: Option<Arc<HttpSeries>>,
    grpc: Option<Arc<HttpSeries>>,
    /// Who is on both ends, for the access log.
    ends: Option<Rc<Ends>>,
}

impl Candidate {
    /// One that is called by its own address: there is no other to choose.
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        let health = Arc::new(Health::new(Instant::now(), None));
        Self::with_health(endpoint, health)
    }

    fn with_health(endpoint: Arc<Endpoint>, health: Arc<Health>) -> Self {
        Self {
            connections: Connections::new(endpoint.clone()),
            endpoint,
            seen: health.seen_by_one_more(UNKNOWN_LATENCY),
            health,
            stamp: Cell::new(Instant::now()),
            series: RefCell::default(),
        }
    }

    fn in_flight(&self) -> u32 {
        self.seen.in_flight()
    }

    fn one_more(&self) {
        self.seen.set_in_flight(self.seen.in_flight() + 1);
    }

    /// What an exchange weighs on, that is one more in flight.
    pub(crate) fn loaded(self: Rc<Self>) -> Rc<dyn Load> {
        self.one_more();
        self
    }

    fn one_less(&self) {
        let in_flight = self.seen.in_flight();
        self.seen.set_in_flight(in_flight.saturating_sub(1));
    }

    fn cost(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.stamp.get());
        let weight = (-age.as_secs_f64() / DECAY.as_secs_f64()).exp();
        // Decays towards the unknown, so that a slow one is tried again.
        let latency = self.seen.latency() * weight + UNKNOWN_LATENCY * (1.0 - weight);
        (latency + NOISE) * f64::from(self.in_flight() + 1)
    }

    /// Takes note of an answer's latency: a peak counts at once, a better value
    /// by and by.
    fn observe(&self, milliseconds: f64, now: Instant) {
        let known = self.seen.latency();
        let age = now.saturating_duration_since(self.stamp.get());
        let weight = (-age.as_secs_f64() / DECAY.as_secs_f64()).exp();
        self.seen.set_latency(if milliseconds > known {
            milliseconds
        } else {
            known * weight + milliseconds * (1.0 - weight)
        });
        self.stamp.set(now);
    }

    /// The series for requests to this endpoint, resolved the first time.
    pub(crate) fn series(
        &self,
        telemetry: &Telemetry,
        protocol: RequestProtocol,
        own: &Arc<linnet_mesh::Workload>,
        plan: &Plan,
        parties: impl FnOnce() -> Parties,
    ) -> Arc<HttpSeries> {
        let mut series = self.series.borrow_mut();
        let meshed = plan.policy.tls.is_mesh();
        let made_for = series.made_for.as_ref();
        if series.meshed != meshed || made_for.is_none_or(|made| !Arc::ptr_eq(made, own)) {
            *series = Series {
                made_for: Some(own.clone()),
                meshed,
                ..Series::default()
            };
        }
        let slot = match protocol {
            RequestProtocol::Http => &mut series.http,
            RequestProtocol::Grpc => &mut series.grpc,
        };
        slot.get_or_insert_with(|| telemetry.http(&parties(), protocol))
            .clone()
    }

    /// Who is on both ends of requests to this endpoint, resolved the first time;
    /// as current as the series that were asked for last.
    pub(crate) fn ends(&self, parties: impl FnOnce() -> Parties) -> Rc<Ends> {
        let known = &mut self.series.borrow_mut().ends;
        if let Some(ends) = known {
            return ends.clone();
        }
        let ends = Rc::new(Ends::new(parties()));
        *known = Some(ends.clone()).filter(|ends| ends.are_complete());
        ends
    }
}

/// One request on its way to an endpoint; counts as in flight while it lives.
pub(crate) struct InFlight {
    pub(crate) candidate: Rc<Candidate>,
    /// By whose policy the endpoint is called.
    pub(crate) pool: Rc<Pool>,
    started: Instant,
    watch: Option<Rc<Watch>>,
    cookie: Option<Box<HeaderValue>>,
    /// Whether it is known how it went.
    settled: Cell<bool>,
    /// The connection's, where it is one connection.
    room: Option<Room>,
}

impl InFlight {
    pub(crate) fn new(candidate: Rc<Candidate>, pool: Rc<Pool>, now: Instant) -> Self {
        candidate.one_more();
        Self {
            candidate,
            pool,
            started: now,
            watch: None,
            cookie: None,
            settled: Cell::default(),
            room: None,
        }
    }

    /// Counts as an open connection too.
    pub(crate) fn occupy(&mut self, room: Room) {
        self.room = Some(room);
    }

    /// What an exchange that lasts longer weighs on.
    pub(crate) fn into_load(self) -> Rc<dyn Load> {
        if self.watch.is_some() {
            return Rc::new(self);
        }
        self.candidate.clone().loaded()
    }

    /// The response's head has arrived.
    pub(crate) fn answered(&self) {
        self.settled.set(true);
        let now = clock::instant();
        let elapsed = now.saturating_duration_since(self.started);
        self.candidate.observe(elapsed.as_secs_f64() * 1e3, now);
    }

    /// The endpoint could not be reached, or did not answer.
    pub(crate) fn failed(&self, error: &Error) {
        self.settled.set(true);
        if error.is_endpoint_s() {
            self.candidate.observe(FAILURE_LATENCY, Instant::now());
            self.judge(Verdict::Failed);
        }
    }

    /// A connection that is not HTTP has come about.
    pub(crate) fn connected(&self) {
        self.settled.set(true);
        self.judge(Verdict::Connected);
    }

    /// Whom to blame when nobody waits for the answer any longer; `None`: nobody
    /// watches.
    pub(crate) fn blame(&self) -> Option<Blame> {
        let watch = self.watch.clone()?;
        let candidate = self.candidate.clone();
        Some(Blame { candidate, watch })
    }

    /// Takes note of how it went, for outlier detection.
    pub(crate) fn judge(&self, verdict: Verdict) {
        if let Some(watch) = &self.watch {
            watch.note(&self.candidate, verdict, clock::instant());
        }
    }

    /// The cookie that the answer is to set, so that its caller is known again.
    pub(crate) fn take_cookie(&mut self) -> Option<HeaderValue> {
        self.cookie.take().map(|cookie| *cookie)
    }
}

/// An endpoint that was too slow, and who watches over it.
pub(crate) struct Blame {
    candidate: Rc<Candidate>,
    watch: Rc<Watch>,
}

impl Blame {
    /// No answer came in time.
    pub(crate) fn fall(&self) {
        let now = Instant::now();
        self.watch.note(&self.candidate, Verdict::Failed, now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.settled.get() {
            // Given up on: an answer would have taken longer still.
            self.answered();
        }
        self.candidate.one_less();
    }
}

/// Where an exchange weighs whose answer is on its way.
impl Load for Candidate {
    fn ended(&self, _: Option<(StatusCode, Option<u16>)>) {
        self.one_less();
    }
}

/// The same where somebody wants to know how it went.
impl Load for InFlight {
    fn ended(&self, answer: Option<(StatusCode, Option<u16>)>) {
        if let Some((status, grpc)) = answer {
            self.judge(Verdict::of(status, grpc));
        }
    }
}

/// A service's endpoints as a thread sees them.
pub(crate) struct Balancer {
    pub(crate) cell: Arc<ServiceCell>,
    pub(crate) budget: Budget,
    view: RefCell<View>,
}

/// What a thread makes of endpoints, policy and ejections, until one changes.
#[derive(Default)]
struct View {
    /// Of the standing it was made from.
    version: u64,
    by_address: HashMap<SocketAddr, Rc<Candidate>>,
    all: Option<Called>,
    subsets: HashMap<String, Called>,
    /// When an ejection ends.
    expires: Option<Instant>,
}

impl View {
    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.all().map(|called| &called.group)
    }

    fn all(&self) -> impl Iterator<Item = &Called> {
        self.all.iter().chain(self.subsets.values())
    }

    /// The pool of a plan, the one that is in use already if there is one.
    fn pool(&self, plan: &Arc<Plan>) -> Rc<Pool> {
        let known = self.all().find(|called| Arc::ptr_eq(&called.pool, plan));
        known.map_or_else(|| Pool::new(plan.clone()), |called| called.pool.clone())
    }
}

/// Endpoints to choose from, and how they are called.
struct Called {
    group: Group,
    pool: Rc<Pool>,
}

impl Balancer {
    pub(crate) fn new(cell: Arc<ServiceCell>) -> Self {
        Self {
            cell,
            budget: Budget::default(),
            view: RefCell::default(),
        }
    }

    /// Chooses an endpoint of a subset, or of the whole service, other than
    /// those to avoid where there are others.
    pub(crate) fn choose(
        &self,
        subset: Option<&str>,
        avoid: &[SocketAddr],
        asker: &Asker<'_>,
    ) -> Option<InFlight> {
        let now = clock::instant();
        self.refresh(now);
        let view = self.view.borrow();
        let called = match subset {
            None => view.all.as_ref()?,
            Some(name) => view.subsets.get(name)?,
        };
        let key = |key: &_| asker.key(key);
        let chosen = called.group.choose(now, avoid, key, &mut rand::rng())?;
        let mut in_flight = InFlight::new(chosen.clone(), called.pool.clone(), now);
        in_flight.watch.clone_from(&called.group.watch);
        in_flight.cookie = asker.take_cookie().map(Box::new);
        Some(in_flight)
    }

    /// Closes connections that have been idle for too long, and those of
    /// endpoints that are gone or ejected.
    pub(crate) fn expire(&self, now: Instant) {
        self.refresh(now);
        let view = self.view.borrow();
        for candidate in view.by_address.values() {
            candidate.connections.expire();
        }
        for ejected in view.groups().flat_map(|group| &group.ejected) {
            // What was in flight at its ejection has given connections back.
            ejected.connections.close_idle();
        }
    }

    /// Closes all connections that nobody uses just now.
    pub(crate) fn close_idle(&self) {
        for candidate in self.view.borrow().by_address.values() {
            candidate.connections.close_idle();
        }
    }

    fn refresh(&self, now: Instant) {
        let version = self.cell.standing.version();
        let mut view = self.view.borrow_mut();
        if view.version != version || view.expires.is_some_and(|end| now >= end) {
            *view = self.look(&view, version, now);
        }
    }

    fn look(&self, before: &View, version: u64, now: Instant) -> View {
        let standing = &self.cell.standing;
        let service = self.cell.service();
        let destination = service.and_then(|service| service.destination.clone());
        let default = Arc::<DestinationPolicy>::default();
        let own = self.cell.own();
        let pools = self.cell.pools();
        let called = |subset: Option<&str>, members: &[Rc<Candidate>], all: Option<&Called>| {
            let policy = destination.as_ref().map(|of| of.policy(subset));
            let settings = Settings {
                policy: policy.unwrap_or(&default),
                own: Place {
                    locality: &own.locality,
                    labels: &own.labels,
                },
                standing,
                now,
            };
            let plan = pools.plan(subset);
            let whole = |all: &Called| Arc::ptr_eq(&all.pool, plan).then(|| all.pool.clone());
            // Subsets without a policy of their own share the service's.
            let pool = all.and_then(whole).unwrap_or_else(|| before.pool(plan));
            let group = Group::new(members, &settings);
            Called { group, pool }
        };
        let mut by_address = HashMap::new();
        let mut all = Vec::new();
        let mut subsets: HashMap<&str, Vec<_>> = HashMap::new();
        let endpoints = self.cell.endpoints();
        let declared = self
            .cell
            .service()
            .map_or(AppProtocol::default(), |service| service.protocol);
        for endpoint in endpoints.iter() {
            let address = endpoint.address;
            let candidate = match before.by_address.get(&address) {
                Some(known) if known.endpoint == *endpoint => known.clone(),
                _ => Rc::new(Candidate::with_health(
                    endpoint.clone(),
                    standing.of(address),
                )),
            };
            candidate.connections.declare(declared);
            for name in &endpoint.subsets {
                subsets.entry(name).or_default().push(candidate.clone());
            }
            all.push(candidate.clone());
            by_address.insert(address, candidate);
        }
        let all = called(None, &all, None);
        let subsets: HashMap<_, _> = subsets
            .into_iter()
            .map(|(name, members)| (name.to_owned(), called(Some(name), &members, Some(&all))))
            .collect();
        let groups = || {
            let all = std::iter::once(&all).chain(subsets.values());
            all.map(|called| &called.group)
        };
        for ejected in groups().flat_map(|group| &group.ejected) {
            ejected.connections.close_idle();
        }
        View {
            version,
            by_address,
            expires: groups().filter_map(|group| group.expires).min(),
            all: Some(all),
            subsets,
        }
    }
}

#[cfg(test)]
mod tests;
