//! The thread that steers: admin endpoint, access log, signals, shutdown.
//!
//! It runs tokio-uring on the main thread and is never on the path of a packet: workers hear of it
//! through their mailboxes only, and whatever is slow here (a full disk, a stopped pipe, a scraper
//! that does not read) is slow here alone.
//!
//! ```text
//!   signals --------+                          +--> Command --> worker 0, 1, ...
//!   worker events --+--> steer (one task) -----+
//!                         |  shares State with
//!   admin endpoint <------+----------------------> Command::Report --> workers
//!   access batches --> access log task --> file (io_uring) or stdout (own thread)
//! ```

mod access;
mod admin;
mod signals;
mod state;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::config::{AccessLog, AdminAddress};
use crate::worker::mailbox::{AccessBatch, Command, MailboxSender, WorkerEvent};

use signals::Signal;
use state::State;

/// Batches of access records that may wait for the log; a worker sends one a turn.
pub const ACCESS_BATCH_COUNT_MAX: usize = 1024;

/// How long workers may take to end after a fast stop, or after the end of a drain: closing
/// connections takes milliseconds, so whoever needs longer hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last access lines may take to reach a pipe that nobody reads.
const LOG_END_TIMEOUT: Duration = Duration::from_secs(1);

/// What the thread that steers is told at start.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// Where the admin endpoint listens.
    pub admin: Option<AdminAddress>,
    /// Whether an admin address that is taken ends the start; the demonstration goes on without.
    pub admin_required: bool,
    /// Where access lines go.
    pub access: Option<AccessLog>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Printed once, as soon as every worker accepts: what a person may then try.
    pub invitation: Option<String>,
    /// The program's version.
    pub version: &'static str,
    /// Both clocks, read at one moment.
    pub clock: fn() -> (Instant, SystemTime),
}

/// Why the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// TERM or INT: all workers ended at once.
    Stopped,
    /// QUIT: all workers finished what they had begun, or the drain's deadline ended the rest.
    Drained,
    /// A worker could not go on; the others finished what they had begun, or the drain's deadline
    /// ended the rest.
    WorkerLost,
    /// No worker is left, though nobody asked for that.
    WorkersGone,
    /// Workers did not end in time; the process must end without them.
    WorkersHang,
}

/// Why control cannot start.
#[derive(Debug)]
pub enum ControlError {
    /// tokio-uring does not start.
    Runtime(io::Error),
    /// The admin endpoint cannot be bound.
    Admin(AdminAddress, io::Error),
    /// The access log cannot be opened.
    AccessLog(PathBuf, io::Error),
    /// Signals cannot be caught.
    Signals(io::Error),
    /// The standard output's thread cannot be started.
    Thread(io::Error),
}

/// Everything that can be refused at start, done; ready to run.
pub struct Control {
    settings: ControlSettings,
    runtime: tokio_uring::Runtime,
    admin: Option<admin::Bound>,
    log: Option<access::Sink>,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
}

/// What steering acts on.
enum Input {
    Signal(Signal),
    Worker(WorkerEvent),
    /// Every thread that could tell of workers is gone.
    WorkersGone,
}

impl Control {
    /// Starts the runtime, binds the admin endpoint, opens the access log and catches signals from
    /// now on.
    pub fn prepare(settings: ControlSettings) -> Result<Control, ControlError> {
        let runtime =
            tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(ControlError::Runtime)?;
        let (sender, inputs) = mpsc::unbounded_channel();
        let (admin, log) = runtime.block_on(async {
            signals::catch(&sender).map_err(ControlError::Signals)?;
            let admin = bind_admin(&settings)?;
            let log = settings.access.as_ref().map(access::open).transpose()?;
            Ok((admin, log))
        })?;
        Ok(Control { settings, runtime, admin, log, inputs, sender })
    }

    /// Where the admin endpoint listens, if it does.
    pub fn admin_address(&self) -> Option<AdminAddress> {
        self.admin.as_ref().map(admin::Bound::address)
    }

    /// Runs on this thread until no worker is left. `workers` are in the order of their indices;
    /// their threads tell what becomes of them by `events`.
    pub fn run(
        self,
        workers: Vec<MailboxSender>,
        access: mpsc::Receiver<AccessBatch>,
        events: mpsc::UnboundedReceiver<WorkerEvent>,
    ) -> ExitReason {
        let Control { settings, runtime, admin, log, inputs, sender } = self;
        let counts = log.as_ref().map(access::Sink::counts).unwrap_or_default();
        let started = (settings.clock)().1;
        let state = Rc::new(State::new(workers, settings.version, started, counts));
        runtime.block_on(async {
            tokio_uring::spawn(forward(events, sender));
            if let Some(admin) = admin {
                tokio_uring::spawn(admin::serve(admin, Rc::clone(&state)));
            }
            let log = tokio_uring::spawn(access::run(access, log, settings.clock));
            let reason = steer(&settings, &state, inputs).await;
            // The workers are gone and with them their ends of the channel: the log ends by itself.
            if tokio::time::timeout(LOG_END_TIMEOUT, log).await.is_err() {
                tracing::warn!("the last access lines did not reach the log");
            }
            reason
        })
    }
}

