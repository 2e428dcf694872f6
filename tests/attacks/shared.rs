//! Streams that share a connection, as a mesh peer uses them whose sidecar has been
//! taken over (`proxy/src/mux/tests/floods.rs` tries every kind of frame).

use crate::wire::{Front, answer, peer};
use tokio::io::AsyncWriteExt;

const DATA: u8 = 0;
const RESET: u8 = 3;

/// A frame of a stream.
fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let word = u64::from(stream) << 32 | u64::from(kind) << 24 | u64::from(length);
    [&word.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn streams_that_are_reset_in_a_loop_end_their_connection() {
    const REQUEST: &[u8] = b"GET /flood HTTP/1.1\r\nhost: payment\r\n\r\n";
    /// What may be wasted before the connection ends, and what is open by then.
    const MOST: usize = 1024 + 256 + 128;
    let front = Front::start().await;
    // Resets that come at once, and such that leave time for work.
    for together in [true, false] {
        let address = front.pair.server.inbound[0];
        let connection = peer(&front.mesh, address, b"linnet/shared").await;
        let (mut reader, mut writer) = tokio::io::split(connection);
        let flood = tokio::spawn(async move {
            for stream in 0..20_000 {
                let request = [frame(stream, DATA, b""), frame(stream, DATA, REQUEST)].concat();
                let reset = frame(stream, RESET, b"");
                let parts = match together {
                    true => vec![[request, reset].concat()],
                    false => vec![request, reset],
                };
                for part in parts {
                    if writer.write_all(&part).await.is_err() || writer.flush().await.is_err() {
                        return stream as usize;
                    }
                }
            }
            usize::MAX
        });
        // Until the sidecar ends it.
        answer(&mut reader, |_| false).await;
        let sent = flood.await.unwrap();
        assert!(sent < 20_000, "{sent} streams were taken");
        front.serves_others().await;
        let targets = front.app.targets();
        let reached = targets.iter().filter(|target| *target == "/flood").count();
        assert!(
            reached <= MOST,
            "{reached} requests reached the application"
        );
    }
}
