//! The load generator: evenly paced calls, and a count of what came of them.
//!
//! Latency runs from the moment a call was due, not from when a busy worker got
//! round to it: a server that stalls cannot hide by slowing its callers down.
//! A worker that waited for its turn starts the clock when it wakes, so the
//! timer's own millisecond is not charged to the server.

mod histogram;
mod report;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::client::{Answer, Call, CallError, Client};
use histogram::Histogram;
pub use report::{Latency, Report};

/// How much load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Calls a second over all workers; as fast as answers come without one.
    pub rate: Option<f64>,
    /// Workers, each with one connection and one call at a time.
    pub concurrency: usize,
    /// Calls at most.
    pub count: Option<u64>,
    /// Time after which no call starts.
    pub duration: Option<Duration>,
}

/// Counts shared by the workers; a live display may read it while they run.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    latency: Histogram,
    report: Report,
}

impl Recorder {
    /// What was counted so far.
    pub fn report(&self) -> Report {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            latency_ms: counts.latency.summary(),
            ..counts.report.clone()
        }
    }

    /// Counts one call by hand, for callers with a client of their own.
    pub fn record(&self, sent: SystemTime, took: Duration, result: &Result<Answer, CallError>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if result.is_ok() {
            counts.latency.record(took);
        }
        counts.report.count(sent, result);
    }
}

/// Runs `plan` with `call`, ends early when `stop` is cancelled, and gives the
/// totals of `recorder`.
pub async fn run(
    plan: &Plan,
    call: &Call,
    recorder: &Recorder,
    stop: &CancellationToken,
) -> Report {
    let start = Instant::now();
    let workers = plan.concurrency.max(1) as u64;
    let tasks: Vec<_> = (0..workers)
        .map(|index| {
            let worker = Worker {
                plan: plan.clone(),
                index,
                workers,
                start,
            };
            let (call, recorder, stop) = (call.clone(), recorder.clone(), stop.clone());
            tokio::spawn(async move { worker.run(call, &recorder, &stop).await })
        })
        .collect();
    for task in tasks {
        // A worker only ends by returning; a panic in it is a bug to surface.
        if let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    Report {
        duration_seconds: start.elapsed().as_secs_f64(),
        ..recorder.report()
    }
}

/// One of `workers`, taking every `workers`th call of the schedule.
struct Worker {
    plan: Plan,
    index: u64,
    workers: u64,
    start: Instant,
}

impl Worker {
    async fn run(&self, call: Call, recorder: &Recorder, stop: &CancellationToken) {
        let mut client = Client::new(call);
        let mut ticket = self.index;
        while self.plan.count.is_none_or(|count| ticket < count) {
            let Some(begun) = self.turn(ticket, stop).await else {
                return;
            };
            let sent = SystemTime::now();
            let result = client.call().await;
            recorder.record(sent, begun.elapsed(), &result);
            if result.is_err() && self.plan.rate.is_none() {
                // Refused at once, an unpaced worker would spin.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            ticket += self.workers;
        }
    }

    /// Waits for the turn of call `ticket` and gives when its clock starts, or
    /// nothing when the time is over.
    async fn turn(&self, ticket: u64, stop: &CancellationToken) -> Option<Instant> {
        let mut begun = Instant::now();
        if let Some(rate) = self.plan.rate {
            let due = self.start + Duration::from_secs_f64(ticket as f64 / rate);
            if due > begun {
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = stop.cancelled() => return None,
                }
                begun = Instant::now();
            } else {
                begun = due;
            }
        }
        let over = |limit| self.start.elapsed() >= limit;
        let ended = stop.is_cancelled() || self.plan.duration.is_some_and(over);
        (!ended).then_some(begun)
    }
}
