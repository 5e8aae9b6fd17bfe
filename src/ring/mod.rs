//! A worker's io_uring: typed operations in, typed completions out.
//!
//! ```text
//!   caller -- send, connect, receive, write, close ----> machine --- submissions ---> kernel
//!   caller <------- completions, accepted clients ------ machine <------ events ----- kernel
//!
//!      mod.rs         Ring: the caller's interface, and shutdown
//!      machine.rs     everything but the kernel: events become completions
//!      datagrams.rs   UDP: multishot receives, segmented sends
//!      send.rs        a batch of datagrams in flight
//!      listeners.rs   TCP: accepts
//!      streams.rs     TCP and unix: connect, receive, write, close
//!      stream_ops.rs  operations of streams in flight
//!      table.rs       operations that the kernel holds, until their completion
//!      buffers.rs     slots that the kernel may fill
//!      message.rs     message headers and control data
//!      kernel.rs      setup, enter, register
//! ```
//!
//! All memory that the kernel may read or write is owned by the operation table (sends, writes,
//! addresses) or by a buffer group (slots to fill) until the completion: a caller moves values in
//! and gets them back. The kernel's terms (error numbers, flags, results) do not leave this module.

mod buffers;
mod completion;
mod datagrams;
mod kernel;
mod listeners;
mod machine;
mod message;
mod send;
mod settings;
mod stream_ops;
mod streams;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use completion::{
    Completion, ConnectError, DatagramSend, Full, ListenerIndex, LossReason, ReceiveOutcome,
    SendOutcome, SocketIndex, StreamError, StreamKey,
};
pub(crate) use kernel::RingError;
pub use settings::RingSettings;

use crate::address::EndpointAddress;
use crate::host::address::SockAddr;
use crate::host::clock;
use crate::host::probe;
use crate::host::socket::offload::Offload;
use crate::limits::{GATHER_COUNT_MAX, GATHER_COUNT_MIN};
use crate::metrics::{RingCounters, SocketOffload};
use crate::pool::Pool;
use kernel::Kernel;
use machine::Machine;

/// How long a ring that is dropped without [`Ring::shut_down`] waits for the kernel.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a turn waits for a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    No,
    /// Until a completion or the given time.
    Until(Instant),
    /// Until a completion.
    Forever,
}

/// A worker's ring. It belongs to the thread that made it.
pub struct Ring {
    // Drop order: the kernel's end first, then the memory that it may access.
    kernel: Kernel,
    machine: Machine,
    /// Events of this turn so far.
    event_count: u32,
    is_over: bool,
    _claim: Claim,
}

/// The claim that a pool has one ring; leaked with a ring that did not shut down, so that the pool
/// never has another.
struct Claim(Rc<Pool>);

impl Claim {
    fn new(pool: &Rc<Pool>) -> Claim {
        assert!(pool.claim(), "a pool has one ring at a time");
        Claim(Rc::clone(pool))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.unclaim();
    }
}

impl Ring {
    /// Makes a ring on the calling thread.
    ///
    /// # Panics
    /// If the pool has a ring already.
    pub fn new(settings: RingSettings, pool: Rc<Pool>) -> Result<Ring, RingError> {
        let settings = settings.within(probe::nofile().soft);
        let claim = Claim::new(&pool);
        let mut machine = Machine::new(&settings, pool)?;
        let mut kernel = Kernel::new(&settings)?;
        machine.has_zero_copy = kernel.features.zero_copy_send;
        kernel.register_group(&machine.datagram_buffers)?;
        kernel.register_group(&machine.stream_buffers)?;
        kernel.enable()?;
        Ok(Ring { kernel, machine, event_count: 0, is_over: false, _claim: claim })
    }

    /// Adds a bound UDP socket, in blocking mode.
    pub fn add_socket(&mut self, socket: UdpSocket) -> Result<SocketIndex, RingError> {
        let place = self.machine.next_socket_file();
        if place >= usize::from(self.machine.sockets_max) {
            let reason = format!("it has {place} sockets already, as many as it may");
            return Err(RingError::Socket(io::Error::other(reason)));
        }
        let offload = Offload::of(&socket);
        // The file table keeps the socket open.
        let file = OwnedFd::from(socket);
        self.kernel.register_file(place as u32, &file).map_err(RingError::Socket)?;
        Ok(self.machine.add_socket(place as u32, offload))
    }

