//! The limit for any sidecar here: bytes from one connection to another, with the
//! sidecars' TLS and nothing else.
//!
//! It knows no protocol, checks no particular identity, counts nothing and says
//! nothing; what a sidecar costs beyond it is the price of being one.

use linnet_mesh::protocol::MeshProtocol;
use linnet_workload::Workload;
use rustls::pki_types::ServerName;
use std::{error::Error, future::Future, io, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "usage: linnet-bench-relay plain|accept|connect CERTIFICATES LISTEN=TARGET...";
/// By direction; few enough system calls for throughput.
const BUFFER: usize = 64 * 1024;

/// Which of its two connections is mutual TLS.
#[derive(Clone)]
enum Side {
    Neither,
    Accepted(TlsAcceptor),
    Connected(TlsConnector),
}

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (mode, directory) = arguments.next().zip(arguments.next()).ok_or(USAGE)?;
    let side = Side::new(&mode, || linnet_workload::from_files(&directory))?;
    let pairs: Vec<(SocketAddr, SocketAddr)> = arguments
        .map(|pair| parse(&pair))
        .collect::<Result<_, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut listeners = Vec::new();
        for (listen, target) in pairs {
            listeners.push(tokio::spawn(serve(
                TcpListener::bind(listen).await?,
                target,
                side.clone(),
            )));
        }
        for listener in listeners {
            listener.await??;
        }
        Ok(())
    })
}

fn parse(pair: &str) -> Result<(SocketAddr, SocketAddr), Failure> {
    let (listen, target) = pair.split_once('=').ok_or(USAGE)?;
    Ok((listen.parse()?, target.parse()?))
}

impl Side {
    fn new<E: Error + 'static>(
        mode: &str,
        workload: impl FnOnce() -> Result<Workload, E>,
    ) -> Result<Self, Failure> {
        let alpn = [MeshProtocol::Opaque.alpn()];
        match mode {
            "plain" => Ok(Self::Neither),
            "accept" => Ok(Self::Accepted(
                workload()?.server_config(&alpn, true).into(),
            )),
            "connect" => Ok(Self::Connected(workload()?.client_config(&alpn).into())),
            _ => Err(USAGE.into()),
        }
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, side: Side) -> io::Result<()> {
    let side = Arc::new(side);
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(relay(client, target, side.clone()));
    }
}

/// A connection that fails just ends.
async fn relay(client: TcpStream, target: SocketAddr, side: Arc<Side>) -> io::Result<()> {
    client.set_nodelay(true)?;
    match &*side {
        Side::Neither => copy(client, connect(target)).await,
        Side::Accepted(acceptor) => copy(acceptor.accept(client).await?, connect(target)).await,
        Side::Connected(connector) => {
            let name = ServerName::IpAddress(target.ip().into());
            let upstream = async { connector.connect(name, connect(target).await?).await };
            copy(client, upstream).await
        }
    }
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn copy<A, B>(mut client: A, upstream: impl Future<Output = io::Result<B>>) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut upstream = upstream.await?;
    copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await?;
    Ok(())
}
