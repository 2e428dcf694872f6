//! One request and its response: what is counted of it, and what must be given
//! back when it ends.
//!
//! The exchange is shared by both bodies and by the middlewares; it is recorded
//! when the last of them lets go, however that comes about.

use crate::{
    access_log::Record,
    balance::Blame,
    clock,
    error::Error,
    http::{
        grant::{Grant, Side},
        lease::Lease,
        one::{self, server},
        replay::Reader,
        rescue,
        tee::{Copy, Tee},
        upgrade::Tunnel,
    },
    pool::Permit,
    stream::Stream,
    telemetry::{Flags, HttpSeries, Outcome, Parties, RequestProtocol},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};
use tokio::time::Sleep;

/// Whether a request is gRPC, by what it says it is.
pub(crate) fn speaks_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// See the module.
pub(crate) struct Exchange {
    pub(crate) protocol: RequestProtocol,
    started: Instant,
    status: Cell<u16>,
    grpc_status: Cell<Option<u16>>,
    flags: Cell<Flags>,
    request_bytes: Cell<u64>,
    response_bytes: Cell<u64>,
    series: RefCell<Option<Sink>>,
    load: RefCell<Option<Rc<dyn Load>>>,
    blame: RefCell<Option<Blame>>,
    permit: RefCell<Permit>,
    /// When its time is over.
    end: Cell<Option<tokio::time::Instant>>,
    /// That it was let through, where policies may say otherwise later.
    grant: RefCell<Option<Grant>>,
    /// Its line of the access log; most have none.
    record: RefCell<Option<Box<Record>>>,
}

/// Where a request counts as in flight.
pub(crate) trait Load {
    /// The exchange has ended; with which answer, where that was not known before
    /// its end.
    fn ended(&self, answer: Option<(StatusCode, Option<u16>)>);
}

/// Where an exchange is recorded.
#[derive(Clone)]
pub(crate) enum Sink {
    Series(Arc<HttpSeries>),
    Slot(Rc<Slot>),
}

/// A series that is not known yet, because the peer's workload is still being
/// looked up: outcomes wait, up to a bound.
#[derive(Default)]
pub(crate) struct Slot {
    known: OnceCell<Known>,
    waiting: RefCell<Vec<Ended>>,
}

/// How an exchange ended, and its line of the access log.
type Ended = (Outcome, Option<Box<Record>>);

struct Known {
    series: Arc<HttpSeries>,
    parties: Parties,
}

impl Known {
    fn record(&self, outcome: &Outcome, record: Option<Box<Record>>) {
        self.series.record(outcome);
        if let Some(record) = record {
            record.write(outcome, self.series.is_grpc(), Some(&self.parties));
        }
    }
}

/// Outcomes that may wait for one look-up.
const MOST_WAITING: usize = 1024;

impl Slot {
    pub(crate) fn fill(&self, series: Arc<HttpSeries>, parties: Parties) {
        let known = Known { series, parties };
        for (outcome, record) in self.waiting.take() {
            known.record(&outcome, record);
        }
        // Filled once, by the look-up's end; a second fill would change nothing.
        let _ = self.known.set(known);
    }

    fn record(&self, outcome: Outcome, record: Option<Box<Record>>) {
        if let Some(known) = self.known.get() {
            return known.record(&outcome, record);
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < MOST_WAITING {
            waiting.push((outcome, record));
        } else if let Some(record) = record {
            record.lose();
        }
    }
}

impl Exchange {
    pub(crate) fn new(grpc: bool) -> Self {
        Self {
            protocol: if grpc {
                RequestProtocol::Grpc
            } else {
                RequestProtocol::Http
            },
            started: clock::instant(),
            status: Cell::new(0),
            grpc_status: Cell::default(),
            flags: Cell::default(),
            request_bytes: Cell::default(),
            response_bytes: Cell::default(),
            series: RefCell::default(),
            load: RefCell::default(),
            blame: RefCell::default(),
            permit: RefCell::default(),
            end: Cell::default(),
            grant: RefCell::default(),
            record: RefCell::default(),
        }
    }

    pub(crate) fn is_grpc(&self) -> bool {
        matches!(self.protocol, RequestProtocol::Grpc)
    }

    pub(crate) fn record_in(&self, sink: Sink) {
        *self.series.borrow_mut() = Some(sink);
    }

    pub(crate) fn has_sink(&self) -> bool {
        self.series.borrow().is_some()
    }

    /// Its end is a line of the access log.
    pub(crate) fn note(&self, record: Record) {
        *self.record.borrow_mut() = Some(Box::new(record));
    }

    /// Notes where it went, if its end is a line of the access log.
    pub(crate) fn note_place(
        &self,
        parties: impl FnOnce() -> Parties,
        upstream: Option<SocketAddr>,
    ) {
        if let Some(record) = &mut *self.record.borrow_mut() {
            record.place(parties(), upstream);
        }
    }

    pub(crate) fn flag(&self, flags: Flags) {
        self.flags.set(self.flags.get() | flags);
    }

    /// Counts as in flight there until it ends.
    pub(crate) fn weigh_on(&self, load: Rc<dyn Load>) {
        if let Some(before) = self.load.replace(Some(load)) {
            before.ended(None);
        }
    }

    /// Its time is over then, unless it was to be before.
    pub(crate) fn ends_in(&self, limit: std::time::Duration) {
        let end = tokio::time::Instant::now() + limit;
        self.end
            .set(Some(self.end().map_or(end, |known| known.min(end))));
    }

