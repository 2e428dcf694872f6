//! Who may go on to the application: the workload's policies, asked once a
//! request, and once a connection that is not HTTP.
//!
//! The policies in force are read from the directory each time, so a new one
//! acts on the next request. Without policies this costs a pointer's load.

use super::{
    Arrival, Caller,
    again::Granted,
    token::{self, Accepted, Refused},
};
use crate::{
    access_log::{Decided, Decision, Names, Record, draw_sample},
    error::Error,
    http::{
        Call,
        body::Body,
        forwarded::NamedTwo,
        grant::Head,
        target::{self, path_in_latin_1},
        upgrade::Callee,
    },
};
use futures_util::future::{Either, Ready, ready};
use http::{HeaderMap, Request, Response, header::HOST};
use http_body::Body as _;
use linnet_mesh::{
    access_log as log,
    authentication::Token,
    authorization::{Action, By, Connection, Decision as Made, HttpRequest, Policies, Scope},
};
use metrics::Counter;
use std::{
    cell::{Cell, OnceCell},
    fmt::Display,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tower::{Layer, Service};

/// Denials are logged at most this often by a data thread.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

const OUTCOMES: [&str; 4] = ["allowed", "denied", "dry_run_denied", "audited"];
const ACTIONS: [&str; 5] = ["CUSTOM", "DENY", "ALLOW", "AUDIT", "none"];

/// A data thread's count of decisions, and its memory of what they are called and of
/// when it logged last.
#[derive(Default)]
pub(crate) struct Decisions {
    counters: [[OnceCell<Counter>; OUTCOMES.len()]; ACTIONS.len()],
    names: Names,
    logged: Cell<Option<Instant>>,
    unlogged: Cell<u64>,
}

impl Decisions {
    fn count(&self, action: Option<Action>, outcome: Decision) {
        let action = match action {
            Some(Action::Custom) => 0,
            Some(Action::Deny) => 1,
            Some(Action::Allow) => 2,
            Some(Action::Audit) => 3,
            None => 4,
        };
        let counter = self.counters[action][outcome as usize].get_or_init(|| {
            metrics::counter!(
                "linnet_authorization_decisions_total",
                "action" => ACTIONS[action],
                "decision" => OUTCOMES[outcome as usize]
            )
        });
        counter.increment(1);
    }

    /// Whether to log now, and how much was not logged since last time.
    fn may_log(&self) -> Option<u64> {
        let now = Instant::now();
        let recently = |at: Instant| now.saturating_duration_since(at) < LOG_INTERVAL;
        if self.logged.get().is_some_and(recently) {
            self.unlogged.set(self.unlogged.get() + 1);
            return None;
        }
        self.logged.set(Some(now));
        Some(self.unlogged.take())
    }
}

/// What the policies say, and what the access log is to say of it.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) denied: Option<Error>,
    /// `None`: no policy was asked, or nobody wants to know.
    pub(super) decided: Option<Decided>,
}

impl Verdict {
    const fn allowed(decided: Option<Decided>) -> Self {
        Self {
            denied: None,
            decided,
        }
    }

    /// Whether it is more than being let through.
    pub(super) fn is_noteworthy(&self) -> bool {
        self.decided.as_ref().is_some_and(Decided::is_noteworthy)
    }
}

