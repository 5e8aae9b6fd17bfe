//! The per-core loop, the only place where the kernel side and the protocol side meet.
//!
//! ```text
//!        .--------------- one turn, one system call ----------------.
//!        v                                                          |
//!  submit and wait -> completions -> commands -> timers -> outputs -'
//!                     (datagrams,               (due)     (batches, connects,
//!                      upstream bytes)                     writes, receives)
//! ```
//!
//! A worker owns its ring, its pool, its sockets and its gateway; nothing is shared with another
//! worker but memory that was handed over. When it panics or the kernel refuses to go on, the ring
//! is emptied, everything else is dropped and a new worker begins on the same memory and the same
//! sockets.

mod intake;
mod keys;
pub mod mailbox;
mod report;
mod revival;
mod turn;
mod upstreams;

#[cfg(test)]
mod tests;

use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, GatewaySettings};
use crate::host::clock;
use crate::host::cpu;
use crate::pool::{Pool, RegionHandle};
use crate::quic::Engine;
use crate::ring::{Ring, RingSettings, SocketIndex};
use mailbox::{Command, Mailbox, Snapshot, WorkerEvent};
use revival::{Cause, Revival, Trace};
use tokio::sync::mpsc::UnboundedSender;

pub use keys::ProcessKeys;

/// What a worker is started with. It outlives the worker: a new one begins from it.
pub struct WorkerSetup {
    /// Its place among the workers, from 0.
    pub index: u16,
    /// Workers of the process.
    pub count: u16,
    /// The core it is pinned to; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    /// Its memory.
    pub region: RegionHandle,
    /// Its sockets, one per address.
    pub sockets: Vec<EdgeSocket>,
    /// What it runs by at first.
    pub snapshot: Arc<Snapshot>,
    /// Keys that all workers of the process share.
    pub keys: ProcessKeys,
    /// Where its own keys and seeds come from.
    pub random: fn(&mut [u8]),
    /// How control speaks to it.
    pub mailbox: Mailbox,
    /// How it speaks to control.
    pub events: UnboundedSender<WorkerEvent>,
    /// Sees where bulk lies.
    #[cfg(test)]
    pub witness: Arc<tests::Witness>,
}

/// A bound UDP socket and the listener whose address it has.
pub struct EdgeSocket {
    /// The socket. The process keeps the original open for life.
    pub socket: UdpSocket,
    /// Index into the configuration's listeners.
    pub listener: usize,
}

/// How a worker came to its end.
#[derive(Debug)]
pub enum WorkerEnd {
    /// It was drained or stopped.
    Finished,
    /// It could not begin, or the kernel went on refusing.
    Failed(String),
}

/// Runs a worker on the calling thread until it is drained or stopped. A death ends its
/// connections, is logged, and a new worker begins, after a pause where one died before; commands
/// are obeyed meanwhile. A worker that the host refuses from the start, or goes on refusing, has
/// failed.
pub fn run(mut setup: WorkerSetup) -> WorkerEnd {
    if let Some(core) = setup.core
        && let Err(error) = cpu::pin_to(core)
    {
        tracing::warn!(worker = setup.index, core, %error, "not pinned to its core");
    }
    let mut revival = Revival::default();
    let mut has_accepted = false;
    loop {
        let mut trace = Trace::default();
        // Should it panic while it begins or is torn down, its ring has ended all the same, or has
        // aborted the process.
        let life =
            catch_unwind(AssertUnwindSafe(|| live(&setup, revival.restart_count(), &mut trace)));
        let began_or_ended = || "it panicked while it began or ended".to_owned();
        let (cause, why) = match life.unwrap_or_else(|_| Err((Cause::Failure, began_or_ended()))) {
            Ok(()) => return WorkerEnd::Finished,
            Err(death) => death,
        };
        if let Some(snapshot) = trace.snapshot {
            setup.snapshot = snapshot;
        }
        has_accepted |= trace.accepted_at.is_some();
        // Clients that were told to go wait for no new one.
        let is_leaving = trace.accepted_at.is_some() && !trace.was_serving;
        let lived = trace.accepted_at.map_or(Duration::ZERO, |at| clock::now() - at);
        if !has_accepted || is_leaving {
            return WorkerEnd::Failed(why);
        }
        let Some(pause) = revival.pause_after(cause, lived) else {
            return WorkerEnd::Failed(format!("{why}; tried again in vain"));
        };
        let restarts = revival.restart_count();
        tracing::error!(
            worker = setup.index,
            restarts,
            ?pause,
            "worker died, a new one begins: {why}"
        );
        // Control may have ended first: then nobody needs to know.
        let _ = setup.events.send(WorkerEvent::Restarting { worker: setup.index });
        if !setup.rest(pause) {
            return WorkerEnd::Finished;
        }
    }
}

