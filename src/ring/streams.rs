//! Streams: connections to upstreams, over TCP or unix sockets, and those of clients.
//!
//! ```text
//!  connect --> Connecting --> Open --> Closing --> (Closed, the key ends)
//!                  |  connected  | receive, write    ^
//!                  +-------------+-- close, reset ---+  cancel what is in flight, wait for it,
//!                                ^                      reset the connection if asked to, then
//!                                |                      close the descriptor
//!  accept armed --> Reserved ----+ accepted
//! ```
//!
//! A stream has at most one receive and one write in flight; the end of our side counts as a write.
//! Completions that come while it is closing are dropped here, and their buffers freed.

use std::mem;
use std::ptr;

use bytes::{Bytes, BytesMut};
use io_uring::squeue::Flags;
use io_uring::types::Fixed;
use io_uring::{cqueue, opcode};

use super::buffers::filled;
use super::completion::{
    Completion, ConnectError, Failure, Full, ReceiveOutcome, StreamError, StreamKey,
};
use super::machine::{Event, Machine};
use super::stream_ops::{ConnectOp, ScatterOp, WriteOp, WriteState};
use super::table::{CANCEL, Op, OpKey};
use crate::host::address::SockAddr;
use crate::limits::{RECEIVE_SLOT_COUNT_MAX, SLOT_LEN};
use crate::pool::Provided;

/// From linux/io_uring.h (IORING_RECVSEND_POLL_FIRST): wait for bytes before the first try.
const POLL_FIRST: u16 = 1;

/// An address of no family. A connect to it ends a TCP connection by a reset (connect(2)). The
/// kernel reads it when the operation is submitted.
static NO_ADDRESS: libc::sockaddr =
    libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };

/// The tag of a stream to which the caller has given none.
const NO_TAG: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It waits for a client, and the caller does not know it.
    Reserved,
    Live,
    /// It closes once its operations are over.
    Closing(StreamEnding),
}

/// The way in which a stream closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamEnding {
    /// The peer gets all that was written, and the end.
    Orderly,
    /// The peer of a TCP connection gets a reset, and what it has not received is dropped.
    Reset,
}

pub(super) struct Stream {
    tag: u64,
    phase: Phase,
    /// Its entry in the file table is in use.
    has_file: bool,
    /// A connect, or a reset.
    connect: Option<OpKey>,
    receive: Option<OpKey>,
    /// A write, or the end of our side.
    write: Option<OpKey>,
    /// Our side ends when the write in flight is over.
    ends_after_write: bool,
    /// It was accepted, or will be.
    is_client: bool,
    /// A receive waits for buffers, or for the kernel to have memory.
    starves: bool,
    /// The kernel had more bytes than the last receive took.
    has_more: bool,
    /// The most slots that the last requested receive may fill.
    slot_count_max: usize,
}

impl Stream {
    fn new(tag: u64) -> Stream {
        Stream {
            tag,
            phase: Phase::Live,
            has_file: false,
            connect: None,
            receive: None,
            write: None,
            ends_after_write: false,
            is_client: false,
            starves: false,
            has_more: false,
            slot_count_max: 1,
        }
    }
}

impl Machine {
    /// Adds a stream. Returns its key and its index in the file table.
    pub(super) fn open_stream(&mut self, tag: u64) -> Result<(StreamKey, u32), Full> {
        if self.is_ending || self.streams.len() >= self.streams_max {
            return Err(Full);
        }
        let key = self.streams.insert(Stream::new(tag));
        Ok((key, self.stream_file(key)))
    }

    /// Adds a stream for a client, if there is a place.
    pub(super) fn reserve_stream(&mut self) -> Option<StreamKey> {
        if self.clients >= self.clients_max || self.streams.len() >= self.streams_max {
            return None;
        }
        self.clients += 1;
        let stream = Stream { phase: Phase::Reserved, is_client: true, ..Stream::new(NO_TAG) };
        Some(self.streams.insert(stream))
    }

