//! What a data thread owns. Nothing here is shared with another thread but the
//! directory, the certificates and the metric handles, none of which a request
//! locks.

use crate::{
    access_log::Log,
    balance::{Balancer, Candidate},
    cap::Cap,
    connect,
    directory::{Directory, ServiceCell},
    http::grant::Grants,
    inbound::{Decisions, Refusals, token::Tokens},
    pool::{Plan, Pool},
    telemetry::Telemetry,
    tls::Tls,
};
use linnet_discovery::Target;
use linnet_mesh::{Endpoint, Inbound, ServicePort, Workload};
use linnet_runtime::drain;
use std::{
    cell::{Cell, Ref, RefCell},
    collections::{HashMap, HashSet},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often idle connections are looked over.
const SWEEP: Duration = Duration::from_secs(10);
/// How long it is remembered who speaks first at a destination.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Destinations remembered at most.
const MOST_REMEMBERED: usize = 10_000;

/// What all data threads are given.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) directory: Arc<Directory>,
    pub(crate) certificates: linnet_workload::Handle,
    pub(crate) telemetry: Telemetry,
    pub(crate) access_log: Log,
    pub(crate) opaque_ports: Arc<HashSet<u16>>,
    pub(crate) drain: drain::Watch,
    pub(crate) cap: Cap,
}

/// See the module.
pub(crate) struct Thread {
    pub(crate) shared: Shared,
    pub(crate) tls: Tls,
    pub(crate) decisions: Decisions,
    pub(crate) tokens: Tokens,
    pub(crate) grants: Rc<Grants>,
    pub(crate) refusals: Refusals,
    /// For what no policy speaks of.
    pub(crate) plain: Rc<Pool>,
    /// For the pod's own application.
    pub(crate) application: Rc<Pool>,
    balancers: RefCell<HashMap<ServicePort, Rc<Balancer>>>,
    direct: RefCell<HashMap<SocketAddr, Rc<Candidate>>>,
    first_speakers: RefCell<HashMap<Target, (FirstSpeaker, Instant)>>,
    connections: Cell<usize>,
    from_identity: RefCell<Option<Arc<Workload>>>,
    /// The directory's, and how often that had been told by then.
    inbound: RefCell<(u64, Arc<Inbound>)>,
}

/// Who speaks first on connections to a destination, as last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstSpeaker {
    Client,
    Server,
}

/// Counts a connection while it lives.
pub(crate) struct ConnectionGuard(Rc<Thread>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let connections = &self.0.connections;
        connections.set(connections.get().saturating_sub(1));
    }
}

impl Thread {
    pub(crate) fn new(shared: Shared) -> Rc<Self> {
        Rc::new(Self {
            tls: Tls::new(shared.certificates.clone(), shared.directory.own_ips()),
            plain: Pool::new(Arc::default()),
            application: Pool::new(Arc::new(Plan::application())),
            decisions: Decisions::default(),
            tokens: Tokens::default(),
            grants: Rc::default(),
            refusals: Refusals::default(),
            shared,
            balancers: RefCell::default(),
            direct: RefCell::default(),
            first_speakers: RefCell::default(),
            connections: Cell::default(),
            from_identity: RefCell::default(),
            inbound: RefCell::default(),
        })
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    /// How the workload is to be called, as it is now; costs less than to ask the
    /// directory each time.
    pub(crate) fn inbound(&self) -> Ref<'_, Inbound> {
        let version = self.directory().inbound_version();
        let known = self.inbound.borrow().0 == version;
        // Who still looks at the one before goes on doing so.
        if !known && let Ok(mut inbound) = self.inbound.try_borrow_mut() {
            *inbound = (version, Arc::clone(&self.directory().inbound()));
        }
        Ref::map(self.inbound.borrow(), |(_, inbound)| &**inbound)
    }

    /// This workload, as discovery names it, or failing that its identity.
    pub(crate) fn own_workload(&self) -> Arc<Workload> {
        let told = self.inbound().workload.clone();
        if !told.name.is_empty() {
            return told;
        }
        if let Some(known) = &*self.from_identity.borrow() {
            return known.clone();
        }
        let Some(identity) = self.tls.identity() else {
            return told;
        };
        let own = Arc::new(Workload::from_identity(&identity));
        *self.from_identity.borrow_mut() = Some(own.clone());
        own
    }

    pub(crate) fn count_connection(self: &Rc<Self>) -> ConnectionGuard {
        self.connections.set(self.connections.get() + 1);
        ConnectionGuard(self.clone())
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// The balancer over a service's endpoints.
    pub(crate) fn balancer(&self, cell: &Arc<ServiceCell>) -> Rc<Balancer> {
        let mut balancers = self.balancers.borrow_mut();
        match balancers.get(&cell.key) {
            Some(known) if Arc::ptr_eq(&known.cell, cell) => known.clone(),
            _ => {
                let made = Rc::new(Balancer::new(cell.clone()));
                balancers.insert(cell.key.clone(), made.clone());
                made
            }
        }
    }

    /// The balancer of a service that a route names.
    pub(crate) fn balancer_of(&self, key: &ServicePort) -> Option<Rc<Balancer>> {
        if let Some(known) = self.balancers.borrow().get(key) {
            return Some(known.clone());
        }
        let cell = self.directory().service(key)?;
        Some(self.balancer(&cell))
    }

    /// An endpoint that is called by its own address.
    pub(crate) fn direct(&self, endpoint: &Arc<Endpoint>) -> Rc<Candidate> {
        let mut direct = self.direct.borrow_mut();
        match direct.get(&endpoint.address) {
            Some(known) if known.endpoint == *endpoint => known.clone(),
            _ => {
                let made = Rc::new(Candidate::new(endpoint.clone()));
                direct.insert(endpoint.address, made.clone());
                made
            }
        }
    }

    pub(crate) fn first_speaker(&self, target: &Target) -> Option<FirstSpeaker> {
        let speakers = self.first_speakers.borrow();
        let (speaker, seen) = speakers.get(target)?;
        (seen.elapsed() < REMEMBERED).then_some(*speaker)
    }

    pub(crate) fn remember(&self, target: &Target, speaker: FirstSpeaker) {
        let mut speakers = self.first_speakers.borrow_mut();
        if speakers.len() < MOST_REMEMBERED {
            speakers.insert(target.clone(), (speaker, Instant::now()));
        }
    }

    /// Closes all upstream connections that nobody uses just now.
    fn close_idle(&self) {
        tracing::warn!(
            "the process has no file left (RLIMIT_NOFILE): closed idle connections to upstreams"
        );
        for balancer in self.balancers.borrow().values() {
            balancer.close_idle();
        }
        for candidate in self.direct.borrow().values() {
            candidate.connections.close_idle();
        }
    }

    /// Looks over idle connections and what is remembered, for ever.
    pub(crate) async fn sweep(self: Rc<Self>) {
        let mut interval = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = connect::relieve_shortage(|| self.close_idle()) => continue,
            }
            self.balancers.borrow_mut().retain(|_, balancer| {
                balancer.expire(Instant::now());
                if Rc::strong_count(balancer) > 1 {
                    self.directory().mark_used(&balancer.cell);
                }
                // The directory let go of the service, and no connection has it.
                Arc::strong_count(&balancer.cell) > 1 || Rc::strong_count(balancer) > 1
            });
            self.direct.borrow_mut().retain(|_, candidate| {
                candidate.connections.expire();
                Rc::strong_count(candidate) > 1 || !candidate.connections.is_empty()
            });
            self.first_speakers
                .borrow_mut()
                .retain(|_, (_, seen)| seen.elapsed() < REMEMBERED);
        }
    }
}
