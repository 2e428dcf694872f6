//! What is kept of a request until it ends and its line is written.
//!
//! What a line says of a request's head is copied into one text: a part of the block
//! that it was read into would keep all of that block.

use super::{
    decided::Decided,
    ends::{Ends, principal},
    json,
    line::{KIND, Line},
    queue::Log,
    time,
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
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// The longest path that is written, bytes.
const LONGEST_PATH: usize = 1024;
/// The longest of the other texts that a peer chooses.
const LONGEST: usize = 256;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

thread_local! {
    /// Where a thread's lines are made; only a line's own bytes are handed over.
    static DRAFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
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
    request_principal: Option<Box<str>>,
    source: Option<SocketAddr>,
    upstream: Option<SocketAddr>,
    ends: Option<Rc<Ends>>,
}

/// What is kept of a request's head.
#[derive(Debug)]
struct Head {
    method: http::Method,
    version: Version,
    /// Path, authority and ID, one after the other.
    text: Box<str>,
    /// Where the authority and the ID begin.
    authority: usize,
    id: usize,
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
            let value = request.headers().get(name)?;
            let text = String::from_utf8_lossy(value.as_bytes());
            Some(cut(&text, LONGEST).to_owned())
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
            request_principal: None,
            source: None,
            upstream: None,
            ends: None,
        }
    }

    /// Of a request.
    pub(crate) fn of_request<B>(
        log: &Log,
        setting: &AccessLog,
        request: &Request<B>,
        authority: &str,
    ) -> Self {
        Self {
            request: Some(Head::of(setting, request, authority)),
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
        self.request_principal = principal.map(|principal| cut(principal, LONGEST).into());
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
    pub(crate) fn place(&mut self, ends: Rc<Ends>, upstream: Option<SocketAddr>) {
        self.ends = Some(ends);
        self.upstream = upstream;
    }

    /// It can't be written.
    pub(crate) fn lose(&self) {
        self.log.lose();
    }

    /// Writes it; `ends` where it was not placed.
    pub(crate) fn write(&self, outcome: &Outcome, grpc: bool, ends: Option<&Ends>) {
        let Some(ends) = self.ends.as_deref().or(ends) else {
            return self.lose();
        };
        if let Some(filter) = &self.filter
            && !filter.holds(&|attribute| self.value(attribute, outcome, &ends.parties))
        {
            return;
        }
        DRAFT.with_borrow_mut(|draft| {
            draft.clear();
            match self.format {
                Format::Json => self.write_json(outcome, grpc, ends, draft),
                Format::Text => self.write_line(outcome, grpc, ends, draft),
            }
            self.log.put(draft);
        });
    }

    /// Writes it by way of [`Line`]: what [`Record::write_json`] is held to.
    fn write_line(&self, outcome: &Outcome, grpc: bool, ends: &Ends, out: &mut Vec<u8>) {
        let parties = &ends.parties;
        let time = time::text_of(self.began);
        let flags = outcome.flags.to_string();
        let address = |address: Option<SocketAddr>| -> Cow<'_, str> {
            address.map_or(Cow::Borrowed(""), |address| address.to_string().into())
        };
        let decided = self.decided.as_ref();
        let service = parties.service.as_ref();
        let request = self.request.as_ref();
        let line = Line {
            log: KIND.into(),
            time: time.into(),
            reporter: reporter(parties.reporter).into(),
            protocol: self.protocol(grpc).into(),
            method: request.map_or("", Head::method).into(),
            path: request.map_or("", Head::path).into(),
            authority: request.map_or("", Head::authority).into(),
            status: (outcome.status != 0).then_some(outcome.status),
            grpc_status: outcome.grpc_status,
            flags: flags.into(),
            decision: decided
                .map_or("", |decided| decided.decision.as_str())
                .into(),
            decided_by: decided.map_or("", |decided| &decided.by).into(),
            request_principal: self.request_principal().into(),
            source_principal: principal(parties.source_principal.as_ref()).into(),
            source_workload: parties.source.name.as_str().into(),
            source_namespace: parties.source.namespace.as_str().into(),
            source_address: address(self.source),
            destination_principal: principal(parties.destination_principal.as_ref()).into(),
            destination_workload: parties.destination.name.as_str().into(),
            destination_namespace: parties.destination.namespace.as_str().into(),
            destination_service: service.map_or("", |service| &*service.hostname).into(),
            bytes_in: Some(outcome.request_bytes),
            bytes_out: Some(outcome.response_bytes),
            duration_ms: Some(microseconds(outcome.duration) / 1e3),
            upstream: address(self.upstream),
            request_id: request.map_or("", Head::id).into(),
            dropped: None,
        };
        line.write(self.format, out);
    }

    /// Writes what serde would write of the line, without a copy of any of it.
    fn write_json(&self, outcome: &Outcome, grpc: bool, ends: &Ends, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"log":"access","time":""#);
        time::write(self.began, out);
        json::word(out, r#"","reporter":"#, reporter(ends.parties.reporter));
        json::word(out, r#","protocol":"#, self.protocol(grpc));
        if let Some(head) = &self.request {
            json::text(out, r#","method":"#, head.method());
            json::text(out, r#","path":"#, head.path());
            json::text(out, r#","authority":"#, head.authority());
        }
        if outcome.status != 0 {
            json::number(out, r#","status":"#, outcome.status.into());
        }
        if let Some(status) = outcome.grpc_status {
            json::number(out, r#","grpc_status":"#, status.into());
        }
        if outcome.flags.is_empty() {
            out.extend_from_slice(br#","flags":"-""#);
        } else {
            json::word(out, r#","flags":"#, &outcome.flags.to_string());
        }
        if let Some(decided) = &self.decided {
            json::word(out, r#","decision":"#, decided.decision.as_str());
            json::text(out, r#","decided_by":"#, &decided.by);
        }
        json::text(out, r#","request_principal":"#, self.request_principal());
        out.extend_from_slice(ends.caller());
        json::address(out, r#","source_address":"#, self.source);
        out.extend_from_slice(ends.callee());
        json::number(out, r#","bytes_in":"#, outcome.request_bytes);
        json::number(out, r#","bytes_out":"#, outcome.response_bytes);
        json::milliseconds(out, r#","duration_ms":"#, outcome.duration);
        json::address(out, r#","upstream":"#, self.upstream);
        if let Some(head) = &self.request {
            json::text(out, r#","request_id":"#, head.id());
        }
        out.extend_from_slice(b"}\n");
    }

    fn protocol(&self, grpc: bool) -> &'static str {
        match self.request.as_ref().map(|head| head.version) {
            None => "tcp",
            Some(_) if grpc => "grpc",
            Some(Version::HTTP_10) => "http/1.0",
            Some(Version::HTTP_2) => "http/2",
            Some(_) => "http/1.1",
        }
    }

    fn request_principal(&self) -> &str {
        self.request_principal.as_deref().unwrap_or_default()
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
}

impl Head {
    fn of<B>(setting: &AccessLog, request: &Request<B>, authority: &str) -> Self {
        let id = request.headers().get(&REQUEST_ID);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let path = cut(request.uri().path(), LONGEST_PATH);
        let (authority, id) = (cut(authority, LONGEST), cut(id, LONGEST));
        let mut text = String::with_capacity(path.len() + authority.len() + id.len());
        text.push_str(path);
        text.push_str(authority);
        text.push_str(id);
        Self {
            method: request.method().clone(),
            version: request.version(),
            text: text.into(),
            authority: path.len(),
            id: path.len() + authority.len(),
            asked: setting
                .filter
                .as_ref()
                .map(|filter| Box::new(Asked::of(filter, request))),
        }
    }

    fn method(&self) -> &str {
        cut(self.method.as_str(), LONGEST)
    }

    fn path(&self) -> &str {
        &self.text[..self.authority]
    }

    fn authority(&self) -> &str {
        &self.text[self.authority..self.id]
    }

    fn id(&self) -> &str {
        &self.text[self.id..]
    }

    fn value(&self, attribute: Attribute) -> Option<Value<'_>> {
        let asked = self.asked.as_deref()?;
        match attribute {
            Attribute::Method => Some(self.method.as_str().into()),
            Attribute::Path => Some(match &asked.query {
                Some(query) => Value::Text(format!("{}?{query}", self.path()).into()),
                None => self.path().into(),
            }),
            Attribute::UrlPath => Some(self.path().into()),
            Attribute::Query => Some(asked.query.as_deref().unwrap_or_default().into()),
            Attribute::Host => Some(self.authority().into()),
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

const fn reporter(reporter: Reporter) -> &'static str {
    match reporter {
        Reporter::Source => "source",
        Reporter::Destination => "destination",
    }
}

fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

/// Whole ones: more digits would say nothing.
pub(super) fn microseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round()
}

#[cfg(test)]
mod tests;
