//! The control thread's view of the workers.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::metrics::{CertificateReport, ProcessFacts, WorkerReport, exposition};
use crate::worker::mailbox::{Command, MailboxSender, Snapshot, WorkerEvent, WorkerOutcome};

use super::access::LogCounts;
use super::reload::{self, ReloadReport};
use super::shutdown::ShutdownSettings;

/// Time that a worker has to report its counters. A turn of its loop takes microseconds.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// State that the tasks of the control thread share.
pub(super) struct State {
    workers: RefCell<Vec<Worker>>,
    /// The process is not ready any more: it drains, or is about to.
    leaves: Cell<bool>,
    facts: Facts,
    log: Arc<LogCounts>,
    running: RefCell<Arc<Snapshot>>,
    /// Held by whoever is about to replace what is running, from the look at it on.
    turns: tokio::sync::Mutex<()>,
    certificates: RefCell<CertificateReport>,
    /// Some workers did not apply what is running.
    is_uneven: Cell<bool>,
    shutdown: Cell<ShutdownSettings>,
    /// `None` if there is no file to reload.
    reload_wishes: Option<mpsc::Sender<reload::Request>>,
    reloads: Cell<ReloadCounts>,
    last_load: Cell<SystemTime>,
}

/// Reloads since the start.
#[derive(Debug, Clone, Copy, Default)]
struct ReloadCounts {
    succeeded: u64,
    failed: u64,
}

/// Facts about the process that do not change.
pub(super) struct Facts {
    pub(super) version: &'static str,
    pub(super) started: SystemTime,
    pub(super) clock: fn() -> (Instant, SystemTime),
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
        running: Arc<Snapshot>,
        shutdown: ShutdownSettings,
        reload_wishes: Option<mpsc::Sender<reload::Request>>,
    ) -> State {
        let worker = |mailbox| Worker { mailbox, life: Life::Starting };
        let workers = RefCell::new(mailboxes.into_iter().map(worker).collect());
        State {
            workers,
            leaves: Cell::new(false),
            log,
            running: RefCell::new(running),
            turns: tokio::sync::Mutex::default(),
            certificates: RefCell::default(),
            is_uneven: Cell::new(false),
            shutdown: Cell::new(shutdown),
            reload_wishes,
            reloads: Cell::default(),
            last_load: Cell::new(facts.started),
            facts,
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

    /// Sends each worker a command with a place for its response. If a worker has ended, its
    /// response fails.
    pub(super) fn ask_all<T>(
        &self,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Vec<oneshot::Receiver<T>> {
        let workers = self.workers.borrow();
        let ask = |worker: &Worker| {
            let (sender, response) = oneshot::channel();
            let _ = worker.mailbox.send(command(sender));
            response
        };
        workers.iter().map(ask).collect()
    }

    /// Waits until nobody else is about to replace what is running.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turns.lock().await
    }

    /// Sets what the metrics say about certificates.
    pub(super) fn publish_certificates(&self, report: CertificateReport) {
        *self.certificates.borrow_mut() = report;
    }

    /// Returns the snapshot that workers use, or are about to.
    pub(super) fn running(&self) -> Arc<Snapshot> {
        Arc::clone(&self.running.borrow())
    }

    pub(super) fn set_running(&self, snapshot: Arc<Snapshot>) {
        *self.running.borrow_mut() = snapshot;
    }

    pub(super) fn generation(&self) -> u64 {
        self.running.borrow().generation
    }

    pub(super) fn is_uneven(&self) -> bool {
        self.is_uneven.get()
    }

    pub(super) fn set_uneven(&self, is_uneven: bool) {
        self.is_uneven.set(is_uneven);
    }

    pub(super) fn shutdown_settings(&self) -> ShutdownSettings {
        self.shutdown.get()
    }

    pub(super) fn set_shutdown_settings(&self, settings: ShutdownSettings) {
        self.shutdown.set(settings);
    }

    /// Reloads once those that wait are over, and returns the report. Returns why there is none.
    pub(super) async fn reload(&self, origin: &'static str) -> Result<ReloadReport, &'static str> {
        let (reply, report) = oneshot::channel();
        self.wish_for_reload(reload::Request { origin, reply: Some(reply) })?;
        report.await.map_err(|_| "the process ends")
    }

    /// Reloads once those that wait are over. The log has the report.
    pub(super) fn reload_unasked(&self, origin: &'static str) {
        if let Err(why) = self.wish_for_reload(reload::Request { origin, reply: None }) {
            tracing::warn!("{origin} is ignored: {why}");
        }
    }

    fn wish_for_reload(&self, request: reload::Request) -> Result<(), &'static str> {
        let wishes = self.reload_wishes.as_ref();
        let wishes = wishes.ok_or("the demonstration has no file to reload")?;
        wishes.try_send(request).map_err(|_| "too many reloads are waiting")
    }

    /// Counts a reload.
    pub(super) fn note_reload(&self, has_succeeded: bool) {
        let mut counts = self.reloads.get();
        if has_succeeded {
            counts.succeeded += 1;
            self.last_load.set((self.facts.clock)().1);
        } else {
            counts.failed += 1;
        }
        self.reloads.set(counts);
    }

    /// Returns whether the process drains, or is about to.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaves.get()
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
        let responses: Vec<oneshot::Receiver<Box<WorkerReport>>> = self.ask_all(Command::Report);
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
            endpoint_names: self.running().config.names().len() as u64,
            generation: self.generation(),
            last_load: self.last_load.get(),
            reloads_succeeded: self.reloads.get().succeeded,
            reloads_failed: self.reloads.get().failed,
            workers,
            draining: self.leaves.get(),
            access_lines_written,
            access_lines_dropped,
            certificates: self.certificates.borrow().clone(),
        };
        exposition(reports, process)
    }
}
