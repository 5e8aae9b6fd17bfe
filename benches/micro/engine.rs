//! The QUIC engine in memory: packets of a bulk transfer, received and sent.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use quinn_proto::{Dir, StreamId as ClientStream};
use ringway::testing;
use ringway::testing::internal::limits::SLOT_LEN;
use ringway::testing::internal::quic::{
    ConnectionKey, Datagram, Engine, Event, StreamId, Transmit, WriteError,
};

use crate::client::{Client, engine_and_client};

/// Number of packets of a received bundle.
pub const BUNDLE_COUNT: usize = 32;
/// Number of packets of a sent batch: as many of 1,472 bytes as one send takes.
pub const BATCH_COUNT: usize = 44;
/// Bytes written before each batch: more than one of them holds.
const WRITE_LEN: usize = 96 * 1024;
const ROUND_TIME: Duration = Duration::from_millis(20);
const TRIES_MAX: usize = 10_000;

/// An engine and a client, connected, with one stream that both send on. A round takes 20 ms of a
/// clock that only rounds move.
pub struct Pair {
    now: Instant,
    engine: Engine,
    client: Client,
    buffer: Vec<u8>,
    /// The batch in `buffer` that the client has not yet taken.
    sent: Option<Transmit>,
    stream: Option<ClientStream>,
    engine_stream: Option<(ConnectionKey, StreamId)>,
    received_len: usize,
}

impl Pair {
    /// Returns a connected pair whose congestion windows leave room for a bundle and a batch.
    pub fn new() -> Self {
        let now = testing::epoch();
        let (engine, _, client) = engine_and_client(now);
        let buffer = Vec::with_capacity(SLOT_LEN);
        let (sent, stream, engine_stream) = (None, None, None);
        let mut pair =
            Self { now, engine, client, buffer, sent, stream, engine_stream, received_len: 0 };
        for _ in 0..5 {
            pair.exchange();
        }
        assert!(!pair.client.connection.is_handshaking(), "five round trips are enough");
        pair.stream = Some(pair.client.send(Dir::Bi, b"begun", false));
        for _ in 0..40 {
            pair.exchange();
            pair.fill_up();
            pair.fill_down(8 * WRITE_LEN);
        }
        pair
    }

    /// Lets both sides send everything they have.
    fn exchange(&mut self) {
        self.now += ROUND_TIME;
        self.engine.handle_timeout(self.now);
        loop {
            let datagrams = self.client.bundle(self.now, BUNDLE_COUNT);
            let client_is_done = datagrams.is_empty();
            self.receive(datagrams);
            if !self.transmit_to_client() && client_is_done {
                break;
            }
        }
    }

    fn transmit_to_client(&mut self) -> bool {
        self.buffer.clear();
        let Some(transmit) = self.engine.poll_transmit(self.now, &mut self.buffer) else {
            return false;
        };
        self.deliver(&transmit);
        true
    }

    fn deliver(&mut self, transmit: &Transmit) {
        self.client.take(self.now, transmit, &self.buffer);
        if let Some(stream) = self.stream {
            self.client.read(stream);
        }
    }

    fn fill_up(&mut self) {
        let stream = self.stream.expect("opened after the handshake");
        let _blocked = self.client.connection.send_stream(stream).write(&[7; 256 * 1024]);
    }

    fn fill_down(&mut self, len: usize) {
        static BODY: [u8; 16 * 1024] = [7; 16 * 1024];
        let (key, stream) = self.engine_stream.expect("the client opened it");
        for _ in 0..len / BODY.len() {
            match self.engine.write(key, stream, &mut [Bytes::from_static(&BODY)]) {
                Ok(_) | Err(WriteError::Blocked) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Returns a full bundle of the client's upload; not measured.
    pub fn upload(&mut self) -> Vec<Datagram> {
        for _ in 0..TRIES_MAX {
            self.fill_up();
            let datagrams = self.client.bundle(self.now, BUNDLE_COUNT);
            if datagrams.len() == BUNDLE_COUNT {
                return datagrams;
            }
            self.receive(datagrams);
            self.exchange();
        }
        panic!("the client never fills a bundle");
    }

    /// Handles received datagrams and reads the readable streams. Returns the number of bytes read.
    pub fn receive(&mut self, datagrams: Vec<Datagram>) -> usize {
        let before = self.received_len;
        for datagram in datagrams {
            self.engine.handle_datagram(self.now, datagram);
        }
        while let Some((key, event)) = self.engine.poll_event(self.now) {
            let (Event::StreamOpened(stream) | Event::Readable(stream)) = event else { continue };
            if stream.is_bidirectional() {
                self.engine_stream = Some((key, stream));
            }
            let len = &mut self.received_len;
            let _ = self.engine.read(key, stream, usize::MAX, |chunk| *len += chunk.len());
        }
        self.received_len - before
    }

    /// Lets everything in flight arrive and gives the engine a batch to send; not measured.
    pub fn prepare_batch(&mut self) {
        if let Some(transmit) = self.sent.take() {
            self.deliver(&transmit);
        }
        self.exchange();
        self.fill_down(WRITE_LEN);
        self.buffer.clear();
    }

    /// Builds and seals one batch. Returns its number of packets.
    pub fn send(&mut self) -> usize {
        let transmit = self.engine.poll_transmit(self.now, &mut self.buffer);
        let transmit = transmit.expect("there is something to send");
        self.sent = Some(transmit);
        transmit.len.div_ceil(transmit.segment_len.unwrap_or(transmit.len))
    }
}

/// Receives 32 packets of an upload: decrypts them and reads their stream. Measured per packet.
#[divan::bench(sample_size = 1, sample_count = 1_000)]
fn receive(bencher: Bencher<'_, '_>) {
    let pair = RefCell::new(Pair::new());
    bencher
        .counter(ItemsCount::new(BUNDLE_COUNT))
        .with_inputs(|| pair.borrow_mut().upload())
        .bench_local_values(|datagrams| {
            let len = pair.borrow_mut().receive(datagrams);
            assert!(len > BUNDLE_COUNT * 1_000, "{len} bytes in a bundle");
        });
}

/// Sends 45 packets of a download: gathers and seals them. Measured per packet.
#[divan::bench(sample_size = 1, sample_count = 1_000)]
fn send(bencher: Bencher<'_, '_>) {
    let pair = RefCell::new(Pair::new());
    bencher
        .counter(ItemsCount::new(BATCH_COUNT))
        .with_inputs(|| pair.borrow_mut().prepare_batch())
        .bench_local_values(|()| assert_eq!(pair.borrow_mut().send(), BATCH_COUNT));
}