    /// Adds a listening TCP socket, in blocking mode. It accepts nothing yet.
    pub fn add_listener(&mut self, listener: TcpListener) -> Result<ListenerIndex, RingError> {
        let place = self.machine.next_listener_place();
        if place >= usize::from(self.machine.listeners_max) {
            let reason = format!("it has {place} listening sockets already, as many as it may");
            return Err(RingError::Socket(io::Error::other(reason)));
        }
        let index = ListenerIndex(place as u16);
        let file = OwnedFd::from(listener);
        self.kernel
            .register_file(self.machine.listener_file(index), &file)
            .map_err(RingError::Socket)?;
        self.machine.add_listener(index);
        Ok(index)
    }

    /// Accepts clients on a listening socket from the next turn on, or no longer. Each is a
    /// [`Completion::Accepted`], also those that the kernel accepts before it learns of the end.
    /// While there is no place for clients, they wait in the kernel.
    pub fn set_accepting(&mut self, listener: ListenerIndex, is_accepting: bool) {
        self.machine.set_accepting(listener, is_accepting);
    }

    /// Gives an accepted stream the tag of its completions.
    pub fn set_tag(&mut self, stream: StreamKey, tag: u64) {
        self.machine.set_tag(stream, tag);
    }

    /// Removes a listening socket. It is closed once no accept is armed on it, and its index may
    /// then be that of another. What the kernel has accepted by then is reported nevertheless.
    pub fn remove_listener(&mut self, listener: ListenerIndex) {
        self.machine.remove_listener(listener);
    }

    /// Removes a socket, on which nothing is to be sent any more. It is closed once its operations
    /// have ended, and its index may then be that of another.
    pub fn remove_socket(&mut self, socket: SocketIndex) {
        self.machine.remove_socket(socket);
    }

    /// Watches an eventfd in non-blocking mode: each write to it causes a [`Completion::Woken`].
    pub fn watch_wake(&mut self, wake: Arc<File>) {
        self.machine.watch_wake(wake);
    }

    /// Receives datagrams on a socket from the next turn on. A receive that the kernel ends is
    /// armed again.
    pub fn receive_datagrams(&mut self, socket: SocketIndex) {
        self.machine.receive_datagrams(socket);
    }

    /// Sends a batch of datagrams; [`Completion::Sent`] returns its buffer.
    ///
    /// # Panics
    /// If the batch is empty, longer than 65,507 bytes, or has more than 64 segments.
    pub fn send_datagrams(
        &mut self,
        socket: SocketIndex,
        send: DatagramSend,
    ) -> Result<(), (Full, DatagramSend)> {
        self.machine.send_datagrams(socket, send)
    }

    /// Sends all later batches with a copy. A device may hold the pages of a zero-copy send for
    /// longer than the end of a ring waits.
    pub fn stop_zero_copy(&mut self) {
        self.machine.stop_zero_copy();
    }

