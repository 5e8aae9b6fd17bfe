//! Deadlines of request heads: the same wait for every stream, so a queue in order of arrival.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::StreamRef;

/// Streams whose request head is not complete, oldest first. A stream whose head came meanwhile
/// stays until its time and is then found to be well.
pub(super) struct HeadDeadlines {
    wait: Duration,
    queue: VecDeque<(Instant, StreamRef)>,
}

impl HeadDeadlines {
    pub(super) fn new(wait: Duration) -> Self {
        Self { wait, queue: VecDeque::new() }
    }

    pub(super) fn push(&mut self, now: Instant, stream: StreamRef) {
        self.queue.push_back((now + self.wait, stream));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.front().map(|(deadline, _)| *deadline)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<StreamRef> {
        self.queue.pop_front_if(|(deadline, _)| *deadline <= now).map(|(_, stream)| stream)
    }
}
