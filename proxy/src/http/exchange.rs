//! One request and its response: what is counted of it, and what must be given
//! back when it ends.
//!
//! The exchange is shared by both bodies and by the middlewares; it is recorded
//! when the last of them lets go, however that comes about.

use crate::{
    access_log::{Ends, Record},
    balance::Blame,
    clock,
    error::Error,
    http::{
        fault::Fault,
        grant::{Grant, Side},
        progress::Progress,
    },
    pool::Permit,
    telemetry::{Flags, HttpSeries, Outcome, Parties, RequestProtocol},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};
use linnet_mesh::{authentication::Authentication, route::grpc};
use linnet_runtime::places::Activity;
use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

/// Whether a request is gRPC, by what it says it is.
pub(crate) fn speaks_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn is_grpc_web(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc-web"))
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
    /// The answer broke off before its end.
    broken: Cell<bool>,
    /// Its answer is gRPC-Web's, which says in its body how the call ended.
    web: Cell<bool>,
    /// A call's answer has come to its end, and had to say how the call ended.
    told: Cell<bool>,
    /// Why the request did not come to its end; most do.
    request_fault: OnceCell<Box<Fault>>,
    /// Nobody is left to hear the answer.
    unheard: Cell<bool>,
    /// How far the request has been sent.
    pub(crate) progress: Progress,
    /// When its time is over.
    end: Cell<Option<tokio::time::Instant>>,
    /// That it was let through, where policies may say otherwise later.
    grant: RefCell<Option<Grant>>,
    /// Its line of the access log; most have none.
    record: RefCell<Option<Box<Record>>>,
    /// Whose headers the request's trailers may not bring.
    rules: OnceCell<Arc<Authentication>>,
    /// The connection that it came by.
    connection: Option<Rc<Activity>>,
}

/// Where a request counts as in flight.
pub(crate) trait Load {
    /// The exchange has ended; with which answer, where that was not known before
    /// its end.
    fn ended(&self, answer: Option<(StatusCode, Option<u16>)>);

    /// The answer broke off: that it had begun tells nothing for who gave it.
    fn broke(&self);
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
    ends: Ends,
}

impl Known {
    fn record(&self, outcome: &Outcome, record: Option<Box<Record>>) {
        self.series.record(outcome);
        if let Some(record) = record {
            record.write(outcome, self.series.is_grpc(), Some(&self.ends));
        }
    }
}

/// Outcomes that may wait for one look-up.
const MOST_WAITING: usize = 1024;

