//! Requests that were let through, asked for again when the policies change: what
//! would be denied now, ends.

use super::{
    Arrival,
    authorize::{AuthorizeLayer, accepted, as_asked, authority},
    token,
};
use crate::{
    access_log::{Decided, Decision, Record, draw_sample},
    error::Error,
    http::{
        body::Body,
        exchange::Exchange,
        found::Found,
        grant::{Asks, Head, Side, Withdrawal},
        target::path_in_latin_1,
    },
};
use http::{Request, Response};
use linnet_mesh::authorization::{Policies, Scope};
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

impl Arrival {
    /// Whether all headers of a request are kept, in case it must be asked for again.
    pub(super) fn needs_headers(&self, found: Found) -> bool {
        let inbound = self.thread.inbound();
        let by_headers = |policies: &Arc<Policies>| policies.go_by_headers();
        found.has(Found::UPGRADE | Found::REPEATED)
            || inbound.authentication.is_some()
            || inbound.authorization.as_ref().is_some_and(by_headers)
    }

    /// What an open request is told by policies that have changed. Nobody but
    /// those that are denied is counted or logged.
    fn ask_again(
        &self,
        asks: &AuthorizeLayer,
        request: &Request<()>,
        whole: bool,
    ) -> Option<Withdrawal> {
        let caller = &asks.caller;
        let inbound = self.thread.directory().inbound();
        let connection = self.connection(caller);
        let token = match &inbound.authentication {
            Some(rules) if whole => self.thread.tokens.authenticate(rules, request),
            _ => Ok(None),
        };
        let mut request = request.clone();
        if let (Some(rules), Ok(token), true) = (&inbound.authentication, &token, whole) {
            token::edit(rules, token.as_ref(), &mut request);
        }
        let request = &request;
        let named = authority(request);
        let unknown = || {
            (
                "policies by what is no longer known of it".to_owned(),
                false,
            )
        };
        let (by, told) = match (&token, &inbound.authorization, &named) {
            (Err(refused), ..) => (refused.by.clone(), false),
            (Ok(_), None, _) => return None,
            (Ok(_), Some(_), Err(_)) => unknown(),
            (Ok(_), Some(policies), Ok(_)) if !whole && policies.go_by_headers() => unknown(),
            (Ok(_), Some(policies), Ok(authority)) => {
                let http = as_asked(request, authority, accepted(&token));
                let latin_1 = path_in_latin_1(request.uri(), request.extensions());
                let http = self.strictest(policies, caller, http, latin_1.as_deref());
                let http = (!asks.as_bytes).then_some(&http);
                let decision = policies.decide(Scope::Enforced, &connection, http);
                if decision.allowed {
                    return None;
                }
                match self.authorize(policies, caller, http).denied {
                    Some(Error::Denied { by, told }) => (by, told),
                    _ => unknown(),
                }
            }
        };
        let log = &inbound.access_log.server;
        let record = log.writes(true, draw_sample).then(|| {
            let to = &self.thread.shared.access_log;
            let authority = named.as_ref().map_or("", |named| *named);
            Record::of_request(to, log, request, authority)
                .speaking_for(accepted(&token).and_then(|token| token.principal.as_deref()))
                .decided(Some(Decided {
                    decision: Decision::Denied,
                    by: by.as_str().into(),
                }))
                .called_from(Some(self.peer))
                .sent_to(self.app)
        });
        Some(Withdrawal { by, told, record })
    }
}

impl Asks for AuthorizeLayer {
    fn again(&self, request: &Request<()>, whole: bool) -> Option<Withdrawal> {
        self.arrival.ask_again(self, request, whole)
    }
}

impl AuthorizeLayer {
    /// Sees to it that a request which was let through ends when it no longer is.
    pub(super) fn grant(self: &Rc<Self>, exchange: &Exchange, head: Head) {
        let thread = &self.arrival.thread;
        if thread.grants.is_unwatched() {
            let (directory, grants) = (thread.shared.directory.clone(), thread.grants.clone());
            let mut changes = directory.inbound_changes();
            tokio::task::spawn_local(async move {
                let mut asked = None;
                loop {
                    let inbound = directory.inbound();
                    let rules = (
                        inbound.authorization.clone(),
                        inbound.authentication.clone(),
                    );
                    drop(inbound);
                    if asked.as_ref() != Some(&rules) {
                        grants.ask_again();
                        asked = Some(rules);
                    }
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
        let grant = thread.grants.open(self.clone(), head);
        exchange.granted(grant);
    }
}

pin_project! {
    /// An answer that comes, unless its request is denied meanwhile.
    pub(super) struct Granted<F> {
        #[pin]
        inner: F,
        exchange: Rc<Exchange>,
    }
}

impl<F> Granted<F> {
    pub(super) fn new(inner: F, exchange: Rc<Exchange>) -> Self {
        Self { inner, exchange }
    }
}

impl<F> Future for Granted<F>
where
    F: Future<Output = Result<Response<Body>, Error>>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = this.inner.poll(context);
        if answer.is_pending()
            && this
                .exchange
                .poll_withdrawn(Side::Response, context)
                .is_ready()
            && let Some(denied) = this.exchange.withdrawn()
        {
            return Poll::Ready(Err(denied));
        }
        answer
    }
}
