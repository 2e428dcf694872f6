//! Copies of requests for a second backend, whose answers nobody waits for.

use super::Route;
use crate::balance::{Asker, Verdict};
use crate::clock;
use crate::http::{body::Body, connection, tee::tee};
use ::http::{Request, uri::Authority};
use http_body_util::BodyExt;
use linnet_mesh::route::{Mirror, Rewrite};
use std::{mem, time::Duration};

/// What a mirror's name ends in.
const SHADOW: &str = "-shadow";
/// How long a copy may take.
const LONGEST: Duration = Duration::from_secs(60);

impl Route {
    /// Sends a copy of a request to a mirror, if it is to have one.
    pub(super) fn mirror(&self, mirror: &Mirror, request: &mut Request<Body>) {
        let backend = &mirror.backend;
        if backend.unresolved.is_some() || !mirror.share.holds(rand::random()) {
            return;
        }
        let Some(balancer) = self.thread.balancer_of(&backend.service) else {
            return;
        };
        let asker = Asker::request(request, self.source);
        let Some(in_flight) = balancer.choose(backend.subset.as_deref(), &[], &asker) else {
            return;
        };
        let (original, copied) = tee(mem::replace(request.body_mut(), Body::empty()));
        *request.body_mut() = original;
        let copy = shadow(request, copied);
        let thread = self.thread.clone();
        tokio::task::spawn_local(clock::timeout(LONGEST, async move {
            let connections = &in_flight.candidate.connections;
            let sent = connection::send(&thread.tls, connections, &in_flight.pool, copy).await;
            let answer = match sent {
                Ok(answer) => answer,
                Err(failure) => return in_flight.failed(&failure.error),
            };
            in_flight.answered();
            in_flight.judge(Verdict::Status(answer.response.status().as_u16()));
            let mut body = answer.response.into_body();
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    return;
                }
            }
        }));
    }
}

fn shadow(request: &Request<Body>, body: Body) -> Request<Body> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.version_mut() = request.version();
    let (mut uri, mut headers) = (request.uri().clone(), request.headers().clone());
    let name = super::authority(request);
    let shadowed = match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{host}{SHADOW}:{port}")
        }
        _ => format!("{name}{SHADOW}"),
    };
    let rewrite = Rewrite {
        path: None,
        authority: Authority::try_from(shadowed).ok(),
    };
    // Without a path there is nothing that could be refused.
    let _ = rewrite.apply(None, &mut uri, &mut headers);
    *copy.uri_mut() = uri;
    *copy.headers_mut() = headers;
    copy
}
