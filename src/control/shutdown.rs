//! The phases of the shutdown, as a state machine without threads or clock.
//!
//! ```text
//!             QUIT, TERM                 lame duck over            drained
//!   Running ------------> LameDuck ------------------> Draining -----------> (workers end)
//!      |    not ready, new     |      GOAWAY, new        |
//!      |    clients accepted   |      clients refused    | deadline
//!      |                       |                         v
//!      +-----------------------+---- INT, 2nd TERM --> Stopping ---> INT, TERM, deadline: exit
//! ```
//!
//! docs/decisions/term-drains-briefly.md says why TERM is not like nginx's.

use std::time::{Duration, Instant};

use super::ExitReason;
use super::signals::Signal;

/// Time that workers have to end after a fast stop, or after the end of a drain. Closing
/// connections takes milliseconds: a worker that takes longer hangs.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The durations of a shutdown.
#[derive(Debug, Clone, Copy)]
pub struct ShutdownSettings {
    /// The time between the report that the process is not ready and the refusal of new clients.
    pub lame_duck: Duration,
    /// How long QUIT lets exchanges in flight finish.
    pub drain_timeout: Duration,
    /// The same for TERM; zero closes at once.
    pub stop_timeout: Duration,
}

/// An action for the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    /// Report that the process is not ready any more.
    Leave,
    /// Drain the workers until this deadline.
    Drain {
        deadline: Instant,
    },
    /// Stop the workers.
    Stop,
    /// Exit without waiting for the workers.
    Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Still accepting, until the end.
    LameDuck {
        end: Instant,
        drain_timeout: Duration,
    },
    /// Workers finish exchanges in flight. They end by themselves some time before the end.
    Draining {
        end: Instant,
    },
    /// Workers close their connections, until the end.
    Stopping {
        end: Instant,
    },
}

pub(super) struct Shutdown {
    settings: ShutdownSettings,
    phase: Phase,
    reason: ExitReason,
}

impl Shutdown {
    pub(super) fn new(settings: ShutdownSettings) -> Self {
        Self { settings, phase: Phase::Running, reason: ExitReason::WorkersGone }
    }

    /// Sets the durations of a shutdown. One that has begun keeps its deadline.
    pub(super) fn configure(&mut self, settings: ShutdownSettings) {
        self.settings = settings;
    }

    /// Returns why the process ends, once all workers have ended.
    pub(super) fn reason(&self) -> ExitReason {
        self.reason
    }

