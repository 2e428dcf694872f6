//! What connections and endpoints hold: the counters of one pair of parties.

use super::{
    Flags, RequestProtocol,
    histogram::{Histogram, Unit},
    variants::Variants,
};
use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

/// Ways to end at most that one pair of parties is told apart by, so that one
/// server that answers with every number there is does not use up the room of
/// all.
pub(super) const MAX_VARIANTS: usize = 64;

/// How one request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The HTTP status; 0 if there was no response.
    pub status: u16,
    /// The gRPC status, if it is gRPC and one came.
    pub grpc_status: Option<u16>,
    /// Why it is not the application's plain answer.
    pub flags: Flags,
    /// From the request's first byte to the response's last.
    pub duration: Duration,
    /// The request body's size.
    pub request_bytes: u64,
    /// The response body's size.
    pub response_bytes: u64,
}

/// The part of an outcome that labels tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutcomeKey {
    pub(super) status: u16,
    pub(super) grpc_status: Option<u16>,
    pub(super) flags: Flags,
}

/// The room for label sets, shared by a process's series.
#[derive(Debug)]
pub(super) struct Room {
    limit: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(super) fn take(&self) -> bool {
        let taken = self
            .used
            .fetch_update(SeqCst, SeqCst, |used| {
                (used < self.limit).then_some(used + 1)
            })
            .is_ok();
        if !taken {
            self.refuse();
        }
        taken
    }

    fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn give_back(&self, count: usize) {
        self.used.fetch_sub(count, SeqCst);
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    fn admit(&self, variants: usize) -> bool {
        if variants < MAX_VARIANTS {
            return self.take();
        }
        self.refuse();
        false
    }
}

/// Requests between two parties.
#[derive(Debug)]
pub struct HttpSeries {
    pub(super) labels: Arc<str>,
    pub(super) protocol: RequestProtocol,
    pub(super) outcomes: Variants<OutcomeKey, Requests>,
    room: Arc<Room>,
}

/// Requests that ended in one way. How many there were is the count of each
/// histogram.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

impl HttpSeries {
    pub(super) fn new(labels: Arc<str>, protocol: RequestProtocol, room: Arc<Room>) -> Self {
        Self {
            labels,
            protocol,
            outcomes: Variants::default(),
            room,
        }
    }

    /// Whether its requests are gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        matches!(self.protocol, RequestProtocol::Grpc)
    }

    /// Counts a request: six atomic additions after a comparison or two.
    pub fn record(&self, outcome: &Outcome) {
        let key = OutcomeKey {
            status: outcome.status,
            grpc_status: outcome.grpc_status,
            flags: outcome.flags,
        };
        let requests = self
            .outcomes
            .value(key, |variants| self.room.admit(variants));
        let micros = u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX);
        requests.duration.observe(Unit::Time, micros);
        requests
            .request_bytes
            .observe(Unit::Size, outcome.request_bytes);
        requests
            .response_bytes
            .observe(Unit::Size, outcome.response_bytes);
    }

    /// A number that differs whenever something was counted in between.
    pub(super) fn activity(&self) -> u64 {
        self.outcomes
            .iter()
            .map(|(_, requests)| requests.duration.count())
            .sum()
    }
}

/// Connections between two parties whose bytes are not looked at.
#[derive(Debug)]
pub struct TcpSeries {
    pub(super) labels: Arc<str>,
    pub(super) opened: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) closed: Variants<Flags, AtomicU64>,
    room: Arc<Room>,
}

impl TcpSeries {
    pub(super) fn new(labels: Arc<str>, room: Arc<Room>) -> Self {
        Self {
            labels,
            opened: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            closed: Variants::default(),
            room,
        }
    }

    /// Counts a connection that began.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// Counts a connection that ended.
    pub fn closed(&self, flags: Flags) {
        self.closed
            .value(flags, |variants| self.room.admit(variants))
            .fetch_add(1, Relaxed);
    }

    /// Counts bytes of the response: from the destination to the source.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes of the request: from the source to the destination.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    pub(super) fn activity(&self) -> u64 {
        let closed = self.closed.iter().map(|(_, count)| count.load(Relaxed));
        [&self.opened, &self.sent, &self.received]
            .into_iter()
            .map(|count| count.load(Relaxed))
            .chain(closed)
            .fold(0, u64::wrapping_add)
    }
}
