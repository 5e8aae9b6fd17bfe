//! The schedule of the requests, and their results.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::{Arguments, Failure};

/// The requests of a run.
pub struct Work {
    began: Instant,
    /// Interval between the starts of two requests; `None` in a closed loop.
    interval: Option<Duration>,
    /// Latency counts from when a request was sent.
    from_sending: bool,
    count: u64,
    begun_count: u64,
    pub response_len: u64,
    pub latency_micros: Histogram<u64>,
    /// Failures are counted. Otherwise the first one ends the run.
    counts_failures: bool,
    /// Time after which a response counts as a failure.
    patience: Option<Duration>,
    /// Latencies of failed requests, by reason.
    pub failures: BTreeMap<String, Histogram<u64>>,
    failed_count: u64,
    /// Time at the beginning in which results are not counted.
    warm_up: Duration,
    uncounted_count: u64,
}

impl Work {
    pub fn new(now: Instant, arguments: &Arguments) -> Result<Self, Failure> {
        Ok(Self {
            began: now,
            interval: arguments.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            from_sending: arguments.from_sending,
            count: arguments.requests,
            begun_count: 0,
            response_len: 0,
            latency_micros: Histogram::new(3)?,
            counts_failures: arguments.count_failures,
            patience: arguments.patience.map(Duration::from_secs_f64),
            failures: BTreeMap::new(),
            failed_count: 0,
            warm_up: Duration::from_secs_f64(arguments.warm_up),
            uncounted_count: 0,
        })
    }

    /// Restarts the clock after the preparation.
    pub fn restart(&mut self, now: Instant) {
        self.began = now;
    }

    /// Returns when the time began in which results are counted.
    pub fn counted_from(&self) -> Instant {
        self.began + self.warm_up
    }

    /// Returns when the next request is due, or `None` if all have begun.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.begun_count == self.count {
            return None;
        }
        Some(match self.interval {
            Some(interval) => self.began + interval.mul_f64(self.begun_count as f64),
            None => now,
        })
    }

    /// Takes the next request if one is due. Returns the time from which its latency counts.
    pub fn begin(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next_due(now).filter(|due| *due <= now)?;
        self.begun_count += 1;
        Some(if self.from_sending { now } else { due })
    }

    /// Fails the requests that have been due for longer than a response may take: nothing had room
    /// for them.
    pub fn give_up_overdue(&mut self, now: Instant) -> Result<(), Failure> {
        let Some(patience) = self.patience else { return Ok(()) };
        while let Some(due) = self.next_due(now).filter(|due| *due + patience < now) {
            self.begun_count += 1;
            self.failed(now, due, "not sent".to_owned())?;
        }
        Ok(())
    }

    /// Returns whether requests start by the clock, not when earlier ones are answered.
    pub fn is_by_clock(&self) -> bool {
        self.interval.is_some()
    }

    pub fn answered(&mut self, now: Instant, due: Instant) -> Result<(), Failure> {
        match self.patience {
            Some(patience) if now - due > patience => self.failed(now, due, "late".to_owned()),
            _ if now < self.counted_from() => {
                self.uncounted_count += 1;
                Ok(())
            }
            _ => Ok(self.latency_micros.record((now - due).as_micros() as u64)?),
        }
    }

    /// Counts a request that failed. Returns the reason as an error if failures are not counted.
    pub fn failed(&mut self, now: Instant, due: Instant, reason: String) -> Result<(), Failure> {
        if !self.counts_failures {
            return Err(reason.into());
        }
        if now < self.counted_from() {
            self.uncounted_count += 1;
            return Ok(());
        }
        self.failed_count += 1;
        let empty = Histogram::new(3)?;
        let latencies = self.failures.entry(reason).or_insert(empty);
        Ok(latencies.record((now - due).as_micros() as u64)?)
    }

    pub fn counts_failures(&self) -> bool {
        self.counts_failures
    }

    pub fn is_done(&self) -> bool {
        self.latency_micros.len() + self.failed_count + self.uncounted_count == self.count
    }
}
