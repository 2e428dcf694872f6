//! What one side knows of the connection: its streams, and the frames that wait
//! to be written.

use super::{
    LAST_RESETS, MOST_RESETS, MOST_STREAMS, MOST_VOID, ROOM, WINDOW,
    frame::{Event, HEADER, Header, Kind, LONGEST, malformed},
    stream::Stream,
};
use crate::io::Outgoing;
use bytes::BytesMut;
use std::{cell::RefCell, io, rc::Rc, task::Waker};

/// One side of a connection that streams share.
pub(crate) struct Session {
    pub(super) state: RefCell<State>,
}

/// See [`Session`].
pub(super) struct State {
    /// The peer opens the streams.
    serves: bool,
    /// By number, ascending.
    lanes: Vec<(u32, Rc<RefCell<Lane>>)>,
    /// Of the next stream: none below it begins any more.
    next: u32,
    pub(super) out: Outgoing,
    driver: Option<Waker>,
    /// Who waits for room to write.
    blocked: Vec<Waker>,
    /// One side wants no new streams.
    going_away: bool,
    /// The connection is to end once it has no streams.
    unwanted: bool,
    /// Why there is no connection any more.
    over: Option<io::ErrorKind>,
    /// By how many the streams that ended before they were answered outnumber those
    /// that were answered; not below zero.
    wasted: u32,
    /// Frames that changed nothing, since one did or a stream began.
    void: u32,
}

/// What one side keeps of a stream.
pub(super) struct Lane {
    pub(super) unread: BytesMut,
    /// The other side sends no more.
    pub(super) ended: bool,
    /// It is over, unless something is unread.
    pub(super) broken: Option<io::ErrorKind>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Bytes that may still be sent.
    pub(super) credit: u32,
    /// This side sends no more.
    pub(super) said_end: bool,
    /// This side has sent something.
    pub(super) answered: bool,
    /// Bytes that the other side may still send.
    allowance: u32,
    /// Read, and the other side has not been told.
    owed: u32,
}