/// One worker's life. An error is its death, and what of.
fn live(setup: &WorkerSetup, restarts: u64, trace: &mut Trace) -> Result<(), (Cause, String)> {
    let mut worker = Worker::new(setup, restarts).map_err(|why| (Cause::Failure, why))?;
    trace.accepted_at = Some(clock::now());
    // Control may have ended first: then nobody needs to know.
    let _ = setup.events.send(WorkerEvent::Accepting { worker: setup.index });
    let outcome = catch_unwind(AssertUnwindSafe(|| worker.run()));
    trace.was_serving = worker.phase == Phase::Serving;
    trace.snapshot = Some(Arc::clone(&worker.snapshot));
    worker.tear_down();
    match outcome {
        Ok(outcome) => outcome.map_err(|error| (Cause::Failure, error.to_string())),
        Err(_) => Err((Cause::Panic, "it panicked".to_owned())),
    }
}

impl WorkerSetup {
    /// Waits before the next worker begins, and obeys commands that cannot wait for it. False when
    /// there shall be none: nobody is left to be drained.
    fn rest(&mut self, pause: Duration) -> bool {
        let end = clock::now() + pause;
        loop {
            let left = end.saturating_duration_since(clock::now());
            match self.mailbox.commands.recv_timeout(left) {
                Ok(Command::Apply(snapshot)) => self.snapshot = snapshot,
                Ok(Command::Drain { .. } | Command::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    return false;
                }
                // The asker learns that nobody is there.
                Ok(Command::Report(response)) => drop(response),
                #[cfg(test)]
                Ok(Command::Panic | Command::LoseSend) => {}
                Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }
}

/// Responses that wait for clients may fill this part of the pool's length: one in two.
const RESPONSES_SHARE: usize = 2;

/// How long a dying worker waits for the kernel to let go of its slots.
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(2);

struct Worker<'a> {
    setup: &'a WorkerSetup,
    /// What it runs by now.
    snapshot: Arc<Snapshot>,
    gateway: Gateway,
    ring: Ring,
    pool: Rc<Pool>,
    /// The ring's names of the sockets, in the setup's order.
    sockets: Vec<SocketIndex>,
    upstreams: upstreams::Upstreams,
    intake: intake::IntakePolicy,
    transmit: turn::TransmitState,
    records: mailbox::AccessBatch,
    tally: report::Tally,
    phase: Phase,
    /// When sockets whose receive was given up are tried again.
    receive_again: Option<Instant>,
}

/// Where in its life a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Finishing what has begun, until the deadline.
    Draining(Instant),
    /// Everything is closed; the last packets leave, until then at most.
    Closing(Instant),
}

impl<'a> Worker<'a> {
    fn new(setup: &'a WorkerSetup, restarts: u64) -> Result<Self, String> {
        let pool = Rc::new(Pool::attach(setup.region.clone()));
        let ring = Ring::new(ring_settings(&pool), Rc::clone(&pool));
        let mut ring = ring.map_err(|error| error.to_string())?;
        let mut sockets = Vec::with_capacity(setup.sockets.len());
        for edge in &setup.sockets {
            let socket = edge.socket.try_clone().map_err(|error| {
                format!("worker {}: cannot duplicate its socket: {error}", setup.index)
            })?;
            let socket = ring.add_socket(socket).map_err(|error| error.to_string())?;
            ring.receive_datagrams(socket);
            sockets.push(socket);
        }
        ring.watch_wake(Arc::clone(&setup.mailbox.wake));
        let engine = Engine::new(setup.engine_settings()).map_err(|error| error.to_string())?;
        let gateway = Gateway::new(GatewaySettings {
            config: Arc::clone(&setup.snapshot.config),
            engine,
            tls: setup.snapshot.tls.clone(),
            socket_listeners: setup.sockets.iter().map(|edge| edge.listener).collect(),
            worker_count: setup.count,
            responses_len_max: pool.plan().slots_len() / RESPONSES_SHARE,
        });
        Ok(Self {
            setup,
            snapshot: Arc::clone(&setup.snapshot),
            gateway,
            ring,
            intake: intake::IntakePolicy::default(),
            pool,
            sockets,
            upstreams: upstreams::Upstreams::default(),
            transmit: turn::TransmitState::default(),
            records: Vec::new(),
            tally: report::Tally { restarts, ..Default::default() },
            phase: Phase::Serving,
            receive_again: None,
        })
    }

    /// Ends the ring before anything else goes: until then the kernel may write into slots.
    fn tear_down(self) {
        if self.ring.shut_down(clock::now() + TEARDOWN_TIMEOUT).is_err() {
            // A new worker would share memory with the kernel's unfinished business.
            tracing::error!(worker = self.setup.index, "the kernel does not let go of buffers");
            std::process::abort();
        }
    }
}

fn ring_settings(pool: &Pool) -> RingSettings {
    let plan = pool.plan();
    RingSettings {
        datagram_buffers: plan.provided_datagrams as u16,
        stream_buffers: plan.provided_upstream as u16,
        sends_max: plan.transmit,
        ..RingSettings::default()
    }
}
