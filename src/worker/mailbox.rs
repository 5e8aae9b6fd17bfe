//! How other threads speak to a worker: commands in, answers and access records out.
//!
//! A command wakes the worker through an eventfd that its ring reads. Nothing here is on the path
//! of a packet.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::message::AccessRecord;
use crate::metrics::WorkerReport;
use crate::tls::ServerTls;

/// Everything a worker runs by, replaced as a whole.
#[derive(Clone)]
pub struct Snapshot {
    /// The validated configuration.
    pub config: Arc<Config>,
    /// Certificates, tickets and the TLS settings made from it.
    pub tls: ServerTls,
}

/// What control asks of a worker.
pub enum Command {
    /// Run by this from now on; what has begun ends by what it began with.
    Apply(Arc<Snapshot>),
    /// Tell clients to go (GOAWAY), finish what has begun, end by the deadline.
    Drain {
        /// When the rest is ended.
        deadline: Instant,
    },
    /// End now: close connections and return.
    Stop,
    /// Tell the counters.
    Report(oneshot::Sender<Box<WorkerReport>>),
    /// Panic, as a bug would.
    #[cfg(test)]
    Panic,
    /// From now on one send never completes.
    #[cfg(test)]
    LoseSend,
}

/// What a worker's thread tells control, in the order in which it happens.
pub enum WorkerEvent {
    /// The worker receives on all of its sockets.
    Accepting {
        /// Which one.
        worker: u16,
    },
    /// The worker died; a new one is to begin in its place, perhaps after a pause, and takes
    /// commands from the same mailbox.
    Restarting {
        /// Which one.
        worker: u16,
    },
    /// The worker's thread is about to end, and nobody stands in for it.
    Ended {
        /// Which one.
        worker: u16,
        /// How it came to that.
        outcome: WorkerOutcome,
    },
}

impl WorkerEvent {
    /// The worker that ended without being told to, if this tells of one.
    pub fn lost_worker(&self) -> Option<u16> {
        match *self {
            Self::Ended { worker, outcome: WorkerOutcome::Failed(_) } => Some(worker),
            Self::Accepting { .. } | Self::Restarting { .. } | Self::Ended { .. } => None,
        }
    }
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerOutcome {
    /// It was drained or stopped.
    Finished,
    /// It could not start, or could not go on, for this reason.
    Failed(String),
}

/// Access records of one turn of a worker's loop.
pub type AccessBatch = Vec<AccessRecord>;

/// Control's end: sends commands.
#[derive(Clone)]
pub struct MailboxSender {
    commands: Sender<Command>,
    wake: Arc<File>,
}

impl MailboxSender {
    /// Hands `command` over and wakes the worker. Gives it back when the worker is gone.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.send(command).map_err(|refused| refused.0)?;
        // An eventfd write fails only when its counter is full: then the worker is awake anyway.
        let _ = (&*self.wake).write(&1u64.to_ne_bytes());
        Ok(())
    }
}

/// The worker's end.
pub struct Mailbox {
    /// Commands, in order.
    pub commands: Receiver<Command>,
    /// The eventfd that tells of commands.
    pub wake: Arc<File>,
    /// Where access records go; full means they are dropped and counted.
    pub access: mpsc::Sender<AccessBatch>,
}

/// Makes both ends around `wake`, an eventfd in non-blocking mode.
pub fn mailbox(wake: File, access: mpsc::Sender<AccessBatch>) -> (MailboxSender, Mailbox) {
    let (sender, commands) = channel();
    let wake = Arc::new(wake);
    let sender = MailboxSender { commands: sender, wake: Arc::clone(&wake) };
    (sender, Mailbox { commands, wake, access })
}