    /// Begins to connect a stream. [`Completion::Connected`] with the `tag` has the outcome; the
    /// caller closes the stream even after a failure. TCP uses the congestion control that the
    /// kernel knows by the name `congestion`, or the system's default if there is no name or the
    /// kernel refuses it.
    pub fn connect(
        &mut self,
        tag: u64,
        address: &EndpointAddress,
        congestion: Option<&str>,
    ) -> Result<StreamKey, Full> {
        let (key, place) = self.machine.open_stream(tag)?;
        let opened = open_stream_socket(address, congestion).and_then(|(file, address)| {
            self.kernel.register_file(place, &file)?;
            Ok(address)
        });
        match opened {
            Ok(address) => self.machine.connect(key, address),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::ENOENT);
                self.machine.refuse_connect(key, ConnectError::from_errno(errno));
            }
        }
        Ok(key)
    }

    /// Receives once on a connected stream: at most one slot of bytes, or `slot_count_max` slots
    /// ([`RECEIVE_SLOT_COUNT_MAX`](crate::limits::RECEIVE_SLOT_COUNT_MAX) at most) if the kernel is
    /// known to have more. Does nothing while a receive is armed.
    pub fn receive(&mut self, stream: StreamKey, slot_count_max: usize) {
        self.machine.receive(stream, slot_count_max);
    }

    /// Writes all `pieces` to a connected stream; [`Completion::Wrote`] follows when all are
    /// written or the stream is broken. While another write is in flight, returns the pieces.
    pub fn write(
        &mut self,
        stream: StreamKey,
        pieces: Vec<Bytes>,
    ) -> Result<(), (Full, Vec<Bytes>)> {
        self.machine.write(stream, pieces)
    }

    /// Ends our side of a stream after the write in flight, so that the peer gets the end. Has no
    /// completion. Nothing can be written any more.
    pub fn shut_down_stream(&mut self, stream: StreamKey) {
        self.machine.shut_down(stream);
    }

    /// Closes a stream in any state. [`Completion::Closed`] is the only completion of the stream
    /// that [`Ring::poll_completion`] returns from now on.
    pub fn close(&mut self, stream: StreamKey) {
        self.machine.close(stream);
    }

    /// Closes a stream in any state, as [`close`](Self::close) does, but so that the peer of a TCP
    /// connection gets a reset instead of the end. What it has not received is dropped.
    pub fn reset(&mut self, stream: StreamKey) {
        self.machine.reset(stream);
    }

    /// Runs one turn: provides free slots to the kernel, submits the operations since the last
    /// turn, and waits for a completion as told. It may return early.
    pub fn submit_and_wait(&mut self, wait: Wait) -> Result<(), RingError> {
        while let Some(file) = self.machine.pop_left().or_else(|| self.machine.pop_left_listener())
        {
            // Should it fail, the file is closed when the next socket takes its place.
            let _ = self.kernel.clear_file(file);
        }
        self.machine.replenish();
        if self.kernel.overflows() {
            self.machine.stats.cq_overflows += 1;
        }
        while !self.kernel.queue(&mut self.machine.outbox) {
            self.enter(0, None)?;
            if self.kernel.queue_is_full() {
                // The kernel is short of memory: the next turn submits the rest.
                break;
            }
        }
        let is_due = !self.machine.ready.is_empty() || self.kernel.has_events();
        let longest = self.machine.longest_wait();
        let wanted = wanted_after(std::mem::take(&mut self.event_count));
        match wait {
            _ if is_due => self.enter(0, None),
            Wait::No => self.enter(0, None),
            Wait::Until(deadline) => {
                let left = deadline.saturating_duration_since(clock::now());
                let left = longest.map_or(left, |longest| left.min(longest));
                match left {
                    Duration::ZERO => self.enter(0, None),
                    _ => self.enter(wanted, Some(left)),
                }
            }
            Wait::Forever => self.enter(wanted, longest),
        }
    }

    /// Returns the next completion, or `None` when it is time for the next turn.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        if let Some(completion) = self.machine.ready.pop_front() {
            return Some(completion);
        }
        while let Some(event) = self.kernel.next_event() {
            self.event_count += 1;
            if let Some(completion) = self.machine.complete(event) {
                return Some(completion);
            }
        }
        None
    }

    pub fn stats(&self) -> &RingCounters {
        &self.machine.stats
    }

    /// Returns which offloads the sockets use, as far as is known by now.
    pub fn socket_offload(&self) -> SocketOffload {
        self.machine.socket_offload()
    }

    pub fn operations_in_flight(&self) -> usize {
        self.machine.table.in_flight()
    }

    /// Shuts the ring down: resets the clients that are not closed, cancels all operations, waits
    /// until the kernel holds none, and returns all slots to the pool. If the kernel does not
    /// finish in time, the ring's memory is leaked, and the slots that the kernel holds stay out of
    /// the pool.
    pub fn shut_down(mut self, deadline: Instant) -> Result<(), StillBusy> {
        if self.quiesce(deadline) {
            return Ok(());
        }
        let operation_count = self.machine.table.in_flight();
        std::mem::forget(self);
        Err(StillBusy { operation_count })
    }

    fn enter(&mut self, wanted: u32, timeout: Option<Duration>) -> Result<(), RingError> {
        self.machine.stats.enters += 1;
        self.kernel.enter(wanted, timeout)
    }

    /// Cancels all operations and waits for the last. Returns whether the kernel holds nothing.
    fn quiesce(&mut self, deadline: Instant) -> bool {
        const ROUND: Duration = Duration::from_millis(20);
        self.machine.reset_clients();
        self.machine.is_ending = true;
        self.machine.cancel_each();
        let mut before = usize::MAX;
        loop {
            self.machine.ready.clear();
            while let Some(event) = self.kernel.next_event() {
                drop(self.machine.complete(event));
            }
            // Operations not yet submitted are submitted now, so that they complete too.
            let is_queued = self.kernel.queue(&mut self.machine.outbox);
            let in_flight = self.machine.table.in_flight();
            if is_queued && in_flight == 0 {
                break;
            }
            if clock::now() >= deadline || self.kernel.enter(0, None).is_err() {
                return false;
            }
            // Cancels the operations that no cancel named: the later pieces of a batch.
            if is_queued && in_flight == before {
                self.kernel.cancel_all(ROUND);
            }
            before = in_flight;
            if self.kernel.enter(1, Some(ROUND)).is_err() {
                return false;
            }
        }
        let groups = [&mut self.machine.datagram_buffers, &mut self.machine.stream_buffers];
        for group in groups {
            if self.kernel.unregister_group(group).is_err() {
                return false;
            }
            // SAFETY: it was unregistered in the line before, and no operation is in flight.
            unsafe { group.reclaim_all() };
        }
        // Slots whose owners a panic in this module dropped will never be completed.
        // SAFETY: the kernel holds nothing of this ring, and `new` saw to it that no other ring
        // gives it slots of this pool. The ring's own hand-overs were all in the table and the
        // groups, which are empty now; no other module calls `provide` or `send`.
        unsafe { self.machine.pool.release_abandoned() };
        // Closes the remaining streams, so that their peers notice now.
        let _ = self.kernel.unregister_files();
        self.is_over = true;
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.is_over && !self.quiesce(clock::now() + DROP_TIMEOUT) {
            // The kernel may still write into slots that would be reused: corrupted data is worse
            // than a restart.
            eprintln!("ringway: the kernel does not release a worker's buffers, aborting");
            std::process::abort();
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("stats", &self.machine.stats).finish_non_exhaustive()
    }
}

