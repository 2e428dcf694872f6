//! Not ready while the certificate is about to expire.
//!
//! A pod whose renewals fail is taken out of its services while its peers still
//! take its certificate, so that no request finds out first.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep},
};

use super::{
    Workload,
    handle::{Handle, Shared},
};
use linnet_runtime::readiness::{Gate, Readiness};

/// The last part of a certificate's life in which a pod is not ready. Renewals
/// begin at 40 %, so an outage of half a lifetime does not come this far.
const LAST_PART: f64 = 0.05;
/// Of a long life the last hour is enough.
const LONGEST: Duration = Duration::from_secs(3600);
/// How often the reason is told anew.
const TELL: Duration = Duration::from_secs(1);

/// The wall clock. In tests with a paused clock it moves with that.
#[derive(Clone, Copy, Debug)]
pub(super) enum Clock {
    /// The system's.
    System,
    /// So late at this moment of the runtime's clock.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    Runtime(SystemTime, Instant),
}

impl Clock {
    pub(super) fn now(self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Runtime(time, at) => time + at.elapsed(),
        }
    }

    pub(super) fn until(self, time: impl Into<SystemTime>) -> Duration {
        time.into().duration_since(self.now()).unwrap_or_default()
    }
}

/// Why the last renewal failed, if it did.
#[derive(Clone, Debug, Default)]
pub(super) struct LastError(Arc<Mutex<Option<String>>>);

impl LastError {
    pub(super) fn set(&self, error: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn text(&self) -> String {
        let error = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        error
            .as_ref()
            .map_or_else(String::new, |error| format!(": {error}"))
    }
}

/// How long before its end a certificate counts as about to expire.
pub(super) fn margin(workload: &Workload) -> Duration {
    workload.valid_for().mul_f64(LAST_PART).min(LONGEST)
}

/// Not ready while the certificate of a [`Handle::fixed`] is about to expire, or
/// has; for as long as it is polled.
pub async fn watch_expiry(handle: Handle, readiness: Readiness) {
    let shared = Arc::downgrade(&handle.shared);
    let generation = handle.subscribe();
    watch(
        &shared,
        generation,
        &readiness,
        Clock::System,
        &LastError::default(),
    )
    .await;
}

/// Holds a gate while the certificate is about to expire, or has; for as long as
/// it is polled.
pub(super) async fn watch(
    shared: &Weak<Shared>,
    mut generation: Receiver<u64>,
    readiness: &Readiness,
    clock: Clock,
    error: &LastError,
) {
    let mut held: Option<Gate> = None;
    loop {
        generation.mark_unchanged();
        let Some(workload) = shared.upgrade().and_then(|shared| shared.current()) else {
            if generation.changed().await.is_err() {
                return;
            }
            continue;
        };
        let left = clock.until(workload.not_after());
        let margin = margin(&workload);
        let near = left <= margin;
        tell(&workload, near);
        if near {
            let gate = held.get_or_insert_with(|| {
                tracing::error!(
                    seconds = left.as_secs(),
                    "not ready: the certificate is about to expire"
                );
                readiness.gate("certificate")
            });
            let text = error.text();
            gate.because(if left.is_zero() {
                format!("expired and not renewed{text}")
            } else {
                format!("expires in {} s and is not renewed{text}", left.as_secs())
            });
        } else if held.take().is_some() {
            tracing::info!("ready again: the certificate was renewed");
        }
        let pause = if near { TELL } else { left - margin };
        tokio::select! {
            () = sleep(pause) => {}
            changed = generation.changed() => if changed.is_err() { return },
        }
    }
}

fn tell(workload: &Workload, near: bool) {
    let identity = workload.id().to_string();
    metrics::gauge!("linnet_certificate_near_expiry", "identity" => identity)
        .set(f64::from(u8::from(near)));
}
