//! Connecting to an endpoint: TCP, and mutual TLS where a sidecar listens.

use crate::{error::Error, io::Rewind, stream::Stream, tls::Tls};
use bytes::Bytes;
use linnet_mesh::{SpiffeId, protocol::MeshProtocol};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpStream;

/// DestinationRule's `connectTimeout` where none is set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a plain connection.
pub(crate) async fn tcp(address: SocketAddr) -> Result<TcpStream, Error> {
    let failed = |error: std::io::Error| Error::Connect {
        address,
        source: Arc::new(error),
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// Opens what an endpoint expects: mutual TLS if it has an identity, else plain.
pub(crate) async fn endpoint(
    tls: &Tls,
    address: SocketAddr,
    identity: Option<&SpiffeId>,
    protocol: MeshProtocol,
) -> Result<Stream, Error> {
    let stream = tcp(address).await?;
    match identity {
        Some(expected) => {
            let stream = tls.connect(stream, address, expected, protocol).await?;
            Ok(Stream::Client(Box::new(stream)))
        }
        None => Ok(Stream::Plain(Rewind::new(Bytes::new(), stream))),
    }
}
