//! Many byte streams over one connection between two sidecars.
//!
//! What concurrent requests send in one turn of the event loop leaves as one TLS
//! record by one system call, and a burst of them costs one handshake. A stream
//! is a connection to all who use it: it ends in each direction on its own, its
//! sender waits when its reader does not read, and it breaks with the connection.
//!
//! The client's side opens streams, numbered in ascending order, each by a frame
//! of no data. A stream that the other side refuses, for want of places or as it is on
//! its way out, gets its end before anything else. Frames are in [`frame`]; what either side keeps of a
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
/// How far the streams that a peer resets before they are answered may outnumber
/// those that are answered, before the peer is told to open no more. Envoy's figure
/// for premature resets is 500, and callers whose clients are impatient need more.
const MOST_RESETS: u32 = 1024;
/// How many more resets a peer that was told so may still cause: as many as its
/// streams that were open by then, twice. Then the connection ends.
const LAST_RESETS: u32 = 2 * MOST_STREAMS as u32;
/// Consecutive frames that change nothing before the connection ends. Honest peers
/// send some that cross a reset: what they had to say within one round trip.
const MOST_VOID: u32 = 10_000;
/// Bytes that wait for the connection before those who write wait too.
const ROOM: usize = 64 * 1024;
