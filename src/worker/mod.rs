//! The per-core loop, the only place where the kernel side and the protocol side meet.
//!
//! ```text
//!        .--------------- one turn, one system call ----------------.
//!        v                                                          |
//!  submit and wait -> completions -> commands -> timers -> outputs -'
//!                     (datagrams, TCP           (due)     (batches, connects,
//!                      clients, bytes)                     writes, receives)
//! ```
//!
//! A worker owns its ring, its pool, its sockets and its gateway. Workers share no memory except
//! what is handed over. When a worker panics or the kernel refuses to go on, the ring is shut
//! down, everything else is dropped, and a new worker starts on the same memory and sockets:
//!
//! ```text
//!                 +------------------ restart, after a pause ------------------+
//!                 v                                                            |
//!   WorkerSetup: start ---> accept ---> turns ---> tear down ---> death? ------+--> Failed
//!                                                                 |
//!                                                                 +--> Finished (drained, stopped)
//! ```

mod clients;
mod edges;
mod incidents;
mod keys;
pub mod mailbox;
mod probes;
mod report;
mod restart;
mod slot_policy;
mod streams;
mod turn;
mod upstreams;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::gateway::{Gateway, GatewaySettings};
use crate::host::{clock, cpu};
use crate::metrics::{PoolCounters, WorkerCounters};
use crate::planted;
use crate::pool::{Pool, RegionHandle};
use crate::quic::Engine;
use crate::ring::{Ring, RingSettings};
use incidents::Incidents;
use mailbox::{Command, Mailbox, Snapshot, WorkerEvent, WorkerOutcome};
use restart::{Cause, RestartPolicy};

pub(crate) use keys::ProcessKeys;

/// Part of the pool that responses waiting for clients may fill: one in two.
const RESPONSES_SHARE: usize = 2;

/// Time that the kernel has to release a dying worker's slots.
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything that a worker starts from. It outlives the worker: a restarted one uses it again.
pub(crate) struct WorkerSetup {
    /// Index among the workers, from 0.
    pub index: u16,
    pub count: u16,
    /// The core to pin the thread to; `None` leaves the choice to the scheduler.
    pub core: Option<usize>,
    pub region: RegionHandle,
    /// Bytes of the heap that the whole process may have in use.
    pub heap_len_max: usize,
    /// The last snapshot applied, or the one to start with. A worker that restarts uses it; it
    /// keeps no sockets of removed listeners open.
    pub snapshot: RefCell<Arc<Snapshot>>,
    /// Keys that all workers of the process share.
    pub keys: ProcessKeys,
    /// Source of the worker's own keys and seeds.
    pub random: fn(&mut [u8]),
    /// Commands from control, and the way of access records to it.
    pub mailbox: Mailbox,
    pub events: UnboundedSender<WorkerEvent>,
    /// Records where bulk payload lies.
    #[cfg(test)]
    pub witness: Arc<tests::Witness>,
}

/// Returns the most TCP connections of clients that one worker holds. The limit of open files may
/// reduce it.
pub(crate) fn clients_max(files_max: u64) -> u32 {
    RingSettings::default().within(files_max).clients_max()
}

/// Starts a worker on a thread of its own, which sends its end as an event.
pub(crate) fn spawn(setup: WorkerSetup) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        planted::plant_from_environment();
        let (worker, events) = (setup.index, setup.events.clone());
        let outcome = run(setup);
        if let WorkerOutcome::Failed(why) = &outcome {
            tracing::error!(worker, "worker ended: {why}");
        }
        // Fails if control has ended first, and then no one needs the event.
        let _ = events.send(WorkerEvent::Ended { worker, outcome });
    })
}

