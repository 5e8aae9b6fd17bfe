//! The simulated kernel: takes submissions, reads and writes the memory that they name, and
//! completes them in any order with any result that a real kernel may give, and some that it may
//! not.

use std::collections::{BTreeMap, VecDeque};

use io_uring::{opcode, squeue};
use rand::Rng;
use rand::rngs::SmallRng;

use super::super::{F_BUFFER, F_MORE, F_NOTIF, F_SOCK_NONEMPTY, USAGE_COPIED};
use super::scenario::{OneIn, Temper};
use super::submission::{Accept, BufferView, Span, Submission, origin, pattern};
use super::wire::{Peer, Wire};
use crate::limits::SLOT_LEN;
use crate::ring::machine::{Event, Machine};
use crate::ring::table::CANCEL;

/// Errors that any operation may end with.
const ERRNOS: [i32; 9] = [
    libc::EAGAIN,
    libc::EINTR,
    libc::ECANCELED,
    libc::ENOBUFS,
    libc::EFAULT,
    libc::ECONNRESET,
    libc::EIO,
    libc::EINVAL,
    libc::EMSGSIZE,
];

/// Operations from which stray completions are drawn.
const KNOWN_MAX: usize = 64;

/// An operation in flight.
struct Job {
    user_data: u64,
    work: Work,
}

enum Work {
    ReceiveDatagrams,
    /// A batch, a segment of one, or a single datagram; `bytes` are as they were submitted.
    Send {
        payload: Span,
        segment_len: Option<usize>,
        is_zero_copy: bool,
        bytes: Vec<u8>,
    },
    /// The device reads `payload` until this notification.
    Notify {
        payload: Span,
        bytes: Vec<u8>,
        is_copied: bool,
    },
    Connect(u32),
    Receive(u32),
    /// It completes with the bytes that were available at submission.
    Scattered {
        result: i32,
        flags: u32,
        slots: usize,
    },
    Write(u32, Vec<Span>),
    Accept(Accept),
    ShutDown(u32),
    Reset(u32),
    Close,
    Rest,
    Poll,
    Cancel(u64),
}

impl Work {
    /// Returns whether it waits for an event that may never occur.
    fn may_wait_for_ever(&self) -> bool {
        matches!(self, Work::ReceiveDatagrams | Work::Poll | Work::Accept(_))
    }

    /// Returns whether it uses the stream at this index of the file table.
    fn is_on(&self, file: u32) -> bool {
        match self {
            Work::Connect(of) | Work::Receive(of) | Work::Write(of, _) | Work::ShutDown(of) => {
                *of == file
            }
            _ => false,
        }
    }
}

/// A completion that the caller has not yet taken.
pub(super) struct Posted {
    pub(super) event: Event,
    /// It names no operation in flight.
    pub(super) is_stray: bool,
    /// Slots that the operation brought along.
    slots: usize,
}

/// Counters of events, by name.
pub(super) type Marks = BTreeMap<&'static str, u64>;

pub(super) struct Kernel {
    pub(super) temper: Temper,
    pub(super) random: SmallRng,
    pub(super) wire: Wire,
    pub(super) marks: Marks,
    jobs: Vec<Job>,
    posted: VecDeque<Posted>,
    datagram_view: BufferView,
    stream_view: BufferView,
    /// The most recent operations.
    known: VecDeque<u64>,
    sockets_max: u32,
}

/// Returns the key without its piece, which identifies the operation.
fn operation(user_data: u64) -> u64 {
    user_data & !0xff00_0000
}

impl Kernel {
    pub(super) fn new(temper: Temper, random: SmallRng, sockets_max: u16) -> Kernel {
        Kernel {
            temper,
            random,
            wire: Wire::default(),
            marks: Marks::new(),
            jobs: Vec::new(),
            posted: VecDeque::new(),
            datagram_view: BufferView::default(),
            stream_view: BufferView::default(),
            known: VecDeque::new(),
            sockets_max: u32::from(sockets_max),
        }
    }

    pub(super) fn chance(&mut self, one_in: OneIn) -> bool {
        one_in > 0 && self.random.random_range(0..one_in) == 0
    }

