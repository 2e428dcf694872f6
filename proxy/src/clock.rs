//! The time as a task needs it: read at most once each time it is polled.
//!
//! A request wants to know the time when it comes, when an endpoint is chosen,
//! when its answer is there, when the connection is put back and at its end, and
//! most of these are one moment. A poll never waits, so it is soon over.

use pin_project_lite::pin_project;
use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, Timeout};

#[derive(Clone, Copy)]
enum Reading {
    /// Nobody here is polled: each asks for himself.
    Outside,
    NotYet,
    At(tokio::time::Instant),
}

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading::Outside) };
}

/// The time, for timers: the same to all who ask during one poll of a
/// [`Coarse`] task.
pub(crate) fn now() -> tokio::time::Instant {
    match READING.get() {
        Reading::At(instant) => instant,
        Reading::NotYet => {
            let instant = tokio::time::Instant::now();
            READING.set(Reading::At(instant));
            instant
        }
        Reading::Outside => tokio::time::Instant::now(),
    }
}

/// The same, for what is measured.
pub(crate) fn instant() -> Instant {
    now().into_std()
}

pin_project! {
    /// A task for which time stands still while it is polled.
    pub(crate) struct Coarse<F> {
        #[pin]
        task: F,
    }
}

impl<F> Coarse<F> {
    pub(crate) const fn new(task: F) -> Self {
        Self { task }
    }
}

impl<F: Future> Future for Coarse<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // One that is polled by another goes on with the other's time.
        let _end = End(READING.get());
        if matches!(READING.get(), Reading::Outside) {
            READING.set(Reading::NotYet);
        }
        self.project().task.poll(context)
    }
}

/// Puts things back, also when a poll panics.
struct End(Reading);

impl Drop for End {
    fn drop(&mut self) {
        READING.set(self.0);
    }
}

/// How far ahead the event loop looks at most while timers are made here.
const BEAT: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, PartialEq)]
enum Pulse {
    Still,
    Beating,
    /// A timer has been made since the last beat.
    Wanted,
}

thread_local! {
    static PULSE: Cell<Pulse> = const { Cell::new(Pulse::Still) };
}

/// A timer for what is mostly over long before.
///
/// tokio tells its event loop of each timer that will be the first to end, by a
/// system call and another turn of the loop; and with each request that ends in
/// time, the next one's timer is the first again. While such timers are made, the
/// loop wakes up four times a second anyway, and need not be told.
pub(crate) fn sleep_until(end: tokio::time::Instant) -> Sleep {
    keep_pulse();
    tokio::time::sleep_until(end)
}

/// The same, around a future.
pub(crate) fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    keep_pulse();
    tokio::time::timeout(limit, future)
}

fn keep_pulse() {
    if PULSE.replace(Pulse::Wanted) == Pulse::Still {
        tokio::spawn(beat());
    }
}

async fn beat() {
    /// Also when the runtime ends first.
    struct Ending;
    impl Drop for Ending {
        fn drop(&mut self) {
            PULSE.set(Pulse::Still);
        }
    }
    let _ending = Ending;
    while PULSE.replace(Pulse::Beating) == Pulse::Wanted {
        tokio::time::sleep(BEAT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_within_a_poll_and_nowhere_else() {
        let outside = now();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now() - outside, Duration::from_secs(1));
        let task = async {
            let first = instant();
            std::thread::sleep(Duration::from_millis(1));
            assert_eq!(instant(), first);
            tokio::time::sleep(Duration::from_secs(1)).await;
            instant() - first
        };
        assert!(Coarse::new(task).await >= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_pulse_beats_while_timers_are_made_and_no_longer() {
        let tasks = || {
            let runtime = tokio::runtime::Handle::current();
            runtime.metrics().num_alive_tasks()
        };
        let none = tasks();
        for _ in 0..3 {
            let limit = timeout(4 * BEAT, std::future::pending::<()>());
            assert_eq!(tasks(), none + 1);
            assert!(limit.await.is_err());
            tokio::time::sleep(BEAT).await;
            tokio::task::yield_now().await;
            assert_eq!(tasks(), none);
        }
    }
}