    /// Makes a reserved stream the client's, or removes it.
    pub(super) fn settle_reserved(&mut self, key: StreamKey, is_accepted: bool) {
        let stream = self.stream_mut(key);
        debug_assert!(stream.phase == Phase::Reserved, "it is accepted once");
        if is_accepted {
            stream.phase = Phase::Live;
            stream.has_file = true;
        } else {
            self.remove_stream(key);
        }
    }

    pub(super) fn set_tag(&mut self, key: StreamKey, tag: u64) {
        debug_assert!(tag != NO_TAG, "the tag of streams without one");
        if let Some(stream) = self.live_stream(key) {
            stream.tag = tag;
        }
    }

    /// Begins to connect; the stream's socket is in the file table.
    pub(super) fn connect(&mut self, key: StreamKey, address: SockAddr) {
        let op = Box::new(ConnectOp { stream: key, address });
        let (at, len) = (op.address.as_ptr(), op.address.len());
        let op_key = self.table.insert(Op::Connect(op));
        let entry = opcode::Connect::new(Fixed(self.stream_file(key)), at, len).build();
        self.outbox.push_back(entry.user_data(op_key.0));
        let stream = self.stream_mut(key);
        stream.has_file = true;
        stream.connect = Some(op_key);
    }

    /// Queues the completion of a connect that could not be submitted.
    pub(super) fn refuse_connect(&mut self, key: StreamKey, error: ConnectError) {
        let tag = self.stream_mut(key).tag;
        self.ready.push_back(Completion::Connected { tag, outcome: Err(error) });
    }

    pub(super) fn receive(&mut self, key: StreamKey, slot_count_max: usize) {
        let Some(stream) = self.live_stream(key) else { return };
        if stream.receive.is_some() || stream.starves {
            return;
        }
        stream.slot_count_max = slot_count_max;
        if self.stream_buffers.provided_count() == 0 {
            self.stats.no_buffers_streams += 1;
            self.starve(key);
        } else {
            self.arm_receive(key);
        }
    }

    fn arm_receive(&mut self, key: StreamKey) {
        let stream = self.stream_mut(key);
        if stream.has_more && stream.slot_count_max > 1 && self.arm_scatter(key) {
            return;
        }
        let op_key = self.table.insert(Op::Receive(key));
        let stream = self.stream_mut(key);
        stream.receive = Some(op_key);
        // A first try before the response has arrived would be wasted.
        let order = if stream.has_more { 0 } else { POLL_FIRST };
        let file = Fixed(self.stream_file(key));
        let group = self.stream_buffers.id();
        let entry = opcode::Recv::new(file, ptr::null_mut(), SLOT_LEN as u32)
            .buf_group(group)
            .ioprio(order)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.outbox.push_back(entry.user_data(op_key.0));
    }

    /// Receives into several slots while the pool is not low; they count as received bytes
    /// (`engine_pinned` of the plan).
    fn arm_scatter(&mut self, key: StreamKey) -> bool {
        let slot_count_max = self.stream_mut(key).slot_count_max;
        let mut op = ScatterOp::new(key);
        while op.slots.len() < slot_count_max.min(RECEIVE_SLOT_COUNT_MAX) && !self.pool.is_low() {
            let Some(lease) = self.pool.lease() else { break };
            op.slots.push(self.pool.provide(lease));
        }
        if op.slots.is_empty() {
            return false;
        }
        let entry = op.offer(Fixed(self.stream_file(key)));
        let op_key = self.table.insert(Op::Scatter(op));
        self.stream_mut(key).receive = Some(op_key);
        self.outbox.push_back(entry.user_data(op_key.0));
        true
    }

    fn starve(&mut self, key: StreamKey) {
        self.stream_mut(key).starves = true;
        self.starving.push_back(key);
    }

    /// Arms waiting receives, as many as there are buffers.
    pub(super) fn arm_starving(&mut self) {
        if self.is_ending {
            return;
        }
        for _ in 0..self.stream_buffers.provided_count() {
            let Some(key) = self.starving.pop_front() else { return };
            let stream = self.streams.get_mut(key);
            if stream.is_some_and(|stream| mem::take(&mut stream.starves)) {
                self.arm_receive(key);
            }
        }
    }

