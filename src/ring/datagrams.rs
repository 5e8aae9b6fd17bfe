//! Datagrams: multishot receives and batched sends.
//!
//! A receive stays armed until the kernel ends it (no buffer, or no room in the completion queue).
//! It is then armed again with the next submission.
//!
//! A batch is sent by one segmented send. Its possible outcomes:
//!
//! ```text
//!             +--- no buffers: backoff 1 ms +
//!             v                             |
//!  batch --> whole ---------------------------> Sent | Lost
//!             | EIO, EINVAL                 |
//!             v                             |
//!           split into its segments ----------> Sent | Lost
//! ```
//!
//! A long batch is sent by a zero-copy send first: the device reads the slot, which is ours again
//! after the kernel's notification. That reports whether the kernel had to copy after all
//! (loopback, a device without scatter-gather). Then, or after a refusal, the socket no longer uses
//! zero copy.
//!
//! A refusal is remembered for the socket only once the batch was sent by another method. A batch
//! that cannot be sent at all may be the fault of its destination, which an attacker may have
//! chosen.

use std::io;

use bytes::Buf;
use io_uring::types::Fixed;
use io_uring::{cqueue, opcode};

use super::buffers::filled;
use super::completion::{
    Completion, DatagramSend, Failure, Full, LossReason, SendOutcome, SocketIndex, kind_of,
    loss_from_errno,
};
use super::machine::{Event, Machine};
use super::message::{self, HEADER_LEN, Unusable};
use super::send::{Backoff, Method, SendOp};
use super::table::{CANCEL, Op, OpKey};
use crate::host::socket::offload::Offload;
use crate::limits::{DATAGRAM_LEN_MAX, SEGMENT_COUNT_MAX};
use crate::metrics::SocketOffload;
use crate::planted::{Bug, is_planted};
use crate::pool::Provided;

/// The most retries of a send while the kernel has no buffers, 1 ms apart.
const RETRIES_MAX: u8 = 8;

/// Consecutive failures after which receiving on a socket stops: a network error does not repeat
/// without a datagram in between, a broken descriptor does.
const FAILURES_MAX: u32 = 64;

/// Fewest segments of a zero-copy send: pinning pages and a second completion cost about as much as
/// copying this many.
const ZERO_COPY_SEGMENTS_MIN: usize = 16;

/// Batches that are sent segment by segment after the kernel refused to segment one, before the
/// next try: a single route may have refused (IPsec), and the socket serves all routes.
pub(super) const UNSEGMENTED_BATCHES: u32 = 1024;

/// From linux/io_uring.h (IORING_SEND_ZC_REPORT_USAGE): the notification reports whether the kernel
/// copied.
const REPORT_USAGE: u16 = 8;

/// From linux/io_uring.h (IORING_NOTIF_USAGE_ZC_COPIED).
const USAGE_COPIED: i32 = i32::MIN;

pub(super) struct Socket {
    file: u32,
    receive: Option<OpKey>,
    /// The receive is to be armed with the next submission.
    is_wanted: bool,
    was_armed: bool,
    /// It is being removed: nothing is received on it any more.
    is_leaving: bool,
    /// Batches in flight.
    send_count: u32,
    failures: u32,
    /// One receive may carry many datagrams (UDP_GRO).
    is_coalescing: bool,
    /// Batches still to be sent segment by segment.
    unsegmented: u32,
    /// Zero-copy sends work, as far as is known.
    is_zero_copy: bool,
    /// The message header that a receive is armed with.
    header: Box<libc::msghdr>,
}

impl Socket {
    /// Returns whether no operation uses it any more.
    fn has_left(&self) -> bool {
        self.is_leaving && self.receive.is_none() && self.send_count == 0
    }

    /// Remembers what the kernel refused on the way to a batch that was sent by `method`.
    fn learn(&mut self, method: Method) {
        match method {
            Method::Copy | Method::ZeroCopy | Method::Split => {}
            Method::CopyAfterRefusal => self.is_zero_copy = false,
            Method::SplitAfterRefusal => self.unsegmented = UNSEGMENTED_BATCHES,
            Method::SplitAfterBoth => {
                self.is_zero_copy = false;
                self.unsegmented = UNSEGMENTED_BATCHES;
            }
        }
    }
}

