//! How long a change takes: from the moment a source saw it to the last
//! acknowledgement among the proxies that had to hear of it.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

/// Changes that were taken together.
pub(super) type WaveId = u64;

#[derive(Debug)]
struct Wave {
    seen: Instant,
    seen_at: SystemTime,
    /// Proxies that have not acknowledged it.
    outstanding: usize,
    /// Proxies that have put it in force.
    proxies: usize,
    /// What the slowest of them took.
    took: Duration,
}

/// The last change that some proxy had to hear of, and all that had to have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastChange {
    /// From the watch event to the last acknowledgement, milliseconds.
    pub convergence_ms: f64,
    /// How many proxies put it in force.
    pub proxies: usize,
    /// How long ago its watch event was.
    pub seconds_ago: u64,
}

/// Waves on their way.
#[derive(Debug, Default)]
pub(super) struct Convergence {
    next: WaveId,
    waves: BTreeMap<WaveId, Wave>,
    last: Option<Wave>,
}

impl Convergence {
    /// Begins a wave; [`join`](Self::join) and one [`seal`](Self::seal) follow.
    pub(super) fn begin(&mut self, seen: Instant, seen_at: SystemTime) -> WaveId {
        self.next += 1;
        let wave = Wave {
            seen,
            seen_at,
            outstanding: 1,
            proxies: 0,
            took: Duration::ZERO,
        };
        self.waves.insert(self.next, wave);
        self.next
    }

    /// A proxy may have to hear of it.
    pub(super) fn join(&mut self, id: WaveId) {
        if let Some(wave) = self.waves.get_mut(&id) {
            wave.outstanding += 1;
        }
    }

    /// No more proxies join.
    pub(super) fn seal(&mut self, id: WaveId) {
        self.leave(id, false);
    }

    /// A proxy needs not hear of it after all, is gone, refused it, or has put
    /// it in force (`delivered`). Returns how long it took that proxy.
    pub(super) fn leave(&mut self, id: WaveId, delivered: bool) -> Option<Duration> {
        let wave = self.waves.get_mut(&id)?;
        wave.outstanding = wave.outstanding.saturating_sub(1);
        let took = wave.seen.elapsed();
        if delivered {
            wave.proxies += 1;
            wave.took = took;
        }
        if wave.outstanding == 0
            && let Some(wave) = self.waves.remove(&id)
            && wave.proxies > 0
        {
            metrics::histogram!("linnet_convergence_seconds").record(wave.took.as_secs_f64());
            // Waves end in any order.
            if self.last.as_ref().is_none_or(|last| last.seen <= wave.seen) {
                self.last = Some(wave);
            }
        }
        delivered.then_some(took)
    }

    /// The youngest wave that all who had to hear of have heard of.
    pub(super) fn last(&self) -> Option<LastChange> {
        let wave = self.last.as_ref()?;
        Some(LastChange {
            convergence_ms: wave.took.as_secs_f64() * 1e3,
            proxies: wave.proxies,
            seconds_ago: wave.seen.elapsed().as_secs(),
        })
    }

    /// When a wave's oldest change was seen.
    pub(super) fn seen_at(&self, id: WaveId) -> Option<SystemTime> {
        self.waves.get(&id).map(|wave| wave.seen_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(convergence: &mut Convergence, proxies: usize) -> WaveId {
        let seen = Instant::now() - Duration::from_secs(5);
        let wave = convergence.begin(seen, SystemTime::now());
        for _ in 0..proxies {
            convergence.join(wave);
        }
        convergence.seal(wave);
        wave
    }

    #[test]
    fn a_change_has_converged_with_the_last_acknowledgement() {
        let mut convergence = Convergence::default();
        let wave = begun(&mut convergence, 2);
        let first = convergence.leave(wave, true).unwrap();
        assert!(first >= Duration::from_secs(5), "from the watch event");
        assert_eq!(convergence.last(), None);
        let second = convergence.leave(wave, true).unwrap();
        let last = convergence.last().unwrap();
        assert_eq!((last.proxies, last.seconds_ago), (2, 5));
        assert_eq!(last.convergence_ms, second.as_secs_f64() * 1e3);
    }

    #[test]
    fn who_is_gone_or_refuses_does_not_count() {
        let mut convergence = Convergence::default();
        let wave = begun(&mut convergence, 2);
        let took = convergence.leave(wave, true).unwrap();
        assert_eq!(convergence.leave(wave, false), None);
        let last = convergence.last().unwrap();
        assert_eq!(last.proxies, 1);
        assert_eq!(last.convergence_ms, took.as_secs_f64() * 1e3);
        let refused = begun(&mut convergence, 1);
        convergence.leave(refused, false);
        assert_eq!(
            convergence.last().unwrap().convergence_ms,
            last.convergence_ms
        );
        assert!(convergence.waves.is_empty());
    }
}
