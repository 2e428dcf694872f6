//! Requests from pages of other origins: what `linnet_mesh::route::Cors` says,
//! put into responses.
//!
//! An error's answer carries the permission too: without it a page could not
//! tell a 503 from a refusal.

use super::Route;
use crate::{
    error::Error,
    http::{body::Body, exchange::Exchange, rescue::rescued},
};
use ::http::{HeaderValue, Request, Response};
use linnet_mesh::route::Cors;

/// The answer to a preflight, or else the request's origin.
pub(super) fn ask(
    cors: &Cors,
    request: &Request<Body>,
) -> (Option<Response<Body>>, Option<HeaderValue>) {
    let answer = cors.preflight(request.method(), request.headers());
    let answer = answer.map(|headers| {
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = headers;
        response
    });
    (answer, Cors::origin(request.headers()).cloned())
}

impl Route {
    /// A response, with what lets the origin see it.
    pub(super) fn told(
        &self,
        cors: &Cors,
        origin: Option<HeaderValue>,
        exchange: &Exchange,
        response: Result<Response<Body>, Error>,
    ) -> Result<Response<Body>, Error> {
        let Some(origin) = origin else {
            return response;
        };
        let mut response = response.unwrap_or_else(|error| {
            if !exchange.has_sink() {
                self.record_unplaced(exchange);
            }
            rescued(&error, exchange)
        });
        cors.respond(&origin, response.headers_mut());
        Ok(response)
    }
}
