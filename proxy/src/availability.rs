//! Whether an endpoint can serve at all, known to all data threads at once.
//!
//! An endpoint is unavailable from the first connection on that does not come
//! about, or from the first word of its sidecar that its application accepts none.
//! From then on it gets one live request a second at most, and fewer with each
//! that fails; the first answer makes it available again.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

/// Milliseconds until an unavailable endpoint is tried for the first time.
const FIRST_PROBE: u64 = 1_000;
/// Most milliseconds between two tries: a pod that has started again serves within
/// ten seconds, whatever was before.
const LONGEST_WAIT: u64 = 10_000;
/// Milliseconds that a try is overdue before a request makes it that could not be
/// sent again.
const OVERDUE: u64 = 30_000;
/// The same of a request of which that is not known: its body is still coming, and
/// nobody said how long it is. There may be no others, as with gRPC.
const OVERDUE_PERHAPS: u64 = 5_000;

/// Whether a request can be sent elsewhere when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeatable {
    Yes,
    Perhaps,
    No,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Availability {
    epoch: Instant,
    /// When it became unavailable, milliseconds since the epoch; 0: it is available.
    since: AtomicU64,
    /// When the next request may try, milliseconds since the epoch.
    probe: AtomicU64,
    /// Milliseconds between that one and the next.
    wait: AtomicU64,
    /// It is out because its application accepts nothing: that its sidecar can be
    /// connected to changes nothing.
    undelivered: AtomicBool,
    /// Milliseconds that connections which nobody waits for any longer were not
    /// answered for, since the last that was known to be answered or not.
    waited: AtomicU64,
    /// How often it has become available again.
    returns: AtomicU64,
    /// Grows with each change; views of the endpoints are as old as what they read.
    version: Arc<AtomicU64>,
}

impl Availability {
    /// An endpoint's that is available; each change increments `version`.
    pub(crate) fn new(epoch: Instant, version: Arc<AtomicU64>) -> Self {
        Self {
            epoch,
            since: AtomicU64::new(0),
            probe: AtomicU64::new(0),
            wait: AtomicU64::new(0),
            undelivered: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            version,
        }
    }

    /// Milliseconds since the epoch, never 0.
    fn millis(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn is_unavailable(&self) -> bool {
        self.since.load(Acquire) != 0
    }

    /// Takes note of a failure to reach it; reports whether it was available before.
    pub(crate) fn mark_unavailable(&self, now: Instant) -> bool {
        if self.is_unavailable() {
            return false;
        }
        let now = self.millis(now);
        self.probe.store(now + FIRST_PROBE, Relaxed);
        self.wait.store(2 * FIRST_PROBE, Relaxed);
        let first = self.since.compare_exchange(0, now, AcqRel, Acquire).is_ok();
        if first {
            self.version.fetch_add(1, Release);
        }
        first
    }

    /// Takes note that its application accepts nothing; reports whether it was
    /// available before.
    pub(crate) fn mark_undelivered(&self, now: Instant) -> bool {
        self.undelivered.store(true, Relaxed);
        self.mark_unavailable(now)
    }

    /// Whether its application was the last known to accept nothing.
    pub(crate) fn is_undelivered(&self) -> bool {
        self.is_unavailable() && self.undelivered.load(Relaxed)
    }

    /// A connection to it has come about, which says nothing of its application.
    pub(crate) fn mark_reached(&self) {
        if !self.is_undelivered() {
            self.mark_available();
        }
    }

    /// How long connections have waited for it in vain that were given up.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_millis(self.waited.load(Relaxed))
    }

    /// Takes note of a connection that was given up after so long.
    pub(crate) fn add_waited(&self, waited: Duration) {
        let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let before = self.waited.load(Relaxed);
        // Of two at once one may be lost: the next will do.
        self.waited.store(before.saturating_add(millis), Relaxed);
    }

    /// Takes note of a connection that came about, or failed.
    pub(crate) fn clear_waited(&self) {
        if self.waited.load(Relaxed) != 0 {
            self.waited.store(0, Relaxed);
        }
    }

    /// Takes note of an answer to what was sent at `started`. One to what was sent
    /// before the failure proves nothing.
    pub(crate) fn note_answer(&self, started: Instant) {
        let since = self.since.load(Relaxed);
        if since == 0 || self.millis(started) <= since {
            return;
        }
        self.mark_available();
    }

    /// It can serve.
    pub(crate) fn mark_available(&self) {
        if self.since.swap(0, AcqRel) != 0 {
            self.undelivered.store(false, Relaxed);
            self.returns.fetch_add(1, Release);
            self.version.fetch_add(1, Release);
        }
    }

