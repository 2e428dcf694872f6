//! Connections that are not HTTP, and how long they may be silent or live.

use super::{
    resilience::policy,
    support::{Sidecar, echo, local},
};
use linnet_mesh::destination::ConnectionPool;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

const CLOSED: &str = "istio_tcp_connections_closed_total";
const MINUTE: Duration = Duration::from_secs(60);

async fn talk(stream: &mut TcpStream) {
    // No protocol that is known begins like this.
    stream.write_all(b"\x00\x01\x02\x03").await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, [0, 1, 2, 3]);
}

/// Until the sidecar closes it.
async fn closed(stream: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_and_one_that_speaks_is_not() {
    local(async {
        let sidecar = Sidecar::new(None, &[echo().await]);
        sidecar.called(policy(ConnectionPool {
            tcp_idle_timeout: Some(MINUTE),
            ..ConnectionPool::DEFAULT
        }));
        let mut stream = sidecar.connect().await;
        for _ in 0..10 {
            talk(&mut stream).await;
            sleep(MINUTE * 9 / 10).await;
        }
        talk(&mut stream).await;
        let took = closed(&mut stream).await;
        assert!((MINUTE..MINUTE * 5 / 4).contains(&took), "{took:?}");
        assert_eq!(sidecar.flags_of(CLOSED, 1).await, ["SI"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_lives_no_longer_than_its_policy_allows() {
    local(async {
        let sidecar = Sidecar::new(None, &[echo().await]);
        sidecar.called(policy(ConnectionPool {
            max_connection_duration: Some(MINUTE * 2),
            ..ConnectionPool::DEFAULT
        }));
        let mut stream = sidecar.connect().await;
        let begun = Instant::now();
        for _ in 0..3 {
            talk(&mut stream).await;
            sleep(MINUTE / 2).await;
        }
        closed(&mut stream).await;
        let lived = begun.elapsed();
        let wanted = MINUTE * 2..MINUTE * 2 + Duration::from_secs(1);
        assert!(wanted.contains(&lived), "{lived:?}");
        assert_eq!(sidecar.flags_of(CLOSED, 1).await, ["DT"]);
    })
    .await;
}
