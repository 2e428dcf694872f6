//! HTTP/1.1 on the data path: lean, and as strict as hyper, which the tests
//! compare it with byte stream by byte stream.
//!
//! A connection has no task and no channel of its own on the client's side, and
//! one task on the server's. What is read lands in one block a thread; an idle
//! connection holds no buffer.

mod body;
pub(crate) mod client;
mod head;
mod interim;
pub(crate) mod server;
#[cfg(test)]
mod tests;
mod wire;
mod write;

pub(crate) use head::{content_length, recycle};

use http::StatusCode;
use std::io;

/// Headers of one message at most, trailers as many again; hyper's and Envoy's
/// figure.
const MOST_HEADERS: usize = 100;

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the connection ended before the message was complete")]
    Incomplete,
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    #[error("the message's head is too large")]
    TooLarge,
    #[error("the request's target is too long")]
    TargetTooLong,
    /// A client that speaks HTTP/2 where HTTP/1 was expected.
    #[error("the client speaks HTTP/2")]
    Http2,
    #[error("the body to send: {0}")]
    Body(String),
    /// The peer must not speak now.
    #[error("the server sent more than was asked for")]
    Unexpected,
}

impl Error {
    /// What a server answers to a head that it can't take, if anything.
    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Malformed(_) => Some(StatusCode::BAD_REQUEST),
            Self::TooLarge => Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Self::TargetTooLong => Some(StatusCode::URI_TOO_LONG),
            Self::Io(_) | Self::Incomplete | Self::Http2 | Self::Body(_) | Self::Unexpected => None,
        }
    }

    /// Reports whether the peer has broken the protocol.
    pub(crate) fn is_malformed(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_) | Self::TooLarge | Self::TargetTooLong | Self::Unexpected
        )
    }

    /// Whether the peer ended the connection instead of an answer.
    pub(crate) fn is_hang_up(&self) -> bool {
        match self {
            Self::Incomplete => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ),
            _ => false,
        }
    }
}

impl Clone for Error {
    fn clone(&self) -> Self {
        match self {
            Self::Io(error) => Self::Io(error.kind().into()),
            Self::Incomplete => Self::Incomplete,
            Self::Malformed(why) => Self::Malformed(why),
            Self::TooLarge => Self::TooLarge,
            Self::TargetTooLong => Self::TargetTooLong,
            Self::Http2 => Self::Http2,
            Self::Body(why) => Self::Body(why.clone()),
            Self::Unexpected => Self::Unexpected,
        }
    }
}
