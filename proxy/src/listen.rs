//! Listeners of the data threads: one socket a thread on a shared port, so that
//! the kernel spreads connections and no thread waits for another.

use linnet_discovery::Target;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
};
use tokio::net::TcpStream;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Binds `count` sockets to one address; port 0 becomes one free port for all.
/// An unspecified IPv6 address falls back to IPv4's where there is no IPv6.
///
/// # Errors
/// The address can't be bound; the message names it.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<StdListener>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    let first = match bind_one(address) {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into()).map_err(named)?
        }
        bound => bound.map_err(named)?,
    };
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    while listeners.len() < count {
        listeners.push(bind_one(bound).map_err(named)?);
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Only sockets of the same user may share the port.
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where a redirected connection was going (SO_ORIGINAL_DST); `None` for one
/// that was not redirected.
///
/// # Errors
/// The socket is gone.
pub(crate) fn original_destination(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    let asked = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    // Without connection tracking, or without an entry in it, nobody redirected.
    let Some(original) = asked.ok().and_then(|address| address.as_socket()) else {
        return Ok(None);
    };
    let original = canonical(original);
    Ok((original != local).then_some(original))
}

/// An IPv4 address as such, also on a dual-stack socket.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What an explicit listener leads to.
pub(crate) fn host_target(host: &str) -> Target {
    Target::Host(host.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_one_port() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: std::collections::HashSet<_> = listeners
            .iter()
            .map(|l| l.local_addr().unwrap().port())
            .collect();
        assert_eq!((listeners.len(), ports.len()), (3, 1));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
    }

    #[tokio::test]
    async fn a_direct_connection_has_no_original_destination() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(original_destination(&stream).unwrap(), None);
    }
}
