//! The ring without its kernel: operations become submissions, events become completions. Tests
//! feed it events that a real kernel rarely sends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::mem;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use super::buffers::BufferGroup;
use super::completion::{Completion, Failure, StreamKey};
use super::datagrams::Socket;
use super::kernel::RingError;
use super::listeners::Listener;
use super::message::HEADER_LEN;
use super::send::SendOp;
use super::settings::RingSettings;
use super::stream_ops::WriteOp;
use super::streams::Stream;
use super::table::{CANCEL, Op, OpKey, OpTable};
use crate::base::slab::Slab;
use crate::metrics::RingCounters;
use crate::pool::{Pool, Provided};

/// See [`Machine::longest_wait`].
pub(super) const STARVED_WAIT_MAX: Duration = Duration::from_millis(5);

/// A completion queue entry of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

pub(super) struct Machine {
    pub(super) table: OpTable,
    /// Submissions that are not in the kernel's queue yet.
    pub(super) outbox: VecDeque<squeue::Entry>,
    /// Completions that needed no kernel.
    pub(super) ready: VecDeque<Completion>,
    pub(super) stats: RingCounters,
    /// Set while the ring shuts down: no operation is begun any more.
    pub(super) is_ending: bool,

    pub(super) pool: Rc<Pool>,
    pub(super) datagram_buffers: BufferGroup,
    pub(super) stream_buffers: BufferGroup,

    pub(super) sockets: Vec<Socket>,
    pub(super) sockets_max: u16,
    /// Files of sockets that are being removed.
    pub(super) leaving: Vec<u32>,
    /// The first socket whose receive is armed.
    pub(super) first_to_arm: usize,
    pub(super) has_zero_copy: bool,
    pub(super) sends_in_flight: u32,
    pub(super) sends_max: u32,
    #[allow(clippy::vec_box, reason = "they go back into the table, where they must not move")]
    pub(super) spare_sends: Vec<Box<SendOp>>,
    #[allow(clippy::vec_box, reason = "they go back into the table, where they must not move")]
    pub(super) spare_writes: Vec<Box<WriteOp>>,

    pub(super) streams: Slab<StreamKey, Stream>,
    pub(super) streams_max: usize,
    /// Those of them that belong to clients, or to armed accepts.
    pub(super) clients: usize,
    pub(super) clients_max: usize,
    pub(super) listeners: Vec<Listener>,
    pub(super) listeners_max: u16,
    /// Streams whose receive waits for buffers, first in, first out.
    pub(super) starving: VecDeque<StreamKey>,
    /// Set when the kernel had no memory for an operation: the next turn arms nothing.
    lacks_memory: bool,

    wake: Option<Arc<File>>,
    /// The next turn arms the wake-up.
    wake_is_wanted: bool,
}

impl Machine {
    pub(super) fn new(settings: &RingSettings, pool: Rc<Pool>) -> Result<Machine, RingError> {
        let group = |id, target, header_len| {
            BufferGroup::new(id, target, header_len).map_err(RingError::Buffers)
        };
        let streams_max = settings.streams_max as usize;
        Ok(Machine {
            table: OpTable::new(settings.operation_count()),
            outbox: VecDeque::new(),
            ready: VecDeque::new(),
            stats: RingCounters::default(),
            is_ending: false,
            pool,
            datagram_buffers: group(0, settings.datagram_buffers, HEADER_LEN)?,
            stream_buffers: group(1, settings.stream_buffers, 0)?,
            sockets: Vec::new(),
            sockets_max: settings.sockets_max,
            leaving: Vec::new(),
            first_to_arm: 0,
            has_zero_copy: true,
            sends_in_flight: 0,
            sends_max: settings.sends_max,
            spare_sends: Vec::new(),
            spare_writes: Vec::new(),
            streams: Slab::new(),
            streams_max,
            clients: 0,
            clients_max: settings.clients_max() as usize,
            listeners: Vec::new(),
            listeners_max: settings.listeners_max,
            starving: VecDeque::new(),
            lacks_memory: false,
            wake: None,
            wake_is_wanted: false,
        })
    }

    /// Returns a stream's index in the file table, which begins with the sockets.
    pub(super) fn stream_file(&self, key: StreamKey) -> u32 {
        u32::from(self.sockets_max) + key.index() as u32
    }

    pub(super) fn watch_wake(&mut self, wake: Arc<File>) {
        assert!(self.wake.is_none(), "a ring watches one wake-up");
        self.wake = Some(wake);
        self.arm_wake();
    }

