//! How much a webhook does at a time, for all its callers and for each.
//!
//! The API server presents no certificate, so a webhook can't tell it from a pod
//! that connects. What can be had is that nobody takes everything: reviews and the
//! bytes of their bodies are counted, together and by address. When all is taken, the
//! address that has the most gives up its newest review for one of an address that
//! would still have less; the next one is refused at once (429). So however many
//! strangers there are, each address gets its equal share. What is being judged is
//! limited by the size of its bodies, since JSON takes up to a hundred times its length
//! in memory, and addresses take turns. A review is counted until its work has ended,
//! whoever still waits for the answer ([`Turn`]).

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
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
use tokio::sync::oneshot;

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
}

#[derive(Debug)]
struct Usage {
    all: Count,
    /// Units of bodies that may be judged besides what is.
    free: usize,
    /// Numbers reviews and turns.
    clock: u64,
    /// Of those who have a review here; at most as many as there may be reviews.
    each: HashMap<IpAddr, Holder>,
}

/// What an address has.
#[derive(Debug, Default)]
struct Holder {
    count: Count,
    /// When it came, or had its last turn.
    turn: u64,
    /// By number, the oldest first.
    reviews: BTreeMap<u64, Review>,
}

#[derive(Debug)]
struct Review {
    taken: Count,
    stage: Stage,
}

/// How far a review has come. Dropping the sender tells it that it lost its place.
#[derive(Debug)]
enum Stage {
    Read(#[expect(dead_code, reason = "dropped")] oneshot::Sender<Infallible>),
    Waits(usize, oneshot::Sender<()>),
    Judged(usize),
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    reviews: usize,
    bytes: usize,
}

impl Count {
    const REVIEW: Self = Self {
        reviews: 1,
        bytes: 0,
    };

    fn bytes(bytes: usize) -> Self {
        Self { reviews: 0, bytes }
    }

    fn add(&mut self, more: Self) {
        self.reviews += more.reviews;
        self.bytes += more.bytes;
    }

    fn subtract(&mut self, less: Self) {
        self.reviews -= less.reviews;
        self.bytes -= less.bytes;
    }

    fn fits(mut self, more: Self, reviews: usize, bytes: usize) -> bool {
        self.add(more);
        self.reviews <= reviews && self.bytes <= bytes
    }
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
        let used = Usage {
            all: Count::default(),
            free: limits.judged.div_ceil(UNIT),
            clock: 0,
            each: HashMap::new(),
        };
        Arc::new(Self {
            limits,
            used: Mutex::new(used),
        })
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refusal> {
        let usage = &mut *self.usage();
        usage.make_room(self.limits, address, Count::REVIEW)?;
        let (sender, lost) = oneshot::channel();
        usage.clock += 1;
        let number = usage.clock;
        let review = Review {
            taken: Count::default(),
            stage: Stage::Read(sender),
        };
        let holder = usage.each.entry(address).or_insert_with(|| Holder {
            turn: number,
            ..Holder::default()
        });
        holder.reviews.insert(number, review);
        usage.count(address, number, Count::REVIEW);
        Ok(Place {
            gate: self.clone(),
            address,
            number,
            lost,
        })
    }

    fn usage(&self) -> std::sync::MutexGuard<'_, Usage> {
        // Nothing panics while it is held, and counts are whole at any time.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let usage = self.usage();
        let all = self.limits.judged.div_ceil(UNIT);
        let none = usage.all.reviews == 0 && usage.all.bytes == 0;
        usage.each.is_empty() && none && usage.free == all
    }
}

impl Usage {
    fn review(&mut self, address: IpAddr, number: u64) -> Option<&mut Review> {
        self.each.get_mut(&address)?.reviews.get_mut(&number)
    }

    fn count(&mut self, address: IpAddr, number: u64, more: Count) {
        let Some(holder) = self.each.get_mut(&address) else {
            return;
        };
        if let Some(review) = holder.reviews.get_mut(&number) {
            review.taken.add(more);
            holder.count.add(more);
            self.all.add(more);
        }
    }

    /// Makes sure that there is room for what an address asks for, if need be from those
    /// who have more than it would have.
    fn make_room(&mut self, limits: Limits, address: IpAddr, more: Count) -> Result<(), Refusal> {
        let own = self.each.get(&address).map(|holder| holder.count);
        let own = own.unwrap_or_default();
        if !own.fits(more, limits.reviews.1, limits.bytes.1) {
            return Err(Refusal::Busy);
        }
        while !self.all.fits(more, limits.reviews.0, limits.bytes.0) {
            let reviews = self.all.reviews + more.reviews > limits.reviews.0;
            let (victim, number) = self.victim(own, more, reviews).ok_or(Refusal::Busy)?;
            self.remove(victim, number);
        }
        Ok(())
    }

