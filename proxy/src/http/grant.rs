//! Requests that were let through and have not ended: whenever the policies change
//! they are asked for again, and what is denied now ends. A WebSocket or a stream
//! may last for days after the one question that a request is worth.
//!
//! What is kept of a request costs no allocation, unless its policies go by its
//! headers.

use crate::{access_log::Record, error::Error, http::target::Sent};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header::HOST};
use slab::Slab;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Who is asked again.
pub(crate) trait Asks {
    /// Why the request may not go on; `None`: it may. `whole`: all of its headers
    /// are known.
    fn again(&self, request: &Request<()>, whole: bool) -> Option<Withdrawal>;
}

/// Why a request may not go on, and its line of the access log.
pub(crate) struct Withdrawal {
    pub(crate) by: String,
    /// The caller is told what decided.
    pub(crate) told: bool,
    pub(crate) record: Option<Record>,
}

/// A data thread's.
#[derive(Default)]
pub(crate) struct Grants {
    open: RefCell<Slab<Open>>,
    watched: Cell<bool>,
}

struct Open {
    asks: Rc<dyn Asks>,
    head: Head,
    withdrawal: Option<Withdrawal>,
    wakers: [Option<Waker>; 2],
}

/// What is kept of a request's head.
pub(crate) struct Head {
    method: Method,
    uri: Uri,
    sent: Option<Box<Sent>>,
    version: Version,
    host: Option<HeaderValue>,
    headers: Option<HeaderMap>,
}

impl Head {
    /// Of a request, with all of its headers if they are wanted.
    pub(crate) fn of<B>(request: &Request<B>, whole: bool) -> Self {
        let headers = request.headers();
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            sent: request.extensions().get::<Sent>().cloned().map(Box::new),
            version: request.version(),
            host: match request.uri().authority() {
                Some(_) => None,
                None => headers.get(HOST).cloned(),
            },
            headers: whole.then(|| headers.clone()),
        }
    }

    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        if let Some(sent) = &self.sent {
            request.extensions_mut().insert((**sent).clone());
        }
        match &self.headers {
            Some(headers) => *request.headers_mut() = headers.clone(),
            None => {
                let host = self.host.clone().map(|host| (HOST, host));
                request.headers_mut().extend(host);
            }
        }
        request
    }
}

/// Who waits for a withdrawal: the two run in different tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Request,
    Response,
}

impl Grants {
    /// A request goes on until its grant is dropped, or withdrawn.
    pub(crate) fn open(self: &Rc<Self>, asks: Rc<dyn Asks>, head: Head) -> Grant {
        let key = self.open.borrow_mut().insert(Open {
            asks,
            head,
            withdrawal: None,
            wakers: [None, None],
        });
        Grant {
            grants: self.clone(),
            key,
        }
    }

    /// Whether nobody has asked this before: the first one who grants sees to it
    /// that changes are watched.
    pub(crate) fn is_unwatched(&self) -> bool {
        !self.watched.replace(true)
    }

    /// Asks for all that is open again.
    pub(crate) fn ask_again(&self) {
        for (_, open) in self.open.borrow_mut().iter_mut() {
            if open.withdrawal.is_some() {
                continue;
            }
            let whole = open.head.headers.is_some();
            open.withdrawal = open.asks.again(&open.head.request(), whole);
            if open.withdrawal.is_some() {
                let wakers = open.wakers.iter_mut().filter_map(Option::take);
                wakers.for_each(Waker::wake);
            }
        }
    }
}

/// See [`Grants::open`].
pub(crate) struct Grant {
    grants: Rc<Grants>,
    key: usize,
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.grants.open.borrow_mut().remove(self.key);
    }
}

impl Grant {
    /// Ready once it is withdrawn.
    pub(crate) fn poll_withdrawn(&self, side: Side, context: &Context<'_>) -> Poll<()> {
        let mut open = self.grants.open.borrow_mut();
        let open = &mut open[self.key];
        if open.withdrawal.is_some() {
            return Poll::Ready(());
        }
        let waker = &mut open.wakers[side as usize];
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// The line of the access log that a withdrawal makes, once.
    pub(crate) fn take_record(&self) -> Option<Record> {
        let mut open = self.grants.open.borrow_mut();
        open[self.key].withdrawal.as_mut()?.record.take()
    }

    /// Why it was withdrawn.
    pub(crate) fn error(&self) -> Option<Error> {
        let open = self.grants.open.borrow();
        let withdrawal = open[self.key].withdrawal.as_ref()?;
        Some(Error::Denied {
            by: withdrawal.by.clone(),
            told: withdrawal.told,
        })
    }
}
