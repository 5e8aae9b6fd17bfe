//! The ring's caller: starts operations, holds received buffers, and tracks the completions it
//! expects.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use rand::Rng;
use rand::rngs::SmallRng;

use super::kernel::Kernel;
use super::submission::{origin, pattern};
use super::wire::{Batch, Bundle, Wire};
use crate::host::address::SockAddr;
use crate::limits::{ACCEPTS_ARMED, RECEIVE_SLOT_COUNT_MAX, SLOT_LEN};
use crate::pool::Pool;
use crate::ring::completion::{
    Completion, DatagramSend, ListenerIndex, ReceiveOutcome, SendOutcome, SocketIndex, StreamKey,
};
use crate::ring::machine::Machine;

/// An open stream.
struct Stream {
    key: StreamKey,
    file: u32,
    is_connecting: bool,
    is_receiving: bool,
    /// Length of the write in flight, and the bytes that the peer had received before.
    writing: Option<(usize, u64)>,
    is_closing: bool,
    /// It closes by a reset.
    resets: bool,
    /// It has a socket.
    has_socket: bool,
    /// Our side has ended, or will after the write in flight.
    has_ended: bool,
    /// The connect failed.
    has_failed: bool,
    /// Bytes received so far.
    got: u64,
}

impl Stream {
    /// Returns a stream that is connected.
    fn new(key: StreamKey, file: u32) -> Stream {
        Stream {
            key,
            file,
            is_connecting: false,
            is_receiving: false,
            writing: None,
            is_closing: false,
            resets: false,
            has_socket: true,
            has_ended: false,
            has_failed: false,
            got: 0,
        }
    }
}

pub(super) struct Caller {
    pub(super) random: SmallRng,
    streams: BTreeMap<u64, Stream>,
    tag: u64,
    /// The most recent keys of streams that are closed or closing.
    gone: Vec<StreamKey>,
    pub(super) sends_owed: u32,
    sends_max: u32,
    sockets: u16,
    long_batches: u32,
    /// A buffer returned by a send, for the next one.
    spare: Option<Vec<u8>>,
    held: Vec<(BytesMut, Bundle)>,
    held_max: usize,
    /// For each listening socket, true if it accepts.
    accepting: Vec<bool>,
    /// Clients reported so far.
    accepted: u64,
    /// Streams that were closed before they had a tag, and whose close is expected.
    untagged: u32,
    /// Number of calls on streams that no longer exist.
    pub(super) stale_calls: u64,
    number: u64,
}

impl Caller {
    pub(super) fn new(random: SmallRng, scenario: &super::scenario::Scenario) -> Caller {
        Caller {
            random,
            streams: BTreeMap::new(),
            tag: 0,
            gone: Vec::new(),
            sends_owed: 0,
            sends_max: scenario.settings.sends_max,
            sockets: scenario.sockets,
            long_batches: scenario.long_batches,
            spare: None,
            held: Vec::new(),
            held_max: scenario.held_max,
            accepting: vec![false; usize::from(scenario.listeners)],
            accepted: 0,
            untagged: 0,
            stale_calls: 0,
            number: 0,
        }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        one_in > 0 && self.random.random_range(0..one_in) == 0
    }

    /// Starts an operation or releases a buffer.
    pub(super) fn ask(&mut self, machine: &mut Machine, pool: &Pool, wire: &mut Wire) {
        match self.random.random_range(0..11) {
            0 | 1 => self.send(machine, pool, wire),
            2 => self.connect(machine, wire),
            3 | 4 => self.receive(machine),
            5 => self.write(machine, wire),
            6 => {
                if self.chance(3)
                    && let Some(tag) = self.some_stream()
                {
                    self.close(machine, tag);
                }
            }
            7 => self.use_what_is_gone(machine),
            8 => self.shut_down(machine),
            9 => self.switch_accepting(machine),
            _ => self.let_go(),
        }
    }

    fn some_stream(&mut self) -> Option<u64> {
        let place = self.random.random_range(0..self.streams.len().max(1));
        self.streams.keys().nth(place).copied()
    }

