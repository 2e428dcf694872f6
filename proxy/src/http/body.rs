//! The bodies of requests and responses, wherever they come from: counted on
//! their way, ended when their time is up or a policy withdraws its word.

use super::{
    deadline::End,
    exchange::Exchange,
    fault::Fault,
    field,
    grant::Side,
    lease::Lease,
    one::{self, server},
    replay::Reader,
    rescue,
    tee::{Copy, Tee},
    upgrade::Tunnel,
};
use crate::{stream::Stream, telemetry::Flags};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// A body of either direction; streams, and is counted on its way.
pub(crate) struct Body {
    kind: Kind,
    meter: Option<Meter>,
    /// When it must have ended.
    end: Option<Box<End>>,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("a policy forbids it now")]
    Withdrawn,
    #[error(transparent)]
    Http1(#[from] one::Error),
    #[error("the route's timeout has passed")]
    TimedOut,
    #[error("its original ended early, or went too far ahead")]
    BrokenOff,
    /// The library takes a reset without an error for an end.
    #[error("its sender reset it before its end")]
    CutShort,
}

enum Kind {
    /// Over HTTP/2.
    Incoming(Incoming),
    /// From an HTTP/1.1 client.
    Received(server::Incoming<Stream>),
    /// From an HTTP/1.1 server.
    Leased(Lease),
    /// No body, but what comes after the head: another protocol.
    Tunnel(Box<Tunnel>),
    Replay(Reader),
    Tee(Box<Tee>),
    Copy(Copy),
    /// Made here.
    Text(Option<Bytes>),
}

enum Meter {
    Request(Rc<Exchange>),
    Response(Rc<Exchange>),
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            meter: None,
            end: None,
        }
    }
}

impl Body {
    pub(crate) fn incoming(incoming: Incoming) -> Self {
        Kind::Incoming(incoming).into()
    }

    pub(crate) fn received(incoming: server::Incoming<Stream>) -> Self {
        Kind::Received(incoming).into()
    }

    pub(crate) fn tunnel(tunnel: Tunnel) -> Self {
        Kind::Tunnel(Box::new(tunnel)).into()
    }

    pub(crate) fn leased(lease: Lease) -> Self {
        Kind::Leased(lease).into()
    }

    /// The connection that it would be read from.
    pub(crate) fn into_lease(mut self) -> Option<Lease> {
        match mem::replace(&mut self.kind, Kind::Text(None)) {
            Kind::Leased(lease) => Some(lease),
            _ => None,
        }
    }

    pub(crate) fn replay(reader: Reader) -> Self {
        Kind::Replay(reader).into()
    }

    pub(crate) fn tee(tee: Box<Tee>) -> Self {
        Kind::Tee(tee).into()
    }

