//! Readiness as drop guards: a process is ready when no gate is left.
//!
//! Who must do something first takes a gate by name and drops it when done, so
//! `/healthz/ready` can name what is still awaited, and why.

use std::sync::{Arc, Mutex, PoisonError};

/// What a process still waits for.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    name: &'static str,
    reason: Option<String>,
}

/// Something to be done before the process is ready; done when dropped.
#[derive(Debug)]
#[must_use = "a dropped gate counts as passed"]
pub struct Gate {
    name: &'static str,
    number: u64,
    readiness: Readiness,
}

impl Readiness {
    /// Nothing to wait for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the returned gate is dropped.
    pub fn gate(&self, name: &'static str) -> Gate {
        let number = self.with(|state| {
            state.taken += 1;
            state.pending.push(Pending {
                number: state.taken,
                name,
                reason: None,
            });
            state.taken
        });
        Gate {
            name,
            number,
            readiness: self.clone(),
        }
    }

    /// The gates that are left, in the order they were taken.
    pub fn pending(&self) -> Vec<&'static str> {
        self.with(|state| state.pending.iter().map(|pending| pending.name).collect())
    }

    /// The same with what is known of why.
    pub fn reasons(&self) -> Vec<String> {
        let text = |pending: &Pending| match &pending.reason {
            Some(reason) => format!("{} ({reason})", pending.name),
            None => pending.name.to_owned(),
        };
        self.with(|state| state.pending.iter().map(text).collect())
    }

    /// Whether no gate is left.
    pub fn is_ready(&self) -> bool {
        self.with(|state| state.pending.is_empty())
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gate {
    /// Says why it is not passed yet.
    pub fn because(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.readiness.with(|state| {
            let own = |pending: &&mut Pending| pending.number == self.number;
            if let Some(pending) = state.pending.iter_mut().find(own) {
                pending.reason = Some(reason);
            }
        });
    }

    /// Whose readiness it holds.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let left = self.readiness.with(|state| {
            state
                .pending
                .retain(|pending| pending.number != self.number);
            state
                .pending
                .iter()
                .map(|pending| pending.name)
                .collect::<Vec<_>>()
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

    #[test]
    fn a_gate_says_why() {
        let readiness = Readiness::new();
        let plain = readiness.gate("discovery");
        let gate = readiness.gate("certificate");
        gate.because("expires in 3 s");
        assert_eq!(
            readiness.reasons(),
            ["discovery", "certificate (expires in 3 s)"]
        );
        drop(plain);
        gate.because("expired");
        assert_eq!(readiness.reasons(), ["certificate (expired)"]);
    }
}
