//! Power of two choices over peak-EWMA latency times requests in flight.
//!
//! State is a data thread's own: no lock, no sharing. An endpoint keeps its
//! state while it stays in the set, whatever else changes.

#[expect(dead_code, reason = "DestinationRules don't reach the proxy yet")]
mod hash;
#[expect(dead_code, reason = "as above")]
mod locality;
#[expect(dead_code, reason = "as above")]
mod outlier;

use crate::{
    budget::Budget,
    directory::ServiceCell,
    http::connection::Connections,
    telemetry::{HttpSeries, Parties, RequestProtocol, Telemetry},
};
use linnet_mesh::Endpoint;
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
    latency: Cell<f64>,
    stamp: Cell<Instant>,
    in_flight: Cell<u32>,
    /// When the last request set out.
    pub(crate) used: Cell<Instant>,
    series: RefCell<Series>,
    pub(crate) connections: Connections,
}

/// The endpoint's metric series, by protocol, for the workload's own metadata
/// they were made with.
#[derive(Default)]
struct Series {
    made_for: Option<Arc<linnet_mesh::Workload>>,
    http: Option<Arc<HttpSeries>>,
    grpc: Option<Arc<HttpSeries>>,
}

impl Candidate {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            latency: Cell::new(UNKNOWN_LATENCY),
            stamp: Cell::new(Instant::now()),
            in_flight: Cell::new(0),
            used: Cell::new(Instant::now()),
            series: RefCell::default(),
            connections: Connections::default(),
        }
    }

    fn cost(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.stamp.get());
        let weight = (-age.as_secs_f64() / DECAY.as_secs_f64()).exp();
        // Decays towards the unknown, so that a slow one is tried again.
        let latency = self.latency.get() * weight + UNKNOWN_LATENCY * (1.0 - weight);
        (latency + NOISE) * f64::from(self.in_flight.get() + 1)
    }

    /// Takes note of an answer's latency: a peak counts at once, a better value
    /// by and by.
    fn observe(&self, milliseconds: f64, now: Instant) {
        let known = self.latency.get();
        let age = now.saturating_duration_since(self.stamp.get());
        let weight = (-age.as_secs_f64() / DECAY.as_secs_f64()).exp();
        self.latency.set(if milliseconds > known {
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
        parties: impl FnOnce() -> Parties,
    ) -> Arc<HttpSeries> {
        let mut series = self.series.borrow_mut();
        if !series
            .made_for
            .as_ref()
            .is_some_and(|made| Arc::ptr_eq(made, own))
        {
            *series = Series {
                made_for: Some(own.clone()),
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
}

/// One request on its way to an endpoint; counts as in flight while it lives.
pub(crate) struct InFlight {
    pub(crate) candidate: Rc<Candidate>,
    started: Instant,
}

impl InFlight {
    pub(crate) fn new(candidate: Rc<Candidate>, now: Instant) -> Self {
        candidate.in_flight.set(candidate.in_flight.get() + 1);
        candidate.used.set(now);
        Self {
            candidate,
            started: now,
        }
    }

    /// The response's head has arrived.
    pub(crate) fn answered(&self) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.started);
        self.candidate.observe(elapsed.as_secs_f64() * 1e3, now);
    }

    /// The endpoint could not be reached.
    pub(crate) fn failed(&self) {
        self.candidate.observe(FAILURE_LATENCY, Instant::now());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let in_flight = &self.candidate.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
    }
}

/// A service's endpoints as a thread sees them.
pub(crate) struct Balancer {
    pub(crate) cell: Arc<ServiceCell>,
    pub(crate) budget: Budget,
    view: RefCell<View>,
}

#[derive(Default)]
struct View {
    made_from: Option<Arc<Vec<Arc<Endpoint>>>>,
    by_address: HashMap<SocketAddr, Rc<Candidate>>,
    all: Group,
    subsets: HashMap<String, Group>,
}

/// Endpoints to choose from; terminating ones only when there are no others.
#[derive(Default)]
struct Group {
    serving: Vec<Rc<Candidate>>,
    terminating: Vec<Rc<Candidate>>,
}

impl Group {
    fn push(&mut self, candidate: &Rc<Candidate>) {
        let list = if candidate.endpoint.terminating {
            &mut self.terminating
        } else {
            &mut self.serving
        };
        list.push(candidate.clone());
    }

    fn choose(&self, now: Instant, avoid: &[SocketAddr]) -> Option<Rc<Candidate>> {
        let list = if self.serving.is_empty() {
            &self.terminating
        } else {
            &self.serving
        };
        if !avoid.is_empty() {
            let fresh = |c: &&Rc<Candidate>| !avoid.contains(&c.endpoint.address);
            let rest: Vec<_> = list.iter().filter(fresh).cloned().collect();
            if !rest.is_empty() {
                return two_choices(&rest, now);
            }
        }
        two_choices(list, now)
    }
}

fn two_choices(list: &[Rc<Candidate>], now: Instant) -> Option<Rc<Candidate>> {
    match list {
        [] => None,
        [only] => Some(only.clone()),
        _ => {
            let first = rand::random_range(0..list.len());
            let step = rand::random_range(1..list.len());
            let second = (first + step) % list.len();
            let (first, second) = (&list[first], &list[second]);
            let chosen = if first.cost(now) <= second.cost(now) {
                first
            } else {
                second
            };
            Some(chosen.clone())
        }
    }
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
    pub(crate) fn choose(&self, subset: Option<&str>, avoid: &[SocketAddr]) -> Option<InFlight> {
        self.refresh();
        let view = self.view.borrow();
        let group = match subset {
            None => &view.all,
            Some(name) => view.subsets.get(name)?,
        };
        let now = Instant::now();
        group
            .choose(now, avoid)
            .map(|chosen| InFlight::new(chosen, now))
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn expire(&self, now: Instant) {
        for candidate in self.view.borrow().by_address.values() {
            candidate.connections.expire(now);
        }
    }

    fn refresh(&self) {
        let current = self.cell.endpoints();
        let mut view = self.view.borrow_mut();
        if view
            .made_from
            .as_ref()
            .is_some_and(|from| Arc::ptr_eq(from, &current))
        {
            return;
        }
        let mut by_address = HashMap::with_capacity(current.len());
        let mut all = Group::default();
        let mut subsets: HashMap<String, Group> = HashMap::new();
        for endpoint in current.iter() {
            let candidate = match view.by_address.get(&endpoint.address) {
                Some(known) if known.endpoint == *endpoint => known.clone(),
                _ => Rc::new(Candidate::new(endpoint.clone())),
            };
            all.push(&candidate);
            for name in &endpoint.subsets {
                subsets.entry(name.clone()).or_default().push(&candidate);
            }
            by_address.insert(endpoint.address, candidate);
        }
        *view = View {
            made_from: Some(current.clone()),
            by_address,
            all,
            subsets,
        };
    }
}

#[cfg(test)]
mod tests;
