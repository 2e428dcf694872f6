//! Connecting to an endpoint: TCP, and the TLS that policy and endpoint ask for.
//!
//! Whoever connects keeps the endpoint's [`Availability`] true: one that has not
//! answered for a while takes no others meanwhile, and one that can't be reached
//! is known to all threads at once.

use crate::{
    availability::Availability,
    clock,
    error::{Error, TlsRefusal},
    io::Rewind,
    pool::Plan,
    stream::Stream,
    tls::Tls,
};
use bytes::Bytes;
use linnet_mesh::{
    Endpoint,
    destination::{ClientTls, ConnectionPool, TcpKeepalive},
    protocol::MeshProtocol,
};
use rustix::io::Errno;
use std::{
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::Notify};

/// How long a connection waits for others of its thread to give up their files.
const RELEASE: Duration = Duration::from_secs(1);
/// A thread closes what is idle at most that often.
const RELIEF_PAUSE: Duration = Duration::from_millis(200);

/// What a thread's connections tell each other when the process has no file left.
#[derive(Clone, Default)]
struct Shortage {
    noticed: Rc<Notify>,
    released: Rc<Notify>,
}

thread_local! {
    static SHORTAGE: Shortage = Shortage::default();
}

/// Waits until a connection can't be opened for want of a file, has `release` close what
/// is idle on this thread, and lets the connection try again.
pub(crate) async fn relieve_shortage(release: impl FnOnce()) {
    let shortage = SHORTAGE.with(Shortage::clone);
    shortage.noticed.notified().await;
    release();
    shortage.released.notify_waiters();
    tokio::time::sleep(RELIEF_PAUSE).await;
}

fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::MFILE | Errno::NFILE))
}

async fn connected(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let connecting = tokio::time::timeout(limit, TcpStream::connect(address));
    connecting
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Connects once more when idle connections have given up their files.
async fn connected_again(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let shortage = SHORTAGE.with(Shortage::clone);
    let released = shortage.released.notified();
    shortage.noticed.notify_one();
    // It is tried in any case: others may have closed theirs.
    let _ = tokio::time::timeout(RELEASE, released).await;
    connected(address, limit).await
}

/// How long a connection may take to come about before requests that have another
/// endpoint go there: a hundred times what a busy node needs.
const SUSPICIOUS: Duration = Duration::from_millis(250);
/// How long a request waits for a connection when there are endpoints that it has
/// not tried. Longer than TCP takes to send a lost first packet again.
const IMPATIENT: Duration = Duration::from_secs(2);

/// How a silent connection finds out that its peer's node is gone: in 25 s.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    time: Some(Duration::from_secs(10)),
    interval: Some(Duration::from_secs(5)),
    probes: Some(3),
};
/// How long a connection waits for its peer's node to take what was sent; by itself TCP
/// would wait for a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Opens a plain connection.
pub(crate) async fn tcp(address: SocketAddr, pool: &ConnectionPool) -> Result<TcpStream, Error> {
    let failed = |error: io::Error| Error::Connect {
        address,
        source: Arc::new(error),
    };
    let stream = match connected(address, pool.connect_timeout).await {
        Err(error) if is_shortage(&error) => {
            Box::pin(connected_again(address, pool.connect_timeout)).await
        }
        connected => connected,
    };
    let stream = stream.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if let Some(keepalive) = &pool.keepalive {
        let probing = probing(keepalive);
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_keepalive(&probing).map_err(failed)?;
    }
    Ok(stream)
}

