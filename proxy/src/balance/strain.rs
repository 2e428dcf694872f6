//! What failures weigh on an endpoint where nothing but requests in flight decides.
//!
//! A failure that comes at once leaves nothing in flight: whoever fails fast would look
//! idle, and get nearly all requests. So each failure counts as one request in flight for
//! about a second.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How fast failures are forgotten.
const DECAY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Default)]
pub(super) struct Strain {
    /// The failures as they weighed at the last of them, and when that was.
    failures: Cell<Option<(f64, Instant)>>,
}

impl Strain {
    /// The requests in flight that failures count for, a whole number.
    pub(super) fn now(&self, now: Instant) -> f64 {
        self.failures
            .get()
            .map_or(0.0, |known| left(known, now))
            .round()
    }

    /// Takes note of one more.
    pub(super) fn note_failure(&self, now: Instant) {
        let before = self.failures.get().map_or(0.0, |known| left(known, now));
        self.failures.set(Some((before + 1.0, now)));
    }
}

fn left((failures, last): (f64, Instant), now: Instant) -> f64 {
    let age = now.saturating_duration_since(last);
    failures * (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_as_a_request_in_flight_for_a_while() {
        let strain = Strain::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(strain.now(start), 0.0);
        strain.note_failure(start);
        assert_eq!(strain.now(start), 1.0);
        assert_eq!(strain.now(at(600)), 1.0);
        assert_eq!(strain.now(at(800)), 0.0);
        for _ in 0..8 {
            strain.note_failure(at(10_000));
        }
        assert_eq!(strain.now(at(10_000)), 8.0);
        assert_eq!(strain.now(at(11_000)), 3.0);
        assert_eq!(strain.now(at(13_000)), 0.0);
    }
}
