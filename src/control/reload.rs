//! Reload: reads the configuration again, and swaps it into every worker without losing a request.
//!
//! ```text
//!   HUP ------------+                 on a thread of its own
//!   POST /reload ---+--> queue ---> Source::read ---refused---> nothing has changed
//!   (ringway reload)                     | Candidate
//!                                        v
//!                          access log opened ---refused---> nothing has changed
//!                                        |
//!                                        v
//!                          State::swap: Command::Apply ---> worker 0, 1, ... ---> applied
//!                                        |
//!                                        v
//!                          log level, access log, durations of a shutdown
//! ```
//!
//! One reload runs at a time. Reading looks names up and may take seconds, so it has a thread of
//! its own: signals, probes and scrapers are served meanwhile. docs/decisions/reload.md has the
//! reasons.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::access::{self, LogHandle};
use super::shutdown::ShutdownSettings;
use super::state::State;
use crate::worker::mailbox::{Command, Snapshot};

/// Reloads that may wait for the one that runs. Each reads the newest file, so more are in vain.
pub(super) const WAITING_COUNT_MAX: usize = 8;

/// Time that the workers have to apply a configuration. A turn of their loop takes microseconds;
/// one that restarts pauses for seconds at most.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The source of configurations. The process implements it: it knows the file, and may bind.
pub trait Source: Send {
    /// Reads the configuration again and prepares everything that it needs, or refuses it as a
    /// whole. Changes nothing that serves.
    fn read(&mut self, running: &Snapshot) -> Result<Candidate, Refusal>;

    /// Applies what is not the workers' or the control thread's: the level of the process log.
    fn applied(&mut self, snapshot: &Snapshot);
}

/// A configuration that can replace the running one.
pub struct Candidate {
    pub snapshot: Snapshot,
    /// The differences from what is running, in words. Without any it is not applied.
    pub changes: Vec<String>,
    /// Problems that an operator should fix although the configuration can be used.
    pub warnings: Vec<String>,
}

/// The refusal of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub result: ReloadResult,
    pub errors: Vec<String>,
}

impl Refusal {
    /// Returns the refusal of a configuration, or of a file that it names.
    pub fn of_configuration(errors: Vec<String>) -> Refusal {
        Refusal { result: ReloadResult::ConfigurationRefused, errors }
    }

    /// Returns a refusal by the host, as that of an address.
    pub fn by_host(error: impl ToString) -> Refusal {
        Refusal { result: ReloadResult::HostRefused, errors: vec![error.to_string()] }
    }
}

/// The result of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// All workers use the new configuration.
    Applied,
    /// The configuration is the running one.
    Unchanged,
    /// The configuration, or a file that it names, is refused. The running one stays.
    ConfigurationRefused,
    /// The host refuses something that the configuration needs. The running one stays.
    HostRefused,
    /// Some workers still use the configuration before.
    Incomplete,
}

impl ReloadResult {
    pub(super) fn is_success(self) -> bool {
        matches!(self, Self::Applied | Self::Unchanged)
    }
}

/// The outcome of a reload, as the operator gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReloadReport {
    pub result: ReloadResult,
    /// The number of the running configuration. It begins at 1.
    pub generation: u64,
    pub changes: Vec<String>,
    pub warnings: Vec<String>,
    pub errors: Vec<String>,
}

/// A wish for a reload.
pub(super) struct Request {
    pub(super) origin: &'static str,
    /// Gets the report. Nobody may be waiting.
    pub(super) reply: Option<oneshot::Sender<ReloadReport>>,
}

/// Reloads on request, one after the other, for the life of the process.
pub(super) async fn run(
    state: Rc<State>,
    log: Rc<LogHandle>,
    source: Box<dyn Source>,
    mut requests: mpsc::Receiver<Request>,
) {
    let mut source = Some(source);
    while let Some(Request { origin, reply }) = requests.recv().await {
        tracing::info!(by = origin, "reload");
        let outcome = reload(&state, &log, &mut source).await;
        let report = outcome.unwrap_or_else(|refusal| ReloadReport {
            result: refusal.result,
            generation: state.generation(),
            changes: Vec::new(),
            warnings: Vec::new(),
            errors: refusal.errors,
        });
        report.write_to_log();
        state.note_reload(report.result.is_success());
        if let Some(reply) = reply {
            // Fails if the client has gone.
            let _ = reply.send(report);
        }
    }
}