/// Binds the admin endpoint, or says why the demonstration runs without.
fn bind_admin(settings: &ControlSettings) -> Result<Option<admin::Bound>, ControlError> {
    let Some(address) = &settings.admin else { return Ok(None) };
    match admin::bind(address) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if settings.admin_required => Err(ControlError::Admin(address.clone(), error)),
        Err(error) => {
            let error = ControlError::Admin(address.clone(), error);
            tracing::warn!("{error}; going on without /metrics");
            Ok(None)
        }
    }
}

/// Puts the workers' events into the one queue.
async fn forward(
    mut events: mpsc::UnboundedReceiver<WorkerEvent>,
    sender: mpsc::UnboundedSender<Input>,
) {
    while let Some(event) = events.recv().await {
        if sender.send(Input::Worker(event)).is_err() {
            return;
        }
    }
    // Every thread that could tell of a worker is gone.
    let _ = sender.send(Input::WorkersGone);
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Until then, workers finish what they have begun.
    Draining(Instant),
    /// Until then, workers may take to end.
    Stopping(Instant),
}

/// Acts on signals and on the ends of workers, until no worker is left.
async fn steer(
    settings: &ControlSettings,
    state: &State,
    mut inputs: mpsc::UnboundedReceiver<Input>,
) -> ExitReason {
    let mut phase = Phase::Running;
    let mut reason = ExitReason::WorkersGone;
    let mut invitation = settings.invitation.as_deref();
    while !state.all_ended() {
        let input = match phase {
            Phase::Running => Ok(inputs.recv().await),
            Phase::Draining(at) | Phase::Stopping(at) => timeout_at(at.into(), inputs.recv()).await,
        };
        let now = (settings.clock)().0;
        match (input, phase) {
            (Ok(Some(Input::Worker(event))), _) => {
                let lost = event.lost_worker();
                state.note(event);
                invite(&mut invitation, state);
                if let (Some(worker), Phase::Running) = (lost, phase)
                    && !state.all_ended()
                {
                    // Its sockets stay in their groups: its share of new clients gets no response.
                    tracing::error!(
                        "worker {worker} cannot go on: draining the others, to end with exit code 3 \
                         so that a supervisor starts the process again"
                    );
                    phase = drain(settings, state, now);
                    reason = ExitReason::WorkerLost;
                }
            }
            (Ok(Some(Input::WorkersGone)), _) => state.note_all_gone(),
            (Ok(Some(Input::Signal(Signal::Drain))), Phase::Running) => {
                phase = drain(settings, state, now);
                reason = ExitReason::Drained;
            }
            (Ok(Some(Input::Signal(Signal::Stop))), Phase::Stopping(_)) => {
                tracing::warn!("told to stop again: ending without waiting");
                return ExitReason::WorkersHang;
            }
            (Ok(Some(Input::Signal(Signal::Stop))), _) => {
                tracing::info!("stopping");
                state.tell_all(|| Command::Stop);
                phase = Phase::Stopping(now + STOP_TIMEOUT);
                reason = ExitReason::Stopped;
            }
            (Ok(Some(Input::Signal(Signal::Unsupported(name)))), _) => {
                tracing::warn!("{name} is not supported yet; nothing was done");
            }
            (Ok(Some(Input::Signal(Signal::Drain))), _) => {}
            (Ok(None), _) => return ExitReason::WorkersHang,
            (Err(_), Phase::Stopping(_)) => {
                tracing::error!("workers {} did not end in time", state.running_text());
                return ExitReason::WorkersHang;
            }
            (Err(_), _) => {
                tracing::warn!("the drain's time is over: ending what is left");
                state.tell_all(|| Command::Stop);
                phase = Phase::Stopping(now + STOP_TIMEOUT);
            }
        }
    }
    if reason == ExitReason::WorkersGone {
        tracing::error!("no worker is left");
    }
    reason
}

/// Prints the invitation the first time that it holds.
fn invite(invitation: &mut Option<&str>, state: &State) {
    if let Some(text) = invitation.take_if(|_| state.ready().is_ok()) {
        // Nobody reads it where standard output is closed; that is no reason to end.
        let _ = writeln!(io::stdout(), "{text}");
    }
}

/// Starts a drain. Workers end by its deadline on their own; after it they are stopped.
fn drain(settings: &ControlSettings, state: &State, now: Instant) -> Phase {
    let timeout = settings.drain_timeout;
    tracing::info!("draining for up to {}", humantime::format_duration(timeout));
    let deadline = now + timeout;
    state.drain(deadline);
    Phase::Draining(deadline + STOP_TIMEOUT)
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
                write!(f, "the admin endpoint cannot listen on ")?;
                match address {
                    AdminAddress::Tcp(address) => write!(f, "{address}: {error}")?,
                    AdminAddress::Unix(path) => write!(f, "unix:{}: {error}", path.display())?,
                }
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
            Self::Signals(error) => write!(f, "signals cannot be caught: {error}"),
            Self::Thread(error) => write!(f, "no thread can be started: {error}"),
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests;