    pub(super) fn write(
        &mut self,
        key: StreamKey,
        pieces: Vec<Bytes>,
    ) -> Result<(), (Full, Vec<Bytes>)> {
        let Some(stream) = self.live_stream(key) else { return Ok(()) };
        let (tag, is_writing) = (stream.tag, stream.write.is_some());
        if is_writing {
            return Err((Full, pieces));
        }
        let mut op = self.spare_writes.pop().unwrap_or_else(|| Box::new(WriteOp::new()));
        op.begin(key, pieces);
        if op.is_over() {
            self.spare_writes.push(op);
            let outcome = Ok(());
            self.ready.push_back(Completion::Wrote { tag, len: 0, outcome });
            return Ok(());
        }
        let op_key = self.table.insert(Op::Write(op));
        self.stream_mut(key).write = Some(op_key);
        self.issue_write(op_key);
        Ok(())
    }

    /// Submits the rest of a write, or the pause before it.
    fn issue_write(&mut self, op_key: OpKey) {
        let op = self.table.write(op_key);
        if op.state == WriteState::Resting {
            let entry = opcode::Timeout::new(&raw const op.rest).build();
            self.outbox.push_back(entry.user_data(op_key.0));
            return;
        }
        let file = Fixed(u32::from(self.sockets_max) + op.stream.index() as u32);
        let entry = op.offer(file);
        self.outbox.push_back(entry.user_data(op_key.0));
    }

    /// Ends our side of a stream after the write in flight.
    pub(super) fn shut_down(&mut self, key: StreamKey) {
        let Some(stream) = self.live_stream(key) else { return };
        if stream.write.is_some() {
            stream.ends_after_write = true;
        } else {
            self.issue_shut_down(key);
        }
    }

    fn issue_shut_down(&mut self, key: StreamKey) {
        let op_key = self.table.insert(Op::ShutDown(key));
        self.stream_mut(key).write = Some(op_key);
        let file = Fixed(self.stream_file(key));
        let entry = opcode::Shutdown::new(file, libc::SHUT_WR).build();
        self.outbox.push_back(entry.user_data(op_key.0));
    }

    /// Forgets the end of our side. It fails only on a broken connection, and receives report that.
    pub(super) fn stream_was_shut_down(
        &mut self,
        op_key: OpKey,
        key: StreamKey,
    ) -> Option<Completion> {
        self.table.remove(op_key);
        self.stream_mut(key).write = None;
        self.settle_close(key)
    }

    pub(super) fn close(&mut self, key: StreamKey) {
        self.begin_close(key, StreamEnding::Orderly);
    }

    pub(super) fn reset(&mut self, key: StreamKey) {
        self.begin_close(key, StreamEnding::Reset);
    }

    fn begin_close(&mut self, key: StreamKey, ending: StreamEnding) {
        let Some(stream) = self.live_stream(key) else { return };
        stream.phase = Phase::Closing(ending);
        stream.starves = false;
        let tag = stream.tag;
        for op in [stream.connect, stream.receive, stream.write].into_iter().flatten() {
            let entry = opcode::AsyncCancel::new(op.0).build();
            self.outbox.push_back(entry.user_data(CANCEL));
        }
        // Completions not yet polled are dropped. A stream without a tag has none.
        if tag != NO_TAG {
            self.ready.retain(|completion| completion.stream_tag() != Some(tag));
        }
        if let Some(closed) = self.settle_close(key) {
            self.ready.push_back(closed);
        }
    }

    /// Resets the connections of clients that the caller has not closed, before the ring ends: a
    /// response that stops there must not look complete.
    pub(super) fn reset_clients(&mut self) {
        for key in self.streams.keys() {
            let stream = self.stream_mut(key);
            if stream.is_client && stream.phase == Phase::Live {
                self.reset(key);
            }
        }
    }

    /// Closes the descriptor of a closing stream once none of its operations is in flight.
    fn settle_close(&mut self, key: StreamKey) -> Option<Completion> {
        let stream = self.stream_mut(key);
        let is_idle =
            stream.connect.is_none() && stream.receive.is_none() && stream.write.is_none();
        let Phase::Closing(ending) = stream.phase else { return None };
        if !is_idle {
            return None;
        }
        if ending == StreamEnding::Reset && stream.has_file {
            stream.phase = Phase::Closing(StreamEnding::Orderly);
            self.issue_reset(key);
            return None;
        }
        let tag = stream.tag;
        if mem::take(&mut stream.has_file) && !self.is_ending {
            let op_key = self.table.insert(Op::Close(key));
            let entry = opcode::Close::new(Fixed(self.stream_file(key))).build();
            self.outbox.push_back(entry.user_data(op_key.0));
            return None;
        }
        self.remove_stream(key);
        Some(Completion::Closed { tag })
    }

