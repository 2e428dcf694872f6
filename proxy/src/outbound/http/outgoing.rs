//! A request that may have to be sent more than once.
//!
//! It costs what it may need: nothing where there is one endpoint and no policy of
//! retries; a second handle on the body where that has come with the head; a
//! [`Replay`] where it is still coming; a copy of the head where a policy may send
//! the request again after an answer.

use crate::{
    balance::Asker,
    error::Error,
    http::{
        body::Body,
        connection::Failure,
        replay::{MOST_KEPT, Replay},
    },
};
use ::http::{Request, request::Parts};
use bytes::Bytes;
use http_body::{Body as _, Frame};
use std::{future::poll_fn, mem, net::IpAddr, pin::Pin, task::Poll};

/// See the module.
pub(super) struct Outgoing {
    /// The request, while it has not been sent.
    request: Option<Request<Body>>,
    /// Its head, where a policy may send it again.
    head: Option<Box<Parts>>,
    body: Kept,
}

/// What there is of a body to send it again.
enum Kept {
    /// There is none to be kept.
    Empty,
    /// It can be sent once.
    Once,
    Whole(Bytes),
    Replayed(Replay),
}

impl Outgoing {
    /// Of a request; `policy`: whether one may send it again after an answer.
    pub(super) fn new(request: Request<Body>, policy: bool) -> Self {
        let (request, head) = match policy {
            false => (request, None),
            true => {
                let (head, body) = request.into_parts();
                let first = Request::from_parts(head.clone(), body);
                (first, Some(Box::new(head)))
            }
        };
        Self {
            request: Some(request),
            head,
            body: Kept::Once,
        }
    }

    /// Keeps what it takes to send the request again.
    ///
    /// # Errors
    /// Its body has broken off.
    pub(super) async fn keep(&mut self) -> Result<(), Error> {
        if let Some(request) = &mut self.request {
            self.body = keep(request.body_mut()).await?;
        }
        Ok(())
    }

    /// Who asks for an endpoint.
    pub(super) fn asker(&self, source: Option<IpAddr>) -> Asker<'_> {
        match (&self.request, &self.head) {
            (Some(request), _) => {
                Asker::request(request, source).with_body_coming(!request.body().is_end_stream())
            }
            (None, Some(head)) => Asker::head(&head.uri, &head.headers, source),
            (None, None) => Asker::connection(source),
        }
    }

    /// Whether the head must come back from whoever sends it, to be sent again.
    pub(super) fn needs_head(&self) -> bool {
        self.head.is_none() && !matches!(self.body, Kept::Once)
    }

    /// The request, to be sent; `None`: it can't be sent again.
    pub(super) fn take(&mut self) -> Option<Request<Body>> {
        let unsent = self.request.take();
        unsent.or_else(|| {
            let body = self.body.again()?;
            let head = self.head.as_deref()?;
            Some(Request::from_parts(head.clone(), body))
        })
    }

    /// Takes back what a failure has left of the request.
    pub(super) fn take_back(&mut self, failure: &mut Failure) {
        let Some(mut request) = failure.unsent.take() else {
            return;
        };
        if failure.is_body_gone() {
            let Some(body) = self.body.again() else {
                return;
            };
            *request.body_mut() = body;
        }
        self.request = Some(request);
    }

    /// Whether it can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.request.is_some() || self.head.is_some() && self.body.is_whole()
    }

    /// Sends no more of the body than is kept until there is an answer, or none for a while.
    pub(super) fn hold(&self) {
        if let Kept::Replayed(replay) = &self.body {
            replay.hold();
        }
    }

    /// Keeps nothing from now on.
    pub(super) fn forget(&self) {
        if let Kept::Replayed(replay) = &self.body {
            replay.forget();
        }
    }
}

impl Kept {
    fn is_whole(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Once => false,
            Self::Replayed(replay) => replay.is_whole(),
        }
    }

    /// The body from its start.
    fn again(&self) -> Option<Body> {
        match self {
            Self::Empty => Some(Body::empty()),
            Self::Once => None,
            Self::Whole(bytes) => Some(Body::text(bytes.clone())),
            Self::Replayed(replay) => replay.is_whole().then(|| replay.body()),
        }
    }
}

/// Makes a body one that can be sent again, if it is not known to be too large.
///
/// # Errors
/// It has broken off.
async fn keep(body: &mut Body) -> Result<Kept, Error> {
    if body.is_end_stream() {
        return Ok(Kept::Empty);
    }
    let length = body.size_hint();
    if length.lower() > MOST_KEPT as u64 {
        return Ok(Kept::Once);
    }
    // What has come with the head is there already.
    let first = match length.exact() {
        Some(_) => poll_fn(|context| match Pin::new(&mut *body).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => Poll::Ready(None),
        })
        .await
        .transpose()
        .map_err(|error| Error::BadRequest(format!("its body broke off: {error}")))?,
        None => None,
    };
    let ended = body.is_end_stream();
    body.is_to_be_sent();
    let source = mem::replace(body, Body::empty());
    let first = match first.map(Frame::into_data) {
        Some(Ok(data)) if ended => {
            *body = Body::text(data.clone());
            return Ok(Kept::Whole(data));
        }
        Some(Ok(data)) => Some(Frame::data(data)),
        Some(Err(other)) => Some(other),
        None => None,
    };
    let replay = Replay::begun(source, first.as_ref());
    *body = replay.body();
    Ok(Kept::Replayed(replay))
}
