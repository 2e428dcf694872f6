//! Copies of requests for a second backend, whose answers nobody waits for.

use super::{Route, outgoing::Outgoing};
use crate::{
    balance::{Balancer, Verdict},
    clock,
    http::{body::Body, target::Sent, tee::tee},
    outbound::pass::Goal,
};
use ::http::{Request, uri::Authority};
use http_body_util::BodyExt;
use linnet_mesh::route::{Mirror, Rewrite};
use std::{mem, rc::Rc, time::Duration};

/// What a mirror's name ends in.
const SHADOW: &str = "-shadow";
/// How long a copy may take.
const LONGEST: Duration = Duration::from_secs(60);
/// Copies under way from one data thread to one destination. Each takes a connection or a
/// stream of one, and a destination that is silent lets them pile up.
const MOST_UNDER_WAY: u32 = 256;

/// A copy under way, until it is dropped.
struct UnderWay(Rc<Balancer>);

impl UnderWay {
    /// `None`: there are too many, which is counted.
    fn begin(balancer: Rc<Balancer>) -> Option<Self> {
        let under_way = balancer.copies.get();
        if under_way >= MOST_UNDER_WAY {
            let service = balancer.cell.key.to_string();
            metrics::counter!("linnet_mirrors_dropped_total", "service" => service).increment(1);
            return None;
        }
        balancer.copies.set(under_way + 1);
        Some(Self(balancer))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get() - 1);
    }
}

impl Route {
    /// Sends a copy of a request to a mirror, if it is to have one.
    pub(super) fn mirror(&self, mirror: &Mirror, request: &mut Request<Body>) {
        let backend = &mirror.backend;
        if backend.unresolved.is_some() || !mirror.share.holds(rand::random()) {
            return;
        }
        let balancer = self.thread.balancer_of(&backend.service);
        let Some(under_way) = balancer.and_then(UnderWay::begin) else {
            return;
        };
        let (original, copied) = tee(mem::replace(request.body_mut(), Body::empty()));
        *request.body_mut() = original;
        let copy = shadow(request, copied);
        let (route, subset) = (self.clone(), backend.subset.clone());
        tokio::task::spawn_local(clock::timeout(LONGEST, async move {
            let goal = Goal {
                balancer: &under_way.0,
                subset: subset.as_deref(),
                rule: None,
            };
            let mut outgoing = Outgoing::new(copy, false);
            let sent = route.send_to(&goal, None, None, &mut outgoing).await;
            // Nobody waits for it.
            let Ok((answer, in_flight)) = sent else {
                return;
            };
            let verdict = Verdict::of(answer.response.status(), None);
            in_flight.answered(verdict, answer.response.headers());
            in_flight.judge(verdict);
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
    let _ = rewrite.apply(None, None, &mut uri, &mut headers);
    if let Some(sent) = request.extensions().get::<Sent>() {
        copy.extensions_mut().insert(sent.clone());
    }
    *copy.uri_mut() = uri;
    *copy.headers_mut() = headers;
    copy
}
