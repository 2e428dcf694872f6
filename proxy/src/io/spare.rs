//! The buffer of whoever on this thread has something to write: taken when there
//! is, given back when it is written. What is idle holds none.

use std::cell::Cell;

/// A buffer that has grown larger is not kept, bytes.
const LARGEST: usize = 128 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's buffer, or a new one; empty.
pub(crate) fn take() -> Vec<u8> {
    SPARE.take()
}

/// Gives a buffer back.
pub(crate) fn put(mut buffer: Vec<u8>) {
    if buffer.capacity() > 0 && buffer.capacity() <= LARGEST {
        buffer.clear();
        SPARE.set(buffer);
    }
}
