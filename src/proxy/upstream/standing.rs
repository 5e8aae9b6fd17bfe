//! Queues that stand: those that are never empty for a while.
//!
//! A burst fills a queue, and all in it are served soon. But if more comes than is served, a queue
//! is never empty, and all that its length does is to let each request wait, whatever it is. So in
//! a queue that stands for longer than the queue timeout, a request is given up once it has waited
//! for a short time: the upstream stays as busy, and those that it serves have waited little.
//! Facebook's servers do so (B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015).

use std::time::{Duration, Instant};

use crate::limits::{QUEUE_WAIT_GRANTS, QUEUE_WAIT_MAX};

/// The recent past of one queue.
#[derive(Debug)]
pub(super) struct Standing {
    /// Time in which a burst has to be over, and after which an empty queue does not stand.
    patience: Duration,
    state: State,
    last_grant: Option<Instant>,
    /// Time between grants, smoothed.
    grant_gap: Duration,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Empty,
    /// Not empty since then.
    Filled(Instant),
    /// It stands, and was filled last at this time.
    Stands(Instant),
}

impl Standing {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, state: State::Empty, last_grant: None, grant_gap: Duration::ZERO }
    }

    /// Notes that a request enters the queue, or leaves it; `is_empty` before and after that.
    pub(super) fn note(&mut self, now: Instant, is_empty: bool) {
        let is_past = |since| now.saturating_duration_since(since) >= self.patience;
        self.state = match self.state {
            State::Empty | State::Filled(_) if is_empty => State::Empty,
            State::Empty => State::Filled(now),
            State::Filled(since) if is_past(since) => State::Stands(now),
            State::Filled(since) => State::Filled(since),
            State::Stands(last) if is_past(last) => State::Filled(now),
            State::Stands(last) => State::Stands(if is_empty { last } else { now }),
        };
    }

    /// Notes that a request left the queue for a connection.
    pub(super) fn granted(&mut self, now: Instant) {
        if let Some(last) = self.last_grant.replace(now) {
            let gap = now.saturating_duration_since(last).min(self.patience);
            self.grant_gap = (self.grant_gap * 7 + gap) / 8;
        }
    }

    /// Returns the longest time that a request may wait now, if the queue stands.
    pub(super) fn wait_max(&self) -> Option<Duration> {
        let stands = matches!(self.state, State::Stands(_));
        stands.then(|| QUEUE_WAIT_MAX.max(self.grant_gap * QUEUE_WAIT_GRANTS))
    }
}
