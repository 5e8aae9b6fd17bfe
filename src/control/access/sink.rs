//! The access log's writer: a file, written through io_uring, or standard output or error, written
//! by a thread of its own because a write to a full pipe blocks.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_uring::buf::BoundedBuf as _;

use crate::config::AccessFormat;

use super::super::ControlError;
use super::Chunk;
use super::output::{Output, Target, open_again};
use super::unfinished::{Lines, UnfinishedLine};

/// Bytes of whole lines that are written at once where the process log may write too: a pipe takes
/// so many in one piece (POSIX PIPE_BUF), so that lines of both stay whole.
const PIECE_LEN_MAX: usize = 4096;

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

    fn add(&self, lines: Lines) {
        self.written.fetch_add(lines.written, Relaxed);
        self.drop_lines(lines.dropped);
    }
}

pub(super) struct Sink {
    pub(super) format: AccessFormat,
    /// At most one chunk waits while another is written.
    chunks: mpsc::Sender<Chunk>,
    counts: Arc<LogCounts>,
    /// The file is to be opened again before the next write.
    reopen_wish: Arc<AtomicBool>,
    /// Closes when the writer has ended.
    ended: oneshot::Receiver<()>,
}

/// The right to have the log's file opened again. It does not keep the writer alive.
#[derive(Clone)]
pub(super) struct Reopener {
    wish: Arc<AtomicBool>,
    chunks: mpsc::WeakSender<Chunk>,
}

impl Reopener {
    /// Has the writer open the file by its path again before it writes more lines.
    pub(super) fn reopen(&self) {
        self.wish.store(true, Relaxed);
        if let Some(chunks) = self.chunks.upgrade() {
            // Wakes a writer that has nothing to do. A busy one sees the wish by itself.
            let _ = chunks.try_send(Chunk::default());
        }
    }
}

/// The writer's side of a [`Sink`].
struct WriterEnd {
    chunks: mpsc::Receiver<Chunk>,
    counts: Arc<LogCounts>,
    reopen_wish: Arc<AtomicBool>,
    unfinished: UnfinishedLine,
    failure: WriteFailure,
    _end: oneshot::Sender<()>,
}

impl Output {
    /// Starts the writer. Must be called inside the runtime.
    pub(super) fn start(self, counts: &Arc<LogCounts>) -> Result<Sink, ControlError> {
        let Output { format, target } = self;
        let standard = |fd: BorrowedFd| {
            // Not by `io::stdout`, which keeps lines that it could not write.
            let out = fd.try_clone_to_owned().map(File::from);
            let started = out.and_then(|out| Sink::with_thread(format, out, counts));
            started.map_err(ControlError::Thread)
        };
        match target {
            Target::Stdout => standard(io::stdout().as_fd()),
            Target::Stderr => standard(io::stderr().as_fd()),
            Target::File(path, file) => Ok(Sink::with_ring(format, path, file, counts)),
        }
    }
}

impl Sink {
    fn new(format: AccessFormat, counts: &Arc<LogCounts>) -> (Sink, WriterEnd) {
        let (chunks, receiver) = mpsc::channel(1);
        let (_end, ended) = oneshot::channel();
        let reopen_wish = Arc::new(AtomicBool::new(false));
        let writer = WriterEnd {
            chunks: receiver,
            counts: Arc::clone(counts),
            reopen_wish: Arc::clone(&reopen_wish),
            unfinished: UnfinishedLine::default(),
            failure: WriteFailure::default(),
            _end,
        };
        (Sink { format, chunks, counts: Arc::clone(counts), reopen_wish, ended }, writer)
    }

    /// Returns a sink that writes on a thread of its own, which may block.
    pub(super) fn with_thread(
        format: AccessFormat,
        out: impl io::Write + Send + 'static,
        counts: &Arc<LogCounts>,
    ) -> io::Result<Sink> {
        let (sink, writer) = Sink::new(format, counts);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        thread.spawn(move || writer.write_blocking(out))?;
        Ok(sink)
    }

