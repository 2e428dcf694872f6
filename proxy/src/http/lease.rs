//! An HTTP/1.1 connection while it serves a request, and the answer's body that
//! is read from it.
//!
//! It goes back when the body has been read to its end, and is closed when it was
//! not.

use super::{
    body::Body,
    connection::Held,
    one::{Error, client},
};
use crate::pool::Pool;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::{
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::time::Instant;

/// An upstream HTTP/1.1 connection.
pub(crate) struct Http1 {
    pub(crate) codec: client::Connection<Held, Body>,
    /// By whose policy it was made.
    pub(crate) pool: Rc<Pool>,
    pub(crate) opened: Instant,
    /// When the connection below gets too old to go on, if it is a shared one.
    pub(crate) until: Option<Instant>,
    pub(crate) served: u32,
}

impl Http1 {
    /// Whether it takes no more requests, by its age.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

/// Where a connection belongs.
pub(crate) trait Home {
    /// The connection's request has ended well: it can serve another one.
    fn take_back(self: Rc<Self>, connection: Box<Http1>);
}

/// See the module.
pub(crate) struct Lease {
    /// Until the body has been read to its end.
    busy: Option<Busy>,
}

struct Busy {
    connection: Box<Http1>,
    home: Rc<dyn Home>,
}

impl Lease {
    /// Of a connection whose answer's head has been read. `switches`: it may have
    /// become another protocol's.
    pub(crate) fn new(connection: Box<Http1>, home: Rc<dyn Home>, switches: bool) -> Self {
        let ended = connection.codec.is_ended();
        let mut lease = Self {
            busy: Some(Busy { connection, home }),
        };
        if ended && !switches {
            lease.give_back();
        }
        lease
    }

    fn give_back(&mut self) {
        let Some(Busy { connection, home }) = self.busy.take() else {
            return;
        };
        if connection.codec.is_reusable() {
            home.take_back(connection);
        } else if !connection.codec.is_sent() {
            // Who answers early may want to hear the rest all the same.
            tokio::task::spawn_local(connection.codec.finish());
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(Busy { connection, .. }) = &mut self.busy else {
            return Poll::Ready(None);
        };
        let polled = ready!(connection.codec.poll_frame(context));
        if connection.codec.is_ended() {
            self.give_back();
        }
        Poll::Ready(polled)
    }

    /// Goes on sending the request while nobody reads its answer.
    pub(crate) fn poll_progress(&mut self, context: &mut Context<'_>) {
        if let Some(Busy { connection, .. }) = &mut self.busy {
            connection.codec.poll_progress(context);
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.busy.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.busy {
            None => SizeHint::with_exact(0),
            Some(Busy { connection, .. }) => connection.codec.size_hint(),
        }
    }

    /// The connection for whoever speaks another protocol from now on, and what has
    /// been read from it.
    pub(crate) fn into_stream(self) -> Option<(Held, Bytes)> {
        Some(self.busy?.connection.codec.into_parts())
    }
}
