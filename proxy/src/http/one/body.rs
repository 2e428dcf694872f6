//! Where the body of a message that is read ends (RFC 9112, 6 and 7).

use super::{Error, MOST_HEADERS};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

/// Bytes of all chunk extensions of a body; hyper's figure.
const MOST_EXTENSIONS: u32 = 16 * 1024;
/// Bytes of all trailers of a body; hyper's figure.
const MOST_TRAILERS: usize = 16 * 1024;

/// How a message says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes, often none.
    Length(u64),
    Chunked,
    /// The connection's end; of responses alone.
    UntilClose,
}

/// A body that is being read.
#[derive(Debug)]
pub(super) enum Decoder {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    /// Read to its end.
    Ended,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Ended,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Of an answer: a blank before the colon of a trailer is to be removed, as one in its head
    /// (RFC 9112, 5.1).
    pub(super) fn of_answer(framing: Framing) -> Self {
        match framing {
            Framing::Chunked => Self::Chunked(Chunked {
                blanks: true,
                ..Chunked::default()
            }),
            other => Self::new(other),
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Bytes still to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Ended => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// What the bytes that are there hold of the body; `None`: it has ended, or
    /// more bytes are needed.
    pub(super) fn decode(&mut self, unread: &mut Bytes) -> Result<Option<Frame<Bytes>>, Error> {
        let (frame, ended) = match self {
            Self::Ended => return Ok(None),
            _ if unread.is_empty() => return Ok(None),
            Self::Length(left) => {
                let data = take(unread, *left);
                *left -= data.len() as u64;
                (Some(Frame::data(data)), *left == 0)
            }
            Self::UntilClose => (Some(Frame::data(std::mem::take(unread))), false),
            Self::Chunked(chunked) => {
                let frame = chunked.decode(unread)?;
                (frame, chunked.step == Step::End)
            }
        };
        if ended {
            *self = Self::Ended;
        }
        if unread.is_empty() {
            // Even an empty slice would hold on to what it was cut from.
            *unread = Bytes::new();
        }
        Ok(frame)
    }

    /// The connection has ended.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        match self {
            Self::UntilClose | Self::Ended => {
                *self = Self::Ended;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(Error::Incomplete),
        }
    }
}

/// The first bytes, up to a number.
fn take(unread: &mut Bytes, most: u64) -> Bytes {
    if unread.len() as u64 <= most {
        return std::mem::take(unread);
    }
    // Less than its length, so a `usize`.
    unread.split_to(most as usize)
}

/// A chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    step: Step,
    /// Of the chunk that is being read.
    left: u64,
    extensions: u32,
    trailers: Vec<u8>,
    lines: usize,
    /// Whether a trailer's colon may have blanks before it.
    blanks: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// A size's first digit, which must be there.
    #[default]
    Start,
    Size,
    /// Blanks behind a size, which old senders write.
    Blank,
    Extension,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    Trailer,
    TrailerFeed,
    /// The end's carriage return, or a trailer's first byte.
    LastReturn,
    LastFeed,
    End,
}

/// What most chunked bodies end with, behind the last chunk's data.
const USUAL_END: &[u8] = b"\r\n0\r\n\r\n";

impl Chunked {
    fn decode(&mut self, unread: &mut Bytes) -> Result<Option<Frame<Bytes>>, Error> {
        while self.step != Step::Data && self.step != Step::End {
            let Some(&byte) = unread.first() else {
                return Ok(None);
            };
            self.step = self.next(byte)?;
            unread.advance(1);
        }
        if self.step == Step::End {
            return self.take_trailers();
        }
        if unread.is_empty() {
            return Ok(None);
        }
        let data = take(unread, self.left);
        self.left -= data.len() as u64;
        if self.left == 0 {
            self.step = Step::DataReturn;
            // Who sends the last part on can end the body with it.
            if unread.starts_with(USUAL_END) {
                unread.advance(USUAL_END.len());
                self.step = Step::End;
            }
        }
        Ok(Some(Frame::data(data)))
    }