    pub(super) fn mark(&mut self, what: &'static str) {
        *self.marks.entry(what).or_default() += 1;
    }

    /// Takes a submission. An operation that does not wait is completed at once.
    pub(super) fn submit(&mut self, entry: &squeue::Entry) {
        let submission = Submission::read(entry);
        let Submission { opcode, file, address, len, user_data, .. } = submission;
        let is_stream = file >= self.sockets_max;
        let work = match opcode {
            opcode::RecvMsgMulti::CODE if !is_stream => Work::ReceiveDatagrams,
            opcode::RecvMsg::CODE => self.scatter(file, &submission.message().spans),
            opcode::SendMsg::CODE if is_stream => Work::Write(file, submission.message().spans),
            opcode::Send::CODE => Work::Write(file, vec![Span { address, len: len as usize }]),
            opcode::SendMsg::CODE | opcode::SendMsgZc::CODE => {
                let message = submission.message();
                let [payload] = message.spans[..] else { panic!("a batch is one piece") };
                Work::Send {
                    payload,
                    segment_len: message.segment_len,
                    is_zero_copy: opcode == opcode::SendMsgZc::CODE,
                    bytes: payload.read(),
                }
            }
            opcode::Recv::CODE => Work::Receive(file),
            opcode::Connect::CODE if submission.names_no_address() => Work::Reset(file),
            opcode::Connect::CODE => Work::Connect(file),
            opcode::Accept::CODE => Work::Accept(submission.accept()),
            opcode::Shutdown::CODE => Work::ShutDown(file),
            opcode::Close::CODE => Work::Close,
            opcode::Timeout::CODE => Work::Rest,
            opcode::PollAdd::CODE => Work::Poll,
            opcode::AsyncCancel::CODE => Work::Cancel(address),
            other => panic!("the ring has no operation {other}"),
        };
        if user_data != CANCEL {
            assert!(
                self.jobs.iter().all(|job| job.user_data != user_data),
                "two operations with one key"
            );
            self.known.push_back(operation(user_data));
            if self.known.len() > KNOWN_MAX {
                self.known.pop_front();
            }
        }
        self.jobs.push(Job { user_data, work });
    }

    /// Receives without waiting into slots that the operation brought along.
    fn scatter(&mut self, file: u32, slots: &[Span]) -> Work {
        let has_failed = self.chance(self.temper.failures);
        let errno = self.some_errno();
        let peer = self.wire.peer(file);
        let mut result = -libc::EAGAIN;
        if has_failed {
            result = -errno;
        } else if peer.waiting > 0 {
            result = 0;
            for slot in slots {
                result += peer.feed(*slot) as i32;
            }
        }
        if result > SLOT_LEN as i32 {
            self.mark("several slots filled by one receive");
        }
        let flags = self.more_flag(file);
        Work::Scattered { result, flags, slots: slots.len() }
    }

    /// Returns the number of operations in flight, completed or not.
    pub(super) fn jobs_left(&self) -> usize {
        self.jobs.len()
    }

    /// Returns the number of accepts in flight on a listening socket.
    pub(super) fn accepts_armed(&self, listener: u32) -> usize {
        let is_armed =
            |job: &&Job| matches!(&job.work, Work::Accept(accept) if accept.listener == listener);
        self.jobs.iter().filter(is_armed).count()
    }

    pub(super) fn has_posted(&self) -> bool {
        !self.posted.is_empty()
    }

    /// Returns whether only operations that may wait for ever are left: receives on sockets,
    /// accepts and the wake-up.
    pub(super) fn is_at_rest(&self) -> bool {
        self.posted.is_empty() && self.jobs.iter().all(|job| job.work.may_wait_for_ever())
    }

    /// Takes the next completion. A stray whose key is still in use is not a stray.
    pub(super) fn next(&mut self) -> Option<Posted> {
        loop {
            let posted = self.posted.pop_front()?;
            if !posted.is_stray {
                self.wire.being_read -= u32::from(posted.event.flags & F_NOTIF != 0);
                return Some(posted);
            }
            if self.is_over(posted.event.user_data) {
                return Some(posted);
            }
        }
    }

