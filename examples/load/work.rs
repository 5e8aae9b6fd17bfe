//! The schedule of the requests, and their results.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::{Arguments, Failure};

/// The requests of a run.
pub struct Work {
    began: Instant,
    /// Interval between the starts of two requests; `None` in a closed loop.
    interval: Option<Duration>,
    count: u64,
    begun_count: u64,
    pub response_len: u64,
    pub latency_micros: Histogram<u64>,
}

impl Work {
    pub fn new(now: Instant, arguments: &Arguments) -> Result<Self, Failure> {
        Ok(Self {
            began: now,
            interval: arguments.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            count: arguments.requests,
            begun_count: 0,
            response_len: 0,
            latency_micros: Histogram::new(3)?,
        })
    }

    /// Restarts the clock after the preparation.
    pub fn restart(&mut self, now: Instant) {
        self.began = now;
    }

    pub fn began(&self) -> Instant {
        self.began
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

    /// Takes the next request if one is due. Its latency counts from when it was due.
    pub fn begin(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next_due(now).filter(|due| *due <= now)?;
        self.begun_count += 1;
        Some(due)
    }

    /// Returns whether requests start by the clock, not when earlier ones are answered.
    pub fn is_by_clock(&self) -> bool {
        self.interval.is_some()
    }

    pub fn answered(&mut self, now: Instant, due: Instant) -> Result<(), Failure> {
        Ok(self.latency_micros.record((now - due).as_micros() as u64)?)
    }

    pub fn is_done(&self) -> bool {
        self.latency_micros.len() == self.count
    }
}
