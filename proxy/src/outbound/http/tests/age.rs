//! Connections that have become old: 30 minutes, a tenth more or less.

use super::{
    resilience::{held, until},
    support::{Sidecar, Upstream, local, text},
};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use std::{rc::Rc, time::Duration};
use tokio::time::sleep;

/// No connection is as old as that.
const YOUNG: Duration = Duration::from_secs(26 * 60);
/// Every one that has lived as long again has come of age.
const REST: Duration = Duration::from_secs(8 * 60);

fn get() -> Request<Full<Bytes>> {
    let request = Request::get("http://payment/").version(Version::HTTP_2);
    request.body(Full::default()).unwrap()
}

/// A server stays with its oldest callers alone if they never let go; a
/// certificate that was renewed is never shown.
#[tokio::test(start_paused = true)]
async fn an_old_upstream_connection_gets_no_new_requests() {
    local(async {
        let upstream = Upstream::ok().await;
        let sidecar = Sidecar::new(None, &[upstream.address]);
        for (pause, connections) in [(Duration::ZERO, 1), (YOUNG, 1), (REST, 2), (YOUNG, 2)] {
            sleep(pause).await;
            text(sidecar.send_http2(get()).await).await;
            assert_eq!(upstream.connections.get(), connections, "after {pause:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_outlives_the_age_of_its_connection() {
    local(async {
        let (upstream, gate) = held().await;
        let sidecar = Rc::new(Sidecar::new(None, &[upstream.address]));
        let send = || {
            let sidecar = sidecar.clone();
            tokio::task::spawn_local(async move { sidecar.send_http2(get()).await.status() })
        };
        let long = send();
        sleep(YOUNG + REST).await;
        let other = send();
        until(|| upstream.count() == 2).await;
        assert_eq!(upstream.connections.get(), 2);
        gate.add_permits(2);
        assert_eq!(long.await.unwrap(), 200);
        assert_eq!(other.await.unwrap(), 200);
    })
    .await;
}