/// Opens a plain connection to an endpoint, whose node may vanish without a word. A
/// DestinationRule's keepalive comes before the mesh's own. `meshed`: it is called over
/// the mesh's own TLS.
async fn to_endpoint(
    address: SocketAddr,
    pool: &ConnectionPool,
    protocol: MeshProtocol,
    meshed: bool,
) -> Result<TcpStream, Error> {
    let stream = tcp(address, pool).await?;
    let socket = socket2::SockRef::from(&stream);
    let set = || {
        if pool.keepalive.is_none() {
            socket.set_tcp_keepalive(&probing(&KEEPALIVE))?;
        }
        match protocol {
            // Who reads these reads always: only a peer that is gone leaves bytes lying.
            MeshProtocol::Http2 | MeshProtocol::Shared => {}
            MeshProtocol::Http1 if meshed => {}
            // An application may stop reading for as long as it likes, and the kernel does
            // not tell that from a peer that is gone.
            MeshProtocol::Http1 | MeshProtocol::Opaque => return Ok(()),
        }
        socket.set_tcp_user_timeout(Some(patience(pool)))
    };
    set().map_err(|error: io::Error| Error::Connect {
        address,
        source: Arc::new(error),
    })?;
    Ok(stream)
}

/// How long a peer's node may leave bytes lying: as long as a DestinationRule lets it leave
/// probes unanswered.
fn patience(pool: &ConnectionPool) -> Duration {
    let own = pool.keepalive.as_ref();
    let own = own.and_then(|own| own.interval?.checked_mul(own.probes?));
    own.filter(|own| !own.is_zero()).unwrap_or(UNACKNOWLEDGED)
}

fn probing(keepalive: &TcpKeepalive) -> socket2::TcpKeepalive {
    let mut probing = socket2::TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        probing = probing.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probing = probing.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        probing = probing.with_retries(probes);
    }
    probing
}

/// Opens a connection to an endpoint, and takes note whether that can be had.
/// `others`: there are endpoints that have not been tried.
pub(crate) async fn watched(
    availability: &Availability,
    others: bool,
    address: SocketAddr,
    opening: impl Future<Output = Result<Stream, Error>>,
) -> Result<Stream, Error> {
    let mut opening = pin!(opening);
    // Callers who give up sooner find it out together.
    let patience = SUSPICIOUS.saturating_sub(availability.waited());
    let mut attempt = Attempt {
        availability,
        began: clock::instant(),
        ended: false,
    };
    let quick = clock::timeout(patience, opening.as_mut()).await;
    let suspected = quick.is_err() && availability.mark_unavailable(clock::instant());
    let opened = match quick {
        Ok(opened) => opened,
        Err(_) if others => {
            let late = tokio::time::timeout(IMPATIENT.saturating_sub(SUSPICIOUS), opening).await;
            late.unwrap_or_else(|_| {
                let source = Arc::new(io::ErrorKind::TimedOut.into());
                Err(Error::Connect { address, source })
            })
        }
        Err(_) => opening.await,
    };
    attempt.ended = true;
    availability.clear_waited();
    match &opened {
        Ok(_) if suspected => availability.mark_reached(),
        Err(error) if error.is_unavailability() => {
            availability.mark_unavailable(clock::instant());
        }
        _ => {}
    }
    opened
}

/// A connection that is being opened. What nobody waits for any longer has waited in
/// vain for as long as it did.
struct Attempt<'a> {
    availability: &'a Availability,
    began: Instant,
    ended: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let now = tokio::time::Instant::now().into_std();
            let waited = now.saturating_duration_since(self.began);
            self.availability.add_waited(waited);
        }
    }
}

