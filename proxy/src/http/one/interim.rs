//! Interim responses (1xx) on their way from an upstream's connection to the client's.
//!
//! The upstream's codec is polled by the loop that serves the client: what it reads is left
//! here, for the thread, and the loop takes it as soon as that poll returns. So nothing is
//! left for another client, and a request that gets no interim response pays for none. What
//! a client does not read in time is dropped: it says nothing that the final response lacks.

use super::{Error, head::recycle, wire::Wire, write};
use crate::http::forwarded;
use http::{
    HeaderMap, Response, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    response,
};
use std::{
    cell::{Cell, RefCell},
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite};

thread_local! {
    static LEFT: Cell<bool> = const { Cell::new(false) };
    static HEADS: RefCell<Vec<response::Parts>> = const { RefCell::new(Vec::new()) };
}

/// Leaves a head for the loop that polls this.
pub(super) fn leave(response: Response<()>) {
    let (mut head, ()) = response.into_parts();
    clean(&mut head.headers, head.version);
    HEADS.with_borrow_mut(|heads| heads.push(head));
    LEFT.set(true);
}

/// Takes off what is for one hop alone, and framing, of which there is none.
fn clean(headers: &mut HeaderMap, version: Version) {
    forwarded::response_head(headers, version, false);
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
}

/// Tells a client what was left for it, as far as it reads.
///
/// # Errors
/// It has gone away.
pub(super) fn poll_inform<S>(
    wire: &mut Wire<S>,
    context: &mut Context<'_>,
    version: Version,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if LEFT.replace(false) {
        for head in HEADS.take() {
            // An HTTP/1.0 client would take it for the answer (RFC 9110, 15.2).
            if version == Version::HTTP_11 && wire.out().has_room() {
                write::interim(wire.out(), &head);
            }
            recycle(head.headers);
        }
    }
    match wire.is_flushed() {
        true => Ok(()),
        false => match wire.poll_flush(context) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        },
    }
}