    /// Returns a sink that writes through this thread's io_uring.
    fn with_ring(format: AccessFormat, path: PathBuf, file: File, counts: &Arc<LogCounts>) -> Sink {
        let (sink, writer) = Sink::new(format, counts);
        tokio_uring::spawn(writer.write_ring(path, tokio_uring::fs::File::from_std(file)));
        sink
    }

    pub(super) fn reopener(&self) -> Reopener {
        Reopener { wish: Arc::clone(&self.reopen_wish), chunks: self.chunks.downgrade() }
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

impl WriterEnd {
    async fn write_ring(mut self, path: PathBuf, mut file: tokio_uring::fs::File) {
        while let Some(chunk) = self.chunks.recv().await {
            if self.reopen_wish.swap(false, Relaxed)
                && let Some(opened) = self.open_again(&path)
            {
                file = opened;
            }
            let mut bytes = self.unfinished.begin(chunk.bytes);
            let (mut taken_len, mut outcome) = (0, Ok(()));
            while taken_len < bytes.len() && outcome.is_ok() {
                // The file is open for appending, so the kernel ignores the offset.
                let (written, slice) = file.write_at(bytes.slice(taken_len..), 0).submit().await;
                bytes = slice.into_inner();
                outcome = take(&mut taken_len, written);
            }
            self.settle(&bytes, taken_len, &outcome);
        }
        self.counts.add(self.unfinished.give_up());
    }

    fn write_blocking(mut self, mut out: impl io::Write) {
        while let Some(chunk) = self.chunks.blocking_recv() {
            if self.reopen_wish.swap(false, Relaxed) {
                tracing::info!("the access log is not a file: there is nothing to reopen");
            }
            let bytes = self.unfinished.begin(chunk.bytes);
            let (mut taken_len, mut outcome) = (0, Ok(()));
            while taken_len < bytes.len() && outcome.is_ok() {
                let written = out.write(piece(&bytes[taken_len..]));
                outcome = take(&mut taken_len, written);
            }
            self.settle(&bytes, taken_len, &outcome);
        }
        self.counts.add(self.unfinished.give_up());
    }

    /// Opens the file again. If that fails, the one that is open stays.
    fn open_again(&mut self, path: &Path) -> Option<tokio_uring::fs::File> {
        match open_again(path) {
            Ok(file) => {
                tracing::info!("the access log {} is open again", path.display());
                // The rest of a line would be the first of another file.
                self.counts.add(self.unfinished.give_up());
                Some(tokio_uring::fs::File::from_std(file))
            }
            Err(error) => {
                tracing::error!(
                    "the access log {} cannot be opened again, and lines still go to the file that \
                     was open: {error}; make it for the user of this process (logrotate: create \
                     0640 USER GROUP), then send USR1 again",
                    path.display()
                );
                None
            }
        }
    }

    /// Takes in that the file took so much of `bytes`.
    fn settle(&mut self, bytes: &[u8], taken_len: usize, outcome: &io::Result<()>) {
        if bytes.is_empty() {
            // It was only woken.
            return;
        }
        self.counts.add(self.unfinished.end(bytes, taken_len));
        self.failure.note(outcome);
    }
}

/// Adds what a write took. A write that was interrupted took nothing; one that takes nothing for no
/// reason is an error.
fn take(taken_len: &mut usize, written: io::Result<usize>) -> io::Result<()> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(len) => {
            *taken_len += len;
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the whole lines at the start that fit a piece, at least one.
fn piece(bytes: &[u8]) -> &[u8] {
    let within = &bytes[..bytes.len().min(PIECE_LEN_MAX)];
    let is_newline = |byte: &u8| *byte == b'\n';
    let last = within.iter().rposition(is_newline);
    last.or_else(|| bytes.iter().position(is_newline)).map_or(bytes, |at| &bytes[..=at])
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
