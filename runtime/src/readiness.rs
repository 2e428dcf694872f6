//! Readiness as drop guards: a process is ready when no gate is left.
//!
//! Who must do something first takes a gate by name and drops it when done, so
//! `/healthz/ready` can name what is still awaited.

use std::sync::{Arc, Mutex, PoisonError};

/// What a process still waits for.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<Vec<&'static str>>>,
}

/// Something to be done before the process is ready; done when dropped.
#[derive(Debug)]
#[must_use = "a dropped gate counts as passed"]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Nothing to wait for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the returned gate is dropped.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.with(|pending| pending.push(name));
        Gate {
            name,
            readiness: self.clone(),
        }
    }

    /// The gates that are left, in the order they were taken.
    pub fn pending(&self) -> Vec<&'static str> {
        self.with(|pending| pending.clone())
    }

    /// Whether no gate is left.
    pub fn is_ready(&self) -> bool {
        self.with(|pending| pending.is_empty())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<&'static str>) -> T) -> T {
        f(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let left = self.readiness.with(|pending| {
            if let Some(at) = pending.iter().position(|name| *name == self.name) {
                pending.remove(at);
            }
            pending.clone()
        });
        tracing::debug!(passed = self.name, pending = ?left, "readiness");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_gate_is_gone() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let first = readiness.gate("identity");
        let second = readiness.gate("discovery");
        let again = readiness.gate("identity");
        assert_eq!(readiness.pending(), ["identity", "discovery", "identity"]);
        drop(first);
        assert_eq!(readiness.pending(), ["discovery", "identity"]);
        drop(second);
        drop(again);
        assert!(readiness.is_ready());
    }
}
