//! What tests of several crates share.

use std::{mem, net::SocketAddr};

use tokio::net::TcpSocket;

/// Returns an address of this machine where nobody listens, and nobody ever will: the
/// port stays taken for as long as the process lives, by a socket that does not listen,
/// so that no other test is given it.
///
/// # Panics
///
/// If the machine has no more ports or files.
#[must_use]
#[allow(clippy::unwrap_used, reason = "only tests call it")]
pub fn closed() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    mem::forget(socket);
    address
}
