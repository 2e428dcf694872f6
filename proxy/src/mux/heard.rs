//! What the server's side makes of a peer's bytes, for the fuzzer: without a
//! connection, a runtime or anybody who reads.

use super::{MOST_STREAMS, Session, Stream, WINDOW, frame::Reader, session::Lane};

/// What there is to know of a stream: its number, what it has to read, and whether
/// its peer is done with it.
type Told = (u32, usize, bool, bool);

/// What the bytes came to, in pieces of a size: each stream, how many began, and
/// the bytes that are to be answered; and whether the connection is over by the
/// peer's fault.
///
/// # Panics
/// A promise is broken: there are more streams, or more to read, than there may be.
pub(crate) fn heard(data: &[u8], piece: usize) -> (Vec<Told>, usize, Vec<u8>, bool) {
    let session = Session::new(true);
    let mut streams: Vec<Stream> = Vec::new();
    let mut reader = Reader::default();
    let mut refused = false;
    'all: for mut bytes in data.chunks(piece.max(1)) {
        loop {
            let mut accept = |stream| streams.push(stream);
            let told = match reader.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(event)) => session.hear(event, Some(&mut accept)),
                Err(error) => Err(error),
            };
            if told.is_err() {
                refused = true;
                break 'all;
            }
        }
    }
    let begun = streams.len();
    assert!(begun <= MOST_STREAMS, "{begun} streams are open");
    let told = |(number, lane): (u32, &Lane)| {
        let unread = lane.unread.len();
        assert!(unread <= WINDOW as usize, "{unread} bytes wait to be read");
        (number, unread, lane.ended, lane.broken.is_some())
    };
    let all = session.lanes(told);
    let out = session.state.borrow_mut().out.buffer().clone();
    (all, begun, out, refused)
}