    fn arm_wake(&mut self) {
        if let Some(wake) = self.wake.as_ref().filter(|_| !self.is_ending) {
            let key = self.table.insert(Op::Wake);
            let events = libc::POLLIN as u32;
            let entry = opcode::PollAdd::new(Fd(wake.as_raw_fd()), events).build();
            self.outbox.push_back(entry.user_data(key.0));
        }
    }

    /// Provides slots to the kernel and arms the receives that waited for them, before a
    /// submission. Each group gets a quarter of its slots first, datagrams before streams, and the
    /// rest only while the pool is not low. So neither starves the other, nor takes the slots that
    /// sends need.
    pub(super) fn replenish(&mut self) {
        if !self.is_ending {
            let pool = &*self.pool;
            self.datagram_buffers.fill_floor(pool);
            self.stream_buffers.fill_floor(pool);
            self.datagram_buffers.fill(pool);
            self.stream_buffers.fill(pool);
            self.datagram_buffers.publish();
            self.stream_buffers.publish();
        }
        // A listening socket has pauses of its own.
        self.arm_accepts();
        if mem::take(&mut self.lacks_memory) {
            return;
        }
        if mem::take(&mut self.wake_is_wanted) {
            self.arm_wake();
        }
        self.arm_sockets();
        self.arm_starving();
    }

    /// Makes the next turn arm nothing, since an operation that the kernel had no memory for would
    /// fail again at once.
    pub(super) fn rest_for_memory(&mut self) {
        self.stats.no_memory += 1;
        self.lacks_memory = true;
    }

    /// Returns the longest wait of a turn while something is pending that no completion signals: a
    /// slot that another thread frees, or memory of the kernel for submissions.
    pub(super) fn longest_wait(&self) -> Option<Duration> {
        let starves = !self.starving.is_empty() || self.sockets_starve() || self.wake_is_wanted;
        (starves || !self.outbox.is_empty()).then_some(STARVED_WAIT_MAX)
    }

    /// Processes an event. Returns its completion, if it has one for the caller.
    pub(super) fn complete(&mut self, event: Event) -> Option<Completion> {
        self.stats.completions += 1;
        let provided = cqueue::buffer_select(event.flags)
            .and_then(|id| self.datagram_buffers.take(id).or_else(|| self.stream_buffers.take(id)));
        if event.user_data == CANCEL {
            return None;
        }
        let key = OpKey(event.user_data);
        match self.table.get_mut(key) {
            Some(&mut Op::ReceiveDatagrams(socket)) => {
                self.datagrams_arrived(key, socket, event, provided)
            }
            Some(Op::Send(_)) => self.send_progressed(key, event),
            Some(Op::Connect(_)) => self.connected(key, event.result),
            Some(&mut Op::Receive(stream)) => self.received(key, stream, event, provided),
            Some(Op::Scatter(_)) => self.scattered(key, event),
            Some(Op::Write(_)) => self.wrote(key, event.result),
            Some(&mut Op::ShutDown(stream)) => self.stream_was_shut_down(key, stream),
            Some(&mut Op::Reset(stream)) => self.stream_was_reset(key, stream),
            Some(&mut Op::Close(stream)) => self.closed(key, stream, event.result),
            Some(Op::Accept(_)) => self.accepted(key, event.result),
            Some(&mut Op::AcceptPause(listener)) => {
                self.accept_pause_over(key, listener);
                None
            }
            Some(Op::Wake) => self.woken(key, event.result),
            None => {
                self.stats.late += 1;
                drop(provided.map(Provided::reclaim));
                None
            }
        }
    }

    /// Cancels each operation by its key. To cancel all at once, the kernel would search all
    /// operations anew for each.
    pub(super) fn cancel_each(&mut self) {
        let cancels =
            self.table.keys().into_iter().map(|key| opcode::AsyncCancel::new(key.0).build());
        self.outbox.extend(cancels.map(|entry| entry.user_data(CANCEL)));
    }

    fn woken(&mut self, key: OpKey, result: i32) -> Option<Completion> {
        self.table.remove(key);
        if result < 0 && self.is_ending {
            return None;
        }
        if let Some(wake) = &self.wake {
            // Resets the counter. It is non-blocking, so it fails if another read came first.
            let _ = (&**wake).read(&mut [0u8; 8]);
        }
        if result < 0 && Failure::from_result(result) == Failure::NoMemory {
            self.wake_is_wanted = true;
            self.rest_for_memory();
        } else {
            self.arm_wake();
        }
        Some(Completion::Woken)
    }
}