/// Runs a worker on the calling thread until it is drained or stopped, and restarts it when it
/// dies, after a pause unless it is the first death in a row. It has failed if it dies before it
/// has ever accepted, if it dies while draining, or if the host keeps refusing.
fn run(mut setup: WorkerSetup) -> WorkerOutcome {
    if let Some(core) = setup.core
        && let Err(error) = cpu::pin_to(core)
    {
        tracing::warn!(worker = setup.index, core, %error, "not pinned to its core");
    }
    let mut policy = RestartPolicy::default();
    let mut has_accepted = false;
    loop {
        let mut life = Life::default();
        let Err(Death { cause, why }) = live(&setup, policy.restart_count(), &mut life) else {
            return WorkerOutcome::Finished;
        };
        has_accepted |= life.accepted_at.is_some();
        if !has_accepted || life.was_leaving() {
            return WorkerOutcome::Failed(why);
        }
        let Some(pause) = policy.pause_after(cause, life.duration()) else {
            let because = match cause {
                Cause::BuffersKept => "its memory cannot be used again",
                Cause::Failure | Cause::Panic => "restarting it did not help",
            };
            return WorkerOutcome::Failed(format!("{why}; {because}"));
        };
        tracing::error!(
            worker = setup.index,
            restarts = policy.restart_count(),
            ?pause,
            "worker died, restarting it: {why}"
        );
        // Fails if control has ended first, and then no one needs the event.
        let _ = setup.events.send(WorkerEvent::Restarting { worker: setup.index });
        if !setup.wait_to_restart(pause) {
            return WorkerOutcome::Finished;
        }
    }
}

/// The known facts of one life of a worker, even if it ended in a panic.
#[derive(Default)]
struct Life {
    /// When its sockets began to receive.
    accepted_at: Option<Instant>,
    /// Its loop ended while it was neither draining nor closing.
    was_serving: bool,
}

impl Life {
    /// Returns true if it died while draining or closing: its clients have been told to go.
    fn was_leaving(&self) -> bool {
        self.accepted_at.is_some() && !self.was_serving
    }

    fn duration(&self) -> Duration {
        self.accepted_at.map_or(Duration::ZERO, |at| clock::now() - at)
    }
}

/// The unexpected end of one life.
struct Death {
    cause: Cause,
    why: String,
}

impl Death {
    fn failure(why: impl ToString) -> Death {
        Death { cause: Cause::Failure, why: why.to_string() }
    }
}

/// One life: starts a worker, runs its loop and tears it down. A panic is caught wherever it
/// happens; the ring has been shut down by then, or has aborted the process. A ring that the loop
/// leaves behind is shut down here: if the kernel does not release its buffers, they are leaked,
/// and there is no further life.
fn live(setup: &WorkerSetup, restarts: u64, life: &mut Life) -> Result<(), Death> {
    let whole = || {
        let mut worker = Worker::new(setup, restarts).map_err(Death::failure)?;
        life.accepted_at = Some(clock::now());
        // Fails if control has ended first, and then no one needs the event.
        let _ = setup.events.send(WorkerEvent::Accepting { worker: setup.index });
        let outcome = catch_unwind(AssertUnwindSafe(|| worker.run()));
        life.was_serving = worker.phase == Phase::Serving;
        worker.tear_down()?;
        match outcome {
            Ok(outcome) => outcome.map_err(Death::failure),
            Err(_) => Err(Death { cause: Cause::Panic, why: "it panicked".to_owned() }),
        }
    };
    catch_unwind(AssertUnwindSafe(whole))
        .unwrap_or_else(|_| Err(Death::failure("it panicked during its start or teardown")))
}

