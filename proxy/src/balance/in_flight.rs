//! A request on its way to an endpoint: what it weighs there, and what is learnt of
//! the endpoint from how it ends.

use super::{Candidate, Verdict, Watch};
use crate::{
    availability::Availability,
    clock,
    error::Error,
    http::{connection::UNDELIVERED, exchange::Load},
    pool::{Pool, Room},
};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::{cell::Cell, io, rc::Rc, time::Instant};

/// One request on its way to an endpoint; counts as in flight while it lives.
pub(crate) struct InFlight {
    pub(crate) candidate: Rc<Candidate>,
    /// By whose policy the endpoint is called.
    pub(crate) pool: Rc<Pool>,
    started: Instant,
    pub(super) watch: Option<Rc<Watch>>,
    /// How often the endpoint had become available again when this began, where somebody
    /// watches.
    pub(super) returns: u64,
    pub(super) cookie: Option<Box<HeaderValue>>,
    /// Endpoints that the request could go to instead.
    pub(crate) others: usize,
    /// The endpoint was unavailable, and so were all others.
    pub(crate) desperate: bool,
    /// The endpoint was unavailable: this looks whether it is back.
    pub(crate) probes: bool,
    /// How it went, unless the answer breaks off.
    unjudged: Cell<Option<Verdict>>,
    /// Whether it is known how it went.
    settled: Cell<bool>,
    /// The connection's, where it is one connection.
    room: Option<Room>,
}

impl InFlight {
    pub(crate) fn new(candidate: Rc<Candidate>, pool: Rc<Pool>, now: Instant) -> Self {
        candidate.one_more();
        Self {
            candidate,
            pool,
            started: now,
            watch: None,
            returns: 0,
            cookie: None,
            others: 0,
            desperate: false,
            probes: false,
            unjudged: Cell::default(),
            settled: Cell::default(),
            room: None,
        }
    }

    /// Counts as an open connection too.
    pub(crate) fn occupy(&mut self, room: Room) {
        self.room = Some(room);
    }

    /// What an exchange that lasts longer weighs on.
    pub(crate) fn into_load(self) -> Rc<dyn Load> {
        if self.watch.is_some() {
            return Rc::new(self);
        }
        self.candidate.clone().loaded()
    }

