//! The first line of a client, told piece by piece: whether some HTTP server, however
//! lenient, could take it for a request's.
//!
//! It keeps what that depends on and nothing else: the beginnings of words, never the
//! line. So a client may send its line in as many pieces as it likes.

use super::{METHODS, is_blank, is_skipped};

/// Longest line that a server takes for a request's, bytes: what Python's reads at most.
const LONGEST: usize = 64 * 1024;
/// Bytes of a word that are kept: one more than the longest method that is known.
const KEPT: usize = 8;
/// What a version of HTTP begins with.
const VERSION: &[u8] = b"HTTP/";

/// What is known of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// It has not come to its end.
    Unfinished,
    /// It is none that a server would take for a request's.
    Other,
    /// Some server would take it for a request's.
    Request,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstLine {
    /// Bytes of the line since its first word began, without its end.
    length: usize,
    /// Words that have ended.
    words: usize,
    /// The first bytes of the word that has not ended.
    word: [u8; KEPT],
    /// How long that word is, as far as it matters.
    word_length: usize,
    /// The first word is a method that servers know.
    known_method: bool,
    /// A later word names a version of HTTP.
    version: bool,
}

impl FirstLine {
    /// Reads on; what comes behind the line's end is not looked at.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Line {
        for &byte in bytes {
            if self.length == 0 && is_skipped(byte) {
                continue;
            }
            if byte == b'\n' {
                return self.end();
            }
            self.length += 1;
            if self.length > LONGEST {
                return Line::Other;
            }
            if is_blank(byte) {
                self.end_word();
            } else {
                if let Some(kept) = self.word.get_mut(self.word_length) {
                    *kept = byte;
                }
                self.word_length = (self.word_length + 1).min(KEPT);
            }
        }
        Line::Unfinished
    }

    /// Ends the line where there is nothing more of it: some servers read it all the same.
    pub(crate) fn end(&mut self) -> Line {
        self.end_word();
        let target = self.words > 1;
        match target && (self.known_method || self.version) {
            true => Line::Request,
            false => Line::Other,
        }
    }

    fn end_word(&mut self) {
        let word = &self.word[..self.word_length];
        if word.is_empty() {
            return;
        }
        if self.words == 0 {
            let is = |known: &&[u8]| known.eq_ignore_ascii_case(word);
            self.known_method = METHODS.iter().any(is) || is(&&b"PROXY"[..]);
        } else {
            let begin = word.get(..VERSION.len());
            self.version |= begin.is_some_and(|begin| begin.eq_ignore_ascii_case(VERSION));
        }
        self.words = (self.words + 1).min(2);
        self.word_length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is judged, read naively from the whole line.
    fn naive(bytes: &[u8]) -> Line {
        let start = bytes.iter().position(|byte| !is_skipped(*byte));
        let rest = &bytes[start.unwrap_or(bytes.len())..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        if line.len() > LONGEST {
            return Line::Other;
        }
        if end.is_none() {
            return Line::Unfinished;
        }
        let words = line.split(|byte| is_blank(*byte));
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        let upper = |word: &[u8]| word.to_ascii_uppercase();
        let known = |word: &[u8]| METHODS.contains(&&upper(word)[..]) || upper(word) == b"PROXY";
        let request = words.len() > 1
            && (known(words[0])
                || words[1..]
                    .iter()
                    .any(|word| upper(word).starts_with(b"HTTP/")));
        match request {
            true => Line::Request,
            false => Line::Other,
        }
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            prop::sample::select(vec![
                &b"GET"[..],
                b"gEt",
                b"OPTIONS",
                b"PROXY",
                b"BREW",
                b"X\x01Y",
                b"\x05\x01",
                b"/",
                b"HTTP/1.0",
                b"http/",
                b"HTTP",
                b"xHTTP/1.1",
            ])
            .prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..12),
        ];
        let blank = prop::sample::select(vec![
            &b" "[..],
            b"\t",
            b"\r",
            b"\n",
            b"\r\n",
            b"\x1c",
            b"\xa0",
        ]);
        let parts = prop::collection::vec((word, blank), 0..6);
        parts.prop_map(|parts| {
            let parts = parts
                .into_iter()
                .flat_map(|(word, blank)| [word, blank.to_vec()]);
            parts.collect::<Vec<_>>().concat()
        })
    }

    proptest! {
        #[test]
        fn a_line_is_judged_alike_in_pieces_of_any_size(bytes in line(), sizes in prop::collection::vec(1usize..9, 1..20)) {
            let mut reader = FirstLine::default();
            let mut told = Line::Unfinished;
            let mut rest = &bytes[..];
            for size in sizes.iter().cycle() {
                if rest.is_empty() || told != Line::Unfinished {
                    break;
                }
                let (piece, behind) = rest.split_at((*size).min(rest.len()));
                told = reader.read(piece);
                rest = behind;
            }
            prop_assert_eq!(told, naive(&bytes));
        }
    }

    #[test]
    fn a_line_longer_than_any_server_reads_is_none() {
        let line = |length: usize| {
            let mut line = b"GET /".to_vec();
            line.resize(length, b'x');
            line
        };
        let read = |bytes: &[u8]| FirstLine::default().read(bytes);
        assert_eq!(read(&line(LONGEST)), Line::Unfinished);
        assert_eq!(
            read(&[line(LONGEST), b"\n".to_vec()].concat()),
            Line::Request
        );
        assert_eq!(read(&line(LONGEST + 1)), Line::Other);
        // What is skipped before it is as long as a client likes.
        let skipped = vec![0; 10 * LONGEST];
        assert_eq!(
            read(&[skipped, b"GET /\n".to_vec()].concat()),
            Line::Request
        );
    }
}
