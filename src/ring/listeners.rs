//! Listening TCP sockets: some accepts are armed on each, one for each of the next clients
//! ([accept-one-by-one](../../docs/decisions/accept-one-by-one.md)).
//!
//! ```text
//!            place for a stream, accept armed        client
//!  Accepting ------------------------------> waits --------> a stream (Completion::Accepted)
//!      ^                                       |
//!      |   pause (10 ms) <---- no memory ------+
//!      +---------------------- other failure --+
//! ```
//!
//! An armed accept has a stream of its own from the beginning, whose place in the file table the
//! kernel fills. The caller learns of the stream when it has a client.

use std::mem;
use std::net::SocketAddr;

use io_uring::types::{DestinationSlot, Fixed, Timespec};
use io_uring::{opcode, squeue};

use super::completion::{Completion, ListenerIndex, StreamKey, accept_failure, kind_of};
use super::machine::Machine;
use super::table::{CANCEL, Op, OpKey};
use crate::host::address::SockAddr;
use crate::limits::ACCEPTS_ARMED;
use crate::metrics::AcceptFailure;

/// Pause of a socket for whose next client the host has no file or no memory. The kernel reads it
/// when the pause is submitted.
static ACCEPT_PAUSE: Timespec = Timespec::new().nsec(10_000_000);

/// A listening socket.
#[derive(Default)]
pub(super) struct Listener {
    state: State,
    /// Its armed accepts.
    armed: Vec<OpKey>,
    /// The pause in flight.
    pause: Option<OpKey>,
}

/// The state of a listening socket.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No accept is armed; clients wait in the kernel.
    #[default]
    Resting,
    Accepting,
    /// It is being removed: it closes once no accept is armed.
    Leaving,
    /// It is closed; its place is free.
    Left,
}

/// An accept in flight, with the memory in which the kernel writes the client's address.
pub(super) struct AcceptOp {
    pub(super) listener: ListenerIndex,
    pub(super) stream: StreamKey,
    address: libc::sockaddr_storage,
    address_len: libc::socklen_t,
}

impl AcceptOp {
    fn new(listener: ListenerIndex, stream: StreamKey) -> Box<AcceptOp> {
        // SAFETY: integers only, for which zeros are values.
        let address: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let address_len = size_of_val(&address) as libc::socklen_t;
        Box::new(AcceptOp { listener, stream, address, address_len })
    }

    /// Returns a submission that puts the accepted socket into `place` of the file table. It is in
    /// blocking mode there, since no flag asks for the other.
    fn offer(&mut self, file: Fixed, place: u32) -> squeue::Entry {
        let place = DestinationSlot::try_from_slot_target(place);
        let place = place.expect("a file table is shorter than the highest number");
        let (address, len) = ((&raw mut self.address).cast(), &raw mut self.address_len);
        opcode::Accept::new(file, address, len).file_index(Some(place)).build()
    }

    /// Writes the client's address, as the kernel does.
    #[cfg(test)]
    pub(super) fn write_client(&mut self, client: SocketAddr) {
        let client = SockAddr::from(client);
        let at = (&raw mut self.address).cast::<u8>();
        // SAFETY: an address fits its storage, and nobody else refers to it.
        unsafe {
            at.copy_from_nonoverlapping(client.as_ptr().cast(), client.len() as usize);
        }
        self.address_len = client.len();
    }

    /// Returns the client's address once the kernel has written it.
    fn client(&self) -> Option<SocketAddr> {
        let len = size_of_val(&self.address).min(self.address_len as usize);
        let at = (&raw const self.address).cast();
        // SAFETY: every byte was written at the start, `len` is within the storage, and the
        // operation is over, so that the kernel no longer writes.
        SockAddr::parse(unsafe { std::slice::from_raw_parts(at, len) })
    }
}

impl Machine {
    /// Returns the place of the next listening socket: that of one that has left, or a new one.
    pub(super) fn next_listener_place(&self) -> usize {
        let left = self.listeners.iter().position(|listener| listener.state == State::Left);
        left.unwrap_or(self.listeners.len())
    }

    /// Adds a listening socket, which is at its place of the file table.
    pub(super) fn add_listener(&mut self, index: ListenerIndex) {
        match self.listeners.get_mut(index.index()) {
            Some(left) => *left = Listener::default(),
            None => self.listeners.push(Listener::default()),
        }
    }

    pub(super) fn remove_listener(&mut self, listener: ListenerIndex) {
        self.set_accepting(listener, false);
        self.listeners[listener.index()].state = State::Leaving;
    }

    /// Returns the file of a listening socket that no operation uses any more, once.
    pub(super) fn pop_left_listener(&mut self) -> Option<u32> {
        let place = self.listeners.iter().position(Listener::has_left)?;
        self.listeners[place].state = State::Left;
        Some(self.listener_file(ListenerIndex(place as u16)))
    }