    /// Returns when to call [`Self::handle_timeout`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => None,
            Phase::LameDuck { end, .. } | Phase::Draining { end } | Phase::Stopping { end } => {
                Some(end)
            }
        }
    }

    pub(super) fn handle_signal(&mut self, now: Instant, signal: Signal) -> Step {
        let ShutdownSettings { drain_timeout, stop_timeout, .. } = self.settings;
        match (signal, self.phase) {
            (Signal::Reopen | Signal::Reload | Signal::Unsupported(_), _) => Step::Stay,
            (Signal::Drain, Phase::Running) => self.leave(now, drain_timeout),
            // The drain has begun, or it is too late for one.
            (Signal::Drain, _) => Step::Stay,
            (Signal::Terminate, Phase::Running) if !stop_timeout.is_zero() => {
                self.leave(now, stop_timeout)
            }
            (Signal::Terminate | Signal::Stop, Phase::Stopping { .. }) => Step::Exit,
            (Signal::Terminate | Signal::Stop, _) => {
                tracing::info!("stopping");
                self.reason = ExitReason::Stopped;
                self.stop(now)
            }
        }
    }

    /// Handles a worker that has ended for good although it was not told to. Its sockets stay in
    /// their reuseport groups, so its share of new clients would get no response.
    pub(super) fn handle_lost_worker(&mut self, now: Instant, worker: u16) -> Step {
        match self.phase {
            Phase::Running | Phase::LameDuck { .. } => {
                tracing::error!(
                    "worker {worker} cannot go on: draining the others, then exiting with code 3 \
                     so that a supervisor restarts the process"
                );
                self.reason = ExitReason::WorkerLost;
                self.drain(now, self.settings.drain_timeout)
            }
            Phase::Draining { .. } | Phase::Stopping { .. } => Step::Stay,
        }
    }

    /// Handles the end of a phase.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Step {
        match self.phase {
            Phase::Running => Step::Stay,
            Phase::LameDuck { drain_timeout, .. } => self.drain(now, drain_timeout),
            Phase::Draining { .. } => {
                tracing::warn!("the drain timed out: stopping the workers");
                self.stop(now)
            }
            Phase::Stopping { .. } => Step::Exit,
        }
    }

    /// Begins the lame duck interval, or the drain if there is none.
    fn leave(&mut self, now: Instant, drain_timeout: Duration) -> Step {
        self.reason = ExitReason::Drained;
        let lame_duck = self.settings.lame_duck;
        if lame_duck.is_zero() {
            return self.drain(now, drain_timeout);
        }
        let text = humantime::format_duration(lame_duck);
        tracing::info!("leaving: not ready, and new clients are accepted for another {text}");
        self.phase = Phase::LameDuck { end: now + lame_duck, drain_timeout };
        Step::Leave
    }

    fn drain(&mut self, now: Instant, timeout: Duration) -> Step {
        tracing::info!("draining for up to {}", humantime::format_duration(timeout));
        let deadline = now + timeout;
        self.phase = Phase::Draining { end: deadline + STOP_TIMEOUT };
        Step::Drain { deadline }
    }

    fn stop(&mut self, now: Instant) -> Step {
        self.phase = Phase::Stopping { end: now + STOP_TIMEOUT };
        Step::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::clocks;

    const SETTINGS: ShutdownSettings = ShutdownSettings {
        lame_duck: Duration::from_secs(3),
        drain_timeout: Duration::from_secs(30),
        stop_timeout: Duration::from_secs(8),
    };

    const fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn quit_and_term_leave_first_and_drain_for_their_own_time() {
        let now = clocks().0;
        for (signal, timeout) in [(Signal::Drain, secs(30)), (Signal::Terminate, secs(8))] {
            let mut shutdown = Shutdown::new(SETTINGS);
            assert_eq!(shutdown.deadline(), None);
            assert_eq!(shutdown.handle_signal(now, signal), Step::Leave);
            assert_eq!(shutdown.handle_signal(now, Signal::Drain), Step::Stay);
            let end = shutdown.deadline().unwrap();
            assert_eq!(end, now + secs(3));
            let deadline = end + timeout;
            assert_eq!(shutdown.handle_timeout(end), Step::Drain { deadline });
            assert_eq!(shutdown.deadline(), Some(deadline + STOP_TIMEOUT));
            assert_eq!(shutdown.handle_timeout(deadline + STOP_TIMEOUT), Step::Stop);
            assert_eq!(shutdown.reason(), ExitReason::Drained);
            assert_eq!(shutdown.handle_timeout(shutdown.deadline().unwrap()), Step::Exit);
        }
    }

    #[test]
    fn without_a_lame_duck_interval_the_drain_begins_at_once() {
        let now = clocks().0;
        let mut shutdown =
            Shutdown::new(ShutdownSettings { lame_duck: Duration::ZERO, ..SETTINGS });
        let deadline = now + secs(30);
        assert_eq!(shutdown.handle_signal(now, Signal::Drain), Step::Drain { deadline });
    }

    /// The table of signals in README.md.
    #[test]
    fn int_and_a_second_term_stop_at_once_in_every_phase() {
        let now = clocks().0;
        for before in [&[][..], &[Signal::Drain], &[Signal::Terminate]] {
            for last in [Signal::Stop, Signal::Terminate] {
                let mut shutdown = Shutdown::new(SETTINGS);
                for signal in before {
                    shutdown.handle_signal(now, *signal);
                }
                let is_first_term = before.is_empty() && last == Signal::Terminate;
                let expected = if is_first_term { Step::Leave } else { Step::Stop };
                assert_eq!(shutdown.handle_signal(now, last), expected, "{before:?}, {last:?}");
                if expected == Step::Stop {
                    assert_eq!(shutdown.reason(), ExitReason::Stopped);
                    assert_eq!(shutdown.handle_signal(now, Signal::Drain), Step::Stay);
                    assert_eq!(shutdown.handle_signal(now, last), Step::Exit);
                }
            }
        }
    }

    #[test]
    fn term_closes_at_once_if_it_is_given_no_time() {
        let settings = ShutdownSettings { stop_timeout: Duration::ZERO, ..SETTINGS };
        let mut shutdown = Shutdown::new(settings);
        assert_eq!(shutdown.handle_signal(clocks().0, Signal::Terminate), Step::Stop);
        assert_eq!(shutdown.reason(), ExitReason::Stopped);
    }

    #[test]
    fn a_lost_worker_drains_the_others_unless_they_drain_already() {
        let now = clocks().0;
        let deadline = now + secs(30);
        let mut shutdown = Shutdown::new(SETTINGS);
        assert_eq!(shutdown.handle_lost_worker(now, 1), Step::Drain { deadline });
        assert_eq!(shutdown.handle_lost_worker(now, 0), Step::Stay);
        assert_eq!(shutdown.reason(), ExitReason::WorkerLost);
        let mut shutdown = Shutdown::new(SETTINGS);
        shutdown.handle_signal(now, Signal::Drain);
        assert_eq!(shutdown.handle_lost_worker(now, 1), Step::Drain { deadline });
        assert_eq!(shutdown.reason(), ExitReason::WorkerLost);
    }
}
