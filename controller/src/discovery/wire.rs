//! gRPC's framing of the one stream that a proxy has.
//!
//! tonic's own server keeps the buffer of the last message, and one as large
//! for what comes in, for as long as the stream lives: of a thousand proxies that
//! hear something now and then, that is most of what they cost. Here a message
//! is written a page at a time, as it is sent, from the parts that all proxies
//! share.

use super::{encoding::Bytes, stream::Message};
use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use linnet_discovery::{limits, proto};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming, codec::BufferSettings};
use tonic_prost::ProstCodec;

/// The stream's path: service and method of discovery.proto.
pub(super) const STREAM: &str = "/linnet.discovery.v1.Discovery/Stream";
/// Most messages of a proxy are acknowledgements of a few bytes; the buffer
/// grows for others.
const BUFFER: usize = 128;
/// `ControllerMessage.updates`.
const UPDATES: u32 = 3;
/// What is written at a time, about, bytes: less than a page with all that goes
/// around it.
const CHUNK: usize = 4000;
/// Before an update: its key and length, bytes at most.
const PREFIX: usize = 11;

/// What a proxy says.
pub(super) fn requests(body: Body) -> Streaming<proto::ProxyMessage> {
    type Requests = ProstCodec<proto::ControllerMessage, proto::ProxyMessage>;
    let decoder = Requests::raw_decoder(BufferSettings::new(BUFFER, BUFFER));
    Streaming::new_request(decoder, body, None, Some(limits::MESSAGE))
}

/// What a proxy is told.
pub(super) fn response(messages: mpsc::Receiver<Message>) -> Response {
    let body = Messages {
        queue: messages,
        message: None,
        ended: false,
    };
    let mut response = Response::new(Body::new(body));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

/// Each message as it is asked for, then how the stream ended.
struct Messages {
    queue: mpsc::Receiver<Message>,
    /// The message on its way.
    message: Option<Unsent>,
    ended: bool,
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while !self.ended {
            if let Some(chunk) = self.message.as_mut().and_then(Unsent::chunk) {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            self.message = None;
            match ready!(self.queue.poll_recv(context)).transpose() {
                Ok(Some(message)) => self.message = Some(Unsent::new(*message)),
                Ok(None) => return Poll::Ready(Some(Ok(self.end(&Status::ok(""))))),
                Err(status) => return Poll::Ready(Some(Ok(self.end(&status)))),
            }
        }
        Poll::Ready(None)
    }
}

impl Messages {
    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            let unknown = HeaderValue::from(tonic::Code::Unknown as i32);
            trailers.insert(Status::GRPC_STATUS, unknown);
        }
        Frame::trailers(trailers)
    }
}

/// What is not sent yet of a message.
struct Unsent {
    /// gRPC's header, and the message but for its updates.
    head: Vec<u8>,
    /// The rest of the update that a chunk ended in.
    update: Bytes,
    updates: std::vec::IntoIter<Bytes>,
}

impl Unsent {
    fn new(mut message: proto::ControllerMessage) -> Self {
        let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
        let updates = std::mem::take(&mut message.updates);
        // Not compressed.
        let mut head = vec![0];
        head.extend(length.to_be_bytes());
        head.extend(message.encode_to_vec());
        Self {
            head,
            update: Bytes::new(),
            updates: updates.into_iter(),
        }
    }

    /// The next bytes; `None`: there are no more.
    fn chunk(&mut self) -> Option<Bytes> {
        let mut chunk = std::mem::take(&mut self.head);
        loop {
            let room = CHUNK.saturating_sub(chunk.len());
            if room == 0 {
                break;
            } else if !self.update.is_empty() {
                let part = self.update.split_to(room.min(self.update.len()));
                chunk.extend_from_slice(&part);
            } else if let Some(update) = self.updates.next() {
                chunk.reserve_exact((PREFIX + update.len()).min(room + PREFIX));
                encode_key(UPDATES, WireType::LengthDelimited, &mut chunk);
                encode_varint(update.len() as u64, &mut chunk);
                self.update = update;
            } else {
                break;
            }
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_message_is_what_prost_writes_in_chunks_and_an_error_ends_the_stream() {
        let updates = [1, 0, CHUNK - 20, 3 * CHUNK, 5].map(|length| vec![7; length].into());
        let (sender, receiver) = mpsc::channel(2);
        let message = proto::ControllerMessage {
            version: 7,
            changed_at_micros: u64::MAX,
            updates: updates.to_vec(),
        };
        sender.send(Ok(Box::new(message.clone()))).await.unwrap();
        let end = Status::unavailable("later");
        sender.send(Err(end)).await.unwrap();
        let mut body = response(receiver).into_body();
        let mut sent = Vec::new();
        let trailers = loop {
            match body.frame().await.unwrap().unwrap().into_data() {
                Ok(chunk) => {
                    assert!(chunk.len() <= CHUNK + PREFIX);
                    sent.extend(chunk);
                }
                Err(trailers) => break trailers.into_trailers().unwrap(),
            }
        };
        assert_eq!(sent[0], 0, "not compressed");
        let length = u32::try_from(sent.len() - 5).unwrap();
        assert_eq!(sent[1..5], length.to_be_bytes());
        let read = proto::ControllerMessage::decode(&sent[5..]).unwrap();
        assert_eq!(read, message);
        assert_eq!(trailers[Status::GRPC_STATUS], "14");
        assert_eq!(trailers["grpc-message"], "later");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn an_overlong_message_is_refused_before_it_is_read() {
        let length = u32::try_from(limits::MESSAGE + 1).unwrap().to_be_bytes();
        let head = [&[0][..], &length].concat();
        let refused = requests(Body::from(head)).message().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    }
}