impl Slot {
    pub(crate) fn fill(&self, series: Arc<HttpSeries>, parties: Parties) {
        let ends = Ends::new(parties);
        let known = Known { series, ends };
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
            broken: Cell::default(),
            web: Cell::default(),
            told: Cell::default(),
            request_fault: OnceCell::new(),
            unheard: Cell::default(),
            progress: Progress::default(),
            end: Cell::default(),
            grant: RefCell::default(),
            record: RefCell::default(),
            rules: OnceCell::new(),
            connection: None,
        }
    }

    /// Returns the exchange of a connection, which is not idle before it ends.
    pub(crate) fn of(mut self, connection: Option<Rc<Activity>>) -> Self {
        if let Some(connection) = &connection {
            connection.enter();
        }
        self.connection = connection;
        self
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
    pub(crate) fn note_place(&self, ends: impl FnOnce() -> Rc<Ends>, upstream: Option<SocketAddr>) {
        if let Some(record) = &mut *self.record.borrow_mut() {
            record.place(ends(), upstream);
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
        let end = clock::now() + limit;
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

    /// Nobody waits any longer: the time is up. The endpoint is not to blame for what the
    /// client took of it.
    pub(crate) fn gave_up(&self) {
        if self.progress.is_client_s_turn() {
            return;
        }
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

    /// Keeps the rules by which a sidecar writes headers, for trailers that come later.
    pub(crate) fn keep_rules(&self, rules: &Arc<Authentication>) {
        self.rules.get_or_init(|| rules.clone());
    }

    /// Reports whether only the sidecar may write a header of the request.
    pub(crate) fn owns(&self, name: &HeaderName) -> bool {
        self.rules.get().is_some_and(|rules| rules.owns(name))
    }

    /// The response's head has arrived; `ended`: nothing follows it.
    pub(crate) fn answered(&self, status: StatusCode, headers: &HeaderMap, ended: bool) {
        self.status.set(status.as_u16());
        if self.is_grpc() {
            self.note_grpc_status(headers);
            self.web.set(is_grpc_web(headers));
            if ended {
                self.note_end();
            }
        }
    }

    /// The answer to a call has come to its end, trailers included.
    pub(crate) fn note_end(&self) {
        self.told.set(!self.web.get());
    }

    pub(crate) fn count_request(&self, bytes: u64) {
        self.request_bytes.set(self.request_bytes.get() + bytes);
    }

    pub(crate) fn count_response(&self, bytes: u64) {
        self.response_bytes.set(self.response_bytes.get() + bytes);
    }

    /// Takes note that the response's body has broken off by itself: a client that leaves
    /// reads no more of it. The upstream is not to blame if the request broke off before.
    pub(crate) fn broke(&self, fault: &Fault) {
        if let Some(fault) = self.request_fault.get() {
            return self.flag(fault.of_client());
        }
        self.flag(fault.of_upstream());
        self.broken.set(*fault != Fault::Own);
    }

    /// Takes note that the client has not read the response to its end.
    pub(crate) fn client_left(&self) {
        self.flag(Flags::DC);
    }

    /// Takes note that no client is left to hear the answer: the exchange counts as not
    /// answered.
    pub(crate) fn unheard(&self) {
        self.unheard.set(true);
    }

    /// Takes note that the request's body has broken off.
    pub(crate) fn request_broke(&self, fault: Fault) {
        // The first says why: what follows comes of it.
        let _ = self.request_fault.set(Box::new(fault));
    }

    /// Returns the error of a request whose body has broken off: its sender's, or a policy's,
    /// whatever the upstream made of it.
    pub(crate) fn request_error(&self) -> Option<Error> {
        Some(match &**self.request_fault.get()? {
            Fault::Gone => Error::CallerGone,
            Fault::Malformed(why) => Error::BadRequest(format!("its body: {why}")),
            Fault::Own => self.withdrawn()?,
        })
    }

    /// A head or trailers have arrived that may say how the call ended.
    pub(crate) fn note_grpc_status(&self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            let code = code.to_str().ok().and_then(|text| text.parse().ok());
            self.grpc_status.set(code);
        }
    }

    /// The answer to a gRPC call, whose trailers may say more than its head.
    fn last_word(&self) -> Option<(StatusCode, Option<u16>)> {
        let status = StatusCode::from_u16(self.status.get()).ok()?;
        let grpc = self.grpc_status.get();
        // Who does not say how a call ended has not served it (gRPC's own table).
        let missing = || self.told.get().then(|| grpc::from_http(status));
        let grpc = grpc.or_else(missing);
        let known = self.is_grpc() && (grpc.is_some() || status.is_server_error());
        known.then_some((status, grpc))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.leave();
        }
        if let Some(load) = self.load.take() {
            if self.broken.get() {
                load.broke();
            }
            load.ended(self.last_word());
        }
        let Some(sink) = self.series.take() else {
            return;
        };
        let mut flags = self.flags.get();
        let mut status = self.status.get();
        let fault = self.request_fault.get().map(|fault| &**fault);
        if self.unheard.get() {
            status = 0;
        }
        if status == 0 {
            // Nobody is left to answer: the client went away, or was reset.
            flags = fault.map_or(Flags::DC, |fault| fault.of_client() | flags);
        }
        let outcome = Outcome {
            status,
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
