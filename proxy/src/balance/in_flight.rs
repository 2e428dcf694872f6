//! A request on its way to an endpoint: what it weighs there, and what is learnt of
//! the endpoint from how it ends.

use super::{Candidate, Verdict, Watch};
use crate::{
    availability::Availability,
    clock,
    error::Error,
    http::exchange::Load,
    pool::{Pool, Room},
};
use http::{HeaderValue, StatusCode};
use std::{cell::Cell, rc::Rc, time::Instant};

/// One request on its way to an endpoint; counts as in flight while it lives.
pub(crate) struct InFlight {
    pub(crate) candidate: Rc<Candidate>,
    /// By whose policy the endpoint is called.
    pub(crate) pool: Rc<Pool>,
    started: Instant,
    pub(super) watch: Option<Rc<Watch>>,
    pub(super) cookie: Option<Box<HeaderValue>>,
    /// Endpoints that the request could go to instead.
    pub(crate) others: usize,
    /// The endpoint was unavailable, and so were all others.
    pub(crate) desperate: bool,
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
            cookie: None,
            others: 0,
            desperate: false,
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
    pub(crate) fn answered(&self, verdict: Verdict) {
        self.settled.set(true);
        let now = clock::instant();
        match verdict.is_failure() {
            true => self.candidate.penalise(self.elapsed(now), now),
            false => self.candidate.observe(self.elapsed(now), now),
        }
        let availability = &self.candidate.health.availability;
        availability.note_answer(self.started);
    }

    /// The endpoint could not be reached, or did not answer.
    pub(crate) fn failed(&self, error: &Error) {
        self.settled.set(true);
        if error.is_endpoint_s() {
            let now = clock::instant();
            self.candidate.penalise(self.elapsed(now), now);
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

    /// A connection was reset before a byte was sent or received. Returns how that is
    /// to be taken of a sidecar, whose application accepts none; `None`: it is none.
    pub(crate) fn undelivered(&self) -> Option<Error> {
        let endpoint = &self.candidate.endpoint;
        let meshed = endpoint.identity.is_some() && self.pool.policy.tls.is_mesh();
        meshed.then(|| {
            self.availability().mark_undelivered(clock::instant());
            let address = endpoint.address;
            Error::Undelivered { address }
        })
    }

    /// Nothing is known of how it went, and nothing was sent.
    pub(super) fn withdraw(self) {
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
        let candidate = self.candidate.clone();
        Some(Blame { candidate, watch })
    }

    /// Takes note of how it went, for outlier detection.
    pub(crate) fn judge(&self, verdict: Verdict) {
        if let Some(watch) = &self.watch {
            watch.note(&self.candidate, verdict, clock::instant());
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
}

impl Blame {
    /// No answer came in time.
    pub(crate) fn fall(&self) {
        let now = Instant::now();
        self.watch.note(&self.candidate, Verdict::Failed, now);
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