impl Machine {
    pub(super) fn add_socket(&mut self, file: u32, offload: Offload) -> SocketIndex {
        let socket = Socket {
            file,
            receive: None,
            is_wanted: false,
            was_armed: false,
            is_leaving: false,
            send_count: 0,
            failures: 0,
            is_coalescing: offload.is_coalescing,
            unsegmented: if offload.is_segmenting { 0 } else { UNSEGMENTED_BATCHES },
            is_zero_copy: self.has_zero_copy,
            header: message::receive_header(),
        };
        // Its file replaces that of the one that has left, if that is still in the table.
        self.leaving.retain(|left| *left != file);
        let place = self.sockets.iter().position(|place| place.file == file);
        let place = place.unwrap_or(self.sockets.len());
        match self.sockets.get_mut(place) {
            Some(left) => *left = socket,
            None => self.sockets.push(socket),
        }
        SocketIndex(place as u16)
    }

    /// Returns the file of the next socket: that of one that has left, or else a new one.
    pub(super) fn next_socket_file(&self) -> usize {
        self.sockets.iter().position(Socket::has_left).unwrap_or(self.sockets.len())
    }

    /// Begins to remove a socket: its receive is cancelled.
    pub(super) fn remove_socket(&mut self, socket: SocketIndex) {
        let socket = &mut self.sockets[socket.index()];
        socket.is_leaving = true;
        socket.is_wanted = false;
        if let Some(receive) = socket.receive {
            let cancel = opcode::AsyncCancel::new(receive.0).build();
            self.outbox.push_back(cancel.user_data(CANCEL));
        }
        self.leaving.push(socket.file);
    }

    /// Returns the file of a socket that no operation uses any more, once.
    pub(super) fn pop_left(&mut self) -> Option<u32> {
        let sockets = &self.sockets;
        let has_left =
            |file: &u32| sockets.iter().any(|socket| socket.file == *file && socket.has_left());
        let index = self.leaving.iter().position(has_left)?;
        Some(self.leaving.swap_remove(index))
    }

    pub(super) fn socket_offload(&self) -> SocketOffload {
        let mut counts = SocketOffload::default();
        for socket in self.sockets.iter().filter(|socket| !socket.is_leaving) {
            *(if socket.is_coalescing { &mut counts.gro_on } else { &mut counts.gro_off }) += 1;
            let is_segmenting = socket.unsegmented == 0;
            *(if is_segmenting { &mut counts.gso_on } else { &mut counts.gso_off }) += 1;
            // A socket that sends datagram by datagram has no long batches.
            let is_zero_copy = socket.is_zero_copy && is_segmenting;
            let zero_copy = (&mut counts.zero_copy_on, &mut counts.zero_copy_off);
            *(if is_zero_copy { zero_copy.0 } else { zero_copy.1 }) += 1;
        }
        counts
    }

    pub(super) fn stop_zero_copy(&mut self) {
        self.has_zero_copy = false;
        self.sockets.iter_mut().for_each(|socket| socket.is_zero_copy = false);
    }

    pub(super) fn receive_datagrams(&mut self, socket: SocketIndex) {
        let socket = &mut self.sockets[socket.index()];
        socket.is_wanted = socket.receive.is_none() && !socket.is_leaving;
    }

    /// Arms the wanted receives once there are buffers. All sockets share these and the first may
    /// use them up, so it is the last one the next time.
    pub(super) fn arm_sockets(&mut self) {
        if self.is_ending || self.datagram_buffers.provided_count() == 0 {
            return;
        }
        let (first, socket_count) = (self.first_to_arm, self.sockets.len());
        let mut has_armed = false;
        for index in (first..socket_count).chain(0..first) {
            let socket = &mut self.sockets[index];
            if !socket.is_wanted {
                continue;
            }
            socket.is_wanted = false;
            if !std::mem::replace(&mut has_armed, true) {
                self.first_to_arm = index + 1;
            }
            if std::mem::replace(&mut socket.was_armed, true) {
                self.stats.rearms += 1;
            }
            let key = self.table.insert(Op::ReceiveDatagrams(SocketIndex(index as u16)));
            socket.receive = Some(key);
            let header: *const libc::msghdr = &*socket.header;
            let group = self.datagram_buffers.id();
            let entry = opcode::RecvMsgMulti::new(Fixed(socket.file), header, group).build();
            self.outbox.push_back(entry.user_data(key.0));
        }
    }

    /// Returns whether a receive waits for buffers.
    pub(super) fn sockets_starve(&self) -> bool {
        self.sockets.iter().any(|socket| socket.is_wanted)
    }

