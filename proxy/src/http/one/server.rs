//! The server's side of a connection: one loop that reads a request, has it
//! answered, writes the answer, and goes on.
//!
//! A client that resets the connection while its request is being answered has no use
//! for the answer: the work on it is dropped. One that only sends no more may still hear
//! (RFC 9112, 9.6): whether it has gone shows when it is written to.

use super::{
    Error,
    body::{Decoder, Framing},
    head::{self, Asked},
    interim,
    wire::Wire,
    write::{self, Encoder},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use std::{
    cell::RefCell,
    convert::Infallible,
    fmt::Display,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Sleep,
};

/// How long the head of a request may take from its first byte; hyper's figure.
/// Envoy advises 10 s at a mesh's edge and has no limit within one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of empty lines before a request that are skipped.
pub(crate) const MOST_EMPTY_LINES: usize = 1024;

/// Bytes of next requests that are read while one is answered, to see its client go away.
const MOST_AHEAD: usize = 16 * 1024;

/// The body of an answer.
pub(crate) trait Answer<S>: Body<Data = Bytes> + Unpin {
    /// Does what there is to do besides being read, while the client does not read; ready when
    /// its time is up.
    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// The head of a protocol change has been sent: the stream is the answer's
    /// own from now on, and what has been read from it.
    fn switch(self, stream: S, unread: Bytes);
}

/// When a connection is to end although it could go on.
pub(crate) trait Drain {
    /// Whether that is so now.
    fn is_draining(&self) -> bool;
    /// Until that is so.
    fn signaled(&self) -> impl Future<Output = ()>;
}

/// What the loop and the body of the request share.
struct Link<S> {
    wire: Wire<S>,
    /// Of the request's body.
    decoder: Decoder,
    /// The client waits to be told that its body is wanted.
    expects: bool,
    reader: Reader,
    /// The loop, when it waits for the reader.
    waiter: Option<Waker>,
}

/// Who reads the request's body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Nobody any more, or nobody yet.
    None,
    Reading,
    /// The client broke the protocol.
    Broken,
    /// The client went away, or will send no more of it.
    Gone,
}

/// The body of a request.
pub(crate) struct Incoming<S> {
    /// Until it has been read to its end.
    link: Option<Rc<RefCell<Link<S>>>>,
}

impl<S> Link<S> {
    /// Nobody reads the request's body any more.
    fn leave(&mut self, reader: Reader) {
        self.reader = reader;
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.expects {
            self.expects = false;
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            self.wire.out().flat().extend_from_slice(go_on);
        }
        if !self.wire.is_flushed()
            && let Poll::Ready(Err(error)) = self.wire.poll_flush(context)
        {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if let Some(frame) = self.decoder.decode(self.wire.unread())? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.decoder.is_ended() {
                return Poll::Ready(None);
            }
            if ready!(self.wire.poll_read(context))? == 0 {
                self.decoder.close()?;
            }
        }
    }

    /// Ready when the client has reset the connection. Looks only where its next bytes
    /// would be another request's, and not beyond so many of them.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.decoder.is_ended() {
            return Poll::Pending;
        }
        while self.wire.unread().len() < MOST_AHEAD {
            match ready!(self.wire.poll_read(context)) {
                Err(_) => return Poll::Ready(()),
                // It may be waiting for the answer.
                Ok(0) => return Poll::Pending,
                Ok(_) => self.wire.keep_unread(),
            }
        }
        Poll::Pending
    }

    /// Reads what nobody wants of a body, if it is all there: whether the
    /// connection can go on.
    fn skip_body(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        while !self.decoder.is_ended() {
            match self.decoder.decode(self.wire.unread()) {
                Ok(Some(_)) => {}
                Ok(None) if self.decoder.is_ended() => {}
                Ok(None) => match self.wire.poll_read(&mut context) {
                    Poll::Ready(Ok(1..)) => {}
                    _ => return false,
                },
                Err(_) => return false,
            }
        }
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Body for Incoming<S> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(link) = &self.link else {
            return Poll::Ready(None);
        };
        let mut borrowed = link.borrow_mut();
        let polled = ready!(borrowed.poll_frame(context));
        let reader = match &polled {
            Some(Err(Error::Io(_) | Error::Incomplete)) => Reader::Gone,
            Some(Err(_)) => Reader::Broken,
            _ if borrowed.decoder.is_ended() => Reader::None,
            _ => return Poll::Ready(polled),
        };
        borrowed.leave(reader);
        drop(borrowed);
        self.link = None;
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.link.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.link.as_ref().map(|link| link.borrow().decoder.left());
        match left {
            None => SizeHint::with_exact(0),
            Some(Some(left)) => SizeHint::with_exact(left),
            Some(None) => SizeHint::default(),
        }
    }
}