    fn issue_reset(&mut self, key: StreamKey) {
        let op_key = self.table.insert(Op::Reset(key));
        self.stream_mut(key).connect = Some(op_key);
        let file = Fixed(self.stream_file(key));
        let len = size_of_val(&NO_ADDRESS) as libc::socklen_t;
        let entry = opcode::Connect::new(file, &raw const NO_ADDRESS, len).build();
        self.outbox.push_back(entry.user_data(op_key.0));
    }

    /// Forgets the reset of a closing stream. It fails only on a connection that is over, or on a
    /// unix socket, which has no reset.
    pub(super) fn stream_was_reset(&mut self, op_key: OpKey, key: StreamKey) -> Option<Completion> {
        self.table.remove(op_key);
        self.stream_mut(key).connect = None;
        self.settle_close(key)
    }

    fn remove_stream(&mut self, key: StreamKey) {
        let stream = self.streams.remove(key);
        self.clients -= usize::from(stream.is_some_and(|stream| stream.is_client));
    }

    pub(super) fn connected(&mut self, op_key: OpKey, result: i32) -> Option<Completion> {
        let Some(Op::Connect(op)) = self.table.remove(op_key) else {
            unreachable!("the caller has just found it");
        };
        let stream = self.stream_mut(op.stream);
        stream.connect = None;
        if matches!(stream.phase, Phase::Closing(_)) {
            return self.settle_close(op.stream);
        }
        let outcome = match result {
            0.. => Ok(()),
            _ => Err(ConnectError::from_errno(-result)),
        };
        Some(Completion::Connected { tag: stream.tag, outcome })
    }

    pub(super) fn received(
        &mut self,
        op_key: OpKey,
        key: StreamKey,
        event: Event,
        provided: Option<Provided>,
    ) -> Option<Completion> {
        debug_assert!(!cqueue::more(event.flags), "a single receive completes once");
        self.table.remove(op_key);
        let bytes = match (provided, usize::try_from(event.result)) {
            (Some(provided), Ok(len @ 1..)) => Some(filled(provided, len)),
            (provided, _) => {
                drop(provided.map(Provided::reclaim));
                None
            }
        };
        self.settle_receive(key, event, bytes.into_iter())
    }

    pub(super) fn scattered(&mut self, op_key: OpKey, event: Event) -> Option<Completion> {
        let Some(Op::Scatter(op)) = self.table.remove(op_key) else {
            unreachable!("the caller has just found it");
        };
        let key = op.stream;
        let pieces = op.into_pieces(usize::try_from(event.result).unwrap_or(0));
        self.settle_receive(key, event, pieces)
    }

    /// Returns the first completion of a finished receive, and queues those of further pieces.
    fn settle_receive(
        &mut self,
        key: StreamKey,
        event: Event,
        pieces: impl Iterator<Item = BytesMut>,
    ) -> Option<Completion> {
        let stream = self.stream_mut(key);
        stream.receive = None;
        stream.has_more = cqueue::sock_nonempty(event.flags);
        if matches!(stream.phase, Phase::Closing(_)) {
            pieces.for_each(drop);
            return self.settle_close(key);
        }
        let tag = stream.tag;
        let mut pieces = pieces.peekable();
        if pieces.peek().is_some() {
            while let Some(bytes) = pieces.next() {
                let outcome = match pieces.peek() {
                    Some(_) => ReceiveOutcome::Part(bytes),
                    None => ReceiveOutcome::Bytes(bytes),
                };
                self.ready.push_back(Completion::Received { tag, outcome });
            }
            return self.ready.pop_front();
        }
        let outcome = match event.result {
            0.. => ReceiveOutcome::End,
            failure => match Failure::from_result(failure) {
                Failure::NoBuffers => {
                    self.stats.no_buffers_streams += 1;
                    self.starve(key);
                    return None;
                }
                Failure::NoMemory => {
                    self.rest_for_memory();
                    self.starve(key);
                    return None;
                }
                Failure::Again => {
                    self.arm_receive(key);
                    return None;
                }
                Failure::Cancelled => {
                    ReceiveOutcome::Failed(StreamError::from_errno(libc::ECANCELED))
                }
                Failure::Final(errno) => ReceiveOutcome::Failed(StreamError::from_errno(errno)),
            },
        };
        Some(Completion::Received { tag, outcome })
    }

