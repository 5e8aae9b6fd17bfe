//! The access log's output: a file, written through io_uring, or standard output, written by a
//! thread of its own because a write to a full pipe blocks.

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

/// Counts of lines by outcome.
#[derive(Debug, Default)]
pub(in crate::control) struct LogCounts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl LogCounts {
    /// Returns the numbers of lines written and dropped.
    pub(in crate::control) fn get(&self) -> (u64, u64) {
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

/// An opened log whose writer has not started.
pub(in crate::control) struct Output {
    format: AccessFormat,
    /// `None` is standard output.
    file: Option<File>,
}

pub(in crate::control) struct Sink {
    pub(super) format: AccessFormat,
    /// At most one chunk waits while another is written.
    chunks: mpsc::Sender<Chunk>,
    pub(super) counts: Arc<LogCounts>,
    /// Closes when the writer has ended.
    ended: oneshot::Receiver<()>,
}

/// Opens the log.
pub(in crate::control) fn open(log: &AccessLog) -> Result<Output, ControlError> {
    let file = match &log.target {
        AccessTarget::Stdout => None,
        AccessTarget::File(path) => {
            let file = open_file(path);
            Some(file.map_err(|error| ControlError::AccessLog(path.clone(), error))?)
        }
    };
    Ok(Output { format: log.format, file })
}

impl Output {
    /// Starts the writer. Must be called inside the runtime.
    pub(in crate::control) fn start(self) -> Result<Sink, ControlError> {
        match self.file {
            None => Sink::with_thread(self.format, io::stdout()).map_err(ControlError::Thread),
            Some(file) => Ok(Sink::with_ring(self.format, tokio_uring::fs::File::from_std(file))),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // Opening a FIFO blocks until it has a reader.
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        let message = "it is a FIFO; set log.access.path to \"stdout\" and redirect that";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    // The addresses of clients are not for every user of this host.
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// The writer's side of a [`Sink`].
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

    /// Returns a sink that writes on a thread of its own, which may block.
    pub(super) fn with_thread(
        format: AccessFormat,
        out: impl io::Write + Send + 'static,
    ) -> io::Result<Sink> {
        let (sink, writer) = Sink::new(format);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        thread.spawn(move || write_blocking(out, writer))?;
        Ok(sink)
    }

    /// Returns a sink that writes through this thread's io_uring.
    fn with_ring(format: AccessFormat, file: tokio_uring::fs::File) -> Sink {
        let (sink, writer) = Sink::new(format);
        tokio_uring::spawn(write_ring(file, writer));
        sink
    }

    pub(in crate::control) fn counts(&self) -> Arc<LogCounts> {
        Arc::clone(&self.counts)
    }

    /// Hands the chunk to the writer and leaves an empty one, or keeps it if the writer is busy.
    pub(super) fn offer(&mut self, chunk: &mut Chunk) {
        match self.chunks.try_send(std::mem::take(chunk)) {
            Ok(()) => {}
            Err(TrySendError::Full(back)) => *chunk = back,
            // The writer ends before its sender only if it panicked.
            Err(TrySendError::Closed(lost)) => self.counts.drop_lines(lost.line_count),
        }
    }

    /// Hands over the last chunk and waits until everything is written.
    pub(super) async fn finish(self, chunk: Chunk) {
        if let Err(lost) = self.chunks.send(chunk).await {
            self.counts.drop_lines(lost.0.line_count);
        }
        drop(self.chunks);
        let _ = self.ended.await;
    }
}

async fn write_ring(file: tokio_uring::fs::File, mut writer: WriterEnd) {
    let mut failure = WriteFailure::default();
    while let Some(chunk) = writer.chunks.recv().await {
        // The file is open for appending, so the kernel ignores the offset.
        let (outcome, _) = file.write_all_at(chunk.bytes, 0).await;
        writer.counts.count(chunk.line_count, &outcome);
        failure.note(&outcome);
    }
}

fn write_blocking(mut out: impl io::Write, mut writer: WriterEnd) {
    let mut failure = WriteFailure::default();
    while let Some(chunk) = writer.chunks.blocking_recv() {
        let outcome = out.write_all(&chunk.bytes).and_then(|()| out.flush());
        writer.counts.count(chunk.line_count, &outcome);
        failure.note(&outcome);
    }
}

/// Logs once that writing fails, and once that it works again.
#[derive(Default)]
struct WriteFailure {
    is_logged: bool,
}

impl WriteFailure {
    fn note(&mut self, outcome: &io::Result<()>) {
        match outcome {
            Err(error) if !self.is_logged => {
                tracing::error!(
                    "the access log cannot be written and its lines are dropped: {error}"
                );
            }
            Ok(()) if self.is_logged => tracing::info!("the access log can be written again"),
            _ => {}
        }
        self.is_logged = outcome.is_err();
    }
}