/// Returns the number of completions that the next turn waits for after one with `event_count`.
/// Under load a wake-up costs more than the work it brings, so the next turn gathers as many, for a
/// short time. After a turn with few, the first completion wakes the worker.
fn wanted_after(event_count: u32) -> u32 {
    if event_count < GATHER_COUNT_MIN { 1 } else { event_count.min(GATHER_COUNT_MAX) }
}

/// The error that the kernel did not release a ring's memory in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StillBusy {
    /// Operations that it still holds.
    pub operation_count: usize,
}

/// Opens a stream's socket, in blocking mode, since the ring waits in the kernel.
fn open_stream_socket(
    address: &EndpointAddress,
    congestion: Option<&str>,
) -> io::Result<(OwnedFd, SockAddr)> {
    let (family, target) = match address {
        EndpointAddress::Tcp(address @ SocketAddr::V4(_)) => (libc::AF_INET, (*address).into()),
        EndpointAddress::Tcp(address @ SocketAddr::V6(_)) => (libc::AF_INET6, (*address).into()),
        EndpointAddress::Unix(path) => (libc::AF_UNIX, SockAddr::unix(path)?),
        // A caller that wants the others tried names them one by one.
        EndpointAddress::Named(named) => {
            return open_stream_socket(&EndpointAddress::Tcp(named.addresses[0]), congestion);
        }
    };
    // SAFETY: takes three integers and touches no memory of ours.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    if family != libc::AF_UNIX {
        // Refusals are ignored: without the first option latency is higher, without the second the
        // system's congestion control is used.
        set_tcp_option(&file, libc::TCP_NODELAY, &libc::c_int::from(true).to_ne_bytes());
        if let Some(name) = congestion {
            set_tcp_option(&file, libc::TCP_CONGESTION, name.as_bytes());
        }
    }
    Ok((file, target))
}

fn set_tcp_option(file: &OwnedFd, option: libc::c_int, value: &[u8]) {
    // SAFETY: `value` is live for the call, which only reads it, and its length is given.
    unsafe {
        libc::setsockopt(
            file.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
}
