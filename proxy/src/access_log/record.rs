//! What is kept of a request until it ends and its line is written.

use super::{
    line::{KIND, Line},
    queue::Log,
};
use crate::telemetry::{Outcome, Parties, Reporter};
use http::{HeaderName, Request, Version};
use linnet_mesh::{
    SpiffeId,
    access_log::{AccessLog, Attribute, Filter, Format, Value},
};
use std::{
    borrow::Cow,
    cell::RefCell,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The longest path that is written, bytes.
const LONGEST_PATH: usize = 1024;
/// The longest of the other texts that a peer chooses.
const LONGEST: usize = 256;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

thread_local! {
    /// Where a thread's lines are made; only a line's own bytes are handed over.
    static DRAFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the policies said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    Denied,
    /// Allowed, but a policy in dry run would have denied it.
    WouldDeny,
    /// Allowed, and an AUDIT rule fits.
    Audited,
}

impl Decision {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::WouldDeny => "dry_run_denied",
            Self::Audited => "audited",
        }
    }
}

/// What the policies said, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    pub(crate) by: String,
}

impl Decided {
    /// Whether it is more than being let through.
    pub(crate) fn is_noteworthy(&self) -> bool {
        self.decision != Decision::Allowed
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Record {
    log: Log,
    format: Format,
    /// What it must fit to be written.
    filter: Option<Arc<Filter>>,
    began: SystemTime,
    request: Option<Head>,
    decided: Option<Decided>,
    /// For whom the request's token speaks.
    request_principal: String,
    source: Option<SocketAddr>,
    upstream: Option<SocketAddr>,
    parties: Option<Parties>,
}

/// What is kept of a request's head.
#[derive(Debug)]
struct Head {
    method: http::Method,
    path: String,
    authority: String,
    version: Version,
    id: String,
    /// What a filter asks for besides.
    asked: Option<Box<Asked>>,
}

/// What is kept of a request for a filter alone.
#[derive(Debug)]
struct Asked {
    query: Option<String>,
    headers: Vec<Option<String>>,
}

impl Asked {
    fn of<B>(filter: &Filter, request: &Request<B>) -> Self {
        let header = |name: &HeaderName| {
            let value = request.headers().get(name)?.to_str().ok()?;
            Some(cut(value, LONGEST).to_owned())
        };
        let query = request.uri().query();
        Self {
            query: query.map(|query| cut(query, LONGEST_PATH).to_owned()),
            headers: filter.headers().iter().map(header).collect(),
        }
    }
}

impl Record {
    /// Of a connection that is not HTTP.
    pub(crate) fn of_connection(log: &Log, setting: &AccessLog) -> Self {
        Self {
            log: log.clone(),
            format: setting.format,
            filter: setting.filter.clone(),
            began: SystemTime::now(),
            request: None,
            decided: None,
            request_principal: String::new(),
            source: None,
            upstream: None,
            parties: None,
        }
    }

    /// Of a request.
    pub(crate) fn of_request<B>(
        log: &Log,
        setting: &AccessLog,
        request: &Request<B>,
        authority: &str,
    ) -> Self {
        let id = request.headers().get(&REQUEST_ID);
        Self {
            request: Some(Head {
                method: request.method().clone(),
                path: cut(request.uri().path(), LONGEST_PATH).to_owned(),
                authority: cut(authority, LONGEST).to_owned(),
                version: request.version(),
                id: id
                    .and_then(|id| id.to_str().ok())
                    .map_or_else(String::new, |id| cut(id, LONGEST).to_owned()),
                asked: setting
                    .filter
                    .as_ref()
                    .map(|filter| Box::new(Asked::of(filter, request))),
            }),
            ..Self::of_connection(log, setting)
        }
    }

    /// Notes what the policies said. No filter hides more than what was let
    /// through.
    pub(crate) fn decided(mut self, decided: Option<Decided>) -> Self {
        if decided.as_ref().is_some_and(Decided::is_noteworthy) {
            self.filter = None;
        }
        self.decided = decided;
        self
    }

    pub(crate) fn speaking_for(mut self, principal: Option<&str>) -> Self {
        self.request_principal = cut(principal.unwrap_or_default(), LONGEST).to_owned();
        self
    }

    pub(crate) fn began_ago(mut self, age: Duration) -> Self {
        self.began = self.began.checked_sub(age).unwrap_or(self.began);
        self
    }

    pub(crate) fn called_from(mut self, source: Option<SocketAddr>) -> Self {
        self.source = source;
        self
    }

    pub(crate) fn sent_to(mut self, upstream: SocketAddr) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// Notes where it went; of several attempts the last counts.
    pub(crate) fn place(&mut self, parties: Parties, upstream: Option<SocketAddr>) {
        self.parties = Some(parties);
        self.upstream = upstream;
    }

    /// It can't be written.
    pub(crate) fn lose(&self) {
        self.log.lose();
    }

    /// Writes it; `parties` where it was not placed.
    pub(crate) fn write(&self, outcome: &Outcome, grpc: bool, parties: Option<&Parties>) {
        let Some(parties) = self.parties.as_ref().or(parties) else {
            return self.lose();
        };
        if let Some(filter) = &self.filter
            && !filter.holds(&|attribute| self.value(attribute, outcome, parties))
        {
            return;
        }
        let time = text_of(self.began);
        let flags = outcome.flags.to_string();
        let address = |address: Option<SocketAddr>| -> Cow<'_, str> {
            address.map_or(Cow::Borrowed(""), |address| address.to_string().into())
        };
        let decided = self.decided.as_ref();
        let service = parties.service.as_ref();
        let line = Line {
            log: KIND.into(),
            time: time.as_str().into(),
            reporter: match parties.reporter {
                Reporter::Source => "source".into(),
                Reporter::Destination => "destination".into(),
            },
            status: (outcome.status != 0).then_some(outcome.status),
            grpc_status: outcome.grpc_status,
            flags: flags.as_str().into(),
            decision: decided
                .map_or("", |decided| decided.decision.as_str())
                .into(),
            decided_by: decided.map_or("", |decided| decided.by.as_str()).into(),
            request_principal: self.request_principal.as_str().into(),
            source_principal: principal(parties.source_principal.as_ref()),
            source_workload: parties.source.name.as_str().into(),
            source_namespace: parties.source.namespace.as_str().into(),
            source_address: address(self.source),
            destination_principal: principal(parties.destination_principal.as_ref()),
            destination_workload: parties.destination.name.as_str().into(),
            destination_namespace: parties.destination.namespace.as_str().into(),
            destination_service: service.map_or("", |service| &*service.hostname).into(),
            bytes_in: Some(outcome.request_bytes),
            bytes_out: Some(outcome.response_bytes),
            duration_ms: Some(milliseconds(outcome.duration)),
            upstream: address(self.upstream),
            ..self.head(grpc)
        };
        DRAFT.with_borrow_mut(|draft| {
            draft.clear();
            line.write(self.format, draft);
            self.log.put(draft);
        });
    }

    /// What a filter asks for.
    fn value<'a>(
        &'a self,
        attribute: Attribute,
        outcome: &Outcome,
        parties: &'a Parties,
    ) -> Option<Value<'a>> {
        let number = |number: u64| Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
        let identity = |id: &'a Option<SpiffeId>| Some(id.as_ref()?.as_str().into());
        let address = |address: Option<SocketAddr>| Some(Value::Text(address?.to_string().into()));
        let (peer, own) = match parties.reporter {
            Reporter::Source => (&parties.destination_principal, &parties.source_principal),
            Reporter::Destination => (&parties.source_principal, &parties.destination_principal),
        };
        match attribute {
            Attribute::ResponseCode => {
                (outcome.status != 0).then(|| Value::Number(outcome.status.into()))
            }
            Attribute::GrpcStatus => Some(Value::Number(outcome.grpc_status?.into())),
            Attribute::ResponseSize => Some(number(outcome.response_bytes)),
            Attribute::RequestSize => Some(number(outcome.request_bytes)),
            Attribute::Duration => Some(Value::Duration(outcome.duration)),
            Attribute::Mtls => Some(Value::Bool(parties.secured)),
            Attribute::PeerIdentity => identity(peer),
            Attribute::OwnIdentity => identity(own),
            Attribute::SourceAddress => address(self.source),
            Attribute::UpstreamAddress => address(self.upstream),
            Attribute::Method
            | Attribute::Path
            | Attribute::UrlPath
            | Attribute::Query
            | Attribute::Host
            | Attribute::Protocol
            | Attribute::Header(_) => self.request.as_ref()?.value(attribute),
        }
    }

    fn head(&self, grpc: bool) -> Line<'_> {
        let Some(head) = &self.request else {
            return Line {
                protocol: "tcp".into(),
                ..Line::default()
            };
        };
        Line {
            protocol: match head.version {
                _ if grpc => "grpc".into(),
                Version::HTTP_10 => "http/1.0".into(),
                Version::HTTP_2 => "http/2".into(),
                _ => "http/1.1".into(),
            },
            method: cut(head.method.as_str(), LONGEST).into(),
            path: head.path.as_str().into(),
            authority: head.authority.as_str().into(),
            request_id: head.id.as_str().into(),
            ..Line::default()
        }
    }
}