    fn is_over(&self, user_data: u64) -> bool {
        let operation_is = |other: u64| operation(other) == operation(user_data);
        !self.jobs.iter().any(|job| operation_is(job.user_data))
            && !self
                .posted
                .iter()
                .any(|other| !other.is_stray && operation_is(other.event.user_data))
    }

    /// Returns the slots of receives that brought their own.
    pub(super) fn scattered_slots(&self) -> usize {
        let in_jobs = self.jobs.iter().map(|job| match job.work {
            Work::Scattered { slots, .. } => slots,
            _ => 0,
        });
        in_jobs.sum::<usize>() + self.posted.iter().map(|posted| posted.slots).sum::<usize>()
    }

    /// Returns the slots of the datagram group and of the stream group that the kernel may fill or
    /// has named in completions not yet taken.
    pub(super) fn provided(&self, machine: &Machine) -> (usize, usize) {
        let streams_from = u32::from(machine.stream_buffers.first_id());
        let named = self.posted.iter().map(|posted| posted.event.flags);
        let named = named.filter(|flags| flags & F_BUFFER != 0).map(|flags| flags >> 16);
        let (streams, datagrams): (Vec<u32>, Vec<u32>) = named.partition(|id| *id >= streams_from);
        (
            datagrams.len() + usize::from(self.datagram_view.len(&machine.datagram_buffers)),
            streams.len() + usize::from(self.stream_view.len(&machine.stream_buffers)),
        )
    }

    /// Completes one operation, or posts a stray completion.
    pub(super) fn response(&mut self, machine: &Machine) {
        if self.chance(self.temper.strays) {
            self.stray(machine);
        }
        if self.jobs.is_empty() {
            return;
        }
        let place = self.random.random_range(0..self.jobs.len());
        self.response_job(machine, place);
    }

    /// Completes all operations in flight, except those that may wait for ever.
    pub(super) fn response_all(&mut self, machine: &Machine) {
        for place in (0..self.jobs.len()).rev() {
            // A completed cancel ends other operations.
            if self.jobs.get(place).is_some_and(|job| !job.work.may_wait_for_ever()) {
                self.response_job(machine, place);
            }
        }
    }

    /// Cancels every operation that can be cancelled.
    pub(super) fn cancel_all(&mut self) {
        for place in (0..self.jobs.len()).rev() {
            if self.jobs[place].work.may_wait_for_ever() {
                let job = self.jobs.swap_remove(place);
                self.post(job.user_data, -libc::ECANCELED, 0);
            }
        }
    }

    fn response_job(&mut self, machine: &Machine, place: usize) {
        let is_notification = matches!(self.jobs[place].work, Work::Notify { .. });
        if is_notification && self.chance(self.temper.late_notifications) {
            return;
        }
        let Job { user_data, work } = self.jobs.swap_remove(place);
        match work {
            Work::ReceiveDatagrams => self.bring_datagram(machine, user_data),
            Work::Send { payload, segment_len, is_zero_copy, bytes } => {
                assert!(payload.read() == bytes, "a batch changed before the kernel took it");
                self.send(user_data, payload, segment_len, is_zero_copy, bytes);
            }
            Work::Notify { payload, bytes, is_copied } => {
                assert!(payload.read() == bytes, "the device reads other bytes than were sent");
                self.post(user_data, if is_copied { USAGE_COPIED } else { 0 }, F_NOTIF);
            }
            Work::Connect(file) => {
                let result = self.may_fail(0);
                if result == 0 {
                    self.wire.peer(file).is_connected = true;
                }
                self.post(user_data, result, 0);
            }
            Work::Receive(file) => self.receive(machine, user_data, file),
            Work::Scattered { result, flags, slots } => {
                let event = Event { user_data, result, flags };
                self.posted.push_back(Posted { event, is_stray: false, slots });
            }
            Work::Write(file, spans) => self.write(user_data, file, &spans),
            Work::Accept(accept) => {
                let result = self.may_fail(0);
                if result == 0 {
                    accept.write_client(self.wire.accept(accept.place));
                }
                self.post(user_data, result, 0);
            }
            Work::ShutDown(file) => {
                let is_write = |job: &Job| matches!(job.work, Work::Write(of, _) if of == file);
                assert!(!self.jobs.iter().any(is_write), "an end overtakes a write");
                self.wire.peer(file).has_our_end = true;
                let result = self.may_fail(0);
                self.post(user_data, result, 0);
            }
            Work::Reset(file) => {
                assert!(!self.jobs.iter().any(|job| job.work.is_on(file)), "a reset comes last");
                self.mark("connections reset");
                self.wire.peer(file).has_reset = true;
                let result = self.may_fail(0);
                self.post(user_data, result, 0);
            }
            Work::Close => {
                let result = self.may_fail(0);
                self.post(user_data, result, 0);
            }
            Work::Rest => {
                let result = self.may_fail(-libc::ETIME);
                self.post(user_data, result, 0);
            }
            Work::Poll => {
                let result = self.may_fail(1);
                self.post(user_data, result, 0);
            }
            Work::Cancel(target) => self.cancel(target),
        }
    }

