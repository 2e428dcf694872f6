//! Connections to an endpoint's sidecar whose streams are HTTP/1.1 connections.

use crate::{
    http::{MAX_AGE, aged},
    mux::{self, Session},
    pool::Pool,
    stream::Stream,
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};
use tokio::time::Instant;

/// An endpoint's.
#[derive(Default)]
pub(super) struct Carriers {
    all: RefCell<Vec<Carrier>>,
    /// The endpoint's sidecar does not know how.
    declined: Cell<bool>,
}

struct Carrier {
    session: Rc<Session>,
    pool: Rc<Pool>,
    /// From then on nothing new is sent over it.
    until: Instant,
    /// It had no stream when it was looked at last.
    idle: Cell<bool>,
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // The streams that it has go on; the last of them ends it.
        self.session.close();
    }
}

impl Carriers {
    /// A new stream of a connection that has room for it, and how long that is to
    /// be used.
    pub(super) fn stream(&self, pool: &Rc<Pool>, now: Instant) -> Option<(Stream, Instant)> {
        let mut all = self.all.borrow_mut();
        all.retain(|carrier| now < carrier.until && !carrier.session.is_over());
        let mut of_pool = all.iter().filter(|carrier| Rc::ptr_eq(&carrier.pool, pool));
        of_pool.find_map(|carrier| {
            let stream = Stream::Shared(carrier.session.open()?);
            Some((stream, carrier.until))
        })
    }

    /// Adds a connection that the other side has agreed to share.
    pub(super) fn add(&self, connection: Stream, pool: &Rc<Pool>) {
        let longest = pool.policy.pool.max_connection_duration;
        self.all.borrow_mut().push(Carrier {
            session: mux::connect(connection),
            pool: pool.clone(),
            until: Instant::now() + longest.unwrap_or_else(|| aged(MAX_AGE)),
            idle: Cell::new(false),
        });
    }

    /// Remembers that the endpoint's sidecar shares no connections.
    pub(super) fn decline(&self) {
        self.declined.set(true);
    }

    pub(super) fn are_declined(&self) -> bool {
        self.declined.get()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.borrow().is_empty()
    }

    /// Lets go of all: they end with their last stream.
    pub(super) fn clear(&self) {
        self.all.borrow_mut().clear();
    }

    /// Lets go of those that are old or over, or had no stream twice in a row.
    pub(super) fn expire(&self, now: Instant) {
        self.all.borrow_mut().retain(|carrier| {
            let idle = carrier.session.streams() == 0;
            let unused = carrier.idle.replace(idle) && idle;
            !unused && now < carrier.until && !carrier.session.is_over()
        });
    }
}