    /// Returns a listening socket's index in the file table, which ends with them.
    pub(super) fn listener_file(&self, listener: ListenerIndex) -> u32 {
        u32::from(self.sockets_max) + self.streams_max as u32 + u32::from(listener.0)
    }

    /// Begins or ends accepting. What the kernel has accepted by then is reported nevertheless.
    pub(super) fn set_accepting(&mut self, listener: ListenerIndex, is_accepting: bool) {
        let listener = &mut self.listeners[listener.index()];
        if matches!(listener.state, State::Leaving | State::Left) {
            return;
        }
        let state = if is_accepting { State::Accepting } else { State::Resting };
        if mem::replace(&mut listener.state, state) == state || is_accepting {
            return;
        }
        for op in &listener.armed {
            let entry = opcode::AsyncCancel::new(op.0).build();
            self.outbox.push_back(entry.user_data(CANCEL));
        }
    }

    /// Arms accepts on each socket that accepts, as many as there are places for clients. The next
    /// place is for the socket with the fewest, so that none waits for clients with all places
    /// while another has clients.
    pub(super) fn arm_accepts(&mut self) {
        while !self.is_ending {
            let places = (0..).zip(&self.listeners).filter(|(_, listener)| listener.is_to_arm());
            let Some((place, _)) = places.min_by_key(|(_, listener)| listener.armed.len()) else {
                return;
            };
            let Some(stream) = self.reserve_stream() else { return };
            self.arm_accept(ListenerIndex(place), stream);
        }
    }

    fn arm_accept(&mut self, listener: ListenerIndex, stream: StreamKey) {
        let mut op = AcceptOp::new(listener, stream);
        let entry = op.offer(Fixed(self.listener_file(listener)), self.stream_file(stream));
        let op_key = self.table.insert(Op::Accept(op));
        self.listeners[listener.index()].armed.push(op_key);
        self.outbox.push_back(entry.user_data(op_key.0));
    }

    /// Handles the end of an accept. A failure frees its stream, and the next turn arms another.
    pub(super) fn accepted(&mut self, op_key: OpKey, result: i32) -> Option<Completion> {
        let Some(Op::Accept(op)) = self.table.remove(op_key) else {
            unreachable!("the caller has just found it");
        };
        let AcceptOp { listener, stream, .. } = *op;
        self.listeners[listener.index()].armed.retain(|armed| *armed != op_key);
        let is_accepted = result >= 0;
        self.settle_reserved(stream, is_accepted);
        if is_accepted {
            self.stats.accepted += 1;
            let Some(client) = op.client() else {
                // The kernel always writes an address of the socket's own family.
                self.stats.accept_failures.count(AcceptFailure::Other, 1);
                self.close(stream);
                return None;
            };
            return (!self.is_ending).then_some(Completion::Accepted { listener, stream, client });
        }
        let failure = accept_failure(result)?;
        self.stats.accept_failures.count(failure, 1);
        match failure {
            AcceptFailure::ClientGone => None,
            AcceptFailure::NoFile | AcceptFailure::NoMemory => {
                self.pause_accepts(listener);
                None
            }
            AcceptFailure::Other => {
                let was_accepting = self.listeners[listener.index()].state == State::Accepting;
                self.set_accepting(listener, false);
                let reason = kind_of(result);
                was_accepting.then_some(Completion::AcceptStopped { listener, reason })
            }
        }
    }

    /// Arms no accept on a socket for a while: its next client is still in the queue, and would
    /// fail in the same way at once.
    fn pause_accepts(&mut self, listener: ListenerIndex) {
        let is_pausing = self.listeners[listener.index()].pause.is_some();
        if is_pausing || self.is_ending {
            return;
        }
        let op_key = self.table.insert(Op::AcceptPause(listener));
        self.listeners[listener.index()].pause = Some(op_key);
        let entry = opcode::Timeout::new(&raw const ACCEPT_PAUSE).build();
        self.outbox.push_back(entry.user_data(op_key.0));
    }

    /// Ends a pause, also one that the kernel refused.
    pub(super) fn accept_pause_over(&mut self, op_key: OpKey, listener: ListenerIndex) {
        self.table.remove(op_key);
        self.listeners[listener.index()].pause = None;
    }
}

impl Listener {
    fn has_left(&self) -> bool {
        self.state == State::Leaving && self.armed.is_empty() && self.pause.is_none()
    }

    fn is_to_arm(&self) -> bool {
        self.state == State::Accepting && self.pause.is_none() && self.armed.len() < ACCEPTS_ARMED
    }
}