    fn send(&mut self, machine: &mut Machine, pool: &Pool, wire: &mut Wire) {
        let Some(mut buffer) = self.spare.take().or_else(|| pool.lease_vec()) else { return };
        let segment_len = [1, 100, 1_000, 1_200][self.random.random_range(0..4)];
        let count = match self.chance(self.long_batches) {
            true => self.random.random_range(16..=54),
            false => self.random.random_range(1..16),
        };
        let len = segment_len * count - self.random.random_range(0..segment_len);
        self.number += 1;
        buffer.extend_from_slice(pattern(origin(self.number) + 5, len));
        let batch = Batch { bytes: buffer.clone(), segment_len, sent: vec![0; count] };
        let base = buffer.as_ptr().addr() as u64;
        let send = DatagramSend {
            buffer,
            destination: "192.0.2.1:1".parse().unwrap(),
            source: None,
            ecn: 0,
            segment_len: Some(segment_len as u16),
        };
        let socket = SocketIndex(self.random.random_range(0..self.sockets));
        match machine.send_datagrams(socket, send) {
            Ok(()) => {
                self.sends_owed += 1;
                assert!(wire.batches.insert(base, batch).is_none(), "a slot is sent twice");
            }
            Err((_, mut send)) => {
                let kept = self.sends_owed + wire.being_read;
                assert!(kept >= self.sends_max, "refused below the configured maximum");
                send.buffer.clear();
                self.spare = Some(send.buffer);
            }
        }
    }

    fn connect(&mut self, machine: &mut Machine, wire: &mut Wire) {
        self.tag += 1;
        let tag = self.tag;
        let Ok((key, file)) = machine.open_stream(tag) else { return };
        let address: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let refused = self.chance(10);
        match refused {
            true => machine.refuse_connect(key, crate::ring::ConnectError::NoDescriptor),
            false => machine.connect(key, SockAddr::from(address)),
        }
        wire.open(file, tag);
        let stream = Stream { is_connecting: true, has_socket: !refused, ..Stream::new(key, file) };
        self.streams.insert(tag, stream);
    }

    /// Begins or ends accepting on a listening socket.
    fn switch_accepting(&mut self, machine: &mut Machine) {
        if self.accepting.is_empty() {
            return;
        }
        let place = self.random.random_range(0..self.accepting.len());
        self.accepting[place] = !self.chance(4);
        machine.set_accepting(ListenerIndex(place as u16), self.accepting[place]);
    }

    /// Takes a client, or closes its stream at once.
    fn accepted(
        &mut self,
        key: StreamKey,
        client: SocketAddr,
        machine: &mut Machine,
        wire: &mut Wire,
    ) {
        self.accepted += 1;
        let file = machine.stream_file(key);
        let peer = wire.peer(file);
        assert_eq!(peer.client, Some(client), "each client has its own address");
        if self.chance(5) {
            self.untagged += 1;
            return machine.close(key);
        }
        self.tag += 1;
        machine.set_tag(key, self.tag);
        peer.tag = self.tag;
        self.streams.insert(self.tag, Stream::new(key, file));
    }

    fn shut_down(&mut self, machine: &mut Machine) {
        let Some(tag) = self.some_stream() else { return };
        let is_wanted = self.chance(4);
        let stream = self.streams.get_mut(&tag).unwrap();
        let is_usable = !stream.is_connecting && !stream.is_closing && !stream.has_failed;
        if is_usable && !stream.has_ended && is_wanted {
            stream.has_ended = true;
            machine.shut_down(stream.key);
        }
    }

    fn receive(&mut self, machine: &mut Machine) {
        let Some(tag) = self.some_stream() else { return };
        let slot_count_max = self.random.random_range(1..=RECEIVE_SLOT_COUNT_MAX);
        let stream = self.streams.get_mut(&tag).unwrap();
        if stream.is_connecting || stream.is_closing || stream.has_failed || stream.is_receiving {
            return;
        }
        stream.is_receiving = true;
        machine.receive(stream.key, slot_count_max);
        // While it is armed, arming it again has no effect.
        machine.receive(stream.key, RECEIVE_SLOT_COUNT_MAX);
    }

    fn write(&mut self, machine: &mut Machine, wire: &mut Wire) {
        let Some(tag) = self.some_stream() else { return };
        let count = [0, 1, 1, 3, 70][self.random.random_range(0..5)];
        let lens: Vec<usize> = (0..count).map(|_| self.random.random_range(0..2_000)).collect();
        let stream = self.streams.get_mut(&tag).unwrap();
        if stream.is_connecting || stream.is_closing || stream.has_failed || stream.has_ended {
            return;
        }
        if stream.writing.is_some_and(|(len, _)| len == 0) {
            // It is already over, but not yet reported.
            return;
        }
        let before = wire.peer(stream.file).taken;
        let mut position = origin(tag) + before;
        let mut pieces = Vec::new();
        for len in lens {
            pieces.push(Bytes::from_static(pattern(position, len)));
            position += len as u64;
        }
        let len = pieces.iter().map(Bytes::len).sum();
        match machine.write(stream.key, pieces) {
            Ok(()) => assert!(stream.writing.replace((len, before)).is_none(), "one at a time"),
            Err((_, pieces)) => {
                assert!(stream.writing.is_some(), "refused without one in flight");
                assert_eq!(
                    pieces.iter().map(Bytes::len).sum::<usize>(),
                    len,
                    "the pieces are returned"
                );
            }
        }
    }

