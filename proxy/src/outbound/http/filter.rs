//! What a rule does to an exchange besides choosing its backend: faults,
//! answers of its own, edits of both heads, a limit of time.
//!
//! What to do is decided by pure functions of `linnet_mesh::route`; here are
//! the clock, the dice and the bodies.

use super::{authority, request_parts};
use crate::{
    error::Error,
    http::{body::Body, deadline, exchange::Exchange, target::Sent},
    telemetry::Flags,
};
use ::http::{HeaderMap, HeaderValue, Request, Response, header};
use linnet_mesh::{
    route::{Answer, Backend, Fault, HttpRule},
    target::escaped,
};
use std::{rc::Rc, time::Duration};

/// Waits, then refuses, as often as the fault says.
pub(super) async fn inject(
    fault: &Fault,
    rule: &HttpRule,
    exchange: &Exchange,
) -> Result<(), Error> {
    if let Some(delay) = fault.delay(rand::random()) {
        exchange.flag(Flags::DI);
        tokio::time::sleep(delay).await;
    }
    match fault.abort(rand::random()) {
        None => Ok(()),
        Some(status) => Err(Error::Fault {
            rule: rule.to_string(),
            status,
        }),
    }
}

/// The rule's own answer.
pub(super) fn answer(
    answer: &Answer,
    rule: &HttpRule,
    request: &Request<Body>,
) -> Result<Response<Body>, Error> {
    let mut response = match answer {
        Answer::Redirect(redirect) => {
            let parts = request_parts(request, authority(request));
            let matched = rule.matched_path(&parts);
            let mut location = redirect.location(&parts, request.uri().query(), matched);
            if request.extensions().get::<Sent>().is_some() {
                location = escaped(location.as_bytes());
            }
            let location = HeaderValue::try_from(location)
                .map_err(|_| Error::BadRequest("its target can't be redirected".to_owned()))?;
            let mut response = Response::new(Body::empty());
            *response.status_mut() = redirect.status;
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Answer::Direct(direct) => {
            let mut response = Response::new(if direct.body.is_empty() {
                Body::empty()
            } else {
                Body::text(direct.body.clone())
            });
            *response.status_mut() = direct.status;
            if !direct.body.is_empty() {
                let plain = HeaderValue::from_static("text/plain");
                response.headers_mut().insert(header::CONTENT_TYPE, plain);
            }
            response
        }
    };
    rule.filters.headers.response.apply(response.headers_mut());
    Ok(response)
}

/// Makes a request's head the backend's.
pub(crate) fn request_head<B>(
    rule: &HttpRule,
    backend: &Backend,
    request: &mut Request<B>,
) -> Result<(), Error> {
    let edits = [&rule.filters.headers.request, &backend.headers.request];
    if rule.filters.rewrite.is_none() && edits.iter().all(|edits| edits.is_empty()) {
        return Ok(());
    }
    let mut uri = request.uri().clone();
    if let Some(rewrite) = &rule.filters.rewrite {
        let parts = request_parts(request, authority(request));
        let matched = rule.matched_path(&parts);
        let sent = (parts.path != uri.path()).then(|| parts.path.to_owned());
        rewrite
            .apply(matched, sent.as_deref(), &mut uri, request.headers_mut())
            .map_err(|error| Error::BadRequest(error.to_string()))?;
    }
    for edits in edits {
        edits.apply_to_request(&mut uri, request.headers_mut());
    }
    *request.uri_mut() = uri;
    Ok(())
}

/// Makes a response's head the caller's.
pub(super) fn response_head(rule: &HttpRule, backend: &Backend, headers: &mut HeaderMap) {
    rule.filters.headers.response.apply(headers);
    backend.headers.response.apply(headers);
}

/// Gives an exchange so long, until the last of its response.
pub(super) async fn within(
    limit: Duration,
    rule: &HttpRule,
    exchange: &Rc<Exchange>,
    sending: impl Future<Output = Result<Response<Body>, Error>>,
) -> Result<Response<Body>, Error> {
    let passed = || {
        exchange.gave_up();
        Error::Timeout {
            rule: rule.to_string(),
            limit,
        }
    };
    deadline::within(limit, exchange, passed, sending).await
}
