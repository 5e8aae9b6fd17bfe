//! The whole protocol side in memory: one small request, from its datagrams to the datagrams of its
//! response, over a connection to the origin that was kept.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use quinn_proto::{Dir, StreamId};
use ringway::testing;
use ringway::testing::internal::gateway::{Gateway, GatewaySettings, Output};
use ringway::testing::internal::limits::SLOT_LEN;
use ringway::testing::internal::proxy::{UpstreamCommand, UpstreamEvent, UpstreamKey};
use ringway::testing::internal::quic::{Datagram, Transmit};

use crate::client::{Client, configuration, engine_and_client, request_frame};

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 16\r\n\r\n\
    0123456789abcdef";
const ROUND_TIME: Duration = Duration::from_millis(1);
/// Maximum number of batches in one round.
const BATCH_COUNT_MAX: usize = 8;

/// A gateway, its client, and an origin that responds at once. A round takes 1 ms.
pub struct World {
    now: Instant,
    gateway: Gateway,
    client: Client,
    request: Bytes,
    stream: Option<StreamId>,
    /// The upstream connection that has a request, and the response.
    asked: Option<UpstreamKey>,
    /// Buffers to send from, and the sent bytes.
    spare: Vec<Vec<u8>>,
    sent: Vec<(Transmit, Vec<u8>)>,
}

/// The received datagrams of one request.
pub struct Input {
    datagrams: Vec<Datagram>,
    response: BytesMut,
}

impl World {
    /// Returns a world connected on both sides.
    pub fn new() -> Self {
        let now = testing::epoch();
        let (engine, tls, client) = engine_and_client(now);
        let gateway = Gateway::new(GatewaySettings {
            config: Arc::new(configuration()),
            engine,
            tls,
            socket_listeners: vec![0],
            worker_count: 1,
            responses_len_max: 1 << 20,
        });
        let spare = (0..BATCH_COUNT_MAX).map(|_| Vec::with_capacity(SLOT_LEN)).collect();
        let sent = Vec::with_capacity(BATCH_COUNT_MAX);
        let (request, stream, asked) = (request_frame(), None, None);
        let mut world = Self { now, gateway, client, request, stream, asked, spare, sent };
        for _ in 0..5 {
            world.listen();
        }
        assert!(!world.client.connection.is_handshaking(), "five round trips are enough");
        world.client.send(Dir::Uni, &testing::http3::CONTROL_PREFACE, false);
        for _ in 0..100 {
            let input = world.ask();
            world.serve(input);
        }
        world
    }

    /// Exchanges all pending datagrams without a request.
    fn listen(&mut self) {
        let datagrams = self.datagrams();
        self.serve(Input { datagrams, response: BytesMut::new() });
    }

    /// Lets the client read the last response and send the next request; not measured.
    pub fn ask(&mut self) -> Input {
        self.deliver();
        if let Some(stream) = self.stream {
            let (len, ended) = self.client.read(stream);
            assert!(len > 16 && ended, "the last response is incomplete: {len} bytes, {ended}");
        }
        let request = self.request.clone();
        self.stream = Some(self.client.send(Dir::Bi, &request, true));
        Input { datagrams: self.datagrams(), response: BytesMut::from(RESPONSE) }
    }

    fn datagrams(&mut self) -> Vec<Datagram> {
        self.deliver();
        self.now += ROUND_TIME;
        let now = self.now;
        let bundles = std::iter::from_fn(|| {
            Some(self.client.bundle(now, 8)).filter(|bundle| !bundle.is_empty())
        });
        bundles.flatten().collect()
    }

    fn deliver(&mut self) {
        for (transmit, mut buffer) in self.sent.drain(..) {
            self.client.take(self.now, &transmit, &buffer);
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Lets the gateway receive the datagrams, forward the request, and send the response.
    pub fn serve(&mut self, input: Input) {
        let Input { datagrams, response } = input;
        for datagram in datagrams {
            self.gateway.handle_datagram(self.now, datagram);
        }
        self.gateway.handle_timeout(self.now);
        self.settle();
        if let Some(key) = self.asked.take() {
            self.gateway.handle_upstream(self.now, key, UpstreamEvent::Received(response));
            self.settle();
        }
    }

    fn settle(&mut self) {
        loop {
            while let Some(output) = self.gateway.poll(self.now) {
                self.handle(output);
            }
            let mut buffer = self.spare.pop().expect("buffers for more than one batch");
            let Some(transmit) = self.gateway.poll_transmit(self.now, &mut buffer) else {
                self.spare.push(buffer);
                return;
            };
            self.sent.push((transmit, buffer));
        }
    }

    fn handle(&mut self, output: Output) {
        match output {
            Output::Upstream(UpstreamCommand::Connect { key, .. }) => {
                self.gateway.handle_upstream(self.now, key, UpstreamEvent::Connected);
            }
            Output::Upstream(UpstreamCommand::Write { key, .. }) => {
                self.asked = Some(key);
                self.gateway.handle_upstream(self.now, key, UpstreamEvent::Wrote);
            }
            Output::Upstream(UpstreamCommand::Close { .. }) => {
                panic!("the origin's connection is kept")
            }
            Output::Upstream(UpstreamCommand::Receive { .. })
            | Output::Tcp(_)
            | Output::Access(_)
            | Output::Incident(_) => {}
        }
    }
}

/// Handles one request and its response of 16 bytes.
#[divan::bench(sample_size = 1, sample_count = 2_000)]
fn small_request(bencher: Bencher<'_, '_>) {
    let world = RefCell::new(World::new());
    bencher
        .with_inputs(|| world.borrow_mut().ask())
        .bench_local_values(|input| world.borrow_mut().serve(input));
}