async fn reload(
    state: &State,
    log: &LogHandle,
    source: &mut Option<Box<dyn Source>>,
) -> Result<ReloadReport, Refusal> {
    let refuse_late = || match state.is_leaving() {
        true => Err(Refusal::by_host("the process drains and is about to end")),
        false => Ok(()),
    };
    refuse_late()?;
    let _turn = state.turn().await;
    let running = state.running();
    let Candidate { snapshot, changes, warnings } = read(source, &running).await?;
    // A drain may have begun meanwhile, and nobody would accept at new sockets.
    refuse_late()?;
    let mut report = ReloadReport {
        result: ReloadResult::Unchanged,
        generation: running.generation,
        changes,
        warnings,
        errors: Vec::new(),
    };
    if report.changes.is_empty() && !state.is_uneven() {
        return Ok(report);
    }
    // An output is opened before anything changes, so that a refusal changes nothing.
    let access = (snapshot.config.log.access != running.config.log.access)
        .then(|| snapshot.config.log.access.as_ref().map(|log| access::open(log, None)).transpose())
        .transpose()
        .map_err(Refusal::by_host)?;
    let snapshot = Arc::new(snapshot);
    report.generation = snapshot.generation;
    report.errors = state.swap(Arc::clone(&snapshot)).await;
    report.result = match report.errors.is_empty() {
        true => ReloadResult::Applied,
        false => ReloadResult::Incomplete,
    };
    if let Some(output) = access
        && let Err(error) = log.replace(output)
    {
        report.errors.push(error.to_string());
        report.result = ReloadResult::Incomplete;
    }
    if let Some(source) = source {
        source.applied(&snapshot);
    }
    Ok(report)
}

/// Has the source read on a thread of its own, which gets and returns it.
async fn read(
    place: &mut Option<Box<dyn Source>>,
    running: &Arc<Snapshot>,
) -> Result<Candidate, Refusal> {
    let lost = || Refusal::by_host("reading has panicked; only a restart can change anything");
    let (sender, read) = oneshot::channel();
    // A thread that cannot be started does not take the source with it.
    let (lend, lent) = std::sync::mpsc::channel::<Box<dyn Source>>();
    let running = Arc::clone(running);
    let spawned = thread::Builder::new().name("reload".to_owned()).spawn(move || {
        let Ok(mut source) = lent.recv() else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| source.read(&running)));
        if let Ok(outcome) = outcome {
            // Fails if the process ends.
            let _ = sender.send((source, outcome));
        }
    });
    spawned.map_err(|error| Refusal::by_host(format!("no thread can be started: {error}")))?;
    lend.send(place.take().ok_or_else(lost)?).map_err(|_| lost())?;
    let (source, outcome) = read.await.map_err(|_| lost())?;
    *place = Some(source);
    outcome
}

impl State {
    /// Swaps a snapshot into every worker. Returns a line for each worker that did not apply it in
    /// time. What is running is the new snapshot in any case: a worker that restarts uses it.
    pub(super) async fn swap(&self, snapshot: Arc<Snapshot>) -> Vec<String> {
        self.set_running(Arc::clone(&snapshot));
        let runtime = &snapshot.config.runtime;
        self.set_shutdown_settings(ShutdownSettings {
            lame_duck: runtime.lame_duck,
            drain_timeout: runtime.drain_timeout,
            stop_timeout: runtime.stop_timeout,
        });
        let responses = self.ask_all(|done| {
            let snapshot = Arc::clone(&snapshot);
            Command::Apply { snapshot, done }
        });
        let deadline = Instant::now() + APPLY_TIMEOUT;
        let mut failures = Vec::new();
        for (worker, response) in responses.into_iter().enumerate() {
            let why = match timeout_at(deadline, response).await {
                Ok(Ok(Ok(()))) => continue,
                Ok(Ok(Err(why))) => why,
                Ok(Err(_)) => "it has ended".to_owned(),
                Err(_) => "it does not respond".to_owned(),
            };
            failures.push(format!(
                "worker {worker} did not apply generation {}: {why}; reload again",
                snapshot.generation
            ));
        }
        self.set_uneven(!failures.is_empty());
        failures
    }
}

impl ReloadReport {
    fn write_to_log(&self) {
        let generation = self.generation;
        for change in &self.changes {
            tracing::info!(generation, "{change}");
        }
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        for error in &self.errors {
            tracing::error!("{error}");
        }
        match self.result {
            ReloadResult::Applied => tracing::info!(generation, "the configuration is applied"),
            ReloadResult::Unchanged => tracing::info!(generation, "the configuration is the same"),
            ReloadResult::ConfigurationRefused | ReloadResult::HostRefused => {
                tracing::error!(generation, "the reload is refused; nothing has changed");
            }
            ReloadResult::Incomplete => {
                tracing::error!(generation, "the configuration is not applied everywhere");
            }
        }
    }
}
