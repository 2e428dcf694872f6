//! gRPC's framing of the one stream that a proxy has.
//!
//! tonic's own server keeps the buffer of the last message, and one as large
//! for what comes in, for as long as the stream lives: of a thousand proxies that
//! hear something now and then, that is most of what they cost. Here a message
//! is written a page at a time, as it is sent, from the parts that all proxies
//! share.

use super::{
    encoding::{Bytes, Outgoing},
    stream::Message,
};
use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use linnet_discovery::{limits, proto};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::sync::{mpsc, oneshot};
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

/// What a proxy takes of what it is told, for whoever waits for it.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// Chunks that were taken so far.
    chunks: AtomicU64,
    /// A message has been begun, and not taken whole.
    under_way: AtomicBool,
}

impl Delivery {
    pub(super) fn chunks(&self) -> u64 {
        self.chunks.load(Relaxed)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.load(Relaxed)
    }
}

/// What a proxy is told. `gone` is dropped when nobody holds the response any more.
pub(super) fn response(
    messages: mpsc::Receiver<Message>,
    delivery: Arc<Delivery>,
    gone: oneshot::Sender<Infallible>,
) -> Response {
    let body = Messages {
        queue: messages,
        message: None,
        delivery,
        _gone: gone,
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
    delivery: Arc<Delivery>,
    _gone: oneshot::Sender<Infallible>,
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
                self.delivery.chunks.fetch_add(1, Relaxed);
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            self.message = None;
            self.delivery.under_way.store(false, Relaxed);
            match ready!(self.queue.poll_recv(context)).transpose() {
                Ok(Some(message)) => {
                    self.delivery.under_way.store(true, Relaxed);
                    self.message = Some(Unsent::new(*message));
                }
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
    /// The rest of the piece that a chunk ended in.
    piece: Bytes,
    /// The other pieces of its update.
    pieces: std::vec::IntoIter<Bytes>,
    updates: std::vec::IntoIter<Vec<Bytes>>,
}

impl Unsent {
    fn new(message: Outgoing) -> Self {
        let Outgoing { head, updates } = message;
        let written = updates.iter().map(|pieces| {
            let length = length(pieces);
            key_len(UPDATES) + encoded_len_varint(length as u64) + length
        });
        let length = head.encoded_len() + written.sum::<usize>();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        // Not compressed.
        let mut begin = vec![0];
        begin.extend(length.to_be_bytes());
        begin.extend(head.encode_to_vec());
        Self {
            head: begin,
            piece: Bytes::new(),
            pieces: Vec::new().into_iter(),
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
            } else if !self.piece.is_empty() {
                let part = self.piece.split_to(room.min(self.piece.len()));
                chunk.extend_from_slice(&part);
            } else if let Some(piece) = self.pieces.next() {
                self.piece = piece;
            } else if let Some(pieces) = self.updates.next() {
                let length = length(&pieces);
                chunk.reserve_exact((PREFIX + length).min(room + PREFIX));
                encode_key(UPDATES, WireType::LengthDelimited, &mut chunk);
                encode_varint(length as u64, &mut chunk);
                self.pieces = pieces.into_iter();
            } else {
                break;
            }
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }
}

fn length(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_message_is_what_prost_writes_in_chunks_and_an_error_ends_the_stream() {
        let updates = [
            &[1][..],
            &[0],
            &[],
            &[CHUNK - 20],
            &[2, 0, 3 * CHUNK, 1],
            &[5],
        ];
        let updates = updates.map(|pieces| {
            let pieces = pieces.iter().enumerate();
            let pieces = pieces.map(|(at, &length)| vec![at as u8; length].into());
            pieces.collect::<Vec<Bytes>>()
        });
        let (sender, receiver) = mpsc::channel(2);
        let outgoing = || Outgoing {
            head: proto::ControllerMessage {
                version: 7,
                changed_at_micros: u64::MAX,
                updates: Vec::new(),
            },
            updates: updates.to_vec(),
        };
        let message = proto::ControllerMessage::from(outgoing());
        sender.send(Ok(Box::new(outgoing()))).await.unwrap();
        let end = Status::unavailable("later");
        sender.send(Err(end)).await.unwrap();
        let delivery = Arc::new(Delivery::default());
        let (gone, is_gone) = oneshot::channel();
        let mut body = response(receiver, delivery.clone(), gone).into_body();
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
        assert!(delivery.chunks() > 4 && !delivery.is_under_way());
        drop(body);
        assert!(is_gone.await.is_err());
    }

    #[tokio::test]
    async fn an_overlong_message_is_refused_before_it_is_read() {
        let length = u32::try_from(limits::MESSAGE + 1).unwrap().to_be_bytes();
        let head = [&[0][..], &length].concat();
        let refused = requests(Body::from(head)).message().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    }
}