impl Arrival {
    pub(super) fn connection<'a>(&self, caller: &'a Caller) -> Connection<'a> {
        let (identity, server_name, federated) = match caller {
            Caller::Verified(peer) => (Some(&peer.0), None, peer.is_federated()),
            Caller::Unknown(name) => (None, name.as_deref(), false),
        };
        Connection {
            identity,
            source: self.peer.ip(),
            destination: SocketAddr::new(self.app.ip(), self.port),
            server_name,
            federated,
        }
    }

    /// Whether the caller may have a connection that is not HTTP; asks without
    /// counting.
    pub(super) fn admits(&self, caller: &Caller) -> bool {
        let inbound = self.thread.directory().inbound();
        inbound.authorization.as_ref().is_none_or(|policies| {
            policies
                .decide(Scope::Enforced, &self.connection(caller), None)
                .allowed
        })
    }

    /// Asks whether the caller may have a connection that is not HTTP.
    pub(super) fn authorize_connection(&self, caller: &Caller) -> Verdict {
        match &self.thread.directory().inbound().authorization {
            Some(policies) => self.authorize(policies, caller, None),
            None => Verdict::default(),
        }
    }

    fn authorize_request(
        &self,
        caller: &Caller,
        as_bytes: bool,
        call: &mut Call,
    ) -> Result<(), Error> {
        let inbound = self.thread.inbound();
        let log = &inbound.access_log.server;
        let rules = inbound.authentication.as_ref();
        if inbound.authorization.is_none() && rules.is_none() && log.scope != log::Scope::All {
            return Ok(());
        }
        let Call {
            request, exchange, ..
        } = call;
        let token = match rules {
            Some(rules) => self.thread.tokens.authenticate(rules, request),
            None => Ok(None),
        };
        if let (Some(rules), Ok(token)) = (rules, &token) {
            // Policies go by what the application is to see, not by a client's own claims.
            token::edit(rules, token.as_ref(), request);
            if !request.body().is_end_stream() {
                exchange.keep_rules(rules);
            }
        }
        let named = authority(request);
        let verdict = match (&token, &inbound.authorization, &named) {
            (Err(refused), ..) => self.unauthenticated(caller, refused),
            (Ok(_), Some(policies), _) if as_bytes => self.authorize(policies, caller, None),
            (Ok(_), Some(policies), Ok(authority)) => {
                let http = as_asked(request, authority, accepted(&token));
                let latin_1 = path_in_latin_1(request.uri(), request.extensions());
                let http = self.strictest(policies, caller, http, latin_1.as_deref());
                self.authorize(policies, caller, Some(&http))
            }
            _ => Verdict::default(),
        };
        if log.writes(verdict.is_noteworthy(), draw_sample) {
            let to = &self.thread.shared.access_log;
            let authority = named.as_ref().map_or("", |named| *named);
            let record = Record::of_request(to, log, request, authority)
                .decided(verdict.decided)
                .speaking_for(accepted(&token).and_then(|token| token.principal.as_deref()))
                .called_from(Some(self.peer))
                .sent_to(self.app);
            exchange.note(record);
        }
        if inbound.authorization.is_some() {
            named?;
            if request.extensions().get::<NamedTwo>().is_some() {
                return Err(Error::BadRequest("it names several hosts".to_owned()));
            }
        }
        if let Some(denied) = verdict.denied {
            return Err(denied);
        }
        Ok(())
    }

    /// What becomes of a request with a token that no rule takes.
    fn unauthenticated(&self, caller: &Caller, refused: &Refused) -> Verdict {
        let connection = self.connection(caller);
        self.log(&connection, None, &refused.by, "refused a token");
        Verdict {
            denied: Some(Error::Unauthenticated {
                reason: refused.reason,
                by: refused.by.clone(),
                told: connection.own_identity().is_some(),
            }),
            decided: Some(Decided {
                decision: Decision::Denied,
                by: refused.by.as_str().into(),
            }),
        }
    }

    /// Returns a request with the other reading of its path, if there is one and policies deny
    /// that.
    pub(super) fn strictest<'a>(
        &self,
        policies: &Policies,
        caller: &Caller,
        request: HttpRequest<'a>,
        other: Option<&'a str>,
    ) -> HttpRequest<'a> {
        let Some(path) = other else {
            return request;
        };
        let other = HttpRequest { path, ..request };
        let connection = self.connection(caller);
        let decision = policies.decide(Scope::Enforced, &connection, Some(&other));
        match decision.allowed {
            true => request,
            false => other,
        }
    }

    pub(super) fn authorize(
        &self,
        policies: &Policies,
        caller: &Caller,
        http: Option<&HttpRequest<'_>>,
    ) -> Verdict {
        let connection = self.connection(caller);
        let decisions = &self.thread.decisions;
        let scope = self.thread.inbound().access_log.server.scope;
        let audited = policies.audit(&connection, http);
        if let Some(by) = audited {
            decisions.count(by.action(), Decision::Audited);
        }
        let decided = |decision, made: Made<'_>| {
            let wanted = decision != Decision::Allowed || scope == log::Scope::All;
            wanted.then(|| Decided {
                decision,
                by: match made.reading {
                    Some(_) => made.to_string().into(),
                    None => decisions.names.name(made.by),
                },
            })
        };
        let decision = policies.decide(Scope::Enforced, &connection, http);
        if !decision.allowed {
            decisions.count(decision.by.action(), Decision::Denied);
            count_denial(decision.by, "false");
            self.log(&connection, http, &decision, "denied");
            return Verdict {
                denied: Some(match decision.by {
                    By::TooManyReadings => Error::BadRequest(decision.to_string()),
                    _ => Error::Denied {
                        by: decision.to_string(),
                        told: connection.own_identity().is_some(),
                    },
                }),
                decided: decided(Decision::Denied, decision),
            };
        }
        decisions.count(decision.by.action(), Decision::Allowed);
        if policies.has_dry_run() {
            let would = policies.decide(Scope::WithDryRun, &connection, http);
            if !would.allowed {
                decisions.count(would.by.action(), Decision::WouldDeny);
                count_denial(would.by, "true");
                self.log(&connection, http, &would, "would deny, but for the dry run");
                return Verdict::allowed(decided(Decision::WouldDeny, would));
            }
        }
        Verdict::allowed(match audited {
            Some(by) => decided(Decision::Audited, Made { by, ..decision }),
            None => decided(Decision::Allowed, decision),
        })
    }

    fn log(
        &self,
        connection: &Connection<'_>,
        http: Option<&HttpRequest<'_>>,
        by: &dyn Display,
        outcome: &str,
    ) {
        let Some(unlogged) = self.thread.decisions.may_log() else {
            return;
        };
        tracing::info!(
            peer = %self.peer,
            principal = connection.identity.map_or("none", |id| id.principal()),
            port = self.port,
            method = http.map_or("", |request| request.method),
            path = http.map_or("", |request| request.path),
            %by,
            unlogged,
            "authorization: {outcome}"
        );
    }

    /// Until a policy forbids a connection that was allowed.
    pub(super) async fn forbidden(&self, caller: &Caller) -> Verdict {
        let mut changes = self.thread.directory().inbound_changes();
        loop {
            if !self.admits(caller) {
                let verdict = self.authorize_connection(caller);
                if verdict.denied.is_some() {
                    return verdict;
                }
            }
            if changes.changed().await.is_err() {
                // The directory is gone, and with it all that could forbid.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Counts a denial for the policy and rule that decided. Looked up each time:
/// there are as many series as rules that have denied something.
fn count_denial(by: By<'_>, dry_run: &'static str) {
    let (policy, rule) = match by {
        By::Rule { policy, rule } => {
            let source = &policy.source;
            (
                format!("{}/{}", source.namespace, source.name),
                rule.to_string(),
            )
        }
        By::NoAllowRule | By::NoPolicy | By::TooManyReadings => {
            ("none".to_owned(), "none".to_owned())
        }
    };
    metrics::counter!(
        "linnet_authorization_denials_total",
        "policy" => policy, "rule" => rule, "dry_run" => dry_run
    )
    .increment(1);
}

pub(super) fn accepted(token: &Result<Option<Accepted>, Refused>) -> Option<&Token> {
    Some(&*token.as_ref().ok()?.as_ref()?.token)
}

/// A request as policies look at it.
pub(super) fn as_asked<'a, B>(
    request: &'a Request<B>,
    authority: &'a str,
    token: Option<&'a Token>,
) -> HttpRequest<'a> {
    HttpRequest {
        method: request.method().as_str(),
        authority,
        path: target::path(request.uri(), request.extensions()),
        headers: request.headers(),
        token,
    }
}

/// The host that a request is for. A request with two could be one for the
/// policy and the other for the application.
pub(super) fn authority<B>(request: &Request<B>) -> Result<&str, Error> {
    let mut hosts = hosts(request.headers());
    let host = hosts.next();
    let of_uri = request.uri().authority().map(http::uri::Authority::as_str);
    let ambiguous = match (of_uri, host) {
        (Some(uri), Some(Some(host))) => !uri.eq_ignore_ascii_case(host),
        (_, Some(None)) => true,
        _ => false,
    };
    if ambiguous || hosts.next().is_some() {
        return Err(Error::BadRequest("it names several hosts".to_owned()));
    }
    Ok(of_uri.or(host.flatten()).unwrap_or_default())
}

/// All values of `Host`; `None`: not text.
fn hosts(headers: &HeaderMap) -> impl Iterator<Item = Option<&str>> {
    headers.get_all(HOST).iter().map(|host| host.to_str().ok())
}

/// Layer of [`Authorize`].
#[derive(Clone)]
pub(super) struct AuthorizeLayer {
    pub(super) arrival: Rc<Arrival>,
    pub(super) caller: Caller,
    /// The port is declared to carry bytes: policies judge what comes as such, though the
    /// peer's sidecar, which may not know the declaration, says that it is HTTP.
    pub(super) as_bytes: bool,
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize {
            inner,
            asks: Rc::new(self.clone()),
        }
    }
}