    pub(super) fn datagrams_arrived(
        &mut self,
        key: OpKey,
        index: SocketIndex,
        event: Event,
        provided: Option<Provided>,
    ) -> Option<Completion> {
        let stopped = if cqueue::more(event.flags) {
            None
        } else {
            self.table.remove(key);
            self.receive_ended(index, event.result)
        };
        let Some(provided) = provided else { return stopped };
        let Ok(len) = usize::try_from(event.result) else {
            drop(provided.reclaim());
            return stopped;
        };
        let mut payload = filled(provided, len);
        match message::read_arrival(&payload) {
            Ok(arrival) => {
                self.sockets[index.index()].failures = 0;
                payload.advance(HEADER_LEN);
                payload.truncate(arrival.payload_len);
                return Some(Completion::Datagrams {
                    socket: index,
                    payload,
                    source: arrival.source,
                    destination: arrival.destination,
                    ecn: arrival.ecn,
                    segment_len: arrival.segment_len,
                });
            }
            Err(Unusable::Truncated) => self.stats.truncated += 1,
            Err(Unusable::Empty) => self.stats.empty += 1,
            Err(Unusable::Unreadable) => self.stats.unreadable += 1,
        }
        stopped
    }

    fn receive_ended(&mut self, index: SocketIndex, result: i32) -> Option<Completion> {
        let socket = &mut self.sockets[index.index()];
        socket.receive = None;
        socket.is_wanted = !self.is_ending && !socket.is_leaving;
        if result >= 0 {
            return None;
        }
        match Failure::from_result(result) {
            Failure::NoBuffers => self.stats.no_buffers_datagrams += 1,
            Failure::NoMemory => self.rest_for_memory(),
            Failure::Cancelled if self.is_ending || socket.is_leaving => {}
            Failure::Cancelled | Failure::Again | Failure::Final(_) => {
                self.stats.receive_failures += 1;
                socket.failures += 1;
                if socket.failures >= FAILURES_MAX {
                    socket.is_wanted = false;
                    let reason: io::ErrorKind = kind_of(result);
                    return Some(Completion::ReceiveStopped { socket: index, reason });
                }
            }
        }
        None
    }

    pub(super) fn send_datagrams(
        &mut self,
        index: SocketIndex,
        send: DatagramSend,
    ) -> Result<(), (Full, DatagramSend)> {
        let len = send.buffer.len();
        assert!((1..=DATAGRAM_LEN_MAX).contains(&len), "a batch has 1 to 65,507 bytes");
        assert!(send.segment_len != Some(0), "a segment has a length");
        if self.sends_in_flight >= self.sends_max || self.is_ending {
            return Err((Full, send));
        }
        self.sends_in_flight += 1;
        let mut op = self.spare_sends.pop().unwrap_or_else(|| Box::new(SendOp::new()));
        op.begin(index, send, &self.pool);
        assert!(
            len.div_ceil(op.segment_len) <= SEGMENT_COUNT_MAX,
            "a batch has at most 64 segments"
        );
        let socket = &mut self.sockets[index.index()];
        socket.send_count += 1;
        if op.is_batch() && socket.unsegmented > 0 {
            socket.unsegmented -= 1;
            op.method = Method::Split;
            op.prepare_split();
        } else {
            op.prepare_whole();
            let is_long = len.div_ceil(op.segment_len) >= ZERO_COPY_SEGMENTS_MIN;
            if socket.is_zero_copy && is_long {
                op.method = Method::ZeroCopy;
            }
        }
        let key = self.table.insert(Op::Send(op));
        self.issue_send(key);
        Ok(())
    }

    /// Submits the pieces that are to be sent, or sent again.
    fn issue_send(&mut self, key: OpKey) {
        let op = self.table.send(key);
        let file = Fixed(self.sockets[op.socket.index()].file);
        let mut pieces = std::mem::take(&mut op.again);
        while pieces != 0 {
            let piece = pieces.trailing_zeros();
            pieces &= pieces - 1;
            op.outstanding += 1;
            let message = op.message(piece).as_ptr();
            let entry = if op.method == Method::ZeroCopy {
                self.stats.zero_copy_sends += 1;
                opcode::SendMsgZc::new(file, message).ioprio(REPORT_USAGE).build()
            } else {
                opcode::SendMsg::new(file, message).build()
            };
            self.outbox.push_back(entry.user_data(key.with_piece(piece).0));
        }
    }