/// Opens what the plan's `tls.mode` and the endpoint ask for.
pub(crate) async fn endpoint(
    tls: &Tls,
    plan: &Plan,
    endpoint: &Endpoint,
    protocol: MeshProtocol,
) -> Result<Stream, Error> {
    let address = endpoint.address;
    let refusal = |reason: String, asked: bool| {
        Error::TlsMode(Box::new(TlsRefusal {
            address,
            source: plan.policy.sources.tls.clone(),
            reason,
            asked,
        }))
    };
    let refused = |reason: String| refusal(reason, false);
    let mesh_only = endpoint.mtls_only && !tls.is_own(address.ip());
    let to_endpoint = |meshed| to_endpoint(address, &plan.policy.pool, protocol, meshed);
    let plain = async || {
        let stream = to_endpoint(false).await?;
        Ok(Stream::Plain(Rewind::new(Bytes::new(), stream)))
    };
    match (&plan.policy.tls, &endpoint.identity) {
        (ClientTls::Auto | ClientTls::IstioMutual, Some(expected)) => {
            let stream = to_endpoint(true).await?;
            // A handshake's state is large, and over soon: on the heap, whatever waits
            // for connections stays small.
            let shaking = Box::pin(tls.connect(stream, address, expected, protocol));
            let stream = shaking.await?;
            Ok(Stream::Client(Box::new(stream)))
        }
        // What never leaves the pod meets no sidecar.
        (ClientTls::IstioMutual, None) if tls.is_own(address.ip()) => plain().await,
        (ClientTls::IstioMutual, None) => Err(refused(
            "mode is ISTIO_MUTUAL, but no sidecar takes mutual TLS there".to_owned(),
        )),
        _ if mesh_only => Err(refused(
            "it takes nothing but the mesh's mutual TLS (mode STRICT); leave mode out or make it ISTIO_MUTUAL"
                .to_owned(),
        )),
        (ClientTls::Auto, None) | (ClientTls::Disable, _) => plain().await,
        (mode @ (ClientTls::Simple(_) | ClientTls::Mutual { .. }), _) => {
            let hello = plan.originator.hello(mode, &plan.hostname, protocol);
            let hello = hello.map_err(refused)?;
            let stream = to_endpoint(false).await?;
            let shaking = Box::pin(tls.originate(stream, hello));
            let stream = shaking.await.map_err(|reason| refusal(reason, true))?;
            Ok(Stream::Client(Box::new(stream)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn connections_to_endpoints_find_out_that_a_node_has_vanished() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let minute = Duration::from_secs(60);
        let own = ConnectionPool {
            keepalive: Some(TcpKeepalive {
                time: Some(minute),
                interval: None,
                probes: None,
            }),
            ..ConnectionPool::default()
        };
        let patient = ConnectionPool {
            keepalive: Some(TcpKeepalive {
                time: None,
                interval: Some(minute),
                probes: Some(2),
            }),
            ..ConnectionPool::default()
        };
        let unsaid = &ConnectionPool::default();
        let (http1, http2) = (MeshProtocol::Http1, MeshProtocol::Http2);
        let (shared, opaque) = (MeshProtocol::Shared, MeshProtocol::Opaque);
        let short = Some(UNACKNOWLEDGED);
        for (pool, protocol, meshed, time, patience) in [
            (unsaid, shared, true, KEEPALIVE.time, short),
            (unsaid, http1, true, KEEPALIVE.time, short),
            (unsaid, http2, true, KEEPALIVE.time, short),
            (unsaid, http2, false, KEEPALIVE.time, short),
            (unsaid, http1, false, KEEPALIVE.time, None),
            (unsaid, opaque, true, KEEPALIVE.time, None),
            (&own, http2, true, Some(minute), short),
            (&patient, http1, true, None, Some(2 * minute)),
        ] {
            let stream = to_endpoint(address, pool, protocol, meshed).await;
            let stream = stream.unwrap();
            let socket = socket2::SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            let known = time.unwrap_or(socket.tcp_keepalive_time().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), known);
            let set = socket.tcp_user_timeout().unwrap();
            assert_eq!(set.filter(|set| !set.is_zero()), patience);
        }
    }

    /// Callers who give up soon find out together that nobody answers; whoever answers
    /// starts anew.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_long_but_a_black_hole_is_found_out() {
        let epoch = tokio::time::Instant::now().into_std();
        let availability = Availability::new(epoch, Arc::default());
        let address = ([127, 0, 0, 1], 9).into();
        let call = |patience| {
            let never = std::future::pending();
            tokio::time::timeout(patience, watched(&availability, true, address, never))
        };
        let patience = Duration::from_millis(200);
        assert!(call(patience).await.is_err());
        assert!(!availability.is_unavailable());
        let failed = async { Err(Error::NoCertificate) };
        assert!(watched(&availability, true, address, failed).await.is_err());
        assert!(call(patience).await.is_err());
        assert!(!availability.is_unavailable());
        assert!(call(patience).await.is_err());
        assert!(availability.is_unavailable());
    }
}
