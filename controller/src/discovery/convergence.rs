//! How long a change takes: from the moment a source saw it to the last
//! acknowledgement among the proxies that had to hear of it.

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
    /// Some proxy had to hear of it.
    delivered: bool,
}

/// Waves on their way.
#[derive(Debug, Default)]
pub(super) struct Convergence {
    next: WaveId,
    waves: BTreeMap<WaveId, Wave>,
}

impl Convergence {
    /// Begins a wave; [`join`](Self::join) and one [`seal`](Self::seal) follow.
    pub(super) fn begin(&mut self, seen: Instant, seen_at: SystemTime) -> WaveId {
        self.next += 1;
        let wave = Wave {
            seen,
            seen_at,
            outstanding: 1,
            delivered: false,
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

    /// A proxy needs not hear of it after all, is gone, or has acknowledged it
    /// (`delivered`). Returns how long it took that proxy.
    pub(super) fn leave(&mut self, id: WaveId, delivered: bool) -> Option<Duration> {
        let wave = self.waves.get_mut(&id)?;
        wave.outstanding = wave.outstanding.saturating_sub(1);
        wave.delivered |= delivered;
        let took = wave.seen.elapsed();
        if wave.outstanding == 0 {
            if wave.delivered {
                metrics::histogram!("linnet_convergence_seconds").record(took.as_secs_f64());
            }
            self.waves.remove(&id);
        }
        delivered.then_some(took)
    }

    /// When a wave's oldest change was seen.
    pub(super) fn seen_at(&self, id: WaveId) -> Option<SystemTime> {
        self.waves.get(&id).map(|wave| wave.seen_at)
    }
}
