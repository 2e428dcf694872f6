//! Many byte streams over one connection between two sidecars.
//!
//! What concurrent requests send in one turn of the event loop leaves as one TLS
//! record by one system call, and a burst of them costs one handshake. A stream
//! is a connection to all who use it: it ends in each direction on its own, its
//! sender waits when its reader does not read, and it breaks with the connection.
//!
//! The client's side opens streams, numbered in ascending order, each by a frame
//! of no data. Frames are in [`frame`]; what either side keeps of a
//! stream is a lane ([`session`]).

mod driver;
mod frame;
#[cfg(feature = "fuzzing")]
mod heard;
mod session;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use driver::{connect, serve};
#[cfg(feature = "fuzzing")]
pub(crate) use heard::heard;
pub(crate) use session::Session;
pub(crate) use stream::Stream;

/// Bytes of a stream that may be on their way or wait for their reader: what
/// HTTP/2 allows here, too.
const WINDOW: u32 = crate::http::STREAM_WINDOW;
/// Streams of one connection at most. One more gets a connection of its own; a
/// client that opens it here nevertheless sees it reset.
pub(crate) const MOST_STREAMS: usize = 128;
/// Bytes that wait for the connection before those who write wait too.
const ROOM: usize = 64 * 1024;
