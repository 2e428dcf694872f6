//! How the endpoints of a service are called: the policy in force and what it
//! limits, counted over all data threads of the proxy.
//!
//! Made when configuration arrives, kept while the policy stays the same. What
//! has no limit is not counted: the default costs a request nothing but to see
//! that there is none.

use crate::{clock, error::Error, origination::Originator};
use linnet_mesh::{
    Service, ServicePort,
    destination::{ConnectionPool, Destination, DestinationPolicy},
};
use std::{
    cell::Cell,
    collections::HashMap,
    ops::Deref,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU32,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

/// The plans of one service port.
#[derive(Debug)]
pub(crate) struct Pools {
    whole: Arc<Plan>,
    subsets: HashMap<String, Arc<Plan>>,
}

impl Pools {
    /// The plans for a service as it is now, if any differs. Those whose policy
    /// is as before keep their counts and connections.
    pub(crate) fn follow(&self, service: &Service) -> Option<Self> {
        let now = Self::new(service, self);
        let same = |(name, plan): (&String, &Arc<Plan>)| {
            let before = self.subsets.get(name);
            before.is_some_and(|before| Arc::ptr_eq(before, plan))
        };
        let unchanged = Arc::ptr_eq(&self.whole, &now.whole)
            && self.subsets.len() == now.subsets.len()
            && now.subsets.iter().all(same);
        (!unchanged).then_some(now)
    }

    fn new(service: &Service, before: &Self) -> Self {
        let plan = |subset: Option<&String>, policy: &Arc<DestinationPolicy>| {
            let known = match subset {
                None => Some(&before.whole),
                Some(name) => before.subsets.get(name),
            };
            match known {
                Some(known) if known.policy == *policy && known.hostname == service.hostname => {
                    known.clone()
                }
                _ => Arc::new(Plan::new(service, subset, policy.clone())),
            }
        };
        match &service.destination {
            None => Self {
                whole: plan(None, &Destination::default().policy),
                subsets: HashMap::new(),
            },
            Some(destination) => Self {
                whole: plan(None, &destination.policy),
                subsets: service
                    .subsets
                    .iter()
                    .map(|name| {
                        let policy = destination.policy(Some(name));
                        (name.clone(), plan(Some(name), policy))
                    })
                    .collect(),
            },
        }
    }

    /// Of a service that has not been told.
    pub(crate) fn unknown() -> Self {
        Self {
            whole: Arc::default(),
            subsets: HashMap::new(),
        }
    }

    /// The plan for calls to a subset, or to none.
    pub(crate) fn plan(&self, subset: Option<&str>) -> &Arc<Plan> {
        subset
            .and_then(|name| self.subsets.get(name))
            .unwrap_or(&self.whole)
    }
}

/// What is limited, by its field of a DestinationRule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Connections,
    Pending,
    Requests,
    Retries,
}

impl Limit {
    /// Below `spec.trafficPolicy.connectionPool`.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Connections => "tcp.maxConnections",
            Self::Pending => "http.http1MaxPendingRequests",
            Self::Requests => "http.http2MaxRequests",
            Self::Retries => "http.maxRetries",
        }
    }

    fn of(self, pool: &ConnectionPool) -> Option<u32> {
        match self {
            Self::Connections => pool.max_connections,
            Self::Pending => pool.max_pending_requests,
            Self::Requests => pool.max_requests,
            Self::Retries => pool.max_retries,
        }
    }
}

/// How long the pod's own application may take to accept a connection.
pub(crate) const APPLICATION_TIMEOUT: Duration = Duration::from_secs(2);

/// A policy with its counts.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) policy: Arc<DestinationPolicy>,
    /// For limits reached: whose they are.
    service: Option<ServicePort>,
    subset: Option<String>,
    /// The service's host name, which is the name that TLS asks for.
    pub(crate) hostname: String,
    /// HTTP/1.1 and opaque connections that may still be opened.
    slots: Option<Arc<Semaphore>>,
    /// Who waits for one of them, and how often it was asked for idle ones.
    waiting: AtomicU32,
    wanted: watch::Sender<u64>,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    /// Connections that are open, as a metric.
    open: OnceLock<metrics::Gauge>,
    pub(crate) originator: Originator,
}

