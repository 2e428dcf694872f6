//! The codec by itself, and beside hyper.

mod client;
mod differential;
mod server;

use super::server::{Answer, Drain};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::BoxBody};
use std::{
    cell::RefCell,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::io::DuplexStream;

/// What a server said last about a stream that was given away.
type Switched = Rc<RefCell<Option<(DuplexStream, Bytes)>>>;

/// The body of an answer.
struct Said {
    body: BoxBody<Bytes, Infallible>,
    switched: Switched,
}

impl Said {
    fn new(body: impl Body<Data = Bytes, Error = Infallible> + Send + Sync + 'static) -> Self {
        Self {
            body: body.boxed(),
            switched: Switched::default(),
        }
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Answer<DuplexStream> for Said {
    fn poll_progress(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn switch(self, stream: DuplexStream, unread: Bytes) {
        *self.switched.borrow_mut() = Some((stream, unread));
    }
}

/// No drain.
struct Never;

impl Drain for Never {
    fn is_draining(&self) -> bool {
        false
    }

    async fn signaled(&self) {
        std::future::pending::<()>().await;
    }
}