    /// Returns how often it has become available again: what was noted before the last
    /// time was noted of an endpoint that could not serve.
    pub(crate) fn returns(&self) -> u64 {
        self.returns.load(Acquire)
    }

    /// When the next request may try.
    pub(crate) fn next_probe(&self) -> Instant {
        self.epoch + Duration::from_millis(self.probe.load(Relaxed))
    }

    /// Reports whether a request is to try it now, and if so lets no other do so for
    /// a while.
    pub(crate) fn claim_probe(&self, now: Instant, repeatable: Repeatable) -> bool {
        let now = self.millis(now);
        let due = self.probe.load(Relaxed);
        let from = match repeatable {
            Repeatable::Yes => due,
            Repeatable::Perhaps => due + OVERDUE_PERHAPS,
            Repeatable::No => due + OVERDUE,
        };
        if !self.is_unavailable() || now < from {
            return false;
        }
        let wait = self.wait.load(Relaxed);
        let claimed = self
            .probe
            .compare_exchange(due, now + wait, Relaxed, Relaxed)
            .is_ok();
        if claimed {
            self.wait.store((2 * wait).min(LONGEST_WAIT), Relaxed);
        }
        claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> (Availability, Instant) {
        let epoch = Instant::now();
        let version = Arc::new(AtomicU64::new(1));
        (Availability::new(epoch, version), epoch)
    }

    #[test]
    fn it_is_tried_once_a_second_and_then_less_and_less() {
        let (endpoint, epoch) = started();
        assert!(!endpoint.claim_probe(epoch, Repeatable::Yes));
        assert!(endpoint.mark_unavailable(epoch + Duration::from_millis(500)));
        let mut tries = Vec::new();
        for millis in (500..60_000).step_by(10) {
            // Others of the same moment fail too: that changes nothing.
            let now = epoch + Duration::from_millis(millis);
            assert!(!endpoint.mark_unavailable(now));
            let claims = (0..3)
                .filter(|_| endpoint.claim_probe(now, Repeatable::Yes))
                .count();
            tries.extend((0..claims).map(|_| millis));
        }
        let expected = [1_500, 3_500, 7_500, 15_500, 25_500, 35_500, 45_500, 55_500];
        assert_eq!(tries, expected);
    }

    #[test]
    fn what_was_sent_before_the_failure_proves_nothing() {
        let (endpoint, epoch) = started();
        let at = |millis| epoch + Duration::from_millis(millis);
        endpoint.mark_unavailable(at(100));
        endpoint.note_answer(at(99));
        endpoint.note_answer(at(100));
        assert!(endpoint.is_unavailable());
        endpoint.note_answer(at(101));
        assert!(!endpoint.is_unavailable());
        // Its next failure is a first one.
        endpoint.mark_unavailable(at(200));
        assert_eq!(endpoint.next_probe(), at(1_200));
    }

    #[test]
    fn each_change_makes_views_look_again_once() {
        let (endpoint, epoch) = started();
        let version = || endpoint.version.load(Acquire);
        endpoint.mark_available();
        assert_eq!(version(), 1);
        endpoint.mark_unavailable(epoch);
        endpoint.mark_unavailable(epoch);
        assert_eq!(version(), 2);
        endpoint.mark_available();
        assert_eq!(version(), 3);
    }

    #[test]
    fn what_can_be_sent_once_waits_for_another_to_try() {
        let (endpoint, epoch) = started();
        let at = |millis| epoch + Duration::from_millis(millis);
        endpoint.mark_unavailable(at(1));
        assert!(!endpoint.claim_probe(at(1_001), Repeatable::No));
        assert!(!endpoint.claim_probe(at(31_000), Repeatable::No));
        assert!(endpoint.claim_probe(at(31_001), Repeatable::No));
        endpoint.mark_available();
        endpoint.mark_unavailable(at(1));
        assert!(!endpoint.claim_probe(at(6_000), Repeatable::Perhaps));
        assert!(endpoint.claim_probe(at(6_001), Repeatable::Perhaps));
    }

    #[test]
    fn a_connection_says_nothing_of_an_application_that_accepts_none() {
        let (endpoint, epoch) = started();
        let at = |millis| epoch + Duration::from_millis(millis);
        endpoint.mark_unavailable(at(1));
        endpoint.mark_reached();
        assert!(!endpoint.is_unavailable());
        // Whichever is known first.
        endpoint.mark_unavailable(at(1));
        endpoint.mark_undelivered(at(2));
        endpoint.mark_reached();
        assert!(endpoint.is_undelivered());
        endpoint.note_answer(at(3));
        assert!(!endpoint.is_unavailable());
        // Its next failure is one to connect.
        endpoint.mark_unavailable(at(4));
        endpoint.mark_reached();
        assert!(!endpoint.is_unavailable());
    }
}
