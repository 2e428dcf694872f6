//! Further HTTP/2 connections to an endpoint whose peer takes no more streams on those that
//! there are.
//!
//! hyper queues such streams on their connection, one behind the other. A further connection
//! carries them at once, up to a bound; beyond it they wait as before. The first connection
//! takes no place of a pool's `maxConnections`, so that a request can always be sent, and the
//! further ones take one each.

use super::{Connections, Shared, open};
use crate::{
    connect,
    error::Error,
    http::{MOST_STREAMS, body::Body},
    pool::{Limit, Pool, Room, StreamSlot},
    tls::Tls,
};
use hyper::client::conn::http2;
use linnet_mesh::protocol::MeshProtocol;
use std::rc::Rc;
use tokio::time::Instant;

/// Most HTTP/2 connections to one endpoint that streams are spread over, by thread. With 100
/// streams each, the usual limit, they hold 6,400 requests.
const MOST: usize = 64;
/// Streams that other servers take, until they have said so: RFC 9113, 6.5.2 recommends to
/// take no fewer.
const USUAL_STREAMS: u32 = 100;

/// A connection, and a stream's place on it.
pub(super) type Taken = (http2::SendRequest<Body>, StreamSlot);

/// Returns how many streams an endpoint takes at a time until it has said so: sidecars take
/// what this one does.
pub(super) fn streams_at_first(connections: &Connections, pool: &Pool) -> usize {
    let most = match connections.is_meshed(pool) {
        true => MOST_STREAMS,
        false => USUAL_STREAMS,
    };
    most as usize
}

impl Connections {
    /// Returns how many connections of a pool would take one more stream by its policy. Once
    /// [`take_shared`](Self::take_shared) has found nothing, their peer lets it wait.
    fn full(&self, pool: &Rc<Pool>) -> usize {
        let all = self.shared.borrow();
        all.iter().filter(|shared| shared.may_take(pool)).count()
    }

    pub(super) fn has_full(&self, pool: &Rc<Pool>) -> bool {
        self.full(pool) > 0
    }

    /// Takes a stream that waits for another one to end, on the connection with the fewest.
    fn take_full(&self, pool: &Rc<Pool>) -> Option<Taken> {
        let mut all = self.shared.borrow_mut();
        let full = all.iter_mut().filter(|shared| shared.may_take(pool));
        let fewest = full.min_by_key(|shared| shared.streams.count())?;
        Some(fewest.take())
    }

    /// Returns room for one more connection beside those that are full.
    fn further_room(&self, pool: &Rc<Pool>) -> Option<Room> {
        let policy = pool.policy.pool.max_connections;
        let most = policy.map_or(MOST, |most| MOST.min(most as usize));
        match self.full(pool) < most {
            true => pool.room(),
            false => None,
        }
    }

    /// Closes a connection without streams that takes a place of a pool's; reports whether
    /// there was one.
    pub(super) fn give_up_shared(&self, pool: &Rc<Pool>) -> bool {
        let mut all = self.shared.borrow_mut();
        let unused = |shared: &Shared| shared.is_unused() && Rc::ptr_eq(&shared.pool, pool);
        let position = all.iter().position(unused);
        position.map(|position| all.remove(position)).is_some()
    }
}

impl Shared {
    /// Whether it takes no new requests.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let policy = &self.pool.policy.pool;
        let idle = self.streams.idle_since().zip(policy.http_idle_timeout);
        self.sender.is_closed()
            || now >= self.until
            || idle.is_some_and(|(since, longest)| now - since >= longest)
            || policy
                .max_requests_per_connection
                .is_some_and(|most| self.served >= most)
    }

    /// Whether it can take one more stream by a pool's policy.
    pub(super) fn may_take(&self, pool: &Rc<Pool>) -> bool {
        let most = pool.policy.pool.max_concurrent_streams;
        Rc::ptr_eq(&self.pool, pool) && most.is_none_or(|most| self.streams.count() < most)
    }

    /// Whether it takes a place for no stream.
    fn is_unused(&self) -> bool {
        self.is_counted && self.streams.count() == 0
    }

    /// Whether somebody waits for the place that it takes for no stream.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.is_unused() && self.pool.is_crowded()
    }

    pub(super) fn take(&mut self) -> Taken {
        self.served += 1;
        (self.sender.clone(), self.streams.open())
    }
}

/// A stream on a further connection; on one of those there are where no further one may or
/// can be opened.
pub(super) async fn further(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
) -> Result<Taken, Error> {
    let opening = connections.opening.lock().await;
    if let Some(found) = connections.take_shared(pool) {
        return Ok(found);
    }
    let opened = match connections.further_room(pool) {
        None => None,
        Some(room) => {
            let endpoint = &connections.endpoint;
            // That a server takes no further connection tells nothing against it: it goes on
            // with those that it has.
            match connect::endpoint(tls, pool, endpoint, MeshProtocol::Http2).await {
                Err(error) => Some(Err(error)),
                Ok(stream) => Some(open::handshake(connections, pool, stream, room, true).await),
            }
        }
    };
    drop(opening);
    match opened {
        Some(Ok(taken)) => Ok(taken),
        // They may have ended meanwhile.
        Some(Err(error)) => connections.take_full(pool).ok_or(error),
        None => match connections.take_full(pool) {
            Some(taken) => Ok(taken),
            None => Err(pool.overflow(Limit::Connections)),
        },
    }
}