    pub(crate) fn copy(copy: Copy) -> Self {
        Kind::Copy(copy).into()
    }

    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Kind::Text(Some(text.into())).into()
    }

    pub(crate) fn empty() -> Self {
        Kind::Text(None).into()
    }

    pub(crate) fn count_request(mut self, exchange: Rc<Exchange>) -> Self {
        self.meter = Some(Meter::Request(exchange));
        self
    }

    pub(crate) fn count_response(mut self, exchange: Rc<Exchange>) -> Self {
        self.meter = Some(Meter::Response(exchange));
        self
    }

    /// Breaks the body off when it has not ended by then.
    pub(crate) fn until(mut self, end: Box<End>) -> Self {
        self.end = Some(end);
        self
    }

    /// Takes note that what has been read of a request's body is still to be sent.
    pub(crate) fn is_to_be_sent(&self) {
        if let Some(Meter::Request(exchange)) = &self.meter {
            exchange.progress.begin_again();
        }
    }

    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let end = self.end.as_mut();
        let late = end.is_some_and(|end| end.poll(context).is_ready());
        if late && let Some(Meter::Response(exchange)) = &self.meter {
            exchange.flag(Flags::UT);
        }
        late
    }

    /// What a body ends with that no policy lets go on: with the trailers of a
    /// refusal where the protocol has them.
    fn withdrawn(&mut self, context: &Context<'_>) -> Option<Result<Frame<Bytes>, BodyError>> {
        // An answer of the sidecar's own is told to its end.
        if matches!(self.kind, Kind::Text(_)) {
            return None;
        }
        let (side, exchange) = match self.meter.as_ref()? {
            Meter::Request(exchange) => (Side::Request, exchange),
            Meter::Response(exchange) => (Side::Response, exchange),
        };
        if exchange.poll_withdrawn(side, context).is_pending() {
            return None;
        }
        let error = exchange.withdrawn().filter(|_| exchange.is_grpc());
        let trailers = error.filter(|_| matches!(side, Side::Response));
        let trailers = trailers.map(|error| Frame::trailers(rescue::grpc_trailers(&error)));
        if let Some(frame) = &trailers {
            self.note(Some(frame));
        }
        if matches!(side, Side::Request) {
            exchange.request_broke(Fault::Own);
        }
        self.kind = Kind::Text(None);
        self.meter = None;
        Some(trailers.ok_or(BodyError::Withdrawn))
    }

    /// Takes out of trailers what only a head, or only a sidecar, may say.
    fn clean(&self, trailers: &mut HeaderMap) {
        match &self.meter {
            Some(Meter::Request(exchange)) => {
                field::clean_trailers(trailers, |name| exchange.owns(name));
            }
            Some(Meter::Response(_)) | None => field::clean_trailers(trailers, |_| false),
        }
    }

    fn note(&self, frame: Option<&Frame<Bytes>>) {
        let data = frame.and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        match &self.meter {
            Some(Meter::Request(exchange)) => {
                exchange.count_request(data);
            }
            Some(Meter::Response(exchange)) => {
                exchange.count_response(data);
                if exchange.is_grpc() {
                    let trailers = frame.and_then(Frame::trailers_ref);
                    if let Some(trailers) = trailers {
                        exchange.note_grpc_status(trailers);
                    }
                    if frame.is_none() || trailers.is_some() || self.is_end_stream() {
                        exchange.note_end();
                    }
                }
            }
            None => {}
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(end) = self.withdrawn(context) {
            return Poll::Ready(Some(end));
        }
        let mut polled = match &mut self.kind {
            Kind::Incoming(incoming) => poll_incoming(incoming, context),
            Kind::Received(incoming) => Pin::new(incoming)
                .poll_frame(context)
                .map_err(BodyError::from),
            Kind::Leased(lease) => lease.poll_frame(context).map_err(BodyError::from),
            Kind::Tunnel(_) => Poll::Ready(None),
            Kind::Replay(reader) => Pin::new(reader).poll_frame(context),
            Kind::Tee(tee) => Pin::new(tee).poll_frame(context),
            Kind::Copy(copy) => Pin::new(copy).poll_frame(context),
            Kind::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            self.clean(trailers);
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.note(Some(frame)),
            Poll::Ready(None) => self.note(None),
            Poll::Ready(Some(Err(error))) => {
                match &self.meter {
                    Some(Meter::Request(exchange)) => exchange.request_broke(Fault::of(error)),
                    Some(Meter::Response(exchange)) => exchange.broke(&Fault::of(error)),
                    None => {}
                }
                // There is no more of it, and nobody has left it unread.
                self.kind = Kind::Text(None);
            }
            Poll::Pending if self.is_late(context) => {
                self.kind = Kind::Text(None);
                return Poll::Ready(Some(Err(BodyError::TimedOut)));
            }
            Poll::Pending => {}
        }
        if matches!(self.meter, Some(Meter::Response(_))) && is_last(&polled) {
            self.kind = Kind::Text(None);
        }
        if let Some(Meter::Request(exchange)) = &self.meter
            && exchange.progress.is_watched()
        {
            exchange.progress.asked(polled.is_ready());
            if matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.is_end_stream() {
                exchange.progress.ended();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Received(incoming) => incoming.is_end_stream(),
            Kind::Leased(lease) => lease.is_ended(),
            Kind::Tunnel(_) => true,
            Kind::Replay(reader) => reader.is_end_stream(),
            Kind::Tee(tee) => tee.is_end_stream(),
            Kind::Copy(copy) => copy.is_end_stream(),
            Kind::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Received(incoming) => incoming.size_hint(),
            Kind::Leased(lease) => lease.size_hint(),
            Kind::Tunnel(_) => SizeHint::with_exact(0),
            Kind::Replay(reader) => reader.size_hint(),
            Kind::Tee(tee) => tee.size_hint(),
            Kind::Copy(copy) => copy.size_hint(),
            Kind::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

/// Reports whether a body says by this that nothing comes after it.
fn is_last(polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) -> bool {
    match polled {
        Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
        Poll::Ready(None) => true,
        Poll::Ready(Some(Err(_))) | Poll::Pending => false,
    }
}

/// Reads a body of HTTP/2. The library takes a reset without an error for its end.
fn poll_incoming(
    incoming: &mut Incoming,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let polled = ready!(Pin::new(&mut *incoming).poll_frame(context));
    if polled.is_none() && !incoming.is_end_stream() {
        return Poll::Ready(Some(Err(BodyError::CutShort)));
    }
    Poll::Ready(polled.map(|frame| frame.map_err(BodyError::from)))
}

impl Drop for Body {
    fn drop(&mut self) {
        match &self.meter {
            // Nobody reads any more of it.
            Some(Meter::Request(exchange)) if exchange.progress.is_watched() => {
                exchange.progress.ended();
            }
            // What is made here stays unread where a HEAD was asked.
            Some(Meter::Response(exchange))
                if !matches!(self.kind, Kind::Text(_))
                    && !self.is_end_stream()
                    && self.size_hint().exact() != Some(0) =>
            {
                exchange.client_left();
            }
            _ => {}
        }
    }
}

impl server::Answer<Stream> for Body {
    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Kind::Leased(lease) = &mut self.kind {
            lease.poll_progress(context);
        }
        if self.is_late(context) {
            self.kind = Kind::Text(None);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn switch(mut self, stream: Stream, unread: Bytes) {
        if let Kind::Tunnel(tunnel) = mem::replace(&mut self.kind, Kind::Text(None)) {
            tunnel.begin(stream, unread);
        }
    }
}
