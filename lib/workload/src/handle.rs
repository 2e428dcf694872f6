//! The current certificate of a workload, shared by whoever needs it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::{Workload, client::Skew};

/// The current certificate of a workload.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    current: ArcSwapOption<Workload>,
    generation: watch::Sender<u64>,
    /// The bits of a number of seconds; not a number until it is known.
    skew: AtomicU64,
}

impl Handle {
    pub(super) fn new() -> Self {
        let shared = Shared {
            current: ArcSwapOption::empty(),
            generation: watch::Sender::new(0),
            skew: AtomicU64::new(f64::NAN.to_bits()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A certificate that is never renewed: tests and standalone.
    pub fn fixed(workload: impl Into<Arc<Workload>>) -> Self {
        let handle = Self::new();
        handle.shared.replace(workload.into());
        handle
    }

    /// The certificate, once there is one. It may have expired if identity has
    /// been away for long.
    pub fn current(&self) -> Option<Arc<Workload>> {
        self.shared.current.load_full()
    }

    /// The certificate, as soon as there is one.
    pub async fn wait(&self) -> Arc<Workload> {
        let mut generation = self.subscribe();
        loop {
            if let Some(workload) = self.current() {
                return workload;
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = generation.changed().await;
        }
    }

    /// 0 without a certificate; one more with each.
    pub fn generation(&self) -> u64 {
        *self.shared.generation.borrow()
    }

    /// How many seconds identity's clock was ahead of ours at the last answer.
    pub fn clock_skew(&self) -> Option<f64> {
        let skew = f64::from_bits(self.shared.skew.load(Ordering::Relaxed));
        (!skew.is_nan()).then_some(skew)
    }

    /// Tells of each new generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }
}

impl Shared {
    pub(super) fn current(&self) -> Option<Arc<Workload>> {
        self.current.load_full()
    }

    pub(super) fn replace(&self, workload: Arc<Workload>) {
        self.current.store(Some(workload));
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub(super) fn measured(&self, skew: Skew) {
        self.skew.store(skew.0.to_bits(), Ordering::Relaxed);
    }
}