impl<S> Callee for Authorize<S> {
    /// The first service that leads here, or else the address that was called.
    fn host(&self) -> String {
        let arrival = &self.asks.arrival;
        let inbound = arrival.thread.inbound();
        let port = inbound.port(arrival.port);
        match port.and_then(|port| port.services.first()) {
            Some(service) if service.port == 80 => {
                format!("{}.{}", service.name, service.namespace)
            }
            Some(service) => format!("{}.{}:{}", service.name, service.namespace, service.port),
            None => SocketAddr::new(arrival.app.ip(), arrival.port).to_string(),
        }
    }
}

/// Answers for the application what no policy lets through to it.
#[derive(Clone)]
pub(super) struct Authorize<S> {
    inner: S,
    asks: Rc<AuthorizeLayer>,
}

impl<S> Service<Call> for Authorize<S>
where
    S: Service<Call, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<Granted<S::Future>, Ready<Result<Response<Body>, Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let AuthorizeLayer {
            arrival,
            caller,
            as_bytes,
        } = &*self.asks;
        let head = Head::of(&call.request, arrival.needs_headers(call.found));
        match arrival.authorize_request(caller, *as_bytes, &mut call) {
            Ok(()) => {
                self.asks.grant(&call.exchange, head);
                let exchange = call.exchange.clone();
                Either::Left(Granted::new(self.inner.call(call), exchange))
            }
            Err(error) => Either::Right(ready(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_request_is_for_one_host() {
        for (uri, hosts, expected) in [
            ("/", &["shop"][..], Some("shop")),
            ("http://shop/", &[], Some("shop")),
            ("http://shop/", &["Shop"], Some("shop")),
            ("/", &[], Some("")),
            ("http://shop/", &["other"], None),
            ("/", &["shop", "other"], None),
            ("/", &["shop", "shop"], None),
            ("/", &["sh\u{f6}p"], None),
        ] {
            assert_eq!(
                authority(&request(uri, hosts)).ok(),
                expected,
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn denials_are_logged_once_an_interval() {
        let decisions = Decisions::default();
        assert_eq!(decisions.may_log(), Some(0));
        assert_eq!(decisions.may_log(), None);
        assert_eq!(decisions.may_log(), None);
        decisions.logged.set(None);
        assert_eq!(decisions.may_log(), Some(2));
    }
}
