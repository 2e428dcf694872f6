//! Outlier ejection: an endpoint that fails again and again is left alone for
//! a while.
//!
//! What is known of an endpoint is one for all data threads, and outlives
//! updates of the endpoints around it. There is no timer: an ejection ends by
//! the clock, and whoever chooses an endpoint looks at it when the time has come.
//! What is counted while an endpoint is unavailable ends when it is available again,
//! an ejection too: who can serve is not left alone for having been away.

use crate::availability::Availability;
use http::StatusCode;
use linnet_mesh::{destination::OutlierDetection, route::grpc};
use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How an attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// An answer, by its status; gRPC's is mapped to HTTP's.
    Status(u16),
    /// A connection, of which there are no answers to look at, came about.
    Connected,
    /// It could not be reached, hung up or did not answer in time.
    Failed,
}

impl Verdict {
    /// An answer's: gRPC's status, mapped to HTTP's, comes before HTTP's own.
    pub(crate) fn of(status: StatusCode, grpc: Option<u16>) -> Self {
        Self::Status(grpc.map_or(status, grpc::to_http).as_u16())
    }

    /// Whether an endpoint that does so more often is to get less.
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Status(500..))
    }

    /// Whether the time that it took says nothing of how fast the endpoint serves: a
    /// failure, or a refusal for being asked too much.
    pub(crate) fn is_no_measure(self) -> bool {
        self.is_failure() || self == Self::Status(429)
    }
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    ServerErrors,
    GatewayErrors,
    LocalFailures,
}

impl Cause {
    /// The field that says after how many.
    pub(crate) const fn field(self) -> &'static str {
        match self {
            Self::ServerErrors => "consecutive5xxErrors",
            Self::GatewayErrors => "consecutiveGatewayErrors",
            Self::LocalFailures => "consecutiveLocalOriginFailures",
        }
    }
}

/// What all threads know of one endpoint.
#[derive(Debug)]
pub(crate) struct Health {
    /// Whether it can serve at all.
    pub(crate) availability: Arc<Availability>,
    epoch: Instant,
    /// When it appeared; `None`: it was there at the beginning.
    pub(crate) appeared: Option<Instant>,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    /// Milliseconds since the epoch; 0: never ejected.
    ejected_until: AtomicU64,
    /// The return from an absence that ends the ejection, if it was made in one; 0: none.
    ejected_until_return: AtomicU64,
    /// Of late: healthy intervals make up for them.
    ejections: AtomicU32,
    /// Returns from absences before what is counted.
    counted_since: AtomicU64,
    /// What each thread sees of it.
    seen: Mutex<Vec<Weak<Seen>>>,
}

/// What one thread sees of an endpoint. Only that thread writes it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    in_flight: AtomicU32,
    /// The bits of a number of milliseconds.
    latency: AtomicU64,
}

impl Seen {
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn set_in_flight(&self, requests: u32) {
        self.in_flight.store(requests, Relaxed);
    }

    /// Milliseconds.
    pub(crate) fn latency(&self) -> f64 {
        f64::from_bits(self.latency.load(Relaxed))
    }

    pub(crate) fn set_latency(&self, milliseconds: f64) {
        self.latency.store(milliseconds.to_bits(), Relaxed);
    }
}

impl Health {
    /// An endpoint's; `version` is incremented when it becomes unavailable or
    /// available again.
    pub(crate) fn new(epoch: Instant, appeared: Option<Instant>, version: Arc<AtomicU64>) -> Self {
        Self {
            availability: Arc::new(Availability::new(epoch, version)),
            epoch,
            appeared,
            server_errors: AtomicU32::default(),
            gateway_errors: AtomicU32::default(),
            local_failures: AtomicU32::default(),
            ejected_until: AtomicU64::default(),
            ejected_until_return: AtomicU64::default(),
            ejections: AtomicU32::default(),
            counted_since: AtomicU64::default(),
            seen: Mutex::default(),
        }
    }