impl<S> Drop for Incoming<S> {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.borrow_mut().leave(Reader::None);
        }
    }
}

/// Serves a connection until it ends, or has become another protocol's.
///
/// # Errors
/// The connection broke, or its client spoke no HTTP/1.
pub(crate) async fn serve<S, H, F, B, D>(stream: S, mut handler: H, drain: D) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Request<Incoming<S>>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Answer<S>,
    B::Error: Display,
    D: Drain,
{
    let link = Rc::new(RefCell::new(Link {
        wire: Wire::new(stream),
        decoder: Decoder::Ended,
        expects: false,
        reader: Reader::None,
        waiter: None,
    }));
    let mut draining = Draining {
        signaled: pin!(drain.signaled()),
        drain: &drain,
        waker: None,
    };
    loop {
        let read = next_request(&link, &mut draining).await;
        let (request, asked) = match read {
            Ok(Some(read)) => read,
            Ok(None) => break,
            Err(error) => {
                refuse(&link, &error).await?;
                return Err(error);
            }
        };
        let request = with_body(&link, request, &asked);
        let answered = {
            let mut answering = pin!(handler(request));
            poll_fn(|context| {
                let polled = answering.as_mut().poll(context);
                let mut link = link.borrow_mut();
                let informed = interim::poll_inform(&mut link.wire, context, asked.version);
                match polled {
                    _ if informed.is_err() => Poll::Ready(None),
                    // Nobody is left to hear it.
                    Poll::Ready(_) if link.reader == Reader::Gone => Poll::Ready(None),
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                    Poll::Pending => link.poll_gone(context).map(|()| None),
                }
            })
            .await
        };
        let response = match answered {
            None => return Err(Error::Incomplete),
            Some(Ok(response)) => response,
            Some(Err(never)) => match never {},
        };
        let (head, body) = response.into_parts();
        let keep = asked.keep && !drain.is_draining();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return switch(link, head, body, &asked).await;
        }
        let keep = respond(&link, head, body, &asked, keep).await?;
        if !(keep && body_left(&link).await) {
            break;
        }
    }
    poll_fn(|context| link.borrow_mut().wire.poll_shutdown(context)).await?;
    Ok(())
}

fn with_body<S>(
    link: &Rc<RefCell<Link<S>>>,
    request: Request<()>,
    asked: &Asked,
) -> Request<Incoming<S>> {
    if asked.framing == Framing::Length(0) {
        return request.map(|()| Incoming { link: None });
    }
    let mut borrowed = link.borrow_mut();
    borrowed.decoder = Decoder::new(asked.framing);
    borrowed.expects = asked.expects;
    borrowed.reader = Reader::Reading;
    let link = Some(link.clone());
    request.map(|()| Incoming { link })
}

/// The drain, as one connection waits for it.
struct Draining<'a, D, F> {
    signaled: Pin<&'a mut F>,
    drain: &'a D,
    /// Who is woken by it.
    waker: Option<Waker>,
}

impl<D: Drain, F: Future<Output = ()>> Draining<'_, D, F> {
    /// Ready once it has begun. Asks for a wake-up once, not once a request.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let known = self.waker.as_ref();
        if known.is_some_and(|known| known.will_wake(context.waker())) {
            return match self.drain.is_draining() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            };
        }
        self.waker = Some(context.waker().clone());
        self.signaled.as_mut().poll(context)
    }
}

/// The next request; `None`: there is none, and nothing is wrong.
async fn next_request<S>(
    link: &RefCell<Link<S>>,
    draining: &mut Draining<'_, impl Drain, impl Future<Output = ()>>,
) -> head::Head<Request<()>, Asked>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut seen, mut empty) = (0, 0);
    let mut limit: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        let wire = &mut link.borrow_mut().wire;
        loop {
            let skipped = head::skip_empty_lines(wire.unread());
            if skipped > 0 {
                (seen, empty) = (0, empty + skipped);
                if empty > MOST_EMPTY_LINES {
                    let error = Error::Malformed("too many empty lines before it");
                    return Poll::Ready(Err(error));
                }
            }
            if wire.has_unread() {
                if head::may_be_whole(wire.unread(), seen)
                    && let Some(read) = head::request(wire.unread())?
                {
                    return Poll::Ready(Ok(Some(read)));
                }
                seen = wire.unread().len();
                head::limit(seen)?;
            }
            match wire.poll_read(context) {
                Poll::Ready(Ok(0)) if wire.unread().iter().all(|byte| b"\r\n".contains(byte)) => {
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Error::Incomplete)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => break,
            }
        }
        if wire.has_unread() {
            wire.keep_unread();
            let limit = limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_TIMEOUT)));
            ready!(limit.as_mut().poll(context));
            tracing::debug!(limit = ?HEAD_TIMEOUT, "closed a connection whose request head did not end");
            metrics::counter!("linnet_connections_closed_total", "reason" => "slow_head")
                .increment(1);
            return Poll::Ready(Ok(None));
        }
        draining.poll(context).map(|()| Ok(None))
    })
    .await
}