    pub(crate) fn end(&self) -> Option<tokio::time::Instant> {
        self.end.get()
    }

    /// Takes what it was granted until it ends.
    pub(crate) fn hold(&self, permit: Permit) {
        *self.permit.borrow_mut() = permit;
    }

    /// Notes whose answer is waited for.
    pub(crate) fn expect_of(&self, blame: Option<Blame>) {
        if blame.is_some() {
            *self.blame.borrow_mut() = blame;
        }
    }

    /// Nobody waits any longer: the time is up.
    pub(crate) fn gave_up(&self) {
        if let Some(blame) = self.blame.take() {
            blame.fall();
        }
    }

    /// It goes on as long as that is not withdrawn.
    pub(crate) fn granted(&self, grant: Grant) {
        *self.grant.borrow_mut() = Some(grant);
    }

    /// Ready once no policy lets it go on.
    pub(crate) fn poll_withdrawn(&self, side: Side, context: &Context<'_>) -> Poll<()> {
        let grant = self.grant.borrow();
        let Some(grant) = &*grant else {
            return Poll::Pending;
        };
        ready!(grant.poll_withdrawn(side, context));
        self.flag(Flags::UAEX);
        if let Some(record) = grant.take_record() {
            self.note(record);
        }
        Poll::Ready(())
    }

    /// Why it may not go on.
    pub(crate) fn withdrawn(&self) -> Option<Error> {
        self.grant.borrow().as_ref()?.error()
    }

    /// The response's head has arrived.
    pub(crate) fn answered(&self, status: StatusCode, headers: &HeaderMap) {
        self.status.set(status.as_u16());
        if self.is_grpc() {
            self.note_grpc_status(headers);
        }
    }

    pub(crate) fn count_request(&self, bytes: u64) {
        self.request_bytes.set(self.request_bytes.get() + bytes);
    }

    pub(crate) fn count_response(&self, bytes: u64) {
        self.response_bytes.set(self.response_bytes.get() + bytes);
    }

    fn note_grpc_status(&self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            let code = code.to_str().ok().and_then(|text| text.parse().ok());
            self.grpc_status.set(code);
        }
    }

    /// The answer to a gRPC call, whose trailers may say more than its head.
    fn last_word(&self) -> Option<(StatusCode, Option<u16>)> {
        let status = StatusCode::from_u16(self.status.get()).ok()?;
        let grpc = self.grpc_status.get();
        let known = self.is_grpc() && (grpc.is_some() || status.is_server_error());
        known.then_some((status, grpc))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(load) = self.load.take() {
            load.ended(self.last_word());
        }
        let Some(sink) = self.series.take() else {
            return;
        };
        let mut flags = self.flags.get();
        if self.status.get() == 0 {
            // Nobody is left to answer: the client went away.
            flags = Flags::DC;
        }
        let outcome = Outcome {
            status: self.status.get(),
            grpc_status: self.grpc_status.get(),
            flags,
            duration: clock::instant().saturating_duration_since(self.started),
            request_bytes: self.request_bytes.get(),
            response_bytes: self.response_bytes.get(),
        };
        let record = self.record.take();
        match sink {
            Sink::Series(series) => {
                series.record(&outcome);
                if let Some(record) = record {
                    record.write(&outcome, self.is_grpc(), None);
                }
            }
            Sink::Slot(slot) => slot.record(outcome, record),
        }
    }
}

/// A body of either direction; streams, and is counted on its way.
pub(crate) struct Body {
    kind: Kind,
    meter: Option<Meter>,
    /// When it must have ended.
    end: Option<Pin<Box<Sleep>>>,
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
    pub(crate) fn into_lease(self) -> Option<Lease> {
        match self.kind {
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
    pub(crate) fn until(mut self, end: Pin<Box<Sleep>>) -> Self {
        self.end = Some(end);
        self
    }

    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let end = self.end.as_mut();
        let late = end.is_some_and(|end| end.as_mut().poll(context).is_ready());
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
        self.kind = Kind::Text(None);
        self.meter = None;
        Some(trailers.ok_or(BodyError::Withdrawn))
    }

    fn note(&self, frame: Option<&Frame<Bytes>>) {
        let data = frame.and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        match &self.meter {
            Some(Meter::Request(exchange)) => {
                exchange.count_request(data);
            }
            Some(Meter::Response(exchange)) => {
                exchange.count_response(data);
                if let Some(trailers) = frame.and_then(Frame::trailers_ref)
                    && exchange.is_grpc()
                {
                    exchange.note_grpc_status(trailers);
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
        let polled = match &mut self.kind {
            Kind::Incoming(incoming) => Pin::new(incoming)
                .poll_frame(context)
                .map_err(BodyError::from),
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
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.note(Some(frame)),
            Poll::Ready(None) => self.note(None),
            Poll::Ready(Some(Err(_))) => {}
            Poll::Pending if self.is_late(context) => {
                return Poll::Ready(Some(Err(BodyError::TimedOut)));
            }
            Poll::Pending => {}
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

impl server::Answer<Stream> for Body {
    fn poll_progress(&mut self, context: &mut Context<'_>) {
        if let Kind::Leased(lease) = &mut self.kind {
            lease.poll_progress(context);
        }
    }

    fn switch(self, stream: Stream, unread: Bytes) {
        if let Kind::Tunnel(tunnel) = self.kind {
            tunnel.begin(stream, unread);
        }
    }
}