impl Lane {
    fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            unread: BytesMut::new(),
            ended: false,
            broken: None,
            reader: None,
            writer: None,
            credit: WINDOW,
            said_end: false,
            answered: false,
            allowance: WINDOW,
            owed: 0,
        }))
    }

    fn break_off(&mut self, kind: io::ErrorKind) {
        self.broken.get_or_insert(kind);
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// So many bytes have been read; the credit to give for them, not each time.
    pub(super) fn consume(&mut self, length: usize) -> Option<u32> {
        // Never more than was allowed.
        self.owed += length as u32;
        if self.owed < WINDOW / 2 || self.ended {
            return None;
        }
        self.allowance += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl State {
    fn position(&self, stream: u32) -> Result<usize, usize> {
        self.lanes
            .binary_search_by_key(&stream, |(known, _)| *known)
    }

    /// Adds a frame without payload.
    pub(super) fn push(&mut self, stream: u32, kind: Kind, length: u32) {
        let header = Header {
            stream,
            kind,
            length,
        };
        self.out.buffer().extend_from_slice(&header.encode());
        self.wake_driver();
    }

    /// How much of a payload there is room for; `None`: none now.
    pub(super) fn room(&self) -> Option<usize> {
        let free = ROOM.checked_sub(self.out.len() + HEADER)?;
        (free > 0).then(|| free.min(LONGEST))
    }

    /// Adds data that there is room for.
    pub(super) fn push_data(&mut self, stream: u32, slices: &[io::IoSlice<'_>], length: usize) {
        let header = Header {
            stream,
            kind: Kind::Data,
            length: length as u32,
        };
        let out = self.out.buffer();
        out.reserve(HEADER + length);
        out.extend_from_slice(&header.encode());
        let mut left = length;
        for slice in slices {
            let part = &slice[..slice.len().min(left)];
            out.extend_from_slice(part);
            left -= part.len();
        }
        self.wake_driver();
    }

    /// Counts a stream that ended before it was answered, or that was opened beyond
    /// the limit. A peer that does so more often than not is told to open no more, and
    /// is cut off if it goes on.
    fn count_waste(&mut self) {
        self.wasted += 1;
        if self.wasted > MOST_RESETS {
            self.go_away();
        }
    }

    fn go_away(&mut self) {
        if !std::mem::replace(&mut self.going_away, true) {
            self.push(0, Kind::GoAway, 0);
        }
    }

    /// Notes that a stream has been answered.
    pub(super) fn note_answer(&mut self) {
        self.wasted = self.wasted.saturating_sub(1);
    }

    fn wake_driver(&mut self) {
        wake(&mut self.driver);
    }

    /// Wakes somebody when there is room again.
    pub(super) fn block(&mut self, waker: &Waker) {
        self.blocked.push(waker.clone());
    }

    /// All has been written.
    pub(super) fn written(&mut self) {
        self.blocked.drain(..).for_each(Waker::wake);
    }
}

impl Session {
    /// Makes one side of a connection; the one that serves is not the one that opens
    /// streams.
    pub(super) fn new(serves: bool) -> Rc<Self> {
        Rc::new(Self {
            state: RefCell::new(State {
                serves,
                lanes: Vec::new(),
                next: 0,
                out: Outgoing::default(),
                driver: None,
                blocked: Vec::new(),
                going_away: false,
                unwanted: false,
                over: None,
                wasted: 0,
                void: 0,
            }),
        })
    }

    /// A new stream, unless the connection can't have another one.
    pub(crate) fn open(self: &Rc<Self>) -> Option<Stream> {
        let mut state = self.state.borrow_mut();
        let stream = state.next;
        let full = state.lanes.len() >= MOST_STREAMS;
        if full || state.going_away || state.unwanted || state.over.is_some() {
            return None;
        }
        // Four billion streams are enough for one connection.
        state.next = stream.checked_add(1)?;
        // What the other side says of it may come too late.
        state.void = 0;
        let lane = Lane::new();
        state.lanes.push((stream, lane.clone()));
        // Said at once: who writes first need not be who came first.
        state.push(stream, Kind::Data, 0);
        drop(state);
        Some(Stream::new(self.clone(), lane, stream))
    }

    /// Something of each stream, by number.
    #[cfg(feature = "fuzzing")]
    pub(super) fn lanes<T>(&self, of: impl Fn((u32, &Lane)) -> T) -> Vec<T> {
        let state = self.state.borrow();
        let lanes = state.lanes.iter();
        let lanes = lanes.map(|(number, lane)| of((*number, &lane.borrow())));
        lanes.collect()
    }

    /// Whether it takes no new streams, now or ever.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state.borrow();
        state.going_away || state.over.is_some()
    }

    /// Streams that are open.
    pub(crate) fn streams(&self) -> usize {
        self.state.borrow().lanes.len()
    }

    /// Tells the other side to open no more streams here.
    pub(super) fn go_away(&self) {
        self.state.borrow_mut().go_away();
    }

    /// Ends the connection once its last stream has ended.
    pub(crate) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.unwanted = true;
        state.wake_driver();
    }

    /// Whether nobody needs the connection any more.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state.borrow();
        state.unwanted && state.lanes.is_empty() && state.out.is_empty()
    }

    /// Whether the peer makes more frames necessary than it reads: what well-behaved
    /// ones cause besides data is a few bytes a stream.
    pub(super) fn is_flooded(&self) -> bool {
        self.state.borrow().out.len() > 4 * ROOM
    }

    /// Who is woken when there is something to write.
    pub(super) fn driven_by(&self, waker: &Waker) {
        let driver = &mut self.state.borrow_mut().driver;
        if !driver.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    /// The connection is no more, nor are its streams. `failure`: it did not end as the
    /// peer's side ends one that it is done with.
    ///
    /// A peer that wanted no new streams, and then says that it is done, has ended those
    /// it knew of: it has not seen the others.
    pub(super) fn end(&self, failure: Option<io::ErrorKind>) {
        let mut state = self.state.borrow_mut();
        let unseen = state.going_away && !state.serves;
        let kind = failure.unwrap_or(match unseen {
            true => io::ErrorKind::ConnectionRefused,
            false => io::ErrorKind::UnexpectedEof,
        });
        state.over = Some(kind);
        state.out.clear();
        for (_, lane) in &state.lanes {
            lane.borrow_mut().break_off(kind);
        }
        state.blocked.drain(..).for_each(Waker::wake);
    }

    /// A stream has been let go of by its user.
    pub(super) fn forget(&self, stream: u32, lane: &Lane) {
        let mut state = self.state.borrow_mut();
        if let Ok(position) = state.position(stream) {
            state.lanes.remove(position);
        }
        if state.serves && !lane.answered {
            state.count_waste();
        }
        let over = lane.broken.is_some() || lane.said_end && lane.ended;
        match over {
            false => state.push(stream, Kind::Reset, 0),
            // It may have been the last one.
            true => state.wake_driver(),
        }
    }

    /// Does what the peer's frames say; `accept` takes the streams that begin, and
    /// is absent at the side that opens them.
    ///
    /// # Errors
    /// The peer does not keep to the protocol.
    pub(super) fn hear<F>(
        self: &Rc<Self>,
        event: Event<'_>,
        accept: Option<&mut F>,
    ) -> io::Result<()>
    where
        F: FnMut(Stream),
    {
        let useful = match event {
            Event::Data(stream, data) => {
                let begins = stream >= self.state.borrow().next;
                let lane = self.lane(stream, accept)?;
                if let Some(lane) = &lane {
                    receive(&mut lane.borrow_mut(), data)?;
                }
                begins || lane.is_some() && !data.is_empty()
            }
            Event::Other(header) => self.hear_bare(header, accept.is_some())?,
        };
        let mut state = self.state.borrow_mut();
        state.void = if useful { 0 } else { state.void + 1 };
        if state.void > MOST_VOID {
            return Err(malformed("too many frames that change nothing"));
        }
        if state.wasted > MOST_RESETS + LAST_RESETS {
            return Err(malformed("too many streams end before they are answered"));
        }
        Ok(())
    }

    /// Does what a frame without payload says; reports whether it changed anything.
    fn hear_bare(&self, header: Header, serves: bool) -> io::Result<bool> {
        if header.kind == Kind::GoAway {
            let mut state = self.state.borrow_mut();
            let news = !state.unwanted;
            state.going_away = true;
            state.unwanted = true;
            state.wake_driver();
            return Ok(news);
        }
        let Some(lane) = self.known(header.stream)? else {
            return Ok(false);
        };
        let mut lane = lane.borrow_mut();
        match header.kind {
            Kind::End => {
                if std::mem::replace(&mut lane.ended, true) {
                    return Err(malformed("a stream has two ends"));
                }
                wake(&mut lane.reader);
            }
            Kind::Credit => {
                let credit = lane.credit + header.length;
                if credit > WINDOW {
                    return Err(malformed("a stream has more credit than it can use"));
                }
                lane.credit = credit;
                wake(&mut lane.writer);
            }
            Kind::Reset if lane.broken.is_some() => return Ok(false),
            Kind::Reset => {
                lane.break_off(io::ErrorKind::ConnectionReset);
                if serves && !lane.answered && !lane.ended {
                    // Nobody waits for the answer: what was asked is not looked at.
                    lane.unread = BytesMut::new();
                }
            }
            // Both are done with above.
            Kind::Data | Kind::GoAway => {}
        }
        Ok(true)
    }

    /// A stream that has begun; `None`: it is over here.
    fn known(&self, stream: u32) -> io::Result<Option<Rc<RefCell<Lane>>>> {
        let state = self.state.borrow();
        match state.position(stream) {
            Ok(position) => Ok(Some(state.lanes[position].1.clone())),
            Err(_) if stream < state.next => Ok(None),
            Err(_) => Err(malformed("a stream that has not begun")),
        }
    }

    /// The same, or one that begins now.
    fn lane<F>(
        self: &Rc<Self>,
        stream: u32,
        accept: Option<&mut F>,
    ) -> io::Result<Option<Rc<RefCell<Lane>>>>
    where
        F: FnMut(Stream),
    {
        let begins = stream >= self.state.borrow().next;
        let Some(accept) = accept.filter(|_| begins) else {
            return self.known(stream);
        };
        let mut state = self.state.borrow_mut();
        let next = stream.checked_add(1);
        state.next = next.ok_or_else(|| malformed("there are no more streams"))?;
        if state.lanes.len() >= MOST_STREAMS {
            // Its end, before anything else, says that nothing of it is looked at.
            state.push(stream, Kind::End, 0);
            state.count_waste();
            return Ok(None);
        }
        let lane = Lane::new();
        state.lanes.push((stream, lane.clone()));
        drop(state);
        accept(Stream::new(self.clone(), lane.clone(), stream));
        Ok(Some(lane))
    }
}

fn receive(lane: &mut Lane, data: &[u8]) -> io::Result<()> {
    if lane.ended {
        return Err(malformed("data behind a stream's end"));
    }
    let left = (lane.allowance as usize).checked_sub(data.len());
    let left = left.ok_or_else(|| malformed("more data than was allowed"))?;
    // Not more than it was.
    lane.allowance = left as u32;
    if lane.broken.is_none() && !data.is_empty() {
        lane.unread.extend_from_slice(data);
        wake(&mut lane.reader);
    }
    Ok(())
}
