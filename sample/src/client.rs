//! One client per protocol, each a connection that is kept and used again.
//!
//! A [`Client`] belongs to one worker of the load generator and makes one call
//! at a time; it connects when it has to and never retries, so that what a mesh
//! lost shows up as a failure.

mod grpc;
mod http;
mod raw;
mod target;
mod tls;
mod websocket;

use std::time::Duration;

use ::http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::net::TcpStream;

pub use target::{Target, TargetError};

/// What to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC: one unary call.
    Grpc,
    /// gRPC: one call with ten streamed replies.
    GrpcStream,
    /// gRPC: one call with three messages each way.
    GrpcBidi,
    /// WebSocket: a message and its echo.
    Websocket,
    /// HTTP/1.1 inside of the client's own TLS.
    Tls,
    /// Bytes and their echo.
    Tcp,
    /// The server's banner, then a line and its echo.
    ServerFirst,
}

/// What a call sends.
#[derive(Clone, Debug)]
pub struct Call {
    /// The protocol.
    pub protocol: Protocol,
    /// Where.
    pub target: Target,
    /// HTTP method.
    pub method: Method,
    /// More HTTP headers; `host` replaces the target's own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Bytes of request body, or of each raw message.
    pub body_bytes: usize,
    /// The name in TLS's SNI; the target's host without one.
    pub sni: Option<String>,
    /// A new connection for every call.
    pub fresh_connection: bool,
    /// Longest time for one call, connecting included.
    pub timeout: Duration,
}

impl Call {
    /// A GET of `target`, kept alive, ten seconds at most.
    pub fn new(protocol: Protocol, target: Target) -> Self {
        Self {
            protocol,
            target,
            method: Method::GET,
            headers: Vec::new(),
            body_bytes: 0,
            sni: None,
            fresh_connection: false,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Who answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The answering server's version, where the protocol carries one.
    pub version: Option<String>,
    /// `service/version` of every hop, the first one first.
    pub chain: Vec<String>,
}

/// Why a call failed; the text is what reports count by.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error("connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The TLS handshake failed.
    #[error("TLS handshake: {0}")]
    Tls(#[source] std::io::Error),
    /// The TLS name is none.
    #[error("`{0}` is no name for SNI: give a DNS name by --sni")]
    Name(String),
    /// HTTP broke off.
    #[error("HTTP: {0}")]
    Http(String),
    /// Not a success.
    #[error("status {0}")]
    Status(StatusCode),
    /// A gRPC status.
    #[error("gRPC status {code:?}: {message}")]
    Grpc {
        /// The code.
        code: tonic::Code,
        /// The server's message.
        message: String,
    },
    /// WebSocket broke off.
    #[error("WebSocket: {0}")]
    WebSocket(String),
    /// A raw connection broke off.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The answer is not what was sent.
    #[error("wrong answer: {0}")]
    Answer(&'static str),
    /// No answer in time.
    #[error("timed out")]
    Timeout,
}

/// A worker's connection.
pub struct Client {
    call: Call,
    connection: Connection,
}

enum Connection {
    None,
    Http(http::Sender),
    Grpc(grpc::Client),
    WebSocket(Box<websocket::Socket>),
    Raw(raw::Stream),
}

impl Client {
    /// Connects with the first call.
    pub fn new(call: Call) -> Self {
        Self {
            call,
            connection: Connection::None,
        }
    }

    /// Makes one call. After a failure the next call connects anew.
    pub async fn call(&mut self) -> Result<Answer, CallError> {
        // Taken, so that a call cut off in the middle leaves no half-used connection.
        let mut connection = std::mem::replace(&mut self.connection, Connection::None);
        if self.call.fresh_connection {
            connection = Connection::None;
        }
        let exchange = async {
            if !connection.is_usable().await {
                connection = Connection::open(&self.call).await?;
            }
            connection.exchange(&self.call).await
        };
        let result = tokio::time::timeout(self.call.timeout, exchange)
            .await
            .unwrap_or(Err(CallError::Timeout));
        // A status is an answer: the connection it came over is fine.
        if matches!(
            result,
            Ok(_) | Err(CallError::Status(_) | CallError::Grpc { .. })
        ) {
            self.connection = connection;
        }
        result
    }
}

impl Connection {
    async fn open(call: &Call) -> Result<Self, CallError> {
        Ok(match call.protocol {
            Protocol::Http1 | Protocol::Http2 | Protocol::Tls => {
                Self::Http(http::connect(call).await?)
            }
            Protocol::Grpc | Protocol::GrpcStream | Protocol::GrpcBidi => {
                Self::Grpc(grpc::connect(call).await?)
            }
            Protocol::Websocket => Self::WebSocket(Box::new(websocket::connect(call).await?)),
            Protocol::Tcp => Self::Raw(raw::connect(call).await?),
            Protocol::ServerFirst => Self::Raw(raw::connect_and_greet(call).await?),
        })
    }

    /// Whether the connection can take a call: the server may have closed it
    /// since the last one.
    async fn is_usable(&mut self) -> bool {
        match self {
            Self::None => false,
            Self::Http(sender) => sender.is_usable().await,
            Self::Grpc(_) | Self::WebSocket(_) | Self::Raw(_) => true,
        }
    }

    async fn exchange(&mut self, call: &Call) -> Result<Answer, CallError> {
        match self {
            Self::None => Err(CallError::Answer("no connection")),
            Self::Http(sender) => sender.request(call).await,
            Self::Grpc(client) => grpc::request(client, call).await,
            Self::WebSocket(socket) => websocket::echo(socket, call).await,
            Self::Raw(stream) => raw::echo(stream, call).await,
        }
    }
}

async fn tcp(call: &Call) -> Result<TcpStream, CallError> {
    let address = (call.target.host.as_str(), call.target.port);
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(CallError::Connect)?;
    stream.set_nodelay(true).map_err(CallError::Connect)?;
    Ok(stream)
}

/// Fetches one page and gives its status and text, over HTTP/1.1.
pub async fn get(call: &Call) -> Result<(StatusCode, String), CallError> {
    let exchange = async {
        let mut sender = http::connect(call).await?;
        sender.get(call).await
    };
    tokio::time::timeout(call.timeout, exchange)
        .await
        .unwrap_or(Err(CallError::Timeout))
}
