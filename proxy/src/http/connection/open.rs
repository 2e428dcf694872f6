//! New connections, as many as a pool's policy has room for.

use super::{
    Connections, Shared,
    first::{First, Probe, spoken},
    shared::{self, Taken},
    translate::{self, Speaks},
    unseen,
};
use crate::{
    clock, connect,
    error::Error,
    http::{
        CONNECTION_WINDOW, LARGEST_HEAD, LocalExecutor, MAX_AGE, STREAM_WINDOW, aged, lease::Http1,
        one::client,
    },
    io,
    io::Gather,
    pool::{Limit, Member, Pool, Room, Streams},
    stream::Stream,
    tls::Tls,
};
use hyper::client::conn::http2 as two;
use hyper_util::rt::TokioIo;
use linnet_mesh::protocol::MeshProtocol;
use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::MutexGuard,
    time::Instant,
};

/// A new HTTP/1.1 connection, or where the pool has no room for one, the first
/// that comes free.
pub(super) async fn http1(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    others: bool,
) -> Result<Box<Http1>, Error> {
    let _pending = pool.take(Limit::Pending)?;
    let room = match pool.room() {
        Some(room) => room,
        None => match wait(connections, pool).await {
            Way::Free(connection) => return Ok(connection),
            Way::Room(room) => room,
        },
    };
    let (stream, until) = match is_shareable(connections, pool) {
        true => share(tls, connections, pool, others).await?,
        false => {
            let stream = open(tls, connections, pool, MeshProtocol::Http1, others).await?;
            (stream, None)
        }
    };
    let stream = Held {
        stream,
        _room: room,
    };
    Ok(Box::new(Http1 {
        until,
        codec: client::Connection::new(stream),
        pool: pool.clone(),
        opened: Instant::now(),
        served: 0,
    }))
}

/// Whether HTTP/1.1 goes over streams of connections that they share: between
/// sidecars, unless the other one is older than that.
fn is_shareable(connections: &Connections, pool: &Pool) -> bool {
    connections.is_meshed(pool) && !connections.carriers.are_declined()
}

/// A stream of a connection that is there, or of a new one; and how long the
/// connection is to be used.
async fn share(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    others: bool,
) -> Result<(Stream, Option<Instant>), Error> {
    let carriers = &connections.carriers;
    if let Some((stream, until)) = carriers.stream(pool, clock::now()) {
        return Ok((stream, Some(until)));
    }
    let opening = turn(connections).await?;
    if let Some((stream, until)) = carriers.stream(pool, Instant::now()) {
        return Ok((stream, Some(until)));
    }
    if carriers.are_declined() {
        // Whoever waits for the same finds that out at once, and opens their own beside
        // this one.
        drop(opening);
        let stream = open(tls, connections, pool, MeshProtocol::Http1, others).await?;
        return Ok((stream, None));
    }
    let stream = noted(
        connections,
        open(tls, connections, pool, MeshProtocol::Shared, others).await,
    )?;
    drop(opening);
    if !stream.is_to_be_shared() {
        carriers.decline();
        return Ok((stream, None));
    }
    carriers.add(stream, pool);
    let added = carriers.stream(pool, Instant::now());
    let (stream, until) = added.ok_or_else(|| Error::Upstream {
        address: connections.endpoint.address,
        reason: "the connection took no stream".to_owned(),
        refused: true,
    })?;
    Ok((stream, Some(until)))
}

/// Waits until it is one's turn to open a connection that is to be shared.
///
/// # Errors
/// The one that was opened meanwhile could not be.
async fn turn(connections: &Connections) -> Result<MutexGuard<'_, ()>, Error> {
    let asked = Instant::now();
    let turn = connections.opening.lock().await;
    match &*connections.failure.borrow() {
        Some((when, error)) if *when > asked => Err(error.clone()),
        _ => Ok(turn),
    }
}

/// Keeps a failure for those who wait for the same.
fn noted(connections: &Connections, opened: Result<Stream, Error>) -> Result<Stream, Error> {
    if let Err(error) = &opened {
        let failure = (Instant::now(), error.clone());
        *connections.failure.borrow_mut() = Some(failure);
    }
    opened
}

enum Way {
    Free(Box<Http1>),
    Room(Room),
}

/// Until a connection to the endpoint is free or there is room for another.
async fn wait(connections: &Rc<Connections>, pool: &Rc<Pool>) -> Way {
    let _waiter = Waiter::new(&connections.waiters);
    let room = pool.wait_for_room();
    tokio::pin!(room);
    loop {
        tokio::select! {
            biased;
            () = connections.returned.notified() => {
                if let Some(idle) = connections.take_idle(pool, Instant::now()) {
                    return Way::Free(idle.connection);
                }
            }
            room = &mut room => return Way::Room(room),
        }
    }
}