    fn post(&mut self, user_data: u64, result: i32, flags: u32) {
        let event = Event { user_data, result, flags };
        self.posted.push_back(Posted { event, is_stray: false, slots: 0 });
        let is_last = flags & F_MORE == 0 && user_data != CANCEL;
        if is_last && self.chance(self.temper.strays) {
            // The same completion again, but without the slot, which is named once.
            let event = Event { flags: flags & !F_BUFFER & 0xffff, ..event };
            self.posted.push_back(Posted { event, is_stray: true, slots: 0 });
        }
    }

    /// Posts a completion for an operation that is over, sometimes with a slot.
    fn stray(&mut self, machine: &Machine) {
        let over: Vec<u64> = self.known.iter().copied().filter(|key| self.is_over(*key)).collect();
        if over.is_empty() {
            return;
        }
        let user_data = over[self.random.random_range(0..over.len())];
        let results = [0, 1, 100, -libc::ECANCELED, -libc::EAGAIN, -libc::EIO, USAGE_COPIED];
        let result = results[self.random.random_range(0..results.len())];
        let mut flags = [0, F_MORE, F_NOTIF, F_SOCK_NONEMPTY][self.random.random_range(0..4)];
        if self.chance(4)
            && let Some((id, _)) = self.datagram_view.take(&machine.datagram_buffers)
        {
            flags |= F_BUFFER | u32::from(id) << 16;
        }
        let event = Event { user_data, result, flags };
        self.posted.push_back(Posted { event, is_stray: true, slots: 0 });
    }

    fn some_errno(&mut self) -> i32 {
        ERRNOS[self.random.random_range(0..ERRNOS.len())]
    }

    fn may_fail(&mut self, result: i32) -> i32 {
        if self.chance(self.temper.failures) { -self.some_errno() } else { result }
    }

    fn bring_datagram(&mut self, machine: &Machine, user_data: u64) {
        let more = if self.chance(self.temper.endings) { 0 } else { F_MORE };
        let failure = self.may_fail(0);
        let wants_slot = failure == 0 || self.chance(self.temper.failures_with_slot);
        let slot = match wants_slot {
            true => self.datagram_view.take(&machine.datagram_buffers),
            false => None,
        };
        let (result, flags) = match slot {
            Some((id, _)) if failure != 0 => (failure, F_BUFFER | more | u32::from(id) << 16),
            None if failure != 0 => (failure, 0),
            None => (-libc::ENOBUFS, 0),
            Some((id, slot)) => {
                let is_bad = self.chance(self.temper.bad_datagrams);
                let len = self.wire.fill_datagram(&mut self.random, slot, is_bad);
                (len as i32, F_BUFFER | more | u32::from(id) << 16)
            }
        };
        if flags & F_MORE != 0 {
            self.jobs.push(Job { user_data, work: Work::ReceiveDatagrams });
        }
        self.post(user_data, result, flags);
    }

