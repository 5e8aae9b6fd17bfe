//! What control knows of the workers.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::metrics::{ProcessFacts, WorkerReport, exposition};
use crate::worker::mailbox::{Command, MailboxSender, WorkerEvent, WorkerOutcome};

use super::access::LogCounts;

/// How long a worker may take to tell its counters: a turn of its loop takes microseconds.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Shared by the tasks of the control thread.
pub(super) struct State {
    workers: RefCell<Vec<Worker>>,
    drains: Cell<bool>,
    version: &'static str,
    started: SystemTime,
    log: Arc<LogCounts>,
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
        version: &'static str,
        started: SystemTime,
        log: Arc<LogCounts>,
    ) -> State {
        let worker = |mailbox| Worker { mailbox, life: Life::Starting };
        let workers = RefCell::new(mailboxes.into_iter().map(worker).collect());
        State { workers, drains: Cell::new(false), version, started, log }
    }

    /// Takes in what a worker's thread tells.
    pub(super) fn note(&self, event: WorkerEvent) {
        let mut workers = self.workers.borrow_mut();
        let index = match event {
            WorkerEvent::Accepting { worker }
            | WorkerEvent::Restarting { worker }
            | WorkerEvent::Ended { worker, .. } => worker,
        };
        let count = workers.len();
        let worker = workers.get_mut(usize::from(index));
        let worker = worker.unwrap_or_else(|| panic!("worker {index} of {count} told something"));
        match event {
            WorkerEvent::Accepting { .. } => {
                worker.life = Life::Accepting;
                tracing::debug!("worker {index} accepts");
                if workers.iter().all(|worker| worker.life == Life::Accepting) {
                    tracing::info!("ready: {count} workers accept");
                }
            }
            WorkerEvent::Restarting { .. } => worker.life = Life::Starting,
            WorkerEvent::Ended { outcome, .. } => {
                worker.life = Life::Ended;
                match outcome {
                    WorkerOutcome::Finished => tracing::debug!("worker {index} ended"),
                    WorkerOutcome::Failed(_) => tracing::error!("worker {index} is gone"),
                }
            }
        }
    }

    /// Takes in that no thread is left that could tell anything.
    pub(super) fn note_all_gone(&self) {
        let running = self.running_text();
        if !running.is_empty() {
            tracing::error!("workers {running} ended without a word");
        }
        self.workers.borrow_mut().iter_mut().for_each(|worker| worker.life = Life::Ended);
    }

    pub(super) fn all_ended(&self) -> bool {
        self.workers.borrow().iter().all(|worker| worker.life == Life::Ended)
    }

    /// Indices of the workers that have not ended.
    pub(super) fn running_text(&self) -> String {
        self.indices_text(|life| life != Life::Ended)
    }

    fn indices_text(&self, chosen: fn(Life) -> bool) -> String {
        let workers = self.workers.borrow();
        let chosen = workers.iter().enumerate().filter(|(_, worker)| chosen(worker.life));
        chosen.map(|(index, _)| index.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Sends a command to every worker that is there.
    pub(super) fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in self.workers.borrow().iter() {
            // Who is gone needs no command; its end is told by an event.
            let _ = worker.mailbox.send(command());
        }
    }

    pub(super) fn drain(&self, deadline: Instant) {
        self.drains.set(true);
        self.tell_all(|| Command::Drain { deadline });
    }

    /// `Ok` when every worker accepts and none is to end; else why not.
    pub(super) fn ready(&self) -> Result<(), String> {
        if self.drains.get() {
            return Err("draining".to_owned());
        }
        let waiting = self.indices_text(|life| life != Life::Accepting);
        if waiting.is_empty() {
            return Ok(());
        }
        Err(format!("workers that do not accept: {waiting}"))
    }

    /// Asks every worker and writes out what they tell. A worker that does not answer in time is
    /// told as such.
    pub(super) async fn metrics(&self) -> String {
        let responses: Vec<oneshot::Receiver<Box<WorkerReport>>> = {
            let workers = self.workers.borrow();
            let ask = |worker: &Worker| {
                let (sender, response) = oneshot::channel();
                // Refused or not, the response's channel closes with the sender.
                let _ = worker.mailbox.send(Command::Report(sender));
                response
            };
            workers.iter().map(ask).collect()
        };
        let deadline = tokio::time::Instant::now() + REPORT_TIMEOUT;
        let mut reports = Vec::with_capacity(responses.len());
        let mut told = Vec::with_capacity(responses.len());
        for (index, response) in responses.into_iter().enumerate() {
            let index = u16::try_from(index).expect("64 workers at most");
            let report = timeout_at(deadline, response).await.ok().and_then(Result::ok);
            told.push((index, report.is_some()));
            reports.extend(report.map(|report| *report));
        }
        let (access_lines_written, access_lines_dropped) = self.log.told();
        let process = ProcessFacts {
            version: self.version,
            started: self.started,
            workers: told,
            draining: self.drains.get(),
            access_lines_written,
            access_lines_dropped,
        };
        exposition(reports, process)
    }
}
