//! The access log: turns batches of records into lines.
//!
//! Lines are gathered in a buffer that goes to the sink when it is large or old enough. The sink
//! writes one buffer at a time. The lines gathered meanwhile are bounded, and further ones are
//! dropped and counted, so a blocked pipe costs a fixed amount of memory and nothing else.
//!
//! A reload may replace the sink: what was gathered goes to the one before, which ends by itself.

mod line;
mod output;
mod sink;
mod unfinished;

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::ControlError;
use crate::config::AccessFormat;
use crate::worker::mailbox::AccessBatch;

pub(super) use output::{Output, check, open};
pub(super) use sink::LogCounts;
use sink::{Reopener, Sink};

/// A buffer of this length goes to the sink at once.
const FLUSH_LEN: usize = 64 * 1024;
/// Longest time that a line waits for others.
const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// Bytes that may be gathered while the sink is busy. Further lines are dropped.
const GATHERED_LEN_MAX: usize = 1024 * 1024;

/// Lines on their way to the sink.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    line_count: u64,
}

/// The control thread's handle of the access log.
pub(super) struct LogHandle {
    counts: Arc<LogCounts>,
    reopener: RefCell<Option<Reopener>>,
    sinks: mpsc::UnboundedSender<Option<Sink>>,
}

impl LogHandle {
    /// Starts the writer of the log, if there is one. Must be called inside the runtime. Also
    /// returns the lines on their way, to be run.
    pub(super) fn start(output: Option<Output>) -> Result<(LogHandle, Lines), ControlError> {
        let counts = Arc::default();
        let sink = output.map(|output| output.start(&counts)).transpose()?;
        Ok(Self::with(sink, counts))
    }

    fn with(sink: Option<Sink>, counts: Arc<LogCounts>) -> (LogHandle, Lines) {
        let (sinks, replacements) = mpsc::unbounded_channel();
        let reopener = RefCell::new(sink.as_ref().map(Sink::reopener));
        let lines = Lines {
            sink,
            replacements,
            counts: Arc::clone(&counts),
            gathered: Chunk::default(),
            endings: Vec::new(),
        };
        (LogHandle { counts, reopener, sinks }, lines)
    }

    pub(super) fn counts(&self) -> Arc<LogCounts> {
        Arc::clone(&self.counts)
    }

    /// Has the log's file opened again, if there is a log.
    pub(super) fn reopen(&self) {
        match &*self.reopener.borrow() {
            Some(reopener) => reopener.reopen(),
            None => tracing::info!("there is no access log to open again"),
        }
    }

    /// Writes later lines to `output`, or none. Fails if its writer cannot be started: the log
    /// before stays.
    pub(super) fn replace(&self, output: Option<Output>) -> Result<(), ControlError> {
        let sink = output.map(|output| output.start(&self.counts)).transpose()?;
        *self.reopener.borrow_mut() = sink.as_ref().map(Sink::reopener);
        // Fails if the process ends.
        let _ = self.sinks.send(sink);
        Ok(())
    }
}

/// The lines on their way from the workers to the sink.
pub(super) struct Lines {
    /// Records are discarded if there is none.
    sink: Option<Sink>,
    /// The sinks of reloads.
    replacements: mpsc::UnboundedReceiver<Option<Sink>>,
    counts: Arc<LogCounts>,
    gathered: Chunk,
    /// Sinks before this one, that write their last lines.
    endings: Vec<JoinHandle<()>>,
}

/// An input of [`Lines::run`].
enum Input {
    Batch(AccessBatch),
    Replacement(Option<Sink>),
    /// Every worker has dropped its end.
    End,
}

impl Lines {
    /// Runs until every worker has dropped its end.
    pub(super) async fn run(
        mut self,
        mut batches: mpsc::Receiver<AccessBatch>,
        clock: fn() -> (Instant, SystemTime),
    ) {
        let mut flush_at = None;
        loop {
            let next = self.next(&mut batches);
            let received = match flush_at {
                None => Ok(next.await),
                Some(at) => timeout_at(at, next).await,
            };
            match received {
                Ok(Input::Batch(batch)) => self.gather(batch, clock()),
                Ok(Input::Replacement(sink)) => self.replace(sink),
                Ok(Input::End) => break,
                Err(_) => {}
            }
            let due = flush_at.is_some_and(|at| at <= tokio::time::Instant::now());
            if (due || self.gathered.bytes.len() >= FLUSH_LEN)
                && let Some(sink) = &mut self.sink
            {
                sink.offer(&mut self.gathered);
            }
            flush_at = match (self.gathered.line_count, flush_at) {
                (0, _) => None,
                (_, Some(at)) if !due => Some(at),
                _ => Some(tokio::time::Instant::now() + FLUSH_AFTER),
            };
        }
        self.replace(None);
        for ending in self.endings {
            // A writer that panicked has lost its lines.
            let _ = ending.await;
        }
    }

    /// Returns the next input. Loses none if it is not awaited to the end.
    async fn next(&mut self, batches: &mut mpsc::Receiver<AccessBatch>) -> Input {
        poll_fn(|cx| {
            if let Poll::Ready(Some(sink)) = self.replacements.poll_recv(cx) {
                return Poll::Ready(Input::Replacement(sink));
            }
            batches.poll_recv(cx).map(|batch| batch.map_or(Input::End, Input::Batch))
        })
        .await
    }

    fn gather(&mut self, batch: AccessBatch, now: (Instant, SystemTime)) {
        if let Some(sink) = &self.sink {
            gather(&mut self.gathered, batch, sink.format, now, &self.counts);
        }
    }

    /// Lets the sink write what is gathered, and replaces it.
    fn replace(&mut self, sink: Option<Sink>) {
        self.endings.retain(|ending| !ending.is_finished());
        let gathered = std::mem::take(&mut self.gathered);
        if let Some(before) = std::mem::replace(&mut self.sink, sink) {
            self.endings.push(tokio_uring::spawn(before.finish(gathered)));
        }
    }
}

/// Appends the lines of a batch to the chunk, as far as there is room.
fn gather(
    chunk: &mut Chunk,
    batch: AccessBatch,
    format: AccessFormat,
    now: (Instant, SystemTime),
    counts: &LogCounts,
) {
    for record in &batch {
        if chunk.bytes.len() >= GATHERED_LEN_MAX {
            counts.drop_lines(1);
            continue;
        }
        line::write(&mut chunk.bytes, record, format, now);
        chunk.line_count += 1;
    }
}

#[cfg(test)]
mod tests;