impl Plan {
    /// For the pod's own application, which no policy speaks of. Nothing is slow on the way
    /// to it: one that does not accept a connection soon, as one whose queue is full, serves
    /// nobody, and whoever called can go elsewhere.
    pub(crate) fn application() -> Self {
        let pool = ConnectionPool {
            connect_timeout: APPLICATION_TIMEOUT,
            ..ConnectionPool::default()
        };
        let policy = DestinationPolicy {
            pool,
            ..DestinationPolicy::default()
        };
        Self {
            policy: Arc::new(policy),
            ..Self::default()
        }
    }

    fn new(service: &Service, subset: Option<&String>, policy: Arc<DestinationPolicy>) -> Self {
        let slots = policy
            .pool
            .max_connections
            .map(|most| Semaphore::new((most as usize).min(Semaphore::MAX_PERMITS)));
        Self {
            service: Some(service.key.clone()),
            subset: subset.cloned(),
            hostname: service.hostname.clone(),
            slots: slots.map(Arc::new),
            originator: Originator::default(),
            policy,
            ..Self::default()
        }
    }

    fn count(&self, limit: Limit) -> &AtomicU32 {
        match limit {
            Limit::Connections => &self.waiting,
            Limit::Pending => &self.pending,
            Limit::Requests => &self.requests,
            Limit::Retries => &self.retries,
        }
    }

    /// Takes one of what is limited, until the slot is dropped; `None`: there is
    /// no limit.
    pub(crate) fn take(self: &Arc<Self>, limit: Limit) -> Result<Option<Slot>, Error> {
        let Some(most) = limit.of(&self.policy.pool) else {
            return Ok(None);
        };
        let one_more = |taken: u32| (taken < most).then_some(taken + 1);
        match self.count(limit).fetch_update(AcqRel, Acquire, one_more) {
            Ok(_) => Ok(Some(Slot {
                plan: self.clone(),
                limit,
            })),
            Err(_) => Err(self.overflow(limit)),
        }
    }

    /// The error of a limit that is reached; counted.
    pub(crate) fn overflow(&self, limit: Limit) -> Error {
        let text =
            |service: Option<&ServicePort>| service.map(ToString::to_string).unwrap_or_default();
        metrics::counter!(
            "linnet_pool_overflow_total",
            "service" => text(self.service.as_ref()),
            "subset" => self.subset.clone().unwrap_or_default(),
            "limit" => limit.field(),
        )
        .increment(1);
        Error::Overflow(Box::new(crate::error::Overflow {
            service: text(self.service.as_ref()),
            subset: self.subset.clone(),
            source: self.policy.sources.pool.clone(),
            field: limit.field(),
            limit: limit.of(&self.policy.pool).unwrap_or_default(),
        }))
    }

    /// How many of what is limited are taken.
    #[cfg(test)]
    pub(crate) fn taken(&self, limit: Limit) -> u32 {
        self.count(limit).load(Acquire)
    }

    /// Room for a connection, if there is some now.
    pub(crate) fn room(self: &Arc<Self>) -> Option<Room> {
        let permit = match &self.slots {
            None => None,
            Some(slots) => Some(slots.clone().try_acquire_owned().ok()?),
        };
        Some(Room::new(self, permit))
    }

    /// Room for a connection, once there is some; asks for idle ones meanwhile.
    pub(crate) async fn wait_for_room(self: &Arc<Self>) -> Room {
        let Some(slots) = &self.slots else {
            return Room::new(self, None);
        };
        self.waiting.fetch_add(1, AcqRel);
        let _waiting = Slot {
            plan: self.clone(),
            limit: Limit::Connections,
        };
        self.wanted.send_modify(|times| *times += 1);
        let permit = slots.clone().acquire_owned().await;
        Room::new(self, Some(permit.expect("nobody closes the semaphore")))
    }

    /// Whether somebody waits for room.
    pub(crate) fn is_crowded(&self) -> bool {
        self.slots.is_some() && self.waiting.load(Relaxed) > 0
    }
}

/// One of what is limited, while it lives.
#[derive(Debug)]
pub(crate) struct Slot {
    plan: Arc<Plan>,
    limit: Limit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.plan.count(self.limit).fetch_sub(1, AcqRel);
    }
}

/// An open connection, while it lives.
#[derive(Debug)]
pub(crate) struct Room {
    gauge: metrics::Gauge,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Of a connection that no limit counts: HTTP/2 is limited by requests.
    pub(crate) fn unbounded(plan: &Plan) -> Self {
        Self::new(plan, None)
    }