    /// Milliseconds since it was sent.
    fn elapsed(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.started);
        elapsed.as_secs_f64() * 1e3
    }

    /// The response's head has arrived; `verdict`: as far as it says.
    pub(crate) fn answered(&self, verdict: Verdict, headers: &HeaderMap) {
        self.settled.set(true);
        let now = clock::instant();
        match verdict.is_no_measure() {
            true => self.candidate.penalise(self.elapsed(now), now),
            false => self.candidate.observe(self.elapsed(now), now),
        }
        let availability = &self.candidate.health.availability;
        if availability.is_unavailable() && !self.is_for_no_application(headers) {
            availability.note_answer(self.started);
        }
    }

    /// Whether an answer is the endpoint's sidecar's own, such as a denial, where nothing
    /// but its application's is a sign that it serves again.
    fn is_for_no_application(&self, headers: &HeaderMap) -> bool {
        let told = self.is_meshed() && headers.contains_key(&UNDELIVERED);
        told && self.availability().is_undelivered()
    }

    /// The endpoint could not be reached, or did not answer.
    pub(crate) fn failed(&self, error: &Error) {
        self.settled.set(true);
        // Who is busy or about to go has not failed, but is to get less.
        let judged = error.is_endpoint_s();
        if judged || error.is_refusal() {
            let now = clock::instant();
            self.candidate.penalise(self.elapsed(now), now);
        }
        if judged {
            self.judge(Verdict::Failed);
        }
    }

    /// Takes note that the request's end says nothing about the endpoint.
    pub(crate) fn excuse(&self) {
        self.settled.set(true);
    }

    /// A connection that is not HTTP has come about. Of an application that accepted
    /// none before, that says nothing: it has to speak, or to stay.
    pub(crate) fn connected(&self) {
        self.settled.set(true);
        let availability = self.availability();
        availability.mark_reached();
        if !availability.is_undelivered() {
            self.judge(Verdict::Connected);
        }
    }

    /// A connection that is not HTTP turned out to lead to an application.
    pub(crate) fn delivered(&self) {
        if self.availability().is_undelivered() {
            self.availability().note_answer(self.started);
        }
    }

    /// Whether the endpoint's sidecar is called, which proves to be the endpoint's.
    pub(crate) fn is_meshed(&self) -> bool {
        self.candidate.endpoint.identity.is_some() && self.pool.policy.tls.is_mesh()
    }

    /// A connection was reset before a byte was sent or received, or this workload's
    /// certificate was refused before one was received. Returns how that is to be taken
    /// of a sidecar: nothing reaches its application; `None`: it is none.
    pub(crate) fn undelivered(&self, error: &io::Error) -> Option<Error> {
        self.is_meshed().then(|| {
            self.availability().mark_undelivered(clock::instant());
            let address = self.candidate.endpoint.address;
            match error.kind() {
                io::ErrorKind::PermissionDenied => Error::Certificate {
                    address,
                    reason: error.to_string(),
                },
                _ => Error::Undelivered { address },
            }
        })
    }

    /// Nothing is known of how it went, and nothing was sent.
    pub(crate) fn withdraw(self) {
        self.excuse();
    }

    /// The endpoint's availability, for who connects to it.
    pub(crate) fn availability(&self) -> &Availability {
        &self.candidate.health.availability
    }

    /// Whom to blame when nobody waits for the answer any longer; `None`: nobody
    /// watches.
    pub(crate) fn blame(&self) -> Option<Blame> {
        let watch = self.watch.clone()?;
        Some(Blame {
            candidate: self.candidate.clone(),
            watch,
            returns: self.returns,
        })
    }

    /// Takes note of how it went, for outlier detection.
    pub(crate) fn judge(&self, verdict: Verdict) {
        if let Some(watch) = &self.watch {
            note(
                watch,
                &self.candidate,
                self.returns,
                verdict,
                clock::instant(),
            );
        }
    }

    /// The same once the exchange ends, if the answer does not break off.
    pub(crate) fn judge_at_end(&self, verdict: Verdict) {
        self.unjudged.set(Some(verdict));
    }

    /// The cookie that the answer is to set, so that its caller is known again.
    pub(crate) fn take_cookie(&mut self) -> Option<HeaderValue> {
        self.cookie.take().map(|cookie| *cookie)
    }
}

/// An endpoint that was too slow, and who watches over it.
pub(crate) struct Blame {
    candidate: Rc<Candidate>,
    watch: Rc<Watch>,
    returns: u64,
}

/// Takes note of how an attempt went that began after so many returns. A failure of one
/// that began before the last return tells nothing against who is back.
fn note(watch: &Watch, candidate: &Candidate, returns: u64, verdict: Verdict, now: Instant) {
    let is_old = candidate.health.availability.returns() != returns;
    if !(is_old && verdict.is_failure()) {
        watch.note(candidate, verdict, now);
    }
}

impl Blame {
    /// No answer came in time.
    pub(crate) fn fall(&self) {
        let (candidate, now) = (&self.candidate, Instant::now());
        note(&self.watch, candidate, self.returns, Verdict::Failed, now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.settled.get() {
            // Given up on: an answer would have taken longer still.
            let now = clock::instant();
            self.candidate.observe_at_least(self.elapsed(now), now);
        }
        self.candidate.one_less();
    }
}

/// Where an exchange weighs whose answer is on its way.
impl Load for Candidate {
    fn ended(&self, answer: Option<(StatusCode, Option<u16>)>) {
        self.ended_as(answer);
        self.one_less();
    }

    fn broke(&self) {
        self.penalise(0.0, clock::instant());
    }
}

/// The same where somebody wants to know how it went.
impl Load for InFlight {
    fn ended(&self, answer: Option<(StatusCode, Option<u16>)>) {
        let told = self.candidate.ended_as(answer);
        if let Some(verdict) = told.or(self.unjudged.take()) {
            self.judge(verdict);
        }
    }

    fn broke(&self) {
        self.candidate.broke();
        self.unjudged.set(None);
        self.judge(Verdict::Failed);
    }
}
