//! From the data threads to the one that writes: bytes that wait, bounded, behind a
//! lock that is held for as long as a line is copied or the bytes change hands. So no
//! data thread waits for what is written to.

use super::{line::Line, time::now};
use linnet_mesh::access_log::Format;
use metrics::Counter;
use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// Bytes of lines that may wait to be written; as many again are being written.
const ROOM: usize = 1024 * 1024;
/// How long lines gather before they are written. To wake the writer costs a data
/// thread more than to make a line; so it is woken once for many.
const GATHERING: Duration = Duration::from_millis(50);
/// What is written without waiting for more, bytes.
const ENOUGH: usize = ROOM / 4;
/// Memory that the writer keeps when there is little to write, bytes.
const KEPT: usize = 64 * 1024;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where data threads put their lines.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Handle>);

/// What all handles share; with it the lines end.
#[derive(Debug)]
struct Handle(Arc<Queue>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.waiting().over = true;
        self.0.filled.notify_one();
    }
}

/// What data threads and the writer share.
#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something to write, or enough, or nothing will come any more.
    filled: Condvar,
    room: usize,
    missing: Missing,
}

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    over: bool,
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

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics amid a line.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges the empty `batch` for the lines that wait, as soon as some do and
    /// have gathered, and says how many these are; `None` at the end.
    fn take(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let nothing = |waiting: &mut Waiting| waiting.bytes.is_empty() && !waiting.over;
        let waiting = self.filled.wait_while(self.waiting(), nothing);
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let few = |waiting: &mut Waiting| waiting.bytes.len() < ENOUGH && !waiting.over;
        let gathered = self.filled.wait_timeout_while(waiting, GATHERING, few);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut waiting.bytes, batch);
        (!batch.is_empty()).then(|| mem::take(&mut waiting.lines))
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
        let (log, queue) = Self::new(ROOM);
        let (ending, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                write_all(&queue, target);
                // Nobody may be waiting for it.
                let _ = ending.send(());
            })?;
        Ok((log, Writer { ended }))
    }

    fn new(room: usize) -> (Self, Arc<Queue>) {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            room,
            missing: Missing {
                untold: AtomicU64::new(0),
                total: metrics::counter!("linnet_access_log_dropped_total"),
            },
        });
        (Self(Arc::new(Handle(queue.clone()))), queue)
    }

    fn queue(&self) -> &Queue {
        &self.0.0
    }

    /// Hands a line over, or drops it.
    pub(super) fn put(&self, line: &[u8]) {
        let queue = self.queue();
        let mut waiting = queue.waiting();
        if line.len() > queue.room - waiting.bytes.len() {
            drop(waiting);
            return self.lose();
        }
        let before = waiting.bytes.len();
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        drop(waiting);
        if before == 0 || before < ENOUGH && before + line.len() >= ENOUGH {
            queue.filled.notify_one();
        }
    }

    /// Counts a line that could not be made.
    pub(super) fn lose(&self) {
        self.queue().missing.add(1);
    }

    /// Lines that were dropped and that the log has not told of.
    #[cfg(test)]
    pub(crate) fn untold(&self) -> u64 {
        self.queue().missing.untold.load(Relaxed)
    }
}

/// What a test reads that has no writer.
#[cfg(test)]
pub(crate) struct Lines(Arc<Queue>);

#[cfg(test)]
impl Lines {
    /// What waits, and then no longer does.
    pub(crate) fn take(&self) -> String {
        let bytes = mem::take(&mut self.0.waiting().bytes);
        String::from_utf8(bytes).expect("lines are text")
    }
}

#[cfg(test)]
impl Log {
    /// A log of so many bytes, whose lines a test reads itself.
    pub(crate) fn for_test(room: usize) -> (Self, Lines) {
        let (log, queue) = Self::new(room);
        (log, Lines(queue))
    }
}

impl Writer {
    /// Waits for the last lines, for a moment.
    pub(crate) async fn finish(self) {
        // An error means that the thread is gone, and its lines with it.
        let _ = tokio::time::timeout(LAST_LINES, self.ended).await;
    }
}

fn write_all(queue: &Queue, mut target: impl Write) {
    let missing = &queue.missing;
    let mut batch = Vec::new();
    let mut failing = false;
    while let Some(count) = queue.take(&mut batch) {
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
        // What a burst took is given back, and what each round takes is not.
        let wanted = KEPT.max(2 * batch.len());
        batch.clear();
        batch.shrink_to(wanted);
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
    use std::sync::mpsc::{self, Receiver, Sender};

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
        let line = [&[b' '; 1020], &b"{}\n"[..]].concat();
        let fitting = ROOM / line.len();
        for _ in 0..fitting + 7 {
            log.put(&line);
        }
        assert_eq!(log.untold(), 7);
        drop(open);
        drop(log);
        writer.finish().await;
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + fitting + 1);
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
        let (log, queue) = Log::new(ROOM);
        log.put(b"a\n");
        log.put(b"b\n");
        drop(log);
        // As if the notice at the end could be written.
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
        write_all(&queue, Sink(Full, &mut noted, 0));
        let notice: Line<'_> = serde_json::from_slice(&noted).unwrap();
        assert_eq!(notice.dropped, Some(2));
    }

    #[test]
    fn lines_that_no_longer_wait_leave_room() {
        let (log, queue) = Log::new(1 << 20);
        let line = vec![b'x'; 1000];
        let mut batch = Vec::new();
        for lines in [1000, 1, 1000] {
            for _ in 0..lines {
                log.put(&line);
            }
            assert_eq!(queue.take(&mut batch), Some(lines));
            assert_eq!(batch.len() as u64, lines * 1000);
            batch.clear();
        }
        assert_eq!(log.untold(), 0);
        drop(log);
        assert_eq!(queue.take(&mut batch), None);
    }
}
