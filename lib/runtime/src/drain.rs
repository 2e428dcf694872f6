//! Graceful drain: who wants time to finish holds a [`Watch`] or a [`Guard`].
//!
//! [`Signal::drain`] tells every watch and waits until all of them, and the
//! guards they gave, are dropped. A [`Signal`] dropped without draining never
//! signals: its watches wait on.

use std::{convert::Infallible, time::Duration};

use tokio::sync::{mpsc, watch};

/// Triggers the drain.
#[derive(Debug)]
pub struct Signal {
    trigger: watch::Sender<bool>,
    finished: mpsc::Receiver<Infallible>,
}

/// Learns of the drain, and delays its end until dropped.
#[derive(Clone, Debug)]
pub struct Watch {
    triggered: watch::Receiver<bool>,
    alive: mpsc::Sender<Infallible>,
}

/// Delays the end of the drain until dropped.
#[derive(Clone, Debug)]
#[must_use = "the drain ends when its guards are dropped"]
pub struct Guard {
    _alive: mpsc::Sender<Infallible>,
}

/// A signal and the first of its watches.
pub fn channel() -> (Signal, Watch) {
    let (trigger, triggered) = watch::channel(false);
    let (alive, finished) = mpsc::channel(1);
    (Signal { trigger, finished }, Watch { triggered, alive })
}

impl Signal {
    /// Tells every watch, then waits until watches and guards are dropped.
    pub async fn drain(mut self) {
        self.trigger.send_replace(true);
        // Nothing is ever sent: this ends when the last sender is gone.
        let _: Option<Infallible> = self.finished.recv().await;
    }

    /// Like [`Signal::drain`], but gives up after a while. Says whether all
    /// finished in time.
    pub async fn drain_within(self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.drain()).await.is_ok()
    }
}

impl Watch {
    /// Completes once the drain has begun; the guard delays its end (and so does
    /// this watch, until it is dropped).
    pub async fn signaled(&self) -> Guard {
        let mut triggered = self.triggered.clone();
        if triggered.wait_for(|triggered| *triggered).await.is_err() {
            return std::future::pending().await;
        }
        Guard {
            _alive: self.alive.clone(),
        }
    }

    /// A guard for work that does not want to know of the drain.
    pub fn ignore_signal(self) -> Guard {
        Guard { _alive: self.alive }
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.triggered.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, poll};

    #[tokio::test]
    async fn drain_waits_for_watches_and_guards() {
        let (signal, watch) = channel();
        let other = watch.clone();
        let early = watch.clone().ignore_signal();
        assert!(!watch.is_draining());
        assert!(other.signaled().now_or_never().is_none());

        let mut drain = Box::pin(signal.drain());
        assert!(poll!(&mut drain).is_pending());
        assert!(watch.is_draining());
        let guard = watch.signaled().await;
        drop(watch);
        drop(other);
        assert!(poll!(&mut drain).is_pending(), "two guards are left");
        drop(early);
        assert!(poll!(&mut drain).is_pending(), "a guard is left");
        drop(guard);
        drain.await;
    }

    #[tokio::test(start_paused = true)]
    async fn drain_within_gives_up() {
        let (signal, watch) = channel();
        assert!(!signal.drain_within(Duration::from_secs(5)).await);
        drop(watch);
        let (signal, watch) = channel();
        drop(watch);
        assert!(signal.drain_within(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_dropped_signal_never_signals() {
        let (signal, watch) = channel();
        drop(signal);
        assert!(watch.signaled().now_or_never().is_none());
    }
}
