//! What an endpoint's latency is taken for, and what that makes a request cost.
//!
//! A moving average that rises faster than it falls, as peak-EWMA does, with two
//! differences: a single outlier counts as three times what was known, since one
//! slow answer of a hundred is the machine's noise; and what has not been asked
//! lately seems better by and by, so that whoever has recovered is found. A failure
//! is never taken for a fast answer: it counts as twice the cost that was known.
//! Each of these grows with what was known before, so that no sequence of outcomes
//! gets better by a failure in the place of an answer.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How fast it is forgotten what has not been asked.
const DECAY: Duration = Duration::from_secs(3);
/// What an endpoint is taken for before it has answered, milliseconds.
pub(super) const UNKNOWN_LATENCY: f64 = 1.0;
/// Differences below this are the machine's noise, milliseconds.
const NOISE: f64 = 0.5;
/// The part of a slower answer's difference that counts.
const RISE: f64 = 0.5;
/// The part of a faster answer's difference that counts at least.
const FALL: f64 = 0.4;
/// A slower answer counts as so many times the known cost at most.
const OUTLIER: f64 = 3.0;
/// A failure multiplies the known cost by so much.
const FAILURE: f64 = 2.0;
/// What failures raise the latency to at most, milliseconds.
const LONGEST_FAILURE: f64 = 5_000.0;

/// What a request costs an endpoint of such a latency with so many in flight.
pub(super) fn cost(milliseconds: f64, in_flight: u32) -> f64 {
    (milliseconds + NOISE) * f64::from(in_flight + 1)
}

/// When an endpoint was heard of last. The latency itself is elsewhere, where
/// others may read it.
#[derive(Debug)]
pub(super) struct Latency {
    heard: Cell<Instant>,
}

impl Latency {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: Cell::new(now),
        }
    }

    /// The part of what was known that still holds.
    fn weight(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.heard.get());
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// What `known` is now, after a while without an answer.
    pub(super) fn now(&self, known: f64, now: Instant) -> f64 {
        known * self.weight(now)
    }

    /// The latency after an answer.
    pub(super) fn after_answer(&self, known: f64, milliseconds: f64, now: Instant) -> f64 {
        let weight = self.weight(now);
        self.heard.set(now);
        if milliseconds > known {
            let counted = milliseconds.min(OUTLIER * (known + NOISE));
            return known + RISE * (counted - known);
        }
        known - FALL.max(1.0 - weight) * (known - milliseconds)
    }

    /// The latency after a failure.
    pub(super) fn after_failure(&self, known: f64, milliseconds: f64, now: Instant) -> f64 {
        let doubled = FAILURE * (known + NOISE) - NOISE;
        let least = known.max(doubled.min(LONGEST_FAILURE));
        self.after_answer(known, milliseconds, now).max(least)
    }
}

#[cfg(test)]
mod tests;
