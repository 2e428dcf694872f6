//! A client whose first line is looked at as it is read, where bytes are relayed that
//! could yet turn out to be a request.
//!
//! Nothing waits for it: what comes is passed on piece by piece. Only the piece that ends
//! the first line is kept back if the line is a request's, and the client is not read any
//! more; so no server sees such a line whole.

use crate::detect::{FirstLine, Line};
use std::io;

/// See the module.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Until it is known what it is.
    line: Option<FirstLine>,
}

/// Why a client is not read any more.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "it sent a request's first line where the port declares no protocol and policies or tokens \
     go by HTTP; declare the port's appProtocol"
)]
pub(crate) struct RequestLine;

impl RequestLine {
    /// Whether that is why something failed.
    pub(crate) fn is_cause(error: &io::Error) -> bool {
        let Some(cause) = error.get_ref() else {
            return false;
        };
        cause.is::<Self>()
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            line: Some(FirstLine::default()),
        }
    }
}

impl Watch {
    /// Whether there is nothing more to look at.
    pub(crate) fn is_over(&self) -> bool {
        self.line.is_none()
    }

    /// Looks at what was read of the client; nothing is its end.
    ///
    /// # Errors
    /// It must not be passed on ([`RequestLine`]).
    pub(super) fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        let told = match bytes {
            [] => line.end(),
            bytes => line.read(bytes),
        };
        match told {
            Line::Unfinished => Ok(()),
            Line::Other => {
                self.line = None;
                Ok(())
            }
            Line::Request => Err(io::Error::new(io::ErrorKind::InvalidData, RequestLine)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::{Expected, Finding, classify_as},
        io::{relay, relay_watched},
    };
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// What a server gets of pieces that a client sends before it ends, and how that went.
    async fn served(pieces: &[&[u8]]) -> (Vec<u8>, io::Result<()>) {
        let (mut client, mut near) = duplex(1024);
        let (mut far, mut server) = duplex(1024);
        let sending = async {
            for piece in pieces {
                // It may have been cut off.
                if client.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
        };
        let mut got = Vec::new();
        let serving = async {
            server.read_to_end(&mut got).await.unwrap();
            drop(server);
        };
        let relaying = async {
            let mut watch = Watch::default();
            let ends = (&mut near, &mut far);
            let relayed = relay_watched(ends, |_| (), |_| (), &mut watch).await;
            // As the connections do.
            let relayed = match relayed {
                Ok(true) => relay(&mut near, &mut far, |_| (), |_| ()).await,
                relayed => relayed.map(|_| ()),
            };
            drop((near, far));
            relayed
        };
        let (relayed, ..) = tokio::join!(relaying, sending, serving);
        (got, relayed)
    }

    fn runtime() -> tokio::runtime::Runtime {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.build().unwrap()
    }

    /// Cuts bytes into pieces of these sizes, in turn.
    fn cut<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                return pieces;
            }
            let (piece, behind) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        vec![bytes]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Whatever the first word is and the bytes come in: where they are relayed, the
        /// server never has a whole line that is a request's, ended or at the end.
        #[test]
        fn no_server_sees_a_requests_line_whole(
            word in prop::collection::vec(any::<u8>(), 0..10),
            rest in prop::sample::select(vec![
                &b" / HTTP/1.0\r\n\r\n"[..],
                b"\t/\x1chttp/1.1\nhost: a\n\n",
                b" /\n",
                b" / HTTP/1.1",
            ]),
            sizes in prop::collection::vec(1usize..8, 1..12),
        ) {
            let sent = [&word[..], rest].concat();
            let pieces = cut(&sent, &sizes);
            // The sidecar waits until the bytes that have come tell what they are.
            let mut seen = 0;
            let found = pieces.iter().find_map(|piece| {
                seen += piece.len();
                classify_as(&sent[..seen], Expected::PerhapsHttp)
            });
            if found != Some(Finding::Opaque) {
                return Ok(());
            }
            let (first, later) = sent.split_at(seen);
            let mut pieces = vec![first];
            pieces.extend(cut(later, &sizes));
            let (got, relayed) = runtime().block_on(served(&pieces));
            let mut line = FirstLine::default();
            let mut told = line.read(&got);
            if told == Line::Unfinished && relayed.is_ok() {
                told = line.end();
            }
            prop_assert_ne!(told, Line::Request, "{:?}", got);
            match &relayed {
                Ok(()) => prop_assert_eq!(got, sent),
                Err(error) => prop_assert!(RequestLine::is_cause(error)),
            }
        }
    }

    #[test]
    fn what_is_no_request_comes_through_as_it_is() {
        let long = [&b"\0\x01"[..], &vec![b'x'; 70_000], b" / HTTP/1.0\n"].concat();
        for sent in [
            &b"X\x01Y Z\nGET / HTTP/1.1\r\n"[..],
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"",
            &long,
        ] {
            for size in [1, 7, sent.len().max(1)] {
                let pieces = cut(sent, &[size]);
                let (got, relayed) = runtime().block_on(served(&pieces));
                assert!(relayed.is_ok() && got == sent, "{size}");
            }
        }
    }
}