    pub(super) fn send_progressed(&mut self, key: OpKey, event: Event) -> Option<Completion> {
        let Event { result, flags, .. } = event;
        let op = self.table.send(key);
        if op.backoff == Backoff::UnderWay {
            op.backoff = Backoff::None;
            return self.settle_send(key);
        }
        if cqueue::notif(flags) {
            op.outstanding -= 1;
            if result == USAGE_COPIED {
                self.stats.zero_copy_copied += 1;
                self.sockets[op.socket.index()].is_zero_copy = false;
            }
            return self.settle_send(key);
        }
        if is_planted(Bug::EarlyBatchReturn) && cqueue::more(flags) && result >= 0 {
            return Some(self.return_early(key));
        }
        // A zero-copy send has a second completion: the notification.
        op.outstanding -= u32::from(!cqueue::more(flags));
        if result < 0 {
            self.send_failed(key, Failure::from_result(result));
        }
        self.settle_send(key)
    }

    /// Decides what follows from the failure of a piece: another try, another method, or its loss.
    fn send_failed(&mut self, key: OpKey, failure: Failure) {
        let op = self.table.send(key);
        let piece = 1 << key.piece();
        let reason = match failure {
            // Not in this kernel, not for this socket, or no more pages may be pinned. Whether the
            // batch is at fault shows when it is copied.
            Failure::Final(libc::EINVAL | libc::EOPNOTSUPP)
            | Failure::NoBuffers
            | Failure::NoMemory
                if let Some(method) = op.method.refused_zero_copy() =>
            {
                self.stats.zero_copy_refused += 1;
                op.method = method;
                op.again |= piece;
                return;
            }
            Failure::Final(libc::EIO | libc::EINVAL)
                if op.is_batch()
                    && let Some(method) = op.method.refused_segmentation() =>
            {
                self.stats.gso_fallbacks += 1;
                op.method = method;
                op.prepare_split();
                return;
            }
            // A send that would block waits in the kernel: a signal has interrupted this one.
            Failure::Again => {
                op.again |= piece;
                return;
            }
            Failure::NoBuffers | Failure::NoMemory if op.retries < RETRIES_MAX => {
                op.again |= piece;
                op.backoff = Backoff::Due;
                return;
            }
            Failure::NoBuffers | Failure::NoMemory => LossReason::NoBuffers,
            Failure::Cancelled => LossReason::Cancelled,
            Failure::Final(errno) => loss_from_errno(errno),
        };
        op.lost = Some(reason);
        self.stats.sends_lost.count(reason, 1);
    }

    /// Sends again the pieces that need it, or ends the batch.
    fn settle_send(&mut self, key: OpKey) -> Option<Completion> {
        let key = key.with_piece(0);
        let op = self.table.send(key);
        if op.outstanding > 0 {
            return None;
        }
        if op.again != 0 && !self.is_ending {
            match op.backoff {
                Backoff::Due => {
                    op.backoff = Backoff::UnderWay;
                    op.retries += 1;
                    self.stats.send_retries += 1;
                    let entry = opcode::Timeout::new(&raw const op.rest).build();
                    self.outbox.push_back(entry.user_data(key.0));
                }
                Backoff::None => self.issue_send(key),
                Backoff::UnderWay => unreachable!("its completion comes before anything else"),
            }
            return None;
        }
        if op.again != 0 {
            op.lost = Some(LossReason::Cancelled);
            self.stats.sends_lost.cancelled += 1;
        }
        let Some(Op::Send(mut op)) = self.table.remove(key) else {
            unreachable!("it was there a moment ago");
        };
        self.sends_in_flight -= 1;
        self.sockets[op.socket.index()].send_count -= 1;
        if is_planted(Bug::EarlyBatchReturn) && op.buffer.is_none() {
            self.spare_sends.push(op);
            return None;
        }
        if op.lost.is_none() {
            self.sockets[op.socket.index()].learn(op.method);
        }
        let (socket, buffer) = (op.socket, op.take_buffer());
        let outcome = op.lost.map_or(SendOutcome::Sent, SendOutcome::Lost);
        self.spare_sends.push(op);
        Some(Completion::Sent { socket, buffer, outcome })
    }

    /// The effect of a planted bug.
    fn return_early(&mut self, key: OpKey) -> Completion {
        let op = self.table.send(key);
        let (socket, buffer) = (op.socket, op.take_buffer());
        Completion::Sent { socket, buffer, outcome: SendOutcome::Sent }
    }
}
