//! Where lines end: a file by io_uring, or standard output by a thread of its own, since a write
//! to a pipe that nobody reads blocks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::config::{AccessFormat, AccessLog, AccessTarget};

use super::super::ControlError;
use super::Chunk;

/// What became of lines.
#[derive(Debug, Default)]
pub(in crate::control) struct LogCounts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl LogCounts {
    /// Lines written, and lines dropped.
    pub fn told(&self) -> (u64, u64) {
        (self.written.load(Relaxed), self.dropped.load(Relaxed))
    }

    pub(super) fn drop_lines(&self, count: u64) {
        self.dropped.fetch_add(count, Relaxed);
    }

    /// Counts a chunk's lines by the outcome of its write.
    fn count(&self, line_count: u64, outcome: &io::Result<()>) {
        let counter = if outcome.is_ok() { &self.written } else { &self.dropped };
        counter.fetch_add(line_count, Relaxed);
    }
}

/// An open log.
pub(in crate::control) struct Sink {
    format: AccessFormat,
    /// One chunk waits at most, while another is being written.
    chunks: mpsc::Sender<Chunk>,
    counts: Arc<LogCounts>,
    /// Closed by the writer's end.
    ended: oneshot::Receiver<()>,
}

/// Opens the log and starts its writer. Must run inside the runtime.
pub(in crate::control) fn open(log: &AccessLog) -> Result<Sink, ControlError> {
    match &log.target {
        AccessTarget::Stdout => {
            Sink::with_thread(log.format, io::stdout()).map_err(ControlError::Thread)
        }
        AccessTarget::File(path) => {
            let file = open_file(path);
            let file = file.map_err(|error| ControlError::AccessLog(path.clone(), error))?;
            Ok(Sink::with_ring(log.format, tokio_uring::fs::File::from_std(file)))
        }
    }
}

/// Opens for appending.
fn open_file(path: &Path) -> io::Result<File> {
    // Opening a FIFO waits for its reader.
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        let message = "it is a FIFO; set log.access.path to \"stdout\" and redirect that";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    // Addresses of clients are nobody else's business.
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// The writer's ends of a [`Sink`].
struct WriterEnd {
    chunks: mpsc::Receiver<Chunk>,
    counts: Arc<LogCounts>,
    _end: oneshot::Sender<()>,
}

impl Sink {
    fn new(format: AccessFormat) -> (Sink, WriterEnd) {
        let (chunks, receiver) = mpsc::channel(1);
        let (_end, ended) = oneshot::channel();
        let counts = Arc::new(LogCounts::default());
        let writer = WriterEnd { chunks: receiver, counts: Arc::clone(&counts), _end };
        (Sink { format, chunks, counts, ended }, writer)
    }

    /// Writes by a thread that may block.
    pub(super) fn with_thread(
        format: AccessFormat,
        out: impl io::Write + Send + 'static,
    ) -> io::Result<Sink> {
        let (sink, writer) = Sink::new(format);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        thread.spawn(move || write_blocking(out, writer))?;
        Ok(sink)
    }

    /// Writes by this thread's io_uring.
    fn with_ring(format: AccessFormat, file: tokio_uring::fs::File) -> Sink {
        let (sink, writer) = Sink::new(format);
        tokio_uring::spawn(write_ring(file, writer));
        sink
    }

    pub(super) fn format(&self) -> AccessFormat {
        self.format
    }

    pub(in crate::control) fn counts(&self) -> Arc<LogCounts> {
        Arc::clone(&self.counts)
    }

    pub(super) fn counts_ref(&self) -> &LogCounts {
        &self.counts
    }

    /// Hands the chunk over and leaves an empty one; leaves it as it is when the writer is busy.
    pub(super) fn offer(&mut self, chunk: &mut Chunk) {
        match self.chunks.try_send(std::mem::take(chunk)) {
            Ok(()) => {}
            Err(TrySendError::Full(back)) => *chunk = back,
            // The writer never ends before its sender does, unless it panicked.
            Err(TrySendError::Closed(lost)) => self.counts.drop_lines(lost.line_count),
        }
    }

    /// Hands over the last chunk and waits until all is written.
    pub(super) async fn finish(self, chunk: Chunk) {
        if let Err(lost) = self.chunks.send(chunk).await {
            self.counts.drop_lines(lost.0.line_count);
        }
        drop(self.chunks);
        let _ = self.ended.await;
    }
}

async fn write_ring(file: tokio_uring::fs::File, mut writer: WriterEnd) {
    let mut complaint = Complaint::default();
    while let Some(chunk) = writer.chunks.recv().await {
        // The file is open for appending: the kernel writes at its end, whatever the offset says.
        let (outcome, _) = file.write_all_at(chunk.bytes, 0).await;
        writer.counts.count(chunk.line_count, &outcome);
        complaint.note(&outcome);
    }
}

fn write_blocking(mut out: impl io::Write, mut writer: WriterEnd) {
    let mut complaint = Complaint::default();
    while let Some(chunk) = writer.chunks.blocking_recv() {
        let outcome = out.write_all(&chunk.bytes).and_then(|()| out.flush());
        writer.counts.count(chunk.line_count, &outcome);
        complaint.note(&outcome);
    }
}

/// Says once that the log fails, and once that it works again.
#[derive(Default)]
struct Complaint {
    made: bool,
}

impl Complaint {
    fn note(&mut self, outcome: &io::Result<()>) {
        match outcome {
            Err(error) if !self.made => {
                tracing::error!("the access log cannot be written, its lines are dropped: {error}");
            }
            Ok(()) if self.made => tracing::info!("the access log can be written again"),
            _ => {}
        }
        self.made = outcome.is_err();
    }
}
