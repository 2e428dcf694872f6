//! From the data threads to the one that writes: a bounded queue that nobody
//! waits at.

use super::{line::Line, record::now};
use linnet_mesh::access_log::Format;
use metrics::Counter;
use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// Lines that may wait to be written: less than a megabyte.
const ROOM: usize = 2048;
/// How long lines gather before they are written. To wake the writer costs a data
/// thread more than to make a line; so it is woken once for many.
const GATHERING: Duration = Duration::from_millis(10);
/// What is written at once, bytes.
const BATCH: usize = 64 * 1024;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where data threads put their lines.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    sender: SyncSender<Box<[u8]>>,
    missing: Arc<Missing>,
}

/// Lines that could not be written.
#[derive(Debug)]
struct Missing {
    /// Since the log last said so.
    untold: AtomicU64,
    total: Counter,
}

impl Missing {
    fn add(&self, lines: u64) {
        self.untold.fetch_add(lines, Relaxed);
        self.total.increment(lines);
    }
}

/// The end of the thread that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    ended: oneshot::Receiver<()>,
}

impl Log {
    /// Starts the thread that writes. It ends when all handles are gone.
    ///
    /// # Errors
    /// The thread can't be made.
    pub(crate) fn start(target: impl Write + Send + 'static) -> io::Result<(Self, Writer)> {
        let (log, lines) = Self::new(ROOM);
        let missing = log.missing.clone();
        let (ending, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                write_all(&lines, target, &missing);
                // Nobody may be waiting for it.
                let _ = ending.send(());
            })?;
        Ok((log, Writer { ended }))
    }

    fn new(room: usize) -> (Self, Receiver<Box<[u8]>>) {
        let (sender, lines) = sync_channel(room);
        let missing = Arc::new(Missing {
            untold: AtomicU64::new(0),
            total: metrics::counter!("linnet_access_log_dropped_total"),
        });
        (Self { sender, missing }, lines)
    }

    /// A log whose lines a test reads itself.
    #[cfg(test)]
    pub(crate) fn for_test(room: usize) -> (Self, Receiver<Box<[u8]>>) {
        Self::new(room)
    }

    /// Hands a line over, or drops it.
    pub(super) fn put(&self, line: &[u8]) {
        if self.sender.try_send(line.into()).is_err() {
            self.missing.add(1);
        }
    }

    /// Counts a line that could not be made.
    pub(super) fn lose(&self) {
        self.missing.add(1);
    }

    /// Lines that were dropped and that the log has not told of.
    #[cfg(test)]
    pub(crate) fn untold(&self) -> u64 {
        self.missing.untold.load(Relaxed)
    }
}

impl Writer {
    /// Waits for the last lines, for a moment.
    pub(crate) async fn finish(self) {
        // An error means that the thread is gone, and its lines with it.
        let _ = tokio::time::timeout(LAST_LINES, self.ended).await;
    }
}

fn write_all(lines: &Receiver<Box<[u8]>>, mut target: impl Write, missing: &Missing) {
    let mut batch = Vec::new();
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        std::thread::sleep(GATHERING);
        batch.extend_from_slice(&line);
        let mut count = 1;
        while batch.len() < BATCH
            && let Ok(line) = lines.try_recv()
        {
            batch.extend_from_slice(&line);
            count += 1;
        }
        let untold = missing.untold.swap(0, Relaxed);
        if untold > 0 {
            Line::missing(untold, &now()).write(Format::Json, &mut batch);
        }
        let written = target.write_all(&batch).and_then(|()| target.flush());
        if let Err(error) = &written {
            missing.untold.fetch_add(untold, Relaxed);
            missing.add(count);
            if !failing {
                tracing::warn!(%error, "the access log can't be written; its lines are dropped");
            }
        }
        failing = written.is_err();
        batch.clear();
    }
    // What was dropped after the last line went out.
    let untold = missing.untold.swap(0, Relaxed);
    if untold > 0 {
        Line::missing(untold, &now()).write(Format::Json, &mut batch);
        // There is nowhere left to say that this failed too.
        let _ = target.write_all(&batch).and_then(|()| target.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Mutex,
        mpsc::{self, Sender},
    };

    /// Writes nothing until it may.
    struct Blocked {
        started: Sender<()>,
        gate: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.started.send(());
            // An error means that the gate is open for good.
            let _ = self.gate.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// With a writer that doesn't drain, handing over returns all the same:
    /// the test would hang otherwise.
    #[tokio::test]
    async fn a_writer_that_stands_still_costs_lines_and_no_time() {
        let (open, gate) = mpsc::channel();
        let (started, writing) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let target = Blocked {
            started,
            gate,
            written: written.clone(),
        };
        let (log, writer) = Log::start(target).unwrap();
        log.put(b"{\"first\":1}\n");
        // The first line is out of the queue, and stuck.
        writing.recv().unwrap();
        for _ in 0..ROOM + 7 {
            log.put(b"{}\n");
        }
        assert_eq!(log.untold(), 7);
        drop(open);
        drop(log);
        writer.finish().await;
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + ROOM + 1);
        let notices: Vec<Line<'_>> = lines
            .iter()
            .map(|line| serde_json::from_str::<Line<'_>>(line).unwrap())
            .filter(|line| line.dropped.is_some())
            .collect();
        assert_eq!(notices.len(), 1);
        assert_eq!(notices[0].dropped, Some(7));
    }

    #[tokio::test]
    async fn what_can_t_be_written_is_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (log, lines) = Log::for_test(ROOM);
        log.put(b"a\n");
        log.put(b"b\n");
        let missing = log.missing.clone();
        drop(log);
        // As if the notice at the end could be written.
        let total = Missing {
            untold: AtomicU64::new(0),
            total: missing.total.clone(),
        };
        let mut noted = Vec::new();
        struct Sink<'a>(Full, &'a mut Vec<u8>, u32);
        impl Write for Sink<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.2 += 1;
                if self.2 == 1 {
                    return self.0.write(bytes);
                }
                self.1.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        write_all(&lines, Sink(Full, &mut noted, 0), &total);
        let notice: Line<'_> = serde_json::from_slice(&noted).unwrap();
        assert_eq!(notice.dropped, Some(2));
    }
}
