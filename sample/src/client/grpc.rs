//! gRPC calls, with the replies checked.

use futures_util::stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::{Answer, Call, CallError, Protocol};
use crate::echo::echo_client::EchoClient;
use crate::echo::{EchoReply, EchoRequest};

pub(super) type Client = EchoClient<Channel>;

/// Replies asked of the streaming call.
const REPLIES: u32 = 10;
/// Messages sent by the call that streams both ways.
const MESSAGES: u32 = 3;

pub(super) async fn connect(call: &Call) -> Result<Client, CallError> {
    let uri = format!("http://{}", call.target.authority);
    let endpoint = Endpoint::from_shared(uri).map_err(|error| connect_failed(&error))?;
    let channel = endpoint.tcp_nodelay(true).connect().await;
    Ok(EchoClient::new(
        channel.map_err(|error| connect_failed(&error))?,
    ))
}

fn connect_failed(error: &tonic::transport::Error) -> CallError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    CallError::Connect(std::io::Error::other(text))
}

pub(super) async fn request(client: &mut Client, call: &Call) -> Result<Answer, CallError> {
    let message = "m".repeat(call.body_bytes.max(1));
    let request = EchoRequest {
        message: message.clone(),
        repeat: REPLIES,
        // `/status/N` asks for a gRPC status as it asks HTTP for one.
        fail_with: fail_with(call.target.path.path()),
    };
    let (replies, wanted) = match call.protocol {
        Protocol::GrpcStream => {
            let replies = client.server_stream(request).await.map_err(failed)?;
            (collect(replies.into_inner()).await?, REPLIES)
        }
        Protocol::GrpcBidi => {
            let requests = stream::iter(vec![request; MESSAGES as usize]);
            let replies = client.bidi(requests).await.map_err(failed)?;
            (collect(replies.into_inner()).await?, MESSAGES)
        }
        _ => {
            let reply = client.unary(request).await.map_err(failed)?;
            (vec![reply.into_inner()], 1)
        }
    };
    if replies.len() != wanted as usize {
        return Err(CallError::Answer("replies are missing"));
    }
    if replies.iter().any(|reply| reply.message != message) {
        return Err(CallError::Answer("a reply is not an echo"));
    }
    let reply = replies.into_iter().next_back().unwrap_or_default();
    Ok(Answer {
        chain: vec![format!("{}/{}", reply.service, reply.version)],
        version: Some(reply.version),
    })
}

fn fail_with(path: &str) -> u32 {
    let code = path.strip_prefix("/status/");
    code.and_then(|code| code.parse().ok()).unwrap_or(0)
}

async fn collect(mut replies: Streaming<EchoReply>) -> Result<Vec<EchoReply>, CallError> {
    let mut collected = Vec::new();
    while let Some(reply) = replies.message().await.map_err(failed)? {
        collected.push(reply);
    }
    Ok(collected)
}

#[allow(clippy::needless_pass_by_value)] // `map_err` passes by value.
fn failed(status: Status) -> CallError {
    // A status that the server sent has no source; one that tonic made of a
    // broken connection has.
    if std::error::Error::source(&status).is_some() {
        return CallError::Http(status.message().to_owned());
    }
    CallError::Grpc {
        code: status.code(),
        message: status.message().to_owned(),
    }
}
