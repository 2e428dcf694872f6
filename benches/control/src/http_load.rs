//! Requests over connections that are kept: all at once, and evenly spaced.

use crate::{Failure, convergence::quantile};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
    time::sleep_until,
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};

pub(crate) type Body = Full<Bytes>;
/// Requests at a time, in a closed loop.
const AT_ONCE: usize = 16;
/// Before anything counts.
const WARM_UP: u32 = 500;

/// The body of a plain GET that is answered 200.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if head.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        Err(head.to_owned().into())
    }
}

/// A service that answers POSTs over TLS, and the requests to send to it.
pub(crate) struct Load {
    sender: SendRequest<Body>,
    requests: Rc<dyn Fn(u32) -> Request<Body>>,
}

impl Load {
    pub(crate) async fn connect(
        address: SocketAddr,
        tls: Arc<ClientConfig>,
        requests: impl Fn(u32) -> Request<Body> + 'static,
    ) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(tls)
            .connect(address.ip().into(), stream)
            .await?;
        let io = TokioIo::new(stream);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let load = Self {
            sender,
            requests: Rc::new(requests),
        };
        load.closed(WARM_UP).await?;
        Ok(load)
    }

    /// Requests a second, one following another.
    pub(crate) async fn closed(&self, count: u32) -> Result<f64, Failure> {
        let began = Instant::now();
        let each = count / AT_ONCE as u32;
        let local = LocalSet::new();
        let mut workers = Vec::new();
        for worker in 0..AT_ONCE as u32 {
            let (mut sender, requests) = (self.sender.clone(), self.requests.clone());
            workers.push(local.spawn_local(async move {
                for number in 0..each {
                    let request = requests(worker * each + number);
                    send(&mut sender, request)
                        .await
                        .map_err(|e| e.to_string())?;
                }
                Ok::<_, String>(())
            }));
        }
        local.await;
        for worker in workers {
            worker.await??;
        }
        Ok(f64::from(each * AT_ONCE as u32) / began.elapsed().as_secs_f64())
    }

    /// Latencies p50 and p99 in milliseconds, each from when the request was due.
    pub(crate) async fn paced(&self, rate: u32, count: u32) -> Result<(f64, f64), Failure> {
        let local = LocalSet::new();
        let began = Instant::now();
        let mut requests = Vec::new();
        for number in 0..count {
            let due = began + Duration::from_secs(1) * number / rate;
            let mut sender = self.sender.clone();
            let request = (self.requests)(number);
            requests.push(local.spawn_local(async move {
                sleep_until(due.into()).await;
                send(&mut sender, request)
                    .await
                    .map_err(|e| e.to_string())?;
                Ok::<_, String>(due.elapsed().as_secs_f64() * 1e3)
            }));
        }
        local.await;
        let mut latencies = Vec::new();
        for request in requests {
            latencies.push(request.await??);
        }
        latencies.sort_by(f64::total_cmp);
        Ok((quantile(&latencies, 0.5), quantile(&latencies, 0.99)))
    }
}

async fn send(sender: &mut SendRequest<Body>, request: Request<Body>) -> Result<(), Failure> {
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status == StatusCode::OK && !body.is_empty() {
        Ok(())
    } else {
        Err(format!("answered {status}: {}", String::from_utf8_lossy(&body)).into())
    }
}