    /// Another thread has an eye on it.
    pub(crate) fn seen_by_one_more(&self, latency: f64) -> Arc<Seen> {
        let seen = Arc::new(Seen::default());
        seen.set_latency(latency);
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|seen| seen.strong_count() > 0);
        all.push(Arc::downgrade(&seen));
        seen
    }

    /// Requests in flight by all threads, and the highest latency one has seen,
    /// milliseconds.
    pub(crate) fn load(&self) -> (u32, f64) {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.iter().filter_map(Weak::upgrade);
        seen.fold((0, 0.0), |(requests, latency), seen| {
            (requests + seen.in_flight(), latency.max(seen.latency()))
        })
    }

    /// When its ejection ends, if it is ejected.
    pub(crate) fn ejected_until(&self, now: Instant) -> Option<Instant> {
        let millis = self.ejected_until.load(Relaxed);
        let until = self.epoch + Duration::from_millis(millis);
        (millis != 0 && now < until && !self.is_back()).then_some(until)
    }

    /// Reports whether the last ejection was made while it was away, and it is back.
    fn is_back(&self) -> bool {
        let awaited = self.ejected_until_return.load(Relaxed);
        awaited != 0 && self.availability.returns() >= awaited
    }

    /// Forgets what was counted while it was away, once it is back.
    fn forget_absence(&self) {
        let returns = self.availability.returns();
        let before = self.counted_since.load(Relaxed);
        if before != returns && self.counted_since.swap(returns, Relaxed) != returns {
            self.clear_counters();
        }
    }

    fn clear_counters(&self) {
        for counter in [
            &self.server_errors,
            &self.gateway_errors,
            &self.local_failures,
        ] {
            clear(counter);
        }
    }

    /// Takes note of how an attempt went; tells whether that was once too often.
    pub(crate) fn note(&self, verdict: Verdict, rules: &OutlierDetection) -> Option<Cause> {
        self.forget_absence();
        let failed = |counter: &AtomicU32, limit: Option<u32>| {
            let times = counter.fetch_add(1, Relaxed).saturating_add(1);
            limit.is_some_and(|limit| limit > 0 && times >= limit)
        };
        if rules.split_local_origin && verdict == Verdict::Failed {
            return failed(
                &self.local_failures,
                rules.consecutive_local_origin_failures,
            )
            .then_some(Cause::LocalFailures);
        }
        // It could be connected to.
        clear(&self.local_failures);
        let gateway = matches!(verdict, Verdict::Failed | Verdict::Status(502..=504));
        let server = gateway || matches!(verdict, Verdict::Status(500..));
        let mut cause = None;
        if gateway {
            if failed(&self.gateway_errors, rules.consecutive_gateway_errors) {
                cause = Some(Cause::GatewayErrors);
            }
        } else {
            clear(&self.gateway_errors);
        }
        if server {
            if failed(&self.server_errors, rules.consecutive_5xx) {
                cause = cause.or(Some(Cause::ServerErrors));
            }
        } else {
            clear(&self.server_errors);
        }
        cause
    }

    fn eject(&self, rules: &OutlierDetection, now: Instant) -> Duration {
        let millis = self.ejected_until.load(Relaxed);
        let back = self.epoch + Duration::from_millis(millis);
        let healthy = now.saturating_duration_since(back).as_millis();
        let made_up = healthy.checked_div(rules.interval.as_millis()).unwrap_or(0);
        let made_up = u32::try_from(made_up).unwrap_or(u32::MAX);
        let before = self.ejections.load(Relaxed).saturating_sub(made_up);
        let ejections = before.saturating_add(1);
        let is_away = self.availability.is_unavailable();
        let counted = if is_away { before } else { ejections };
        self.ejections.store(counted, Relaxed);
        let time = rules.base_ejection_time.saturating_mul(ejections);
        let time = time.min(OutlierDetection::MAX_EJECTION_TIME.max(rules.base_ejection_time));
        let until = now.saturating_duration_since(self.epoch) + time;
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        let awaited = match is_away {
            true => self.availability.returns() + 1,
            false => 0,
        };
        self.ejected_until_return.store(awaited, Relaxed);
        self.ejected_until.store(until.max(1), Relaxed);
        self.clear_counters();
        time
    }
}

fn clear(counter: &AtomicU32) {
    // Reading is cheaper than writing what all threads share.
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

/// Where a service's ejections are decided, for all threads.
#[derive(Debug, Default)]
pub(crate) struct Court {
    /// Taken by who ejects, so that two don't eject one too many.
    session: Mutex<()>,
}

impl Court {
    /// Ejects one of `members`, if so many may be; tells for how long.
    pub(crate) fn eject<'a>(
        &self,
        accused: &Health,
        members: impl Iterator<Item = &'a Health>,
        rules: &OutlierDetection,
        now: Instant,
    ) -> Option<Duration> {
        let _session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if accused.ejected_until(now).is_some() {
            return None;
        }
        let (mut all, mut ejected) = (0, 0);
        for member in members {
            all += 1;
            ejected += usize::from(member.ejected_until(now).is_some());
        }
        if ejected >= most(all, rules.max_ejection_percent) {
            return None;
        }
        Some(accused.eject(rules, now))
    }
}

/// How many of so many endpoints may be ejected: one at least, but never all.
fn most(endpoints: usize, percent: u32) -> usize {
    if percent == 0 {
        return 0;
    }
    let share = endpoints * percent.min(100) as usize / 100;
    share.max(1).min(endpoints.saturating_sub(1))
}

/// Whether so few are healthy that ejections are not heeded.
pub(crate) fn panics(healthy: usize, all: usize, rules: &OutlierDetection) -> bool {
    healthy * 100 < all * rules.min_health_percent.min(100) as usize
}

#[cfg(test)]
mod tests;
