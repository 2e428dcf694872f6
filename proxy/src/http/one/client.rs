//! The client's side of a connection. It has no task: who sends a request reads
//! the answer, and who reads the answer's body goes on sending the request's.

use super::{
    Error,
    body::Decoder,
    head::{self, Answered},
    interim,
    wire::Wire,
    write::{self, Encoder},
};
use bytes::Bytes;
use http::{Method, Response, StatusCode, Version, request};
use http_body::{Body, Frame, SizeHint};
use std::{
    fmt::Display,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// See the module. `B`: the bodies of requests.
pub(crate) struct Connection<S, B> {
    wire: Wire<S>,
    /// The rest of the request's body.
    sending: Option<(B, Encoder)>,
    /// The server takes no more of the request; it may have answered before.
    refused: Option<Error>,
    /// The answer's body.
    decoder: Decoder,
    head: bool,
    /// The client's own version, which knows chunks or does not.
    version: Version,
    upgrades: bool,
    /// Who asked may be told of interim responses.
    informs: bool,
    /// Whether it may serve another request, once this one has ended.
    keep: bool,
    /// Bytes of an unfinished head that have been looked at.
    seen: usize,
    /// The server has said something to this request.
    heard: bool,
}

impl<S, B> Connection<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    pub(crate) fn new(stream: S) -> Self {
        Self {
            wire: Wire::new(stream),
            sending: None,
            refused: None,
            decoder: Decoder::Ended,
            head: false,
            version: Version::HTTP_11,
            upgrades: false,
            informs: false,
            keep: true,
            seen: 0,
            heard: false,
        }
    }

    /// Whether nothing has come on an idle connection, not even its end. Never
    /// waits.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        !self.wire.has_unread() && self.wire.poll_read(&mut context).is_pending()
    }

    /// Whether the server's first bytes, unread, are HTTP/2's SETTINGS frame.
    pub(crate) fn is_answered_by_http2(&mut self) -> bool {
        matches!(self.wire.unread()[..], [0, _, _, 4, ..])
    }

    /// Returns the stream, if not one byte of an answer has come.
    pub(crate) fn unanswered(&self) -> Option<&S> {
        (!self.heard).then(|| self.wire.stream())
    }

    /// Begins a request; [`Connection::answer`] sends it.
    ///
    /// # Errors
    /// It can't be sent as it is; nothing of it was.
    pub(crate) fn begin(&mut self, head: &request::Parts, body: B) -> Result<(), Error> {
        let (encoder, keep) = write::request(self.wire.out(), head, &body)?;
        self.keep = keep;
        self.head = head.method == Method::HEAD;
        self.version = head.version;
        self.upgrades = head.headers.contains_key(http::header::UPGRADE);
        self.informs = false;
        self.decoder = Decoder::UntilClose;
        self.seen = 0;
        self.heard = false;
        self.sending = match encoder {
            Encoder::Length(0) => None,
            encoder => Some((body, encoder)),
        };
        Ok(())
    }

    /// Leaves interim responses for the loop that serves the client, which polls this.
    pub(crate) fn inform(&mut self) {
        self.informs = true;
    }

    /// Sends the request until there is an answer.
    ///
    /// # Errors
    /// There is none; the connection is of no use any more.
    pub(crate) async fn answer(&mut self) -> Result<Response<()>, Error> {
        poll_fn(|context| self.poll_answer(context)).await
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Response<()>, Error>> {
        // The answer may be there although the server takes no more.
        let _ = self.poll_send(context)?;
        loop {
            if self.wire.has_unread() && head::may_be_whole(self.wire.unread(), self.seen) {
                let informs = self.informs;
                let asked = (self.head, self.version);
                let answer = head::response(self.wire.unread(), asked, |response| {
                    // That a body is wanted, each hop says itself.
                    if informs && response.status() != StatusCode::CONTINUE {
                        interim::leave(response);
                    }
                })?;
                if let Some((response, answered)) = answer {
                    self.answered(&response, answered)?;
                    return Poll::Ready(Ok(response));
                }
            }
            self.seen = self.wire.unread().len();
            head::limit(self.seen)?;
            match ready!(self.wire.poll_read(context)) {
                Ok(0) => return Poll::Ready(Err(self.refused.take().unwrap_or(Error::Incomplete))),
                Ok(_) => self.heard = true,
                Err(error) => {
                    let refused = self.refused.take();
                    return Poll::Ready(Err(refused.unwrap_or(error.into())));
                }
            }
        }
    }

    fn answered(&mut self, response: &Response<()>, answered: Answered) -> Result<(), Error> {
        self.seen = 0;
        self.keep &= answered.keep;
        self.decoder = Decoder::of_answer(answered.framing);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.keep = false;
            if !self.upgrades {
                return Err(Error::Malformed("an upgrade that nobody asked for"));
            }
        }
        Ok(())
    }

    /// Sends what there is of the request's body.
    ///
    /// # Errors
    /// The body's own. What the server does not take is noted.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.refused.is_some() {
            return Poll::Ready(Ok(()));
        }
        match self.poll_send_body(context) {
            Poll::Ready(Err(error @ Error::Body(_))) => Poll::Ready(Err(error)),
            Poll::Ready(Err(error)) => {
                self.keep = false;
                self.sending = None;
                self.refused = Some(error);
                Poll::Ready(Ok(()))
            }
            polled => polled,
        }
    }

    fn poll_send_body(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let mut waits = false;
            while let Some((body, encoder)) = &mut self.sending
                && self.wire.out().has_room()
            {
                let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(context) else {
                    waits = true;
                    break;
                };
                let last = body.is_end_stream();
                let out = self.wire.out();
                if encoder.frame(out, frame, last)? {
                    self.sending = None;
                }
            }
            if self.sending.is_none() || waits {
                ready!(self.wire.poll_flush(context))?;
                return match waits {
                    true => Poll::Pending,
                    false => Poll::Ready(Ok(())),
                };
            }
            ready!(self.wire.poll_write(context))?;
        }
    }

    /// The next part of the answer's body.
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.is_sent() {
            // Whoever answers early may still be listening.
            let _ = self.poll_send(context)?;
        }
        loop {
            if let Some(frame) = self.decoder.decode(self.wire.unread())? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.decoder.is_ended() {
                return Poll::Ready(None);
            }
            if ready!(self.wire.poll_read(context))? == 0 {
                self.keep = false;
                self.decoder.close()?;
            }
        }
    }

    /// Goes on sending the request's body while nobody reads the answer's.
    pub(crate) fn poll_progress(&mut self, context: &mut Context<'_>) {
        if !self.is_sent() {
            // Told when the answer is read again.
            if let Poll::Ready(Err(error)) = self.poll_send(context) {
                self.sending = None;
                self.keep = false;
                self.refused = Some(error);
            }
        }
    }

    /// Whether the answer's body has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.decoder.is_ended()
    }

    /// Whether all of the request has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.sending.is_none() && self.wire.is_flushed()
    }

    /// Whether another request may follow.
    pub(crate) fn is_reusable(&self) -> bool {
        let whole = self.is_ended() && self.is_sent() && !self.wire.has_unread();
        whole && self.keep && !self.wire.has_ended()
    }

    /// Sends the rest of a request whose answer came before.
    pub(crate) async fn finish(mut self) {
        // There is nobody left to tell.
        let _ = poll_fn(|context| self.poll_send(context)).await;
    }

    /// What is known of the length of the answer's body.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.decoder.left() {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }

    /// The stream, and what has been read from it behind the answer's head.
    pub(crate) fn into_parts(self) -> (S, Bytes) {
        self.wire.into_parts()
    }
}
