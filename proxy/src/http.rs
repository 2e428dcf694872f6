//! What both directions' HTTP stacks are made of: small tower middlewares
//! around one exchange.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod deadline;
pub(crate) mod exchange;
pub(crate) mod fault;
pub(crate) mod field;
pub(crate) mod forwarded;
pub(crate) mod found;
pub(crate) mod grant;
pub(crate) mod host;
pub(crate) mod lease;
pub(crate) mod measure;
pub(crate) mod one;
pub(crate) mod progress;
pub(crate) mod replay;
pub(crate) mod rescue;
pub(crate) mod serve;
pub(crate) mod target;
pub(crate) mod tee;
pub(crate) mod upgrade;

use crate::clock::Coarse;
use body::Body;
use exchange::Exchange;
use found::Found;
use http::Request;
use std::{rc::Rc, time::Duration};

/// A request on its way through the stack, with what is kept of it.
pub(crate) struct Call {
    pub(crate) request: Request<Body>,
    pub(crate) exchange: Rc<Exchange>,
    /// Of the request as it came.
    pub(crate) found: Found,
}

/// Largest head of a request or a response, bytes, for HTTP/1 and HTTP/2 alike.
/// hyper's own limit for HTTP/2, 16 KiB, is less than real applications send. The
/// number of HTTP/1 headers stays at hyper's limit, 100, which is Envoy's too:
/// a higher one costs two allocations a head, a tenth of a hop's instructions.
pub(crate) const LARGEST_HEAD: usize = 64 * 1024;
/// HTTP/2 flow control windows, bytes: what a slow reader can make a sender
/// leave in memory, by stream and by connection.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams that one connection may have open.
pub(crate) const MOST_STREAMS: u32 = 1024;
/// Streams of a connection that its client has reset before they were looked at;
/// one more and the connection ends (rapid reset, CVE-2023-44487). hyper's and
/// h2's figure; it is said here so that no update of theirs lifts it unseen.
pub(crate) const MOST_RESETS: usize = 20;
/// Streams of a connection that were reset for the client's own mistakes before
/// the connection ends (CVE-2025-8671). h2's figure.
pub(crate) const MOST_LOCAL_RESETS: usize = 1024;

/// How long an HTTP/2 connection is used where no rule says: callers that never
/// let go of one would stay with the pod they found first, and would never show
/// a renewed certificate.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// An age spread by a tenth to either side, so that connections that were made
/// together don't end together.
pub(crate) fn aged(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(0.9..1.1))
}

/// Runs hyper's tasks on the data thread that started them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(Coarse::new(future));
    }
}