    fn close(&mut self, machine: &mut Machine, tag: u64) {
        let resets = self.chance(3);
        let stream = self.streams.get_mut(&tag).unwrap();
        if stream.is_closing {
            self.stale_calls += 1;
        } else {
            (stream.is_closing, stream.resets) = (true, resets);
        }
        match resets {
            true => machine.reset(stream.key),
            false => machine.close(stream.key),
        }
        self.gone.push(stream.key);
        if self.gone.len() > 8 {
            self.gone.remove(0);
        }
    }

    /// Uses a dead key, which must have no effect.
    fn use_what_is_gone(&mut self, machine: &mut Machine) {
        if self.gone.is_empty() || !self.chance(4) {
            return;
        }
        let key = self.gone[self.random.random_range(0..self.gone.len())];
        self.stale_calls += 5;
        machine.receive(key, 1);
        machine.shut_down(key);
        machine.write(key, vec![Bytes::from_static(b"lost")]).unwrap();
        machine.close(key);
        machine.reset(key);
    }

    /// Releases a received buffer and asserts that it was not written to meanwhile.
    fn let_go(&mut self) {
        if self.chance(4) {
            self.spare = None;
        } else if !self.held.is_empty() {
            let place = self.random.random_range(0..self.held.len());
            let (payload, bundle) = self.held.swap_remove(place);
            assert!(payload == pattern(bundle.position, bundle.len), "written while it was held");
        }
    }

    pub(super) fn let_go_of_all(&mut self) {
        while !self.held.is_empty() {
            self.let_go();
        }
        self.spare = None;
    }

    pub(super) fn close_all(&mut self, machine: &mut Machine) {
        let open = self.streams.iter().filter(|(_, stream)| !stream.is_closing);
        for tag in open.map(|(tag, _)| *tag).collect::<Vec<_>>() {
            self.close(machine, tag);
        }
    }

    fn hold(&mut self, payload: BytesMut, bundle: Bundle) {
        assert!(payload == pattern(bundle.position, bundle.len), "bytes other than those received");
        self.held.push((payload, bundle));
        while self.held.len() > self.held_max {
            self.let_go();
        }
    }

    /// Handles a completion and asserts that it was expected.
    pub(super) fn hear(&mut self, completion: Completion, machine: &mut Machine, wire: &mut Wire) {
        match completion {
            Completion::Sent { buffer, outcome, .. } => self.sent(buffer, outcome, wire),
            Completion::Datagrams { payload, segment_len, .. } => {
                let number = u64::from_ne_bytes(*payload.first_chunk().unwrap());
                let bundle = wire.bundles.remove(&number).expect("it came in, and once");
                assert_eq!((payload.len(), segment_len), (bundle.len, bundle.segment_len));
                let (mut payload, mut bundle) = (payload, bundle);
                let _ = payload.split_to(8);
                (bundle.position, bundle.len) = (bundle.position + 8, bundle.len - 8);
                if bundle.len > 0 {
                    self.hold(payload, bundle);
                }
            }
            Completion::ReceiveStopped { socket, .. } => machine.receive_datagrams(socket),
            Completion::Connected { tag, outcome } => {
                let stream = self.heard_of(tag);
                assert!(std::mem::take(&mut stream.is_connecting), "connected once");
                stream.has_failed = outcome.is_err();
            }
            Completion::Received { tag, outcome } => self.received(tag, outcome),
            Completion::Wrote { tag, len, outcome } => {
                let stream = self.heard_of(tag);
                let (wanted, before) = stream.writing.take().expect("a write was in flight");
                let taken = wire.peer(stream.file).taken - before;
                assert_eq!(len as u64, taken, "the reported length is what the kernel took");
                assert_eq!(len == wanted, outcome.is_ok(), "{len} of {wanted} bytes: {outcome:?}");
            }
            Completion::Accepted { stream, client, .. } => {
                self.accepted(stream, client, machine, wire);
            }
            Completion::AcceptStopped { listener, .. } => {
                assert!(self.accepting[listener.index()], "it was on");
                machine.set_accepting(listener, true);
            }
            Completion::Closed { tag: u64::MAX } => {
                self.untagged = self.untagged.checked_sub(1).expect("closed once");
            }
            Completion::Closed { tag } => {
                let stream = self.streams.remove(&tag).expect("closed once");
                assert!(stream.is_closing, "a close must have been requested");
                let is_reset = stream.resets && stream.has_socket;
                assert_eq!(wire.peer(stream.file).has_reset, is_reset, "as it was closed");
            }
            Completion::Woken => {}
        }
    }