    pub(super) fn wrote(&mut self, op_key: OpKey, result: i32) -> Option<Completion> {
        let op = self.table.write(op_key);
        let key = op.stream;
        let before = mem::replace(&mut op.state, WriteState::Sending);
        let outcome = match usize::try_from(result) {
            _ if before == WriteState::Resting => None,
            Ok(len) => {
                op.advance(len);
                match len {
                    _ if op.is_over() => Some(Ok(())),
                    // The kernel takes at least a byte or fails. Should it ever take none, do not
                    // retry forever.
                    0 => Some(Err(StreamError::BrokenPipe)),
                    _ => None,
                }
            }
            Err(_) => match Failure::from_result(result) {
                Failure::Again => None,
                Failure::NoBuffers | Failure::NoMemory => {
                    op.state = WriteState::Resting;
                    None
                }
                Failure::Cancelled => Some(Err(StreamError::from_errno(libc::ECANCELED))),
                Failure::Final(errno) => Some(Err(StreamError::from_errno(errno))),
            },
        };
        let len = op.written;
        let is_closing = self.is_ending || matches!(self.stream_mut(key).phase, Phase::Closing(_));
        if outcome.is_none() && !is_closing {
            self.issue_write(op_key);
            return None;
        }
        let stream = self.stream_mut(key);
        stream.write = None;
        let (tag, ends_now) = (stream.tag, mem::take(&mut stream.ends_after_write));
        if let Some(Op::Write(mut op)) = self.table.remove(op_key) {
            op.pieces.clear();
            self.spare_writes.push(op);
        }
        if ends_now && !is_closing {
            self.issue_shut_down(key);
        }
        match outcome {
            Some(outcome) if !is_closing => Some(Completion::Wrote { tag, len, outcome }),
            _ => self.settle_close(key),
        }
    }

    /// Ends a stream whose close is over. If the kernel refused it, the connection stays open until
    /// the next stream takes its place in the file table: there is nothing else to try.
    pub(super) fn closed(
        &mut self,
        op_key: OpKey,
        key: StreamKey,
        result: i32,
    ) -> Option<Completion> {
        self.table.remove(op_key);
        // A ring that ends cancels closes too, and then closes all files at once.
        if result < 0 && !self.is_ending {
            self.stats.closes_failed += 1;
        }
        self.settle_close(key)
    }

    /// Returns the bytes that the write in flight submitted.
    #[cfg(test)]
    pub(super) fn offered(&mut self, user_data: u64) -> Vec<u8> {
        let Some(Op::Write(op)) = self.table.get_mut(OpKey(user_data)) else {
            panic!("a write is in flight");
        };
        let bytes = op.vectors.iter().flat_map(|vector| {
            // SAFETY: the vectors point into the pieces, which the operation holds.
            unsafe { std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) }
        });
        bytes.copied().collect()
    }

    /// Returns the stream, unless it is closing or gone. The use of such a key is a harmless bug of
    /// the caller, and counted.
    fn live_stream(&mut self, key: StreamKey) -> Option<&mut Stream> {
        let is_live = self.streams.get(key).is_some_and(|stream| stream.phase == Phase::Live);
        if !is_live {
            self.stats.stale_keys += 1;
            return None;
        }
        self.streams.get_mut(key)
    }

    /// Returns a stream of which the kernel holds an operation, or which is being opened or closed.
    fn stream_mut(&mut self, key: StreamKey) -> &mut Stream {
        self.streams.get_mut(key).expect("a stream stays until its last operation is over")
    }
}
