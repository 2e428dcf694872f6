//! Which endpoint takes a request: by default one of two drawn ones, each of which
//! gets the more the less its latency times its requests in flight is; else as a
//! DestinationRule says.
//!
//! Latency and what is in flight are a data thread's own: no lock, no sharing.
//! An endpoint keeps its state while it stays in the set, whatever else changes.
//! Ejections ([`standing`]) and who can't be reached (`crate::availability`) are
//! known to all threads.

mod group;
mod hash;
mod in_flight;
mod key;
mod latency;
mod locality;
mod outlier;
pub(crate) mod standing;
mod strain;

pub(crate) use group::Watch;
pub(crate) use in_flight::{Blame, InFlight};
pub(crate) use key::Asker;
pub(crate) use outlier::Verdict;

use crate::{
    access_log::Ends,
    budget::Budget,
    clock,
    directory::ServiceCell,
    http::{connection::Connections, exchange::Load},
    pool::{Plan, Pool},
    telemetry::{HttpSeries, Parties, RequestProtocol, Telemetry},
};
use group::{Group, Settings};
use http::StatusCode;
use latency::{Latency, UNKNOWN_LATENCY};
use linnet_mesh::{AppProtocol, Endpoint, destination::DestinationPolicy};
use locality::Place;
use outlier::{Health, Seen};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};
use strain::Strain;

/// An endpoint with what this thread has seen of it.
pub(crate) struct Candidate {
    pub(crate) endpoint: Arc<Endpoint>,
    health: Arc<Health>,
    /// What others may read of this thread's view.
    seen: Arc<Seen>,
    latency: Latency,
    /// What its failures weigh where nothing but requests in flight does.
    strain: Strain,
    /// What it has cost so far: of two, the next request goes to the one that would
    /// have cost less.
    spent: Cell<f64>,
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
        let health = Health::new(Instant::now(), None, Arc::default());
        Self::with_health(endpoint, Arc::new(health))
    }

    fn with_health(endpoint: Arc<Endpoint>, health: Arc<Health>) -> Self {
        Self {
            connections: Connections::new(endpoint.clone(), health.availability.clone()),
            endpoint,
            seen: health.seen_by_one_more(UNKNOWN_LATENCY),
            health,
            latency: Latency::new(Instant::now()),
            strain: Strain::default(),
            spent: Cell::new(0.0),
            series: RefCell::default(),
        }
    }

    fn is_unavailable(&self) -> bool {
        self.health.availability.is_unavailable()
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

    /// Its requests in flight, with those that its failures count for.
    fn busy(&self, now: Instant) -> f64 {
        f64::from(self.in_flight()) + self.strain.now(now)
    }

    /// What a request to it costs now.
    fn cost(&self, now: Instant) -> f64 {
        let latency = self.latency.now(self.seen.latency(), now);
        latency::cost(latency, self.in_flight())
    }

    /// Takes note of an answer after so many milliseconds.
    fn observe(&self, milliseconds: f64, now: Instant) {
        let known = self.seen.latency();
        let after = self.latency.after_answer(known, milliseconds, now);
        self.seen.set_latency(after);
    }

    /// Takes note of a failure after so many milliseconds.
    fn penalise(&self, milliseconds: f64, now: Instant) {
        let known = self.seen.latency();
        let after = self.latency.after_failure(known, milliseconds, now);
        self.seen.set_latency(after);
        self.strain.note_failure(now);
    }

    /// Takes note that an answer would have taken longer than so many milliseconds.
    fn observe_at_least(&self, milliseconds: f64, now: Instant) {
        let known = self.seen.latency();
        let after = self.latency.after_answer(known, milliseconds, now);
        self.seen.set_latency(after.max(known));
    }

    /// Takes note of an answer that is known at the exchange's end alone.
    fn ended_as(&self, answer: Option<(StatusCode, Option<u16>)>) -> Option<Verdict> {
        let (status, grpc) = answer?;
        let verdict = Verdict::of(status, grpc);
        if verdict.is_no_measure() {
            self.penalise(0.0, clock::instant());
        }
        Some(verdict)
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

/// A service's endpoints as a thread sees them.
pub(crate) struct Balancer {
    pub(crate) cell: Arc<ServiceCell>,
    pub(crate) budget: Budget,
    /// Of requests to others, on their way to these endpoints.
    pub(crate) copies: Cell<u32>,
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
            copies: Cell::default(),
            view: RefCell::default(),
        }
    }

    /// Chooses an endpoint of a subset, or of the whole service, that is not one of
    /// those tried.
    pub(crate) fn choose_other(
        &self,
        subset: Option<&str>,
        tried: &[SocketAddr],
        asker: &Asker<'_>,
    ) -> Option<InFlight> {
        let chosen = self.choose(subset, tried, asker)?;
        if tried.contains(&chosen.candidate.endpoint.address) {
            chosen.withdraw();
            return None;
        }
        Some(chosen)
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
        let group = &called.group;
        let probed = avoid.is_empty().then(|| group.probe(now, asker)).flatten();
        let chosen = match probed {
            Some(probed) => probed,
            None => group.choose(now, avoid, |key| asker.key(key), &mut rand::rng())?,
        };
        let mut in_flight = InFlight::new(chosen.clone(), called.pool.clone(), now);
        if let Some(watch) = &group.watch {
            in_flight.watch = Some(watch.clone());
            in_flight.returns = chosen.health.availability.returns();
        }
        in_flight.others = group.others;
        in_flight.probes = probed.is_some();
        in_flight.desperate = group.desperate && chosen.is_unavailable();
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