    /// What comes after a byte that is not data.
    fn next(&mut self, byte: u8) -> Result<Step, Error> {
        let malformed = |why| Err(Error::Malformed(why));
        Ok(match (self.step, byte) {
            (Step::Start, _) => match self.digit(byte)? {
                true => Step::Size,
                false => return malformed("a chunk without a size"),
            },
            (Step::Size | Step::Blank, b'\t' | b' ') => Step::Blank,
            (Step::Size | Step::Blank, b';') => Step::Extension,
            (Step::Size | Step::Blank | Step::Extension, b'\r') => Step::SizeFeed,
            (Step::Size, _) => match self.digit(byte)? {
                true => Step::Size,
                false => return malformed("a chunk's size is no number"),
            },
            (Step::Blank, _) => return malformed("a chunk's size has something behind it"),
            // Who looks for the line feed alone would end the line here.
            (Step::Extension, b'\n') => return malformed("a line feed in a chunk extension"),
            (Step::Extension, _) => {
                self.extensions += 1;
                if self.extensions >= MOST_EXTENSIONS {
                    return malformed("its chunk extensions are too long");
                }
                Step::Extension
            }
            (Step::SizeFeed, b'\n') if self.left == 0 => Step::LastReturn,
            (Step::SizeFeed, b'\n') => Step::Data,
            (Step::DataReturn, b'\r') => Step::DataFeed,
            (Step::DataFeed, b'\n') => Step::Start,
            (Step::SizeFeed | Step::DataReturn | Step::DataFeed, _) => {
                return malformed("a chunk's line does not end where it must");
            }
            (Step::LastReturn | Step::Trailer | Step::TrailerFeed | Step::LastFeed, _) => {
                self.behind_last(byte)?
            }
            (Step::Data | Step::End, _) => unreachable!("nothing of these is framing"),
        })
    }

    /// What comes after a byte behind the last chunk's size.
    fn behind_last(&mut self, byte: u8) -> Result<Step, Error> {
        let malformed = |why| Err(Error::Malformed(why));
        Ok(match (self.step, byte) {
            (Step::LastReturn, b'\r') => {
                self.keep(byte)?;
                Step::LastFeed
            }
            // Who looks for the line feed alone would end the body, or another trailer, here.
            (Step::LastReturn | Step::Trailer, b'\n') => {
                return malformed("a line feed alone behind its last chunk");
            }
            (Step::LastReturn, _) => {
                self.trailers.push(byte);
                self.limit()?;
                Step::Trailer
            }
            (Step::Trailer, _) => {
                self.keep(byte)?;
                if byte == b'\r' {
                    Step::TrailerFeed
                } else {
                    Step::Trailer
                }
            }
            (Step::TrailerFeed, b'\n') => {
                if self.lines >= MOST_HEADERS {
                    return malformed("it has too many trailers");
                }
                self.lines += 1;
                self.keep(byte)?;
                Step::LastReturn
            }
            (Step::LastFeed, b'\n') => {
                self.keep(byte)?;
                Step::End
            }
            _ => return malformed("a trailer's line does not end where it must"),
        })
    }

    /// Whether the byte is another digit of the size.
    fn digit(&mut self, byte: u8) -> Result<bool, Error> {
        let Some(digit) = char::from(byte).to_digit(16) else {
            return Ok(false);
        };
        let size = self.left.checked_mul(16);
        let size = size.and_then(|size| size.checked_add(digit.into()));
        self.left = size.ok_or(Error::Malformed("a chunk's size is too large"))?;
        Ok(true)
    }

    /// Keeps a byte of the trailers, if there are some.
    fn keep(&mut self, byte: u8) -> Result<(), Error> {
        if !self.trailers.is_empty() {
            self.trailers.push(byte);
        }
        self.limit()
    }

    fn limit(&self) -> Result<(), Error> {
        match self.trailers.len() >= MOST_TRAILERS {
            true => Err(Error::Malformed("its trailers are too long")),
            false => Ok(()),
        }
    }

    fn take_trailers(&mut self) -> Result<Option<Frame<Bytes>>, Error> {
        if self.trailers.is_empty() {
            return Ok(None);
        }
        let malformed = || Error::Malformed("its trailers");
        // The parser removes such blanks from a head alone.
        let bytes = [b"HTTP/1.1 200 OK\r\n", &self.trailers[..]].concat();
        self.trailers = Vec::new();
        let mut headers = vec![httparse::EMPTY_HEADER; self.lines];
        let mut parsed = httparse::Response::new(&mut headers);
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(self.blanks);
        match config.parse_response(&mut parsed, &bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(malformed()),
        }
        let mut trailers = HeaderMap::with_capacity(parsed.headers.len());
        for header in parsed.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            let value = HeaderValue::from_bytes(header.value);
            trailers.append(
                name.map_err(|_| malformed())?,
                value.map_err(|_| malformed())?,
            );
        }
        Ok(Some(Frame::trailers(trailers)))
    }
}
