//! A WebSocket: one message out, the same one back.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{Answer, Call, CallError, http, tcp};

pub(super) struct Socket {
    stream: WebSocketStream<TcpStream>,
    answer: Answer,
}

pub(super) async fn connect(call: &Call) -> Result<Socket, CallError> {
    let stream = tcp(call).await?;
    let path = match call.target.path.as_str() {
        "/" => "/ws",
        path => path,
    };
    let uri = format!("ws://{}{path}", call.target.authority);
    let (stream, response) = tokio_tungstenite::client_async(uri, stream)
        .await
        .map_err(failed)?;
    Ok(Socket {
        answer: http::answer(response.headers()),
        stream,
    })
}

pub(super) async fn echo(socket: &mut Socket, call: &Call) -> Result<Answer, CallError> {
    let sent = Message::text("w".repeat(call.body_bytes.max(1)));
    socket.stream.send(sent.clone()).await.map_err(failed)?;
    loop {
        match socket.stream.next().await {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(message)) if message == sent => return Ok(socket.answer.clone()),
            Some(Ok(_)) => return Err(CallError::Answer("the message is not an echo")),
            Some(Err(error)) => return Err(failed(error)),
            None => return Err(CallError::WebSocket("closed".to_owned())),
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // `map_err` passes by value.
fn failed(error: Error) -> CallError {
    match error {
        Error::Http(response) => CallError::Status(response.status()),
        other => CallError::WebSocket(other.to_string()),
    }
}
