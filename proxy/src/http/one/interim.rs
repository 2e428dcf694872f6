//! Interim responses (1xx) on their way from an upstream's connection to the client's.
//!
//! The upstream's codec is polled by the loop that serves the client: what it reads is left
//! here, for the thread, and the loop takes it as soon as that poll returns. So nothing is
//! left for another client, and a request that gets no interim response pays for none. What
//! a client does not read in time is dropped: it says nothing that the final response lacks.

use crate::http::forwarded;
use http::{
    HeaderMap, Response,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    response,
};
use std::cell::{Cell, RefCell};

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
fn clean(headers: &mut HeaderMap, version: http::Version) {
    forwarded::response_head(headers, version, false);
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
}

/// Takes what was left.
pub(super) fn take() -> Vec<response::Parts> {
    match LEFT.replace(false) {
        true => HEADS.take(),
        false => Vec::new(),
    }
}