struct Waiter<'a>(&'a Cell<u32>);

impl<'a> Waiter<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A stream on a new HTTP/2 connection, or on the one that somebody else opens
/// just now.
pub(super) async fn http2(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    others: bool,
) -> Result<Taken, Error> {
    if !connections.has_full(pool) {
        let _pending = pool.take(Limit::Pending)?;
        let opening = turn(connections).await?;
        if let Some(found) = connections.take_shared(pool) {
            return Ok(found);
        }
        if connections.known.speaks_http1_alone() && translate::is_application(connections, pool) {
            // Somebody has found that out meanwhile.
            return Err(translate::not_http2(connections, "it speaks HTTP/1 alone"));
        }
        if !connections.has_full(pool) {
            let stream = open(tls, connections, pool, MeshProtocol::Http2, others).await;
            let stream = noted(connections, stream)?;
            return handshake(connections, pool, stream, Room::unbounded(pool), false).await;
        }
        drop(opening);
    }
    shared::further(tls, connections, pool).await
}

/// Makes a stream an HTTP/2 connection, whose first stream it returns. `is_counted`: it takes
/// one of the pool's places.
pub(super) async fn handshake(
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    stream: Stream,
    room: Room,
    is_counted: bool,
) -> Result<Taken, Error> {
    let application = translate::is_application(connections, pool);
    let chose_http2 = stream.chosen().map(|name| name == b"h2");
    if application && chose_http2 == Some(false) {
        connections.known.learn(Speaks::Http1Alone);
        return Err(translate::not_http2(connections, "it speaks HTTP/1 alone"));
    }
    let stream = Held {
        stream,
        _room: room,
    };
    let (stream, first) = Probe::new(stream);
    let stream = Gather::new(stream);
    let (sender, mut connection) = two::Builder::new(LocalExecutor)
        // Until the peer has said so itself.
        .initial_max_send_streams(shared::streams_at_first(connections, pool))
        .timer(hyper_util::rt::TokioTimer::new())
        .max_header_list_size(LARGEST_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| upstream_error(connections, &error))?;
    // By its word, where it has given it.
    if application && chose_http2.is_none() {
        speaks_http2(connections, spoken(first).await)?;
    }
    let streams = Streams::new();
    // The SETTINGS of an application have been read by now, those of others may come later.
    streams.limit(connection.current_max_send_streams());
    let limited = streams.clone();
    let meshed = connections.is_meshed(pool);
    let availability = connections.availability.clone();
    tokio::task::spawn_local(async move {
        let ended = poll_fn(|context| {
            let polled = Pin::new(&mut connection).poll(context);
            limited.limit(connection.current_max_send_streams());
            polled
        });
        // Requests that waited for it learn that it is gone, not why.
        if let Err(error) = ended.await
            && meshed
            && unseen::refusal(&error).is_some()
        {
            availability.mark_undelivered(clock::instant());
        }
    });
    let longest = pool.policy.pool.max_connection_duration;
    let slot = streams.open();
    connections.shared.borrow_mut().push(Shared {
        sender: sender.clone(),
        pool: pool.clone(),
        until: Instant::now() + longest.unwrap_or_else(|| aged(MAX_AGE)),
        served: 1,
        streams,
        is_counted,
    });
    if is_counted {
        let member: Rc<dyn Member> = connections.clone();
        pool.join(Rc::downgrade(&member));
    }
    Ok((sender, slot))
}

/// Goes by what an application has said first. One that says something else than HTTP/2
/// speaks HTTP/1; one that just closes may do so, or may be about to end.
fn speaks_http2(connections: &Connections, first: First) -> Result<(), Error> {
    let reason = match first {
        First::Http2 => return Ok(()),
        // It may be busy.
        First::Silent if !connections.known.spoke_http1_alone() => return Ok(()),
        First::Other | First::Silent => {
            connections.known.learn(Speaks::Http1Alone);
            "it speaks HTTP/1 alone"
        }
        First::Closed => "it closed the connection instead of speaking HTTP/2",
    };
    Err(translate::not_http2(connections, reason))
}

async fn open(
    tls: &Tls,
    connections: &Connections,
    pool: &Rc<Pool>,
    protocol: MeshProtocol,
    others: bool,
) -> Result<Stream, Error> {
    let endpoint = &connections.endpoint;
    let opening = connect::endpoint(tls, pool, endpoint, protocol);
    connect::watched(&connections.availability, others, endpoint.address, opening).await
}

fn upstream_error(connections: &Connections, error: &hyper::Error) -> Error {
    Error::Upstream {
        address: connections.endpoint.address,
        reason: error.to_string(),
        refused: false,
    }
}

/// A connection that counts as open while it is, upgraded ones too.
pub(crate) struct Held {
    stream: Stream,
    _room: Room,
}

impl Held {
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    io::write_by!(stream);
}
