//! `linnet-proxy wait`: holds an application's start until its sidecar is ready,
//! where the cluster has no native sidecars.

use linnet_mesh::names::port;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Longest wait; the kubelet then restarts the sidecar's container.
const LIMIT: Duration = Duration::from_secs(60);
/// A sidecar is ready a few of these after its start.
const PAUSE: Duration = Duration::from_millis(10);

/// Polls the sidecar on this host until it is ready; fails after a minute.
pub fn until_ready() -> ExitCode {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port::METRICS));
    if wait(address, LIMIT) {
        return ExitCode::SUCCESS;
    }
    tracing::error!("the sidecar was not ready within {LIMIT:?}; its log says what it waits for");
    ExitCode::FAILURE
}

fn wait(address: SocketAddr, limit: Duration) -> bool {
    let started = Instant::now();
    loop {
        if is_ready(address).unwrap_or(false) {
            return true;
        }
        if started.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(
        b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(&status[9..] == b"200")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn waits_for_a_200() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Not ready at first, then always. A caller that gave up on a slow answer
        // comes again, so what becomes of one connection does not matter.
        std::thread::spawn(move || {
            for (position, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let status = if position == 0 {
                    "503 Service Unavailable"
                } else {
                    "200 OK"
                };
                let _ = stream.read(&mut [0; 256]);
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            }
        });
        assert!(!wait(address, Duration::ZERO), "not ready yet");
        assert!(wait(address, Duration::from_secs(60)));
    }

    #[test]
    fn gives_up_on_a_sidecar_that_is_not_there() {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(!wait(address, Duration::ZERO));
    }
}
