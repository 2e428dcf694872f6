//! How far a request has been sent, for timeouts: those of a VirtualService count from its end
//! on, and no endpoint is blamed for the time that the client takes.
//!
//! A request is watched only where something is timed, and has not been sent whole by then.

use linnet_mesh::route::TimedFrom;
use std::{
    cell::{Cell, RefCell},
    task::{Context, Waker},
};

/// See the module.
#[derive(Default)]
pub(crate) struct Progress {
    state: Cell<State>,
    from: Cell<TimedFrom>,
    waker: RefCell<Option<Waker>>,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nobody wants to know.
    #[default]
    Unwatched,
    /// Nobody has taken anything of its body: a connection is being looked for.
    Unsent,
    /// What has come of it is with the upstream.
    Sending,
    /// The upstream has all that has come of it: the client has to go on.
    Waiting,
    /// Nothing of it is left to be sent.
    Sent,
}

/// Whether a clock that counts from a request's end runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// It does while the request waits for a connection.
    Runs,
    /// It stands while the request is being sent.
    Stands,
    /// It starts now, for good.
    Starts,
}

impl Progress {
    /// Watches a request whose timeouts count from there; `whole`: it has no body, or all of
    /// it is there.
    pub(crate) fn watch(&self, from: TimedFrom, whole: bool) {
        self.from.set(from);
        self.state.set(match whole {
            true => State::Sent,
            false => State::Unsent,
        });
    }

    /// Reports whether somebody wants to know.
    pub(crate) fn is_watched(&self) -> bool {
        !matches!(self.state.get(), State::Unwatched | State::Sent)
    }

    /// Reports whether timeouts count from the request's end, which has not come.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_watched() && self.from.get() == TimedFrom::Sent
    }

    /// Reports whether it is the client that everybody waits for.
    pub(crate) fn is_client_s_turn(&self) -> bool {
        self.state.get() == State::Waiting
    }

    /// Takes note that somebody has asked the body for more; `came`: there was some.
    pub(crate) fn asked(&self, came: bool) {
        self.state.set(match came {
            true => State::Sending,
            false => State::Waiting,
        });
    }

    /// Takes note that what has come of it is still with us: a connection is being looked for.
    pub(crate) fn begin_again(&self) {
        if self.is_watched() {
            self.state.set(State::Unsent);
        }
    }

    /// Takes note that nothing is left to be sent.
    pub(crate) fn ended(&self) {
        self.state.set(State::Sent);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Reports whether the clock runs; whoever asks is woken at the request's end.
    pub(crate) fn clock(&self, context: &Context<'_>) -> Clock {
        match self.state.get() {
            State::Unwatched | State::Sent => return Clock::Starts,
            State::Unsent | State::Sending | State::Waiting => {}
        }
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|known| known.will_wake(context.waker()))
        {
            *waker = Some(context.waker().clone());
        }
        match self.state.get() {
            State::Unsent => Clock::Runs,
            _ => Clock::Stands,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_runs_before_a_request_is_sent_and_starts_after_it() {
        let context = Context::from_waker(Waker::noop());
        let progress = Progress::default();
        assert_eq!(progress.clock(&context), Clock::Starts);
        progress.watch(TimedFrom::Sent, true);
        assert!(!progress.is_awaited());
        assert_eq!(progress.clock(&context), Clock::Starts);
        progress.watch(TimedFrom::Arrival, false);
        assert!(!progress.is_awaited() && progress.is_watched());
        progress.watch(TimedFrom::Sent, false);
        // It waits for a connection.
        assert!(progress.is_awaited());
        assert_eq!(progress.clock(&context), Clock::Runs);
        for came in [true, false, true] {
            progress.asked(came);
            assert_eq!(progress.is_client_s_turn(), !came);
            assert_eq!(progress.clock(&context), Clock::Stands);
        }
        progress.ended();
        assert_eq!(progress.clock(&context), Clock::Starts);
        assert!(!progress.is_awaited() && !progress.is_client_s_turn());
    }
}