    /// The newest review that can go of the address that has the most, if that is more
    /// than who asks would have. What is being judged can't go: its work goes on.
    fn victim(&self, own: Count, more: Count, reviews: bool) -> Option<(IpAddr, u64)> {
        let scarce = |count: Count| if reviews { count.reviews } else { count.bytes };
        let would_have = scarce(own) + scarce(more);
        let holders = self.each.iter().filter_map(|(address, holder)| {
            let goes = holder.reviews.iter().rfind(|(_, review)| {
                scarce(review.taken) > 0 && !matches!(review.stage, Stage::Judged(_))
            });
            Some((scarce(holder.count), *address, *goes?.0))
        });
        let (most, address, number) = holders.max()?;
        (most > would_have).then_some((address, number))
    }

    fn remove(&mut self, address: IpAddr, number: u64) {
        let Some(holder) = self.each.get_mut(&address) else {
            return;
        };
        let Some(review) = holder.reviews.remove(&number) else {
            return;
        };
        holder.count.subtract(review.taken);
        self.all.subtract(review.taken);
        if holder.reviews.is_empty() {
            self.each.remove(&address);
        }
        if let Stage::Judged(units) = review.stage {
            self.free += units;
        }
        self.give_turns();
    }

    /// Lets reviews be judged while there are units, of the address first whose last
    /// turn is longest ago. A long body is not passed by, so it has its turn.
    fn give_turns(&mut self) {
        loop {
            let waiting = |holder: &Holder| {
                let mut reviews = holder.reviews.iter();
                reviews.find_map(|(number, review)| match review.stage {
                    Stage::Waits(units, _) => Some((*number, units)),
                    _ => None,
                })
            };
            let holders = self.each.iter_mut();
            let holders = holders.filter_map(|(_, holder)| Some((waiting(holder)?, holder)));
            let Some(((number, units), holder)) = holders.min_by_key(|(_, holder)| holder.turn)
            else {
                return;
            };
            if units > self.free {
                return;
            }
            self.clock += 1;
            holder.turn = self.clock;
            self.free -= units;
            if let Some(review) = holder.reviews.get_mut(&number) {
                let before = std::mem::replace(&mut review.stage, Stage::Judged(units));
                if let Stage::Waits(_, turn) = before {
                    // Who is gone gives it back itself.
                    let _ = turn.send(());
                }
            }
        }
    }
}

/// One review's share, given back when it is dropped.
#[derive(Debug)]
struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
    number: u64,
    lost: oneshot::Receiver<Infallible>,
}

/// A review's turn to be judged, in its request's extensions. Work that outlives the
/// request, since it runs on a thread of its own, keeps a clone until it has ended.
#[derive(Clone, Debug)]
pub struct Turn(#[expect(dead_code, reason = "kept")] Arc<Place>);

impl Place {
    fn take(&self, more: Count) -> Result<(), Refusal> {
        let usage = &mut *self.gate.usage();
        // It may have lost its place.
        usage
            .review(self.address, self.number)
            .ok_or(Refusal::Busy)?;
        usage.make_room(self.gate.limits, self.address, more)?;
        usage.count(self.address, self.number, more);
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
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                _ = &mut self.lost => return Err(Refusal::Busy),
            };
            let Some(frame) = frame else {
                return Ok(read.freeze());
            };
            let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else {
                continue;
            };
            if read.len() + data.len() > longest {
                return Err(Refusal::TooLong(longest));
            }
            self.take(Count::bytes(data.len()))?;
            read.extend_from_slice(&data);
        }
    }

    /// Waits for the turn of a body of that length.
    async fn turn(self, length: usize) -> Result<Turn, Refusal> {
        let most = self.gate.limits.judged.div_ceil(UNIT);
        let units = length.div_ceil(UNIT).clamp(1, most);
        let (sender, turn) = oneshot::channel();
        {
            let usage = &mut *self.gate.usage();
            let review = usage.review(self.address, self.number);
            review.ok_or(Refusal::Busy)?.stage = Stage::Waits(units, sender);
            usage.give_turns();
        }
        // A review that waits for too long is ended by the time limit.
        turn.await.map_err(|_| Refusal::Busy)?;
        Ok(Turn(Arc::new(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.usage().remove(self.address, self.number);
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
    let (mut head, body) = request.into_parts();
    let body = place.read(body).await?;
    let turn = place.turn(body.len()).await?;
    head.extensions.insert(turn.clone());
    let answer = next.run(Request::from_parts(head, Body::from(body))).await;
    drop(turn);
    Ok(answer)
}

#[cfg(test)]
mod tests;
