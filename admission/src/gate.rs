//! How much a webhook does at a time, for all its callers and for each.
//!
//! The API server presents no certificate, so a webhook can't tell it from a pod
//! that connects. What can be had is that nobody takes everything: reviews and the
//! bytes of their bodies are counted, together and by address, and the next one is
//! refused at once (429). What is being judged is limited by the size of its
//! bodies, since JSON takes up to a hundred times its length in memory.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{StatusCode, header::RETRY_AFTER},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use linnet_runtime::serve::Peer;
use serde_json::json;
use tokio::sync::Semaphore;

const MIB: usize = 1024 * 1024;
/// What the size of a body is rounded up to while it is judged, in bytes: a small
/// one takes memory besides.
const UNIT: usize = 32 * 1024;

/// What a webhook takes on. Of each pair the first is for all callers together,
/// the second for one address.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest body, in bytes.
    pub body: usize,
    /// Reviews at a time. The API server asks about no more than 200 to 400 changes
    /// at a time by its own default.
    pub reviews: (usize, usize),
    /// Bytes of bodies held at a time.
    pub bytes: (usize, usize),
    /// Bytes of bodies judged at a time; a longer body is judged alone.
    pub judged: usize,
}

impl Limits {
    /// For reviews of pods, in a process that may take 128 MiB.
    pub const PODS: Self = Self {
        body: MIB,
        reviews: (1024, 256),
        bytes: (16 * MIB, 4 * MIB),
        judged: MIB / 2,
    };
    /// For reviews of resources, before and after, in a process that may take
    /// 512 MiB. Twice the API server's own limit of an object, for the envelope
    /// around it.
    pub const RESOURCES: Self = Self {
        body: 3 * MIB,
        reviews: (512, 256),
        bytes: (24 * MIB, 12 * MIB),
        judged: 3 * MIB,
    };
}

/// Counts what a webhook is at.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    used: Mutex<Usage>,
    judging: Semaphore,
}

#[derive(Debug, Default)]
struct Usage {
    all: Count,
    /// Of those who have a review here; at most as many as there may be reviews.
    each: HashMap<IpAddr, Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    reviews: usize,
    bytes: usize,
}

/// Why a review is not taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("as many reviews are under way as may be; ask again")]
    Busy,
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    #[error("the body ended early")]
    Broken,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, reason) = match self {
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            Self::TooLong(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_long"),
            Self::Broken => (StatusCode::BAD_REQUEST, "broken"),
        };
        metrics::counter!("linnet_webhook_refused_total", "reason" => reason).increment(1);
        tracing::debug!(%self, "review refused");
        let body = Json(json!({"error": self.to_string()}));
        let mut response = (status, body).into_response();
        if self == Self::Busy {
            response.headers_mut().insert(RETRY_AFTER, 1.into());
        }
        response
    }
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            used: Mutex::default(),
            judging: Semaphore::new(limits.judged.div_ceil(UNIT)),
        })
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refusal> {
        let mut place = Place {
            gate: self.clone(),
            address,
            taken: Count::default(),
        };
        place.take(Count {
            reviews: 1,
            bytes: 0,
        })?;
        Ok(place)
    }

    fn usage(&self) -> std::sync::MutexGuard<'_, Usage> {
        // Nothing panics while it is held, and counts are whole at any time.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let usage = self.usage();
        usage.each.is_empty() && usage.all.reviews == 0 && usage.all.bytes == 0
    }
}

/// One review's share, given back when it is dropped.
struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
    taken: Count,
}

impl Place {
    fn take(&mut self, more: Count) -> Result<(), Refusal> {
        let limits = self.gate.limits;
        let usage = &mut *self.gate.usage();
        let own = usage.each.get(&self.address).copied().unwrap_or_default();
        let fits = |count: Count, reviews: usize, bytes: usize| {
            count.reviews + more.reviews <= reviews && count.bytes + more.bytes <= bytes
        };
        if !fits(usage.all, limits.reviews.0, limits.bytes.0)
            || !fits(own, limits.reviews.1, limits.bytes.1)
        {
            return Err(Refusal::Busy);
        }
        let own = usage.each.entry(self.address).or_default();
        for count in [&mut usage.all, own, &mut self.taken] {
            count.reviews += more.reviews;
            count.bytes += more.bytes;
        }
        Ok(())
    }

    /// Reads a body, no longer than one may be and while there is room for it.
    async fn read(&mut self, mut body: Body) -> Result<Bytes, Refusal> {
        let longest = self.gate.limits.body;
        let told = body.size_hint().lower();
        if told > longest as u64 {
            return Err(Refusal::TooLong(longest));
        }
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else {
                continue;
            };
            if read.len() + data.len() > longest {
                return Err(Refusal::TooLong(longest));
            }
            self.take(Count {
                reviews: 0,
                bytes: data.len(),
            })?;
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let usage = &mut *self.gate.usage();
        let mut counts = vec![&mut usage.all];
        counts.extend(usage.each.get_mut(&self.address));
        for count in counts {
            count.reviews -= self.taken.reviews;
            count.bytes -= self.taken.bytes;
        }
        if usage
            .each
            .get(&self.address)
            .is_some_and(|own| own.reviews == 0)
        {
            usage.each.remove(&self.address);
        }
    }
}

/// Reads a review's body within the limits and has it judged when it is its turn.
pub(crate) async fn admit(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match review(&gate, request, next).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn review(gate: &Arc<Gate>, request: Request, next: Next) -> Result<Response, Refusal> {
    let peer = request.extensions().get::<Peer>();
    let address = peer.map_or(std::net::Ipv4Addr::LOCALHOST.into(), |peer| {
        peer.address.ip().to_canonical()
    });
    let mut place = gate.enter(address)?;
    let (head, body) = request.into_parts();
    let body = place.read(body).await?;
    let units = body.len().div_ceil(UNIT);
    let units = units.clamp(1, gate.limits.judged.div_ceil(UNIT));
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    // Never closed; a review that waits for too long is ended by the time limit.
    let _turn = gate.judging.acquire_many(units).await;
    Ok(next.run(Request::from_parts(head, Body::from(body))).await)
}

#[cfg(test)]
mod tests;
