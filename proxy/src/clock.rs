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
    time::Instant,
};

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
}
