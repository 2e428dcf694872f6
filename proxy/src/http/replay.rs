//! A request body that can be sent again: what has been read of it is kept, up
//! to a bound, until somebody has answered.
//!
//! One reader counts at a time. An earlier one, left behind in a connection
//! that is being closed, reads nothing more.

use super::body::{Body, BodyError};
use crate::pool::APPLICATION_TIMEOUT;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::Sleep;

/// Most bytes of a body that are kept.
pub(crate) const MOST_KEPT: usize = 64 * 1024;
/// Most pieces of a body that are kept: each costs more than its bytes.
const MOST_PIECES: usize = 1024;

/// How long a held reader waits: longer than a callee's sidecar does for its application.
const HOLD: Duration = APPLICATION_TIMEOUT.saturating_add(Duration::from_millis(500));

/// See the module.
pub(crate) struct Replay(Rc<RefCell<State>>);

struct State {
    source: Body,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    size: usize,
    /// Whether all that was read is still there.
    whole: bool,
    ended: bool,
    readers: u32,
    hold: Option<Hold>,
}

/// Until when the body is not read further than it is kept.
struct Hold {
    over: Pin<Box<Sleep>>,
    reader: Option<Waker>,
}

/// One reading of the body.
pub(crate) struct Reader {
    state: Rc<RefCell<State>>,
    number: u32,
    position: usize,
    trailers_read: bool,
}

impl Replay {
    #[cfg(test)]
    fn new(source: Body) -> Self {
        Self::begun(source, None)
    }

    /// Of a body whose first frame has been read already.
    pub(crate) fn begun(source: Body, first: Option<&Frame<Bytes>>) -> Self {
        let mut state = State {
            source,
            kept: Vec::new(),
            trailers: None,
            size: 0,
            whole: true,
            ended: false,
            readers: 0,
            hold: None,
        };
        if let Some(first) = first {
            state.keep(first);
        }
        Self(Rc::new(RefCell::new(state)))
    }

    /// The body from its start.
    pub(crate) fn body(&self) -> Body {
        let mut state = self.0.borrow_mut();
        state.readers += 1;
        if state.readers > 1 {
            state.hold = None;
        }
        Body::replay(Reader {
            state: self.0.clone(),
            number: state.readers,
            position: 0,
            trailers_read: false,
        })
    }

    /// Whether it can be read from its start once more.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.borrow().whole
    }

    /// Has the reader wait before it reads more than is kept, for as long as the other side
    /// may take to say that it can't serve.
    pub(crate) fn hold(&self) {
        self.0.borrow_mut().hold = Some(Hold {
            over: Box::pin(tokio::time::sleep(HOLD)),
            reader: None,
        });
    }

    /// Nobody will ask again: keeps nothing from now on.
    pub(crate) fn forget(&self) {
        let mut state = self.0.borrow_mut();
        state.whole = false;
        let reader = state.hold.take().and_then(|hold| hold.reader);
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.size >= MOST_KEPT || self.kept.len() >= MOST_PIECES
    }

    /// Reports whether the reader is to wait, which is woken once it is not.
    fn is_held(&mut self, context: &mut Context<'_>) -> bool {
        if !self.is_full() {
            return false;
        }
        let Some(hold) = &mut self.hold else {
            return false;
        };
        if hold.over.as_mut().poll(context).is_ready() {
            self.hold = None;
            return false;
        }
        hold.reader = Some(context.waker().clone());
        true
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.ended = true;
        }
        let data = frame.data_ref().filter(|data| !data.is_empty());
        let Some(data) = data.filter(|_| self.whole) else {
            return;
        };
        let held = self.hold.is_some() && !self.is_full();
        self.size += data.len();
        if !held && (self.size > MOST_KEPT || self.kept.len() == MOST_PIECES) {
            self.whole = false;
            self.kept = Vec::new();
        } else {
            self.kept.push(data.clone());
        }
    }
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut state = this.state.borrow_mut();
        if this.number != state.readers {
            return Poll::Pending;
        }
        if !state.whole && this.position >= state.kept.len() && this.position > 0 {
            // Nobody reads it again: a stream does not hold it for as long as it lasts.
            state.kept = Vec::new();
            this.position = 0;
        }
        if let Some(data) = state.kept.get(this.position) {
            this.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if state.ended {
            let trailers = state.trailers.clone().filter(|_| !this.trailers_read);
            this.trailers_read = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if state.hold.is_some() && state.is_held(context) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut state.source).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                state.keep(frame);
                this.position = state.kept.len();
                this.trailers_read |= frame.is_trailers();
            }
            Poll::Ready(Some(Err(_))) => state.whole = false,
            Poll::Ready(None) => state.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.borrow();
        let read = self.position >= state.kept.len();
        let trailers = state.trailers.is_none() || self.trailers_read;
        read && trailers && (state.ended || state.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.state.borrow();
        let kept = state.kept.iter().skip(self.position).map(Bytes::len);
        let kept = kept.sum::<usize>() as u64;
        let source = state.source.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = source.upper() {
            hint.set_upper(upper + kept);
        }
        hint.set_lower(source.lower() + kept);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn read(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_body_is_read_again_from_its_start() {
        let replay = Replay::new(Body::text("abc"));
        let first = replay.body();
        assert_eq!(first.size_hint().exact(), Some(3));
        assert_eq!(read(first).await, "abc");
        let second = replay.body();
        assert!(!second.is_end_stream());
        assert_eq!(second.size_hint().exact(), Some(3));
        assert!(replay.is_whole());
        assert_eq!(read(second).await, "abc");
    }

    #[tokio::test]
    async fn a_reader_left_behind_reads_nothing_more() {
        let replay = Replay::new(Body::text("abc"));
        let mut first = replay.body();
        let second = replay.body();
        let polled = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut first).poll_frame(context).is_pending())
        });
        assert!(polled.await);
        assert_eq!(read(second).await, "abc");
    }

    #[tokio::test]
    async fn what_is_forgotten_is_let_go_once_it_has_been_read() {
        let first = Frame::data(Bytes::from_static(b"abc"));
        let replay = Replay::begun(Body::text("def"), Some(&first));
        let mut body = replay.body();
        let read = body.frame().await.unwrap().unwrap().into_data().unwrap();
        replay.forget();
        assert_eq!(replay.0.borrow().kept.len(), 1);
        assert_eq!((read, self::read(body).await), ("abc".into(), "def".into()));
        assert!(replay.0.borrow().kept.is_empty());
        assert!(!replay.is_whole());
    }

    #[test]
    fn what_comes_in_too_many_pieces_is_not_kept() {
        let replay = Replay::new(Body::empty());
        let mut state = replay.0.borrow_mut();
        let piece = Frame::data(Bytes::from_static(b"a"));
        for _ in 0..MOST_PIECES {
            state.keep(&piece);
            state.keep(&Frame::data(Bytes::new()));
        }
        assert_eq!((state.whole, state.kept.len()), (true, MOST_PIECES));
        state.keep(&piece);
        assert_eq!((state.whole, state.kept.len()), (false, 0));
    }

    #[tokio::test]
    async fn what_is_too_large_is_sent_but_not_kept() {
        let largest = vec![7; MOST_KEPT];
        let replay = Replay::new(Body::text(largest.clone()));
        read(replay.body()).await;
        assert!(replay.is_whole());
        let larger = [largest, vec![7]].concat();
        let replay = Replay::new(Body::text(larger.clone()));
        assert_eq!(read(replay.body()).await, larger);
        assert!(!replay.is_whole());
    }
}