impl WorkerSetup {
    /// Waits until the next worker may start, and obeys commands meanwhile. Returns false if it is
    /// told to end: no connections are left to drain.
    fn wait_to_restart(&mut self, pause: Duration) -> bool {
        let end = clock::now() + pause;
        loop {
            let left = end.saturating_duration_since(clock::now());
            match self.mailbox.commands.recv_timeout(left) {
                Ok(Command::Apply { snapshot, done }) => {
                    *self.snapshot.get_mut() = snapshot;
                    // Fails if control has stopped waiting.
                    let _ = done.send(Ok(()));
                }
                Ok(Command::Drain { .. } | Command::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    return false;
                }
                // Dropping the sender reports that no worker is running.
                Ok(Command::Report(response)) => drop(response),
                #[cfg(test)]
                Ok(Command::Panic | Command::LoseSend | Command::KeepBuffers) => {}
                Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }
}

struct Worker<'a> {
    setup: &'a WorkerSetup,
    /// The configuration and TLS objects in use.
    snapshot: Arc<Snapshot>,
    gateway: Gateway,
    ring: Ring,
    pool: Rc<Pool>,
    edges: edges::Edges,
    probes: probes::Probes,
    /// The listening sockets, by their index in the ring.
    listening: clients::Listening,
    streams: streams::Streams,
    connects: upstreams::Connects,
    slot_policy: slot_policy::SlotPolicy,
    transmit: turn::TransmitState,
    records: mailbox::AccessBatch,
    counters: WorkerCounters,
    pool_counters: PoolCounters,
    /// The pool was below its low-water mark in the last turn.
    was_memory_low: bool,
    /// When it was last logged that the heap is near its budget.
    heap_warned: Option<Instant>,
    incidents: Incidents,
    segmentation: report::SegmentationWatch,
    phase: Phase,
    teardown_timeout: Duration,
    /// When to receive again on sockets whose receive has failed.
    receive_again: Option<Instant>,
}

/// Phase of a worker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Finishing exchanges in flight, until the deadline.
    Draining(Instant),
    /// Connections are closed; the last packets may leave until the deadline.
    Closing(Instant),
}

impl<'a> Worker<'a> {
    fn new(setup: &'a WorkerSetup, restarts: u64) -> Result<Self, String> {
        let pool = Rc::new(Pool::attach(setup.region.clone()));
        let ring = Ring::new(ring_settings(&pool), Rc::clone(&pool));
        let mut ring = ring.map_err(|error| error.to_string())?;
        let snapshot = Arc::clone(&setup.snapshot.borrow());
        let mut edges = edges::Edges::default();
        for edge in &snapshot.edges {
            let socket = edges.open(&mut ring, &edge.group, setup.index)?;
            ring.receive_datagrams(socket);
        }
        let mut listening = clients::Listening::default();
        for edge in &snapshot.listening {
            listening.open(&mut ring, edge, setup.index)?;
        }
        ring.watch_wake(Arc::clone(&setup.mailbox.wake));
        let engine = Engine::new(setup.engine_settings()).map_err(|error| error.to_string())?;
        let gateway = Gateway::new(GatewaySettings {
            config: Arc::clone(&snapshot.config),
            engine,
            tls: snapshot.tls.clone(),
            socket_listeners: snapshot.edges.iter().map(|edge| edge.listener).collect(),
            worker_count: setup.count,
            responses_len_max: pool.plan().slots_len() / RESPONSES_SHARE,
        });
        Ok(Self {
            setup,
            snapshot,
            gateway,
            ring,
            slot_policy: slot_policy::SlotPolicy::default(),
            pool,
            edges,
            probes: probes::Probes::default(),
            listening,
            streams: streams::Streams::default(),
            connects: upstreams::Connects::default(),
            transmit: turn::TransmitState::default(),
            records: Vec::new(),
            counters: WorkerCounters { restarts, ..WorkerCounters::default() },
            pool_counters: PoolCounters::default(),
            was_memory_low: false,
            heap_warned: None,
            incidents: Incidents::default(),
            segmentation: report::SegmentationWatch::default(),
            phase: Phase::Serving,
            teardown_timeout: TEARDOWN_TIMEOUT,
            receive_again: None,
        })
    }

    /// Shuts the ring down before anything else is dropped: until then the kernel may write into
    /// slots.
    fn tear_down(self) -> Result<(), Death> {
        let deadline = clock::now() + self.teardown_timeout;
        self.ring.shut_down(deadline).map_err(|busy| Death {
            cause: Cause::BuffersKept,
            why: format!(
                "the kernel does not release its buffers ({} operations)",
                busy.operation_count
            ),
        })
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
