//! The mailbox: commands to a worker, and its events and access records for the control thread.
//!
//! A command wakes the worker through an eventfd that its ring reads. Nothing here is on the path
//! of a packet.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::host::socket::{ListenerGroup, SocketGroup};
use crate::message::AccessRecord;
use crate::metrics::WorkerReport;
use crate::tls::ServerTls;

/// The configuration of a worker and the TLS objects made from it, replaced as a whole.
#[derive(Clone)]
pub struct Snapshot {
    /// The number of the configuration: 1 at the start, and one more with each reload.
    pub generation: u64,
    pub config: Arc<Config>,
    /// Certificates, tickets and the TLS settings made from it.
    pub tls: ServerTls,
    /// The sockets of each address. A worker that drains one keeps it open for all: closing one
    /// would renumber the reuseport group that the steering program selects from.
    pub edges: Vec<Edge>,
    /// The listening TCP sockets of each address.
    pub listening: Vec<ListeningEdge>,
}

/// An address, its listener, and its sockets.
#[derive(Clone)]
pub struct Edge {
    /// As configured; a port of 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Index into the configuration's listeners.
    pub listener: usize,
    pub group: Arc<SocketGroup>,
}

/// An address, its listener, and its listening TCP sockets.
#[derive(Clone)]
pub struct ListeningEdge {
    pub address: SocketAddr,
    /// Index into the configuration's listeners.
    pub listener: usize,
    pub group: Arc<ListenerGroup>,
}

/// Reports whether a snapshot is applied, or why not.
pub type Applied = oneshot::Sender<Result<(), String>>;

/// A command to a worker.
pub enum Command {
    /// Use this snapshot for new exchanges and connections. Those in progress keep the old one.
    Apply { snapshot: Arc<Snapshot>, done: Applied },
    /// Send GOAWAY, finish exchanges in flight, and close what remains at the deadline.
    Drain { deadline: Instant },
    /// Close all connections and end.
    Stop,
    /// Report the metrics.
    Report(oneshot::Sender<Box<WorkerReport>>),
    /// Panic, as a bug would.
    #[cfg(test)]
    Panic,
    /// Act as if one send never completed.
    #[cfg(test)]
    LoseSend,
    /// Act as if the kernel kept its buffers when the ring is shut down.
    #[cfg(test)]
    KeepBuffers,
}

/// An event of a worker's thread, in order; `worker` is its index.
pub enum WorkerEvent {
    /// The worker receives on all of its sockets.
    Accepting { worker: u16 },
    /// The worker died and is restarted, possibly after a pause. The mailbox stays the same.
    Restarting { worker: u16 },
    /// The worker's thread is about to end for good.
    Ended { worker: u16, outcome: WorkerOutcome },
}

impl WorkerEvent {
    /// Returns the index of the worker that has failed, if this is the event of one.
    pub fn lost_worker(&self) -> Option<u16> {
        match *self {
            Self::Ended { worker, outcome: WorkerOutcome::Failed(_) } => Some(worker),
            Self::Accepting { .. } | Self::Restarting { .. } | Self::Ended { .. } => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerOutcome {
    /// It was drained or stopped.
    Finished,
    /// It could not start, or could not go on, for this reason.
    Failed(String),
}

/// The access records of one turn of a worker's loop.
pub type AccessBatch = Vec<AccessRecord>;

/// The control thread's end.
#[derive(Clone)]
pub struct MailboxSender {
    commands: Sender<Command>,
    wake: Arc<File>,
}

impl MailboxSender {
    /// Sends `command` and wakes the worker. Returns the command if the worker has ended.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.send(command).map_err(|refused| refused.0)?;
        // The write fails only if the eventfd's counter is full, and then the worker is awake.
        let _ = (&*self.wake).write(&1u64.to_ne_bytes());
        Ok(())
    }
}

/// The worker's end.
pub struct Mailbox {
    /// Commands, in the order they were sent.
    pub commands: Receiver<Command>,
    /// The eventfd that is written after each command.
    pub wake: Arc<File>,
    /// The channel for access records. If it is full, they are dropped and counted.
    pub access: mpsc::Sender<AccessBatch>,
}

/// Returns both ends of a mailbox. `wake` is an eventfd in non-blocking mode.
pub fn mailbox(wake: File, access: mpsc::Sender<AccessBatch>) -> (MailboxSender, Mailbox) {
    let (sender, commands) = channel();
    let wake = Arc::new(wake);
    let sender = MailboxSender { commands: sender, wake: Arc::clone(&wake) };
    (sender, Mailbox { commands, wake, access })
}
