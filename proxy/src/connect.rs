//! Connecting to an endpoint: TCP, and the TLS that policy and endpoint ask for.

use crate::{
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
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpStream;

/// Opens a plain connection.
pub(crate) async fn tcp(address: SocketAddr, pool: &ConnectionPool) -> Result<TcpStream, Error> {
    let failed = |error: std::io::Error| Error::Connect {
        address,
        source: Arc::new(error),
    };
    let stream = tokio::time::timeout(pool.connect_timeout, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if let Some(keepalive) = &pool.keepalive {
        let probing = probing(keepalive);
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_keepalive(&probing).map_err(failed)?;
    }
    Ok(stream)
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

/// Opens what the plan's `tls.mode` and the endpoint ask for.
pub(crate) async fn endpoint(
    tls: &Tls,
    plan: &Plan,
    endpoint: &Endpoint,
    protocol: MeshProtocol,
) -> Result<Stream, Error> {
    let address = endpoint.address;
    let refused = |reason: String| {
        Error::TlsMode(Box::new(TlsRefusal {
            address,
            source: plan.policy.sources.tls.clone(),
            reason,
        }))
    };
    let mesh_only = endpoint.mtls_only && !tls.is_own(address.ip());
    let plain = async || {
        let stream = tcp(address, &plan.policy.pool).await?;
        Ok(Stream::Plain(Rewind::new(Bytes::new(), stream)))
    };
    match (&plan.policy.tls, &endpoint.identity) {
        (ClientTls::Auto | ClientTls::IstioMutual, Some(expected)) => {
            let stream = tcp(address, &plan.policy.pool).await?;
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
            let stream = tcp(address, &plan.policy.pool).await?;
            let shaking = Box::pin(tls.originate(stream, hello));
            let stream = shaking.await.map_err(refused)?;
            Ok(Stream::Client(Box::new(stream)))
        }
    }
}
