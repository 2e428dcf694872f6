//! What goes over the connection: frames of eight bytes and, of data, a payload.
//!
//! The stream's number in four bytes, the kind in one, a length in three, all of
//! them big-endian. The length of a credit is the credit itself.

use std::io;

/// Bytes of a frame before its payload.
pub(super) const HEADER: usize = 8;
/// Most bytes of a payload: what one TLS record holds.
pub(super) const LONGEST: usize = 16 * 1024 - HEADER;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes of a stream.
    Data,
    /// Its sender will send no more.
    End,
    /// Its other side may send so many bytes more.
    Credit,
    /// It is over in both directions.
    Reset,
    /// No new streams are wanted here.
    GoAway,
}

/// A frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) stream: u32,
    pub(super) kind: Kind,
    pub(super) length: u32,
}

impl Kind {
    /// All kinds, for tests that must treat each.
    #[cfg(test)]
    pub(super) const ALL: [Self; 5] = [
        Self::Data,
        Self::End,
        Self::Credit,
        Self::Reset,
        Self::GoAway,
    ];
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        debug_assert!(self.length < 1 << 24);
        let kind = match self.kind {
            Kind::Data => 0u8,
            Kind::End => 1,
            Kind::Credit => 2,
            Kind::Reset => 3,
            Kind::GoAway => 4,
        };
        let word = u64::from(self.stream) << 32 | u64::from(kind) << 24 | u64::from(self.length);
        word.to_be_bytes()
    }

    fn decode(bytes: [u8; HEADER]) -> io::Result<Self> {
        let word = u64::from_be_bytes(bytes);
        let header = Self {
            stream: (word >> 32) as u32,
            kind: match (word >> 24) as u8 {
                0 => Kind::Data,
                1 => Kind::End,
                2 => Kind::Credit,
                3 => Kind::Reset,
                4 => Kind::GoAway,
                _ => return Err(malformed("a frame of an unknown kind")),
            },
            length: word as u32 & 0x00ff_ffff,
        };
        let fits = match header.kind {
            Kind::Data => header.length as usize <= LONGEST,
            Kind::Credit => header.length > 0,
            Kind::End | Kind::Reset | Kind::GoAway => header.length == 0,
        };
        match fits {
            true => Ok(header),
            false => Err(malformed("a frame's length is none of its kind")),
        }
    }
}

/// The peer does not keep to the protocol: nothing that follows can be believed.
pub(super) fn malformed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// What the bytes that came say, as far as they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// A part of a stream's data, perhaps none; more of it may follow.
    Data(u32, &'a [u8]),
    /// Any other frame.
    Other(Header),
}

/// Reads frames from bytes that come in pieces of any size; payloads are passed on
/// as they come.
#[derive(Debug, Default)]
pub(super) struct Reader {
    head: [u8; HEADER],
    have: usize,
    /// The stream whose payload is being read, and how much of it is to come.
    payload: Option<(u32, usize)>,
}

impl Reader {
    /// The next event; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no frames.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> io::Result<Option<Event<'a>>> {
        if let Some((stream, left)) = self.payload {
            if bytes.is_empty() {
                return Ok(None);
            }
            let (data, rest) = bytes.split_at(left.min(bytes.len()));
            *bytes = rest;
            let left = left - data.len();
            self.payload = (left > 0).then_some((stream, left));
            return Ok(Some(Event::Data(stream, data)));
        }
        let missing = (HEADER - self.have).min(bytes.len());
        let (head, rest) = bytes.split_at(missing);
        self.head[self.have..self.have + missing].copy_from_slice(head);
        self.have += missing;
        *bytes = rest;
        if self.have < HEADER {
            return Ok(None);
        }
        self.have = 0;
        let header = Header::decode(self.head)?;
        if header.kind != Kind::Data {
            return Ok(Some(Event::Other(header)));
        }
        let length = header.length as usize;
        let (data, rest) = bytes.split_at(length.min(bytes.len()));
        *bytes = rest;
        let left = length - data.len();
        self.payload = (left > 0).then_some((header.stream, left));
        Ok(Some(Event::Data(header.stream, data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        let data = (0..=LONGEST as u32).prop_map(|length| (Kind::Data, length));
        let credit = (1..1u32 << 24).prop_map(|length| (Kind::Credit, length));
        let bare = prop_oneof![Just(Kind::End), Just(Kind::Reset), Just(Kind::GoAway)];
        let bare = bare.prop_map(|kind| (kind, 0));
        let what = prop_oneof![data, credit, bare];
        (any::<u32>(), what).prop_map(|(stream, (kind, length))| Header {
            stream,
            kind,
            length,
        })
    }

    proptest! {
        #[test]
        fn frames_are_read_as_written_in_pieces_of_any_size(
            headers in proptest::collection::vec(header(), 1..8),
            piece in 1..5000usize,
        ) {
            let mut wire = Vec::new();
            for header in &headers {
                wire.extend_from_slice(&header.encode());
                if header.kind == Kind::Data {
                    wire.resize(wire.len() + header.length as usize, 7);
                }
            }
            let mut reader = Reader::default();
            let mut seen: Vec<Header> = Vec::new();
            let mut more = false;
            for mut bytes in wire.chunks(piece) {
                while let Some(event) = reader.next(&mut bytes).unwrap() {
                    match event {
                        Event::Data(stream, data) => {
                            let length = data.len() as u32;
                            match seen.last_mut().filter(|_| more) {
                                Some(last) => last.length += length,
                                None => seen.push(Header { stream, kind: Kind::Data, length }),
                            }
                            more = reader.payload.is_some();
                        }
                        Event::Other(header) => seen.push(header),
                    }
                }
            }
            prop_assert_eq!(seen, headers);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let bad = [
            [0, 0, 0, 1, 5, 0, 0, 0],
            [0, 0, 0, 1, 0, 0xff, 0, 0],
            [0, 0, 0, 1, 1, 0, 0, 1],
            [0, 0, 0, 1, 2, 0, 0, 0],
            [0, 0, 0, 1, 3, 0, 0, 9],
        ];
        for bytes in bad {
            let error = Reader::default().next(&mut &bytes[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