    /// Returns the stream of a completion and asserts that it is not closing.
    fn heard_of(&mut self, tag: u64) -> &mut Stream {
        let stream = self.streams.get_mut(&tag).expect("nothing is heard of it once it is closed");
        assert!(!stream.is_closing, "a closing stream reports only its end");
        stream
    }

    fn received(&mut self, tag: u64, outcome: ReceiveOutcome) {
        let stream = self.heard_of(tag);
        assert!(stream.is_receiving, "a receive was armed");
        stream.is_receiving = matches!(outcome, ReceiveOutcome::Part(_));
        if let ReceiveOutcome::Part(bytes) | ReceiveOutcome::Bytes(bytes) = outcome {
            assert!((1..=SLOT_LEN).contains(&bytes.len()));
            let position = origin(tag) + stream.got;
            stream.got += bytes.len() as u64;
            let len = bytes.len();
            self.hold(bytes, Bundle { position, len, segment_len: len });
        }
    }

    fn sent(&mut self, buffer: Vec<u8>, outcome: SendOutcome, wire: &mut Wire) {
        assert!(buffer.is_empty() && buffer.capacity() == SLOT_LEN, "as it was leased");
        let base = buffer.as_ptr().addr() as u64;
        let batch = wire.batches.remove(&base).expect("this batch was under way");
        for sent in batch.sent {
            assert!(sent <= 1, "a datagram is sent twice");
            assert!(sent == 1 || outcome != SendOutcome::Sent, "reported as sent, but was not");
        }
        self.sends_owed -= 1;
        if self.spare.is_none() && self.chance(2) {
            self.spare = Some(buffer);
        }
    }

    /// Asserts that no completion is expected, except receives on silent streams.
    pub(super) fn assert_answered(&self, wire: &mut Wire) {
        assert_eq!((self.accepted, self.untagged), (wire.accepted, 0), "each client is reported");
        assert_eq!((self.sends_owed, wire.batches.len(), wire.bundles.len()), (0, 0, 0));
        for (tag, stream) in &self.streams {
            let owed = stream.is_connecting || stream.is_receiving || stream.is_closing;
            assert!(!owed && stream.writing.is_none(), "stream {tag} still expects a completion");
            let has_end = wire.peer(stream.file).has_our_end;
            assert_eq!(stream.has_ended, has_end, "the end of stream {tag}");
            assert_eq!(stream.got, wire.peer(stream.file).fed, "bytes are missing on stream {tag}");
        }
    }

    /// Asserts that sockets that accept have accepts in flight, unless there is no place for more
    /// clients, and that others have none.
    pub(super) fn assert_armed(&self, machine: &Machine, kernel: &Kernel) {
        let is_full =
            machine.clients == machine.clients_max || machine.streams.len() == machine.streams_max;
        for (place, is_accepting) in (0..).zip(&self.accepting) {
            let armed = kernel.accepts_armed(machine.listener_file(ListenerIndex(place)));
            match is_accepting {
                true => assert!(armed == ACCEPTS_ARMED || is_full, "{armed} are armed"),
                false => assert_eq!(armed, 0, "it does not accept"),
            }
        }
    }

    /// Asserts that the ring's end has reset the clients that were not closed.
    pub(super) fn assert_clients_reset(&self, wire: &mut Wire) {
        for (tag, stream) in self.streams.iter().filter(|(_, stream)| !stream.is_closing) {
            let peer = wire.peer(stream.file);
            assert_eq!(peer.has_reset, peer.client.is_some(), "the end of stream {tag}");
        }
    }

    pub(super) fn assert_all_closed(&self) {
        assert_eq!(self.streams.len(), 0, "streams are still open");
    }
}
