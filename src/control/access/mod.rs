//! The access log: turns batches of records into lines.
//!
//! Lines are gathered in a buffer that goes to the sink when it is large or old enough. The sink
//! writes one buffer at a time. The lines gathered meanwhile are bounded, and further ones are
//! dropped and counted, so a blocked pipe costs a fixed amount of memory and nothing else.

mod line;
mod output;
mod sink;
mod unfinished;

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::config::AccessFormat;
use crate::worker::mailbox::AccessBatch;

pub(super) use output::{Output, check, open};
pub(super) use sink::{LogCounts, Reopener, Sink};

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

/// Runs until every worker has dropped its end. Without a sink, records are discarded.
pub(super) async fn run(
    mut batches: mpsc::Receiver<AccessBatch>,
    sink: Option<Sink>,
    clock: fn() -> (Instant, SystemTime),
) {
    let Some(mut sink) = sink else {
        while batches.recv().await.is_some() {}
        return;
    };
    let format = sink.format;
    let mut gathered = Chunk::default();
    let mut flush_at = None;
    loop {
        let received = match flush_at {
            None => Ok(batches.recv().await),
            Some(at) => timeout_at(at, batches.recv()).await,
        };
        match received {
            Ok(Some(batch)) => gather(&mut gathered, batch, format, clock(), &sink.counts),
            Ok(None) => break,
            Err(_) => {}
        }
        let due = flush_at.is_some_and(|at| at <= tokio::time::Instant::now());
        if due || gathered.bytes.len() >= FLUSH_LEN {
            sink.offer(&mut gathered);
        }
        flush_at = match (gathered.line_count, flush_at) {
            (0, _) => None,
            (_, Some(at)) if !due => Some(at),
            _ => Some(tokio::time::Instant::now() + FLUSH_AFTER),
        };
    }
    sink.finish(gathered).await;
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