    fn new(plan: &Plan, permit: Option<OwnedSemaphorePermit>) -> Self {
        let gauge = plan.open.get_or_init(|| {
            let service = plan.service.as_ref();
            metrics::gauge!(
                "linnet_pool_connections",
                "service" => service.map(ToString::to_string).unwrap_or_default(),
                "subset" => plan.subset.clone().unwrap_or_default(),
            )
        });
        gauge.increment(1.0);
        Self {
            gauge: gauge.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

/// Streams on one HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Streams {
    open: Cell<u32>,
    /// Most that the peer takes at a time, as far as it has said.
    most: Cell<u32>,
    /// When the last one ended.
    idle_since: Cell<Instant>,
}

impl Streams {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            most: Cell::new(u32::MAX),
            idle_since: Cell::new(Instant::now()),
        })
    }

    pub(crate) fn open(self: &Rc<Self>) -> StreamSlot {
        self.open.set(self.open.get() + 1);
        StreamSlot(self.clone())
    }

    pub(crate) fn count(&self) -> u32 {
        self.open.get()
    }

    /// Takes note of how many the peer takes at a time.
    pub(crate) fn limit(&self, most: usize) {
        self.most.set(u32::try_from(most).unwrap_or(u32::MAX));
    }

    /// Reports whether the peer would begin with one more at once.
    pub(crate) fn has_room(&self) -> bool {
        self.open.get() < self.most.get()
    }

    /// Since when there is none; `None`: there are.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.open.get() == 0).then(|| self.idle_since.get())
    }
}

/// A stream of an HTTP/2 connection, while it lives.
#[derive(Debug)]
pub(crate) struct StreamSlot(Rc<Streams>);

impl StreamSlot {
    pub(crate) fn is_of(&self, streams: &Rc<Streams>) -> bool {
        Rc::ptr_eq(&self.0, streams)
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let left = self.0.open.get().saturating_sub(1);
        self.0.open.set(left);
        if left == 0 {
            self.0.idle_since.set(clock::now());
        }
    }
}

/// What a request holds until its exchange ends.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "held for as long, not read")]
pub(crate) struct Permit {
    pub(crate) request: Option<Slot>,
    pub(crate) stream: Option<StreamSlot>,
}

/// Somebody who can close an idle connection of a pool.
pub(crate) trait Member {
    /// Whether there was one.
    fn give_up_idle(&self, pool: &Rc<Pool>) -> bool;
}

/// A plan as one data thread uses it. Connections belong to a pool: one that
/// was made under another policy serves no request of this one.
pub(crate) struct Pool {
    pub(crate) plan: Arc<Plan>,
    members: std::cell::RefCell<Vec<std::rc::Weak<dyn Member>>>,
    reclaim: Option<tokio::task::AbortHandle>,
}

impl Deref for Pool {
    type Target = Arc<Plan>;

    fn deref(&self) -> &Arc<Plan> {
        &self.plan
    }
}

impl Pool {
    /// On a data thread.
    pub(crate) fn new(plan: Arc<Plan>) -> Rc<Self> {
        Rc::new_cyclic(|own| Self {
            members: std::cell::RefCell::default(),
            reclaim: plan.slots.is_some().then(|| {
                let reclaim = reclaim(own.clone(), plan.wanted.subscribe());
                tokio::task::spawn_local(reclaim).abort_handle()
            }),
            plan,
        })
    }

    /// Connections that may be asked to close idle ones.
    pub(crate) fn join(&self, member: std::rc::Weak<dyn Member>) {
        if self.reclaim.is_some() {
            let mut members = self.members.borrow_mut();
            let gone = |known: &std::rc::Weak<dyn Member>| known.strong_count() == 0;
            if !members.iter().any(|known| known.ptr_eq(&member)) {
                members.retain(|known| !gone(known));
                members.push(member);
            }
        }
    }

    fn close_idle(self: &Rc<Self>) {
        let members = self.members.borrow();
        let mut members = members.iter().filter_map(std::rc::Weak::upgrade);
        members.any(|member| member.give_up_idle(self));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(task) = &self.reclaim {
            task.abort();
        }
    }
}

/// Closes an idle connection of this thread whenever somebody, on whatever
/// thread and for whatever endpoint, waits for room.
async fn reclaim(pool: std::rc::Weak<Pool>, mut wanted: watch::Receiver<u64>) {
    while wanted.changed().await.is_ok() {
        let Some(pool) = pool.upgrade() else {
            return;
        };
        pool.close_idle();
    }
}
