//! A request body that is copied on its way, for a mirror.
//!
//! The copy never holds up the original: one that falls too far behind is
//! broken off.

use super::body::{Body, BodyError};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Bytes that the copy may be behind.
const MOST_BEHIND: usize = 64 * 1024;

#[derive(Default)]
struct Pipe {
    waiting: VecDeque<Frame<Bytes>>,
    behind: usize,
    ended: bool,
    broken: bool,
    waker: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The original.
pub(crate) struct Tee {
    source: Body,
    pipe: Rc<RefCell<Pipe>>,
}

/// The copy.
pub(crate) struct Copy {
    hint: SizeHint,
    pipe: Rc<RefCell<Pipe>>,
}

/// A body and its copy.
pub(crate) fn tee(source: Body) -> (Body, Body) {
    if source.is_end_stream() {
        return (source, Body::empty());
    }
    let pipe = Rc::<RefCell<Pipe>>::default();
    let copy = Copy {
        hint: source.size_hint(),
        pipe: pipe.clone(),
    };
    (Body::tee(Box::new(Tee { source, pipe })), Body::copy(copy))
}

impl Tee {
    fn note(&self, frame: Option<&Frame<Bytes>>) {
        let mut pipe = self.pipe.borrow_mut();
        match frame {
            None => pipe.ended = true,
            Some(frame) if !pipe.broken => {
                let copy = match (frame.data_ref(), frame.trailers_ref()) {
                    (Some(data), _) => Some(Frame::data(data.clone())),
                    (None, trailers) => trailers.cloned().map(Frame::trailers),
                };
                pipe.behind += frame.data_ref().map_or(0, Bytes::len);
                pipe.broken = pipe.behind > MOST_BEHIND;
                pipe.waiting.extend(copy);
                if pipe.broken {
                    pipe.waiting.clear();
                }
            }
            Some(_) => {}
        }
        pipe.wake();
    }
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.source).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.note(Some(frame)),
            Poll::Ready(None) => self.note(None),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        let mut pipe = self.pipe.borrow_mut();
        // Who knows a body's length does not poll for its end.
        pipe.ended |= self.source.is_end_stream();
        pipe.broken |= !pipe.ended;
        pipe.wake();
    }
}

impl HttpBody for Copy {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut pipe = self.pipe.borrow_mut();
        if pipe.broken {
            return Poll::Ready(Some(Err(BodyError::BrokenOff)));
        }
        match pipe.waiting.pop_front() {
            Some(frame) => {
                pipe.behind -= frame.data_ref().map_or(0, Bytes::len);
                Poll::Ready(Some(Ok(frame)))
            }
            None if pipe.ended => Poll::Ready(None),
            None => {
                pipe.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn both_read_the_same() {
        let (original, copy) = tee(Body::text("abc"));
        assert_eq!(copy.size_hint().exact(), Some(3));
        assert_eq!(original.collect().await.unwrap().to_bytes(), "abc");
        assert_eq!(copy.collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_copy_too_far_behind_is_broken_off_and_the_original_is_whole() {
        let (original, copy) = tee(Body::text(vec![7; MOST_BEHIND + 1]));
        let read = original.collect().await.unwrap().to_bytes();
        assert_eq!(read.len(), MOST_BEHIND + 1);
        assert!(copy.collect().await.is_err());
    }

    #[tokio::test]
    async fn an_original_that_is_dropped_breaks_the_copy_off() {
        let (original, copy) = tee(Body::text("abc"));
        drop(original);
        assert!(copy.collect().await.is_err());
    }
}
