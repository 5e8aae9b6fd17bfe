//! The control thread's view of the workers.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::metrics::{CertificateReport, ProcessFacts, WorkerReport, exposition};
use crate::worker::mailbox::{Command, MailboxSender, Snapshot, WorkerEvent, WorkerOutcome};

use super::access::LogCounts;

/// Time that a worker has to report its counters. A turn of its loop takes microseconds.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// State that the tasks of the control thread share.
pub(super) struct State {
    workers: RefCell<Vec<Worker>>,
    /// The process is not ready any more: it drains, or is about to.
    leaves: Cell<bool>,
    facts: Facts,
    log: Arc<LogCounts>,
    /// The snapshot that the workers use, or were last told to.
    snapshot: RefCell<Option<Arc<Snapshot>>>,
    certificates: RefCell<CertificateReport>,
}

/// Facts about the process that do not change.
pub(super) struct Facts {
    pub(super) version: &'static str,
    pub(super) started: SystemTime,
    pub(super) endpoint_names: u64,
}

struct Worker {
    mailbox: MailboxSender,
    life: Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Starting,
    Accepting,
    Ended,
}

impl State {
    pub(super) fn new(
        mailboxes: Vec<MailboxSender>,
        facts: Facts,
        log: Arc<LogCounts>,
        snapshot: Option<Arc<Snapshot>>,
    ) -> State {
        let worker = |mailbox| Worker { mailbox, life: Life::Starting };
        let workers = RefCell::new(mailboxes.into_iter().map(worker).collect());
        State {
            workers,
            leaves: Cell::new(false),
            facts,
            log,
            snapshot: RefCell::new(snapshot),
            certificates: RefCell::default(),
        }
    }

    /// Takes in an event of a worker's thread.
    pub(super) fn note(&self, event: WorkerEvent) {
        let mut workers = self.workers.borrow_mut();
        let index = match event {
            WorkerEvent::Accepting { worker }
            | WorkerEvent::Restarting { worker }
            | WorkerEvent::Ended { worker, .. } => worker,
        };
        let count = workers.len();
        let worker = workers.get_mut(usize::from(index));
        let worker =
            worker.unwrap_or_else(|| panic!("an event of worker {index}, but there are {count}"));
        match event {
            WorkerEvent::Accepting { .. } => {
                worker.life = Life::Accepting;
                tracing::debug!("worker {index} accepts connections");
                if workers.iter().all(|worker| worker.life == Life::Accepting) {
                    tracing::info!("ready: all {count} workers accept connections");
                }
            }
            WorkerEvent::Restarting { .. } => worker.life = Life::Starting,
            WorkerEvent::Ended { outcome, .. } => {
                worker.life = Life::Ended;
                match outcome {
                    WorkerOutcome::Finished => tracing::debug!("worker {index} ended"),
                    WorkerOutcome::Failed(_) => tracing::error!("worker {index} has failed"),
                }
            }
        }
    }

    /// Takes in that all worker threads are gone.
    pub(super) fn note_all_gone(&self) {
        let running = self.running_text();
        if !running.is_empty() {
            tracing::error!("workers {running} ended without reporting it");
        }
        self.workers.borrow_mut().iter_mut().for_each(|worker| worker.life = Life::Ended);
    }

    pub(super) fn all_ended(&self) -> bool {
        self.workers.borrow().iter().all(|worker| worker.life == Life::Ended)
    }

    /// Returns the indices of the workers that have not ended, as text.
    pub(super) fn running_text(&self) -> String {
        self.indices_text(|life| life != Life::Ended)
    }

    fn indices_text(&self, chosen: fn(Life) -> bool) -> String {
        let workers = self.workers.borrow();
        let chosen = workers.iter().enumerate().filter(|(_, worker)| chosen(worker.life));
        chosen.map(|(index, _)| index.to_string()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in self.workers.borrow().iter() {
            // Fails for a worker that has ended; an event reports that.
            let _ = worker.mailbox.send(command());
        }
    }

    /// Returns what the workers use, or were last told to; `None` if that is not known.
    pub(super) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }

    /// Has all workers use `snapshot` from now on.
    pub(super) fn apply(&self, snapshot: Arc<Snapshot>) {
        self.tell_all(|| Command::Apply(Arc::clone(&snapshot)));
        *self.snapshot.borrow_mut() = Some(snapshot);
    }

    /// Sets what the metrics say about certificates.
    pub(super) fn publish_certificates(&self, report: CertificateReport) {
        *self.certificates.borrow_mut() = report;
    }

    /// Reports from now on that the process is not ready.
    pub(super) fn leave(&self) {
        self.leaves.set(true);
    }

    pub(super) fn drain(&self, deadline: Instant) {
        self.leave();
        self.tell_all(|| Command::Drain { deadline });
    }

    /// Returns `Ok` if every worker accepts connections and neither a drain nor the lame duck
    /// interval before it has begun, or else why not.
    pub(super) fn ready(&self) -> Result<(), String> {
        if self.leaves.get() {
            return Err("draining".to_owned());
        }
        let waiting = self.indices_text(|life| life != Life::Accepting);
        if waiting.is_empty() {
            return Ok(());
        }
        Err(format!("workers that do not accept: {waiting}"))
    }

    /// Collects the workers' reports and returns them as OpenMetrics text. A worker that does not
    /// report in time is marked as down.
    pub(super) async fn metrics(&self) -> String {
        let responses: Vec<oneshot::Receiver<Box<WorkerReport>>> = {
            let workers = self.workers.borrow();
            let ask = |worker: &Worker| {
                let (sender, response) = oneshot::channel();
                // If the worker has ended, the sender is dropped and the response fails.
                let _ = worker.mailbox.send(Command::Report(sender));
                response
            };
            workers.iter().map(ask).collect()
        };
        let deadline = tokio::time::Instant::now() + REPORT_TIMEOUT;
        let mut reports = Vec::with_capacity(responses.len());
        let mut workers = Vec::with_capacity(responses.len());
        for (index, response) in responses.into_iter().enumerate() {
            let index = u16::try_from(index).expect("64 workers at most");
            let report = timeout_at(deadline, response).await.ok().and_then(Result::ok);
            workers.push((index, report.is_some()));
            reports.extend(report.map(|report| *report));
        }
        let (access_lines_written, access_lines_dropped) = self.log.get();
        let process = ProcessFacts {
            version: self.facts.version,
            started: self.facts.started,
            endpoint_names: self.facts.endpoint_names,
            workers,
            draining: self.leaves.get(),
            access_lines_written,
            access_lines_dropped,
            certificates: self.certificates.borrow().clone(),
        };
        exposition(reports, process)
    }
}