impl Head {
    fn value(&self, attribute: Attribute) -> Option<Value<'_>> {
        let asked = self.asked.as_deref()?;
        match attribute {
            Attribute::Method => Some(self.method.as_str().into()),
            Attribute::Path => Some(match &asked.query {
                Some(query) => Value::Text(format!("{}?{query}", self.path).into()),
                None => self.path.as_str().into(),
            }),
            Attribute::UrlPath => Some(self.path.as_str().into()),
            Attribute::Query => Some(asked.query.as_deref().unwrap_or_default().into()),
            Attribute::Host => Some(self.authority.as_str().into()),
            Attribute::Protocol => Some(match self.version {
                Version::HTTP_10 => "HTTP/1.0".into(),
                Version::HTTP_2 => "HTTP/2".into(),
                _ => "HTTP/1.1".into(),
            }),
            Attribute::Header(number) => Some(asked.headers.get(number)?.as_deref()?.into()),
            _ => None,
        }
    }
}

fn principal(id: Option<&SpiffeId>) -> Cow<'_, str> {
    id.map_or("", SpiffeId::as_str).into()
}

fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

fn milliseconds(duration: Duration) -> f64 {
    // Whole microseconds: more digits would say nothing.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The present time, as lines write it.
pub(super) fn now() -> String {
    text_of(SystemTime::now())
}

fn text_of(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let time = time.replace_millisecond(time.millisecond()).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}