/// Tells the client what is wrong with its request's head, if it can be told.
async fn refuse<S>(link: &RefCell<Link<S>>, error: &Error) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(status) = error.status() else {
        return Ok(());
    };
    {
        let wire = &mut link.borrow_mut().wire;
        let head = wire.unread().starts_with(b"HEAD ");
        write::refusal(wire.out(), status, &error.to_string(), head);
    }
    poll_fn(|context| link.borrow_mut().wire.poll_flush(context)).await?;
    poll_fn(|context| link.borrow_mut().wire.poll_shutdown(context)).await?;
    Ok(())
}

/// Writes an answer; says whether the connection can go on.
async fn respond<S, B>(
    link: &RefCell<Link<S>>,
    head: response::Parts,
    body: B,
    asked: &Asked,
    keep: bool,
) -> Result<bool, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Answer<S>,
    B::Error: Display,
{
    let (mut encoder, keep) = {
        let mut link = link.borrow_mut();
        // Nobody is told any more to send a body.
        link.expects = false;
        let abandoned = link.reader != Reader::Reading && !link.skip_body();
        let out = link.wire.out();
        write::response(out, &head, &body, asked, keep && !abandoned)?
    };
    head::recycle(head.headers);
    // Let go of as soon as all of it has been taken: an exchange ends before its
    // client can know.
    let ended = body.is_end_stream() || encoder == Encoder::Length(0);
    let mut body = (!ended).then_some(body);
    poll_fn(|context| {
        loop {
            let mut waits = false;
            while let Some(reading) = &mut body
                && link.borrow_mut().wire.out().has_room()
            {
                let Poll::Ready(frame) = Pin::new(&mut *reading).poll_frame(context) else {
                    waits = true;
                    break;
                };
                let last = reading.is_end_stream();
                if encoder.frame(link.borrow_mut().wire.out(), frame, last)? {
                    body = None;
                }
            }
            let mut borrowed = link.borrow_mut();
            let polled = match body.is_none() || waits {
                true => borrowed.wire.poll_flush(context)?,
                false => borrowed.wire.poll_write(context)?,
            };
            match polled {
                Poll::Ready(()) if body.is_none() => return Poll::Ready(Ok(keep)),
                Poll::Ready(()) if !waits => continue,
                _ => {}
            }
            if borrowed.poll_gone(context).is_ready() {
                return Poll::Ready(Err(Error::Incomplete));
            }
            drop(borrowed);
            if let Some(body) = &mut body
                && !waits
                && body.poll_progress(context).is_ready()
            {
                return Poll::Ready(Err(Error::Body("its time is up".to_owned())));
            }
            return Poll::Pending;
        }
    })
    .await
}

/// Waits until the rest of the request's body has been read; whether the
/// connection can go on.
async fn body_left<S>(link: &RefCell<Link<S>>) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|context| {
        let mut link = link.borrow_mut();
        match link.reader {
            Reader::Reading => {
                link.waiter = Some(context.waker().clone());
                Poll::Pending
            }
            Reader::Broken | Reader::Gone => Poll::Ready(false),
            Reader::None => Poll::Ready(link.skip_body()),
        }
    })
    .await
}

/// Sends the head of a protocol change, and lets go of the stream.
async fn switch<S, B>(
    link: Rc<RefCell<Link<S>>>,
    head: response::Parts,
    body: B,
    asked: &Asked,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Answer<S>,
    B::Error: Display,
{
    write::response(link.borrow_mut().wire.out(), &head, &body, asked, true)?;
    poll_fn(|context| link.borrow_mut().wire.poll_flush(context)).await?;
    // The request's body, if it had one, has nobody to go to any more.
    if let Ok(link) = Rc::try_unwrap(link) {
        let (stream, unread) = link.into_inner().wire.into_parts();
        body.switch(stream, unread);
    }
    Ok(())
}