    fn send(
        &mut self,
        user_data: u64,
        payload: Span,
        segment_len: Option<usize>,
        is_zero_copy: bool,
        bytes: Vec<u8>,
    ) {
        let refuses = is_zero_copy && self.chance(self.temper.refuses_zero_copy)
            || segment_len.is_some() && self.temper.refuses_segments;
        let result = match refuses {
            true => -[libc::EINVAL, libc::EOPNOTSUPP][usize::from(is_zero_copy && self.chance(2))],
            false => self.may_fail(0),
        };
        if result == 0 {
            self.wire.deliver(payload, &bytes);
        }
        // A zero-copy send that fails may have begun to pin pages.
        let notifies = is_zero_copy && (result == 0 || self.chance(2));
        if notifies {
            if result < 0 {
                self.mark("failed sends that are notified of");
            }
            self.wire.being_read += 1;
            let is_copied = self.chance(self.temper.copies);
            self.jobs.push(Job { user_data, work: Work::Notify { payload, bytes, is_copied } });
        }
        // The sent length is meaningless: a datagram is sent whole.
        let result = if result == 0 && !self.chance(8) { payload.len as i32 } else { result };
        self.post(user_data, result, if notifies { F_MORE } else { 0 });
    }

    fn receive(&mut self, machine: &Machine, user_data: u64, file: u32) {
        let failure = self.may_fail(0);
        let ends = self.chance(self.temper.stream_ends);
        let arrival = self.random.random_range(1..=self.temper.arrival_max);
        let wants_slot = failure == 0 || self.chance(self.temper.failures_with_slot);
        let slot = match wants_slot {
            true => self.stream_view.take(&machine.stream_buffers),
            false => None,
        };
        let peer = self.wire.peer(file);
        if peer.waiting == 0 {
            peer.has_ended |= ends;
            peer.waiting = if peer.has_ended { 0 } else { arrival };
        }
        let (result, mut flags) = match slot {
            Some((id, _)) if failure != 0 => (failure, F_BUFFER | u32::from(id) << 16),
            None if failure != 0 => (failure, 0),
            None => (-libc::ENOBUFS, 0),
            Some((id, slot)) => (peer.feed(slot) as i32, F_BUFFER | u32::from(id) << 16),
        };
        flags |= self.more_flag(file);
        self.post(user_data, result, flags);
    }

    fn more_flag(&mut self, file: u32) -> u32 {
        let has_more = self.wire.peer(file).waiting > 0;
        if has_more || self.chance(self.temper.lies_about_more) { F_SOCK_NONEMPTY } else { 0 }
    }

    fn write(&mut self, user_data: u64, file: u32, spans: &[Span]) {
        let offered: usize = spans.iter().map(|span| span.len).sum();
        assert!(offered > 0, "a write offers at least one byte");
        let mut result = self.may_fail(offered as i32);
        if result > 0 && self.chance(3) {
            result = self.random.random_range(1..=result);
        }
        if result > 0 && self.chance(self.temper.failures) {
            result = 0;
        }
        let mut left = usize::try_from(result).unwrap_or(0);
        for span in spans {
            let taken = span.first(left);
            left -= taken.len;
            self.wire.peer(file).take(&taken.read());
        }
        self.post(user_data, result, 0);
    }

    fn cancel(&mut self, target: u64) {
        let place = self.jobs.iter().position(|job| job.user_data == target);
        // A reset is done when it is submitted.
        let is_running = |work: &Work| {
            matches!(work, Work::Notify { .. } | Work::Scattered { .. } | Work::Reset(_))
        };
        // An accept only waits, so nothing holds its cancellation up.
        let is_waiting = |work: &Work| matches!(work, Work::Accept(_));
        let result = match place {
            None => -libc::ENOENT,
            Some(place) if is_running(&self.jobs[place].work) => -libc::EALREADY,
            Some(place) if !is_waiting(&self.jobs[place].work) && self.chance(3) => -libc::EALREADY,
            Some(place) => {
                let job = self.jobs.swap_remove(place);
                self.post(job.user_data, -libc::ECANCELED, 0);
                0
            }
        };
        self.post(CANCEL, result, 0);
    }
}

impl Peer {
    /// Writes the next bytes into a slot. Returns how many.
    fn feed(&mut self, slot: Span) -> usize {
        let len = self.waiting.min(slot.len);
        slot.write(pattern(origin(self.tag) + self.fed, len));
        self.waiting -= len;
        self.fed += len as u64;
        len
    }
}
