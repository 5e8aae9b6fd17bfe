//! The control thread: the admin endpoint, the access log, certificate files, signals, reloads and
//! shutdown.
//!
//! It runs tokio-uring on the main thread and is never on the path of a packet. It reaches workers
//! through their mailboxes only, so a full disk, a blocked pipe or a scraper that does not read
//! cannot slow them down.
//!
//! ```text
//!   signals --------+                          +--> Command --> worker 0, 1, ...
//!   worker events --+--> supervise (one task) -+
//!                         |  shares State with
//!   certificate files -->-+  (their keeper)
//!   admin endpoint <------+----------------------> Command::Report --> workers
//!   reload task <---------+----------------------> Command::Apply --> workers
//!   access batches --> access log task --> file (io_uring) or stdout (own thread)
//! ```

mod access;
mod admin;
mod certificates;
pub(crate) mod client;
mod reload;
mod shutdown;
mod signals;
mod state;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::account::UserIds;
use crate::config::{AccessLog, AdminAddress};
use crate::host::signals::{end_of_start, take_reopen_wish};
use crate::worker::mailbox::{AccessBatch, Command, MailboxSender, Snapshot, WorkerEvent};

use access::LogHandle;
use shutdown::{Shutdown, Step};
use signals::Signal;
use state::{Facts, State};

pub(crate) use reload::ReloadReport;
pub use reload::{Candidate, Refusal, ReloadResult, Source};
pub use shutdown::ShutdownSettings;

/// Batches of access records that may wait for the log. A worker sends at most one per turn.
pub const ACCESS_BATCH_COUNT_MAX: usize = 1024;

/// Time that the last access lines have to be written, in case the log is a blocked pipe.
const LOG_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of the control thread.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    pub admin: Option<AdminAddress>,
    /// An admin address that is in use is an error. The demonstration does without.
    pub admin_required: bool,
    pub access: Option<AccessLog>,
    /// The account that the process is about to become, which gets a new access log.
    pub log_owner: Option<UserIds>,
    pub shutdown: ShutdownSettings,
    /// Printed once, when every worker accepts connections.
    pub invitation: Option<String>,
    pub version: &'static str,
    /// Reads both clocks at the same moment.
    pub clock: fn() -> (Instant, SystemTime),
}

/// The control thread's ends of the channels to the workers, and what they run with.
pub struct Links {
    /// In the order of the workers' indices.
    pub workers: Vec<MailboxSender>,
    pub access: mpsc::Receiver<AccessBatch>,
    /// The workers' threads report on them here.
    pub events: mpsc::UnboundedReceiver<WorkerEvent>,
    pub running: Arc<Snapshot>,
    /// The source of the configurations of reloads. The demonstration has none.
    pub source: Option<Box<dyn Source>>,
}

/// Reason why the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// INT or a second TERM: all workers were stopped.
    Stopped,
    /// QUIT or TERM: all workers were drained, up to the drain's deadline.
    Drained,
    /// A worker could not go on. The others were drained, up to the drain's deadline.
    WorkerLost,
    /// No worker is left, although none was told to end.
    WorkersGone,
    /// Workers did not end in time. The process must exit without joining them.
    WorkersHang,
}

/// Reason why the control thread cannot start.
#[derive(Debug)]
pub enum ControlError {
    /// tokio-uring cannot be set up.
    Runtime(io::Error),
    /// The admin endpoint cannot be bound.
    Admin(AdminAddress, io::Error),
    /// The access log cannot be opened.
    AccessLog(PathBuf, io::Error),
    /// Signals cannot be caught.
    Signals(io::Error),
    /// The thread that writes to standard output cannot be started.
    Thread(io::Error),
}

/// A control thread that is ready to run. What needs privileges has been done, and no thread has
/// been started yet.
pub struct Control {
    settings: ControlSettings,
    runtime: tokio_uring::Runtime,
    admin: Option<admin::Bound>,
    log: Option<access::Output>,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
}

/// An input of [`supervise`].
enum Input {
    Signal(Signal),
    Worker(WorkerEvent),
    /// All worker threads are gone.
    WorkersGone,
}

impl Control {
    /// Starts the runtime, binds the admin endpoint and opens the access log.
    pub fn prepare(settings: ControlSettings) -> Result<Control, ControlError> {
        let runtime =
            tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(ControlError::Runtime)?;
        let (sender, inputs) = mpsc::unbounded_channel();
        let (admin, log) = runtime.block_on(async {
            let admin = bind_admin(&settings)?;
            let open = |log| access::open(log, settings.log_owner);
            let log = settings.access.as_ref().map(open).transpose()?;
            Ok((admin, log))
        })?;
        Ok(Control { settings, runtime, admin, log, inputs, sender })
    }

    /// Returns the address of the admin endpoint, if there is one.
    pub fn admin_address(&self) -> Option<AdminAddress> {
        self.admin.as_ref().map(admin::Bound::address)
    }

