//! A retry budget: what keeps retries from turning a failing service's load
//! into a storm.
//!
//! Each request earns a fifth of a retry; besides, there are three a second. A
//! request costs an addition; the clock is read by retries alone.

use std::{cell::Cell, time::Duration, time::Instant};

/// Requests that earn one retry.
const REQUESTS: u32 = 5;
/// Most retries that can be saved up.
const MOST_SAVED: u32 = 100;
/// Retries each second that need not be earned.
const RESERVE: u32 = 3;
const SECOND: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    earned: Cell<u32>,
    /// The second that the reserve was last drawn in, and how often.
    reserve: Cell<Option<(Instant, u32)>>,
}

impl Budget {
    /// A request, not a retry, is sent.
    pub(crate) fn earn(&self) {
        let earned = self.earned.get() + 1;
        self.earned.set(earned.min(MOST_SAVED * REQUESTS));
    }

    /// Whether a retry may be sent; if so it is paid for.
    pub(crate) fn spend(&self, now: Instant) -> bool {
        if let Some(rest) = self.earned.get().checked_sub(REQUESTS) {
            self.earned.set(rest);
            return true;
        }
        let (since, drawn) = match self.reserve.get() {
            Some((since, drawn)) if now.saturating_duration_since(since) < SECOND => (since, drawn),
            _ => (now, 0),
        };
        let allowed = drawn < RESERVE;
        if allowed {
            self.reserve.set(Some((since, drawn + 1)));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_a_second_without_earning() {
        let (budget, start) = (Budget::default(), Instant::now());
        let spent = |at: Instant| (0..10).filter(|_| budget.spend(at)).count();
        assert_eq!(spent(start), 3);
        assert_eq!(spent(start + SECOND / 2), 0);
        assert_eq!(spent(start + SECOND), 3);
    }

    #[test]
    fn a_fifth_of_the_requests_and_the_reserve() {
        let (budget, now) = (Budget::default(), Instant::now());
        let mut retries = 0;
        for _ in 0..1000 {
            budget.earn();
            // Everything fails, and every request would retry twice.
            retries += (0..2).filter(|_| budget.spend(now)).count();
        }
        assert!((200..=203).contains(&retries), "{retries}");
    }

    #[test]
    fn savings_are_bounded() {
        let (budget, now) = (Budget::default(), Instant::now());
        for _ in 0..1_000_000 {
            budget.earn();
        }
        let spent = (0..1000).filter(|_| budget.spend(now)).count();
        assert_eq!(spent, 103);
    }
}