    /// Catches signals, and runs on the calling thread until no worker is left. Fails at once if
    /// the access log cannot be started.
    pub fn run(self, links: Links) -> Result<ExitReason, ControlError> {
        let Control { settings, runtime, admin, log, inputs, sender } = self;
        let Links { workers, access, events, running, source } = links;
        let (log, lines) = runtime.block_on(async {
            signals::catch(&sender).map_err(ControlError::Signals)?;
            end_of_start();
            LogHandle::start(log)
        })?;
        let log = Rc::new(log);
        if take_reopen_wish() {
            log.reopen();
        }
        let clock = settings.clock;
        let facts = Facts { version: settings.version, started: clock().1, clock };
        let (reloads, requests) = mpsc::channel(reload::WAITING_COUNT_MAX);
        let reloads = source.is_some().then_some(reloads);
        let counts = log.counts();
        let state = State::new(workers, facts, counts, running, settings.shutdown, reloads);
        let state = Rc::new(state);
        runtime.block_on(async {
            tokio_uring::spawn(forward(events, sender));
            if let Some(admin) = admin {
                tokio_uring::spawn(admin::serve(admin, Rc::clone(&state)));
            }
            if let Some(source) = source {
                let (state, log) = (Rc::clone(&state), Rc::clone(&log));
                tokio_uring::spawn(reload::run(state, log, source, requests));
            }
            tokio_uring::spawn(certificates::keep(Rc::clone(&state), clock));
            let lines = tokio_uring::spawn(lines.run(access, clock));
            let reason = supervise(&settings, &state, inputs, &log).await;
            // The workers' ends of the channel are gone, so the log ends by itself.
            if tokio::time::timeout(LOG_END_TIMEOUT, lines).await.is_err() {
                tracing::warn!("the last lines of the access log could not be written in time");
            }
            Ok(reason)
        })
    }
}

/// Returns an error if the access log could not be opened. Leaves its file as it is.
pub(crate) fn check_access_log(log: &AccessLog) -> Result<(), ControlError> {
    access::check(log)
}

/// Binds the admin endpoint. If it is not required, a failure is logged only.
fn bind_admin(settings: &ControlSettings) -> Result<Option<admin::Bound>, ControlError> {
    let Some(address) = &settings.admin else { return Ok(None) };
    match admin::bind(address) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if settings.admin_required => Err(ControlError::Admin(address.clone(), error)),
        Err(error) => {
            let error = ControlError::Admin(address.clone(), error);
            tracing::warn!("{error}; continuing without an admin endpoint");
            Ok(None)
        }
    }
}

/// Forwards the workers' events to the queue of inputs.
async fn forward(
    mut events: mpsc::UnboundedReceiver<WorkerEvent>,
    sender: mpsc::UnboundedSender<Input>,
) {
    while let Some(event) = events.recv().await {
        if sender.send(Input::Worker(event)).is_err() {
            return;
        }
    }
    // All senders are gone, and so are the worker threads.
    let _ = sender.send(Input::WorkersGone);
}

/// Acts on signals and on workers that end, until no worker is left.
async fn supervise(
    settings: &ControlSettings,
    state: &State,
    mut inputs: mpsc::UnboundedReceiver<Input>,
    log: &LogHandle,
) -> ExitReason {
    let mut shutdown = Shutdown::new(settings.shutdown);
    let mut invitation = settings.invitation.as_deref();
    while !state.all_ended() {
        let input = match shutdown.deadline() {
            None => Ok(inputs.recv().await),
            Some(at) => timeout_at(at.into(), inputs.recv()).await,
        };
        let now = (settings.clock)().0;
        // A reload may have changed them.
        shutdown.configure(state.shutdown_settings());
        let step = match input {
            Ok(Some(Input::Worker(event))) => {
                let lost = event.lost_worker();
                state.note(event);
                invite(&mut invitation, state);
                let lost = lost.filter(|_| !state.all_ended());
                lost.map_or(Step::Stay, |worker| shutdown.handle_lost_worker(now, worker))
            }
            Ok(Some(Input::WorkersGone)) => {
                state.note_all_gone();
                Step::Stay
            }
            Ok(Some(Input::Signal(signal))) => {
                match signal {
                    Signal::Reopen => log.reopen(),
                    Signal::Reload => state.reload_unasked("SIGHUP"),
                    Signal::Unsupported(name) => {
                        tracing::warn!("{name} is not supported yet; ignored");
                    }
                    Signal::Stop | Signal::Terminate | Signal::Drain => {}
                }
                shutdown.handle_signal(now, signal)
            }
            Ok(None) => Step::Exit,
            Err(_) => shutdown.handle_timeout(now),
        };
        match step {
            Step::Stay => {}
            Step::Leave => state.leave(),
            Step::Drain { deadline } => state.drain(deadline),
            Step::Stop => state.tell_all(|| Command::Stop),
            Step::Exit => {
                tracing::error!("exiting without waiting for workers {}", state.running_text());
                return ExitReason::WorkersHang;
            }
        }
    }
    if shutdown.reason() == ExitReason::WorkersGone {
        tracing::error!("no worker is left");
    }
    shutdown.reason()
}

/// Prints the invitation once every worker accepts.
fn invite(invitation: &mut Option<&str>, state: &State) {
    if let Some(text) = invitation.take_if(|_| state.ready().is_ok()) {
        // A closed standard output is no reason to end.
        let _ = writeln!(io::stdout(), "{text}");
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runtime(error) => write!(
                f,
                "the control thread's io_uring cannot be set up: {error}; see \
                 /proc/sys/kernel/io_uring_disabled and the container's seccomp profile"
            ),
            Self::Admin(address, error) => {
                write!(f, "the admin endpoint cannot listen on {address}: {error}")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        write!(f, "; another process listens there, choose another admin.listen")
                    }
                    _ => write!(f, "; correct admin.listen, or set it to \"off\""),
                }
            }
            Self::AccessLog(path, error) => write!(
                f,
                "the access log {} cannot be opened: {error}; correct log.access.path or its \
                 permissions",
                path.display()
            ),
            Self::Signals(error) => write!(f, "signal handlers cannot be installed: {error}"),
            Self::Thread(error) => write!(f, "the access log's thread cannot be started: {error}"),
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests;
