//! All inputs of a gateway: two clients' streams and datagrams, upstream events, time, low memory,
//! drain. Input: a byte for the start, then steps, each a byte that chooses it and what it reads
//! ([`Step`]).

use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::{Arbitrary as _, Result, Unstructured};
use quinn_proto::Dir;
use ringway::testing::internal::config::Retry;
use ringway::testing::internal::proxy::{Resource, TransportFault, UpstreamEvent, UpstreamKey};

use super::client::Client;
use super::lines::{DATA, HEADERS, frame, section};
use super::world::World;

/// Most steps of one input.
const STEPS_MAX: usize = 120;

/// Round trips that a handshake takes at most.
const ROUNDS_MAX: usize = 12;

/// One step. Bytes that follow one are named in its variant: a client, a stream, an upstream
/// connection (each by an index, which is taken modulo their number), and content with its length
/// in front.
#[derive(Debug)]
enum Step {
    /// A client opens a stream and writes.
    Open(Dir, Vec<u8>, Whole),
    /// A client opens a stream with a request for `/` of this method.
    Ask(&'static [u8], Vec<u8>, Whole),
    Write(u8, Vec<u8>, Whole),
    Reset(u8, u8),
    Stop(u8, u8),
    Read(u8),
    CloseClient(u8),
    /// All datagrams of the client arrive, and it gets all of the gateway's.
    Exchange,
    /// As `Exchange`, but the first datagram has a bit flipped at this place.
    Corrupt(u16),
    /// As `Exchange`, but the first datagram arrives twice.
    Repeat,
    /// As `Exchange`, but in the opposite order.
    Reverse,
    LoseFromClient,
    LoseFromGateway,
    /// The client's address changes.
    Move(u8),
    Upstream(u8, Event),
    /// The same for a connection that was closed.
    Stale(Event),
    Stranger(Vec<u8>),
    Pass(u8),
    MemoryLow(bool),
    Reload,
    Drain,
    Close,
}

/// Whether a stream ends.
type Whole = bool;

/// An event of an upstream connection. It happens if the connection is in a state for it.
#[derive(Debug)]
enum Event {
    Connected,
    ConnectFailed(u8),
    Received(Vec<u8>),
    /// Two parts of one receive.
    ReceivedParts(Vec<u8>, Vec<u8>),
    End,
    Failed(u8),
    Wrote,
    WriteFailed(u8),
}

/// # Panics
///
/// If the books are wrong after a step, or something is left at the end.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(start) = u8::arbitrary(&mut input) else { return };
    let mut play = Play::new(start);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok((client, step)) = read_step(&mut input) else { break };
        play.step(usize::from(client), step);
    }
    play.end();
}

/// Reads a step and the client that takes it.
fn read_step(input: &mut Unstructured<'_>) -> Result<(u8, Step)> {
    let choice = u8::arbitrary(input)?;
    let flag = choice & 0x40 != 0;
    let step = match choice & 0x1f {
        0 => Step::Open(Dir::Bi, content(input)?, flag),
        1 => Step::Open(Dir::Uni, content(input)?, flag),
        2 => Step::Ask(b"GET", content(input)?, flag),
        3 => Step::Ask(b"POST", content(input)?, flag),
        4 => Step::Write(u8::arbitrary(input)?, content(input)?, flag),
        5 => Step::Reset(u8::arbitrary(input)?, u8::arbitrary(input)?),
        6 => Step::Stop(u8::arbitrary(input)?, u8::arbitrary(input)?),
        7 => Step::Read(u8::arbitrary(input)?),
        8 => Step::CloseClient(u8::arbitrary(input)?),
        9 => Step::Corrupt(u16::arbitrary(input)?),
        10 => Step::Repeat,
        11 => Step::Reverse,
        12 => Step::LoseFromClient,
        13 => Step::LoseFromGateway,
        14 => Step::Move(u8::arbitrary(input)?),
        15 => Step::Upstream(u8::arbitrary(input)?, read_event(input)?),
        16 => Step::Stale(read_event(input)?),
        17 => Step::Stranger(content(input)?),
        18 => Step::Pass(u8::arbitrary(input)?),
        19 => Step::MemoryLow(flag),
        20 => Step::Reload,
        21 => Step::Drain,
        22 => Step::Close,
        23 | 24 => Step::Upstream(u8::arbitrary(input)?, Event::Connected),
        25 | 26 => Step::Upstream(u8::arbitrary(input)?, Event::Wrote),
        27 => Step::Upstream(u8::arbitrary(input)?, Event::Received(content(input)?)),
        _ => Step::Exchange,
    };
    Ok((choice >> 7, step))
}

fn read_event(input: &mut Unstructured<'_>) -> Result<Event> {
    Ok(match u8::arbitrary(input)? & 7 {
        0 => Event::Connected,
        1 => Event::ConnectFailed(u8::arbitrary(input)?),
        2 => Event::Received(content(input)?),
        3 => Event::ReceivedParts(content(input)?, content(input)?),
        4 => Event::End,
        5 => Event::Failed(u8::arbitrary(input)?),
        6 => Event::Wrote,
        _ => Event::WriteFailed(u8::arbitrary(input)?),
    })
}

/// Reads bytes with their length in front: a byte, whose top bit repeats them 256 times.
fn content(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = u8::arbitrary(input)?;
    let bytes = input.bytes(usize::from(len & 0x7f).min(input.len()))?;
    Ok(if len & 0x80 == 0 { bytes.to_vec() } else { bytes.repeat(256) })
}

/// A gateway and its peers.
struct Play {
    world: World,
    clients: [Client; 2],
    move_count: u16,
}

impl Play {
    /// Starts a gateway and two clients. Most inputs start with established connections.
    fn new(start: u8) -> Self {
        let retry = if start & 1 == 0 { Retry::Adaptive } else { Retry::Always };
        let world = World::new(retry);
        let clients = [1, 2]
            .map(|host| Client::new(world.now, SocketAddr::from(([203, 0, 113, host], 4_000))));
        let mut play = Self { world, clients, move_count: 0 };
        // The second client is established in one of four inputs: handshakes take time.
        for index in 0..if start & 6 == 6 { 2 } else { usize::from(start & 6 != 4) } {
            for _ in 0..ROUNDS_MAX {
                play.exchange(index);
                if !play.clients[index].is_handshaking() {
                    break;
                }
            }
            assert!(!play.clients[index].is_handshaking(), "the handshake is done");
            play.clients[index].open(Dir::Uni, &[0x00, 0x04, 0x00], false);
        }
        play
    }

    fn step(&mut self, client: usize, step: Step) {
        let now = self.world.now;
        let acting = &mut self.clients[client];
        match step {
            Step::Open(direction, bytes, whole) => acting.open(direction, &bytes, whole),
            Step::Ask(method, body, whole) => acting.open(Dir::Bi, &ask(method, &body), whole),
            Step::Write(stream, bytes, whole) => acting.write(stream, &bytes, whole),
            Step::Reset(stream, code) => acting.reset(stream, code),
            Step::Stop(stream, code) => acting.stop(stream, code),
            Step::Read(stream) => acting.read(stream),
            Step::CloseClient(code) => acting.close(now, code),
            Step::Exchange => self.exchange(client),
            Step::Corrupt(place) => {
                acting.drive(now);
                if let Some(datagram) = acting.outgoing.front_mut() {
                    let at = usize::from(place >> 3) % datagram.len();
                    datagram[at] ^= 1 << (place & 7);
                }
                self.exchange(client);
            }
            Step::Repeat => {
                acting.drive(now);
                let first = acting.outgoing.front().cloned();
                acting.outgoing.extend(first);
                self.exchange(client);
            }
            Step::Reverse => {
                acting.drive(now);
                acting.outgoing.make_contiguous().reverse();
                self.exchange(client);
            }
            Step::LoseFromClient => {
                acting.drive(now);
                acting.outgoing.clear();
            }
            Step::LoseFromGateway => self.world.sent.clear(),
            Step::Move(host) => {
                self.move_count += 1;
                let ip = [203, 0, 113 + (host & 1), 1 + client as u8];
                acting.address = SocketAddr::from((ip, 4_000 + self.move_count));
            }
            Step::Upstream(index, event) => self.upstream(index, event),
            Step::Stale(event) => {
                if let Some(key) = self.world.books.closed {
                    self.report(key, event, 1);
                }
            }
            Step::Stranger(bytes) => {
                self.world.arrive(SocketAddr::from(([198, 51, 100, 7], 9)), &bytes);
            }
            // Powers of two, up to half a minute; each may fall on a timer.
            Step::Pass(wait) => self.world.pass(Duration::from_millis(1 << (wait & 15))),
            Step::MemoryLow(is_low) => self.world.gateway.set_memory_low(is_low),
            Step::Reload => self.world.reload(Retry::Adaptive),
            Step::Drain => self.world.gateway.drain(now, now + Duration::from_secs(30)),
            Step::Close => self.world.gateway.close(now),
        }
        self.world.settle();
    }

    /// Moves all datagrams between a client and the gateway, in a round trip of 2 ms.
    fn exchange(&mut self, index: usize) {
        let Self { world, clients, .. } = self;
        let client = &mut clients[index];
        client.drive(world.now);
        world.pass(Duration::from_millis(1));
        for datagram in std::mem::take(&mut client.outgoing) {
            world.arrive(client.address, &datagram);
        }
        world.settle();
        world.pass(Duration::from_millis(1));
        let (own, others) = std::mem::take(&mut world.sent)
            .into_iter()
            .partition::<Vec<_>, _>(|(to, _)| *to == client.address);
        world.sent = others;
        for (_, datagram) in own {
            client.take(world.now, &datagram);
        }
        client.drive(world.now);
    }

    /// Reports an event of one of the open upstream connections, if it is in a state for it.
    fn upstream(&mut self, index: u8, event: Event) {
        let upstreams = &mut self.world.books.upstreams;
        let Some(index) = usize::from(index).checked_rem(upstreams.len()) else { return };
        let Some((key, upstream)) = upstreams.iter_mut().nth(index) else { return };
        let key = *key;
        let slot_count = upstream.slot_count;
        let may_happen = !upstream.has_failed
            && match event {
                Event::Connected | Event::ConnectFailed(_) => !upstream.is_connected,
                Event::Received(_) | Event::ReceivedParts(..) | Event::End | Event::Failed(_) => {
                    std::mem::take(&mut upstream.is_receiving)
                }
                Event::Wrote | Event::WriteFailed(_) => std::mem::take(&mut upstream.is_writing),
            };
        if !may_happen {
            return;
        }
        match event {
            Event::Connected => upstream.is_connected = true,
            Event::ConnectFailed(_) => upstream.has_failed = true,
            _ => {}
        }
        self.report(key, event, slot_count);
    }

    fn report(&mut self, key: UpstreamKey, event: Event, slot_count: usize) {
        let world = &mut self.world;
        let now = world.now;
        let event = match event {
            Event::Connected => UpstreamEvent::Connected,
            Event::ConnectFailed(fault) => UpstreamEvent::ConnectFailed(fault_of(fault)),
            // A receive without bytes is the end.
            Event::Received(bytes) if bytes.is_empty() => UpstreamEvent::End,
            Event::Received(bytes) => UpstreamEvent::Received(world.received(&bytes)),
            Event::ReceivedParts(first, last) => {
                if slot_count > 1 && !first.is_empty() {
                    let part = UpstreamEvent::ReceivedPart(world.received(&first));
                    world.gateway.handle_upstream(now, key, part);
                }
                match last.is_empty() {
                    true => UpstreamEvent::Received(world.received(b"x")),
                    false => UpstreamEvent::Received(world.received(&last)),
                }
            }
            Event::End => UpstreamEvent::End,
            Event::Failed(fault) => UpstreamEvent::Failed(fault_of(fault)),
            Event::Wrote => UpstreamEvent::Wrote,
            Event::WriteFailed(fault) => UpstreamEvent::WriteFailed(fault_of(fault)),
        };
        world.gateway.handle_upstream(now, key, event);
    }

    /// Lets the clients leave and the upstreams end, waits, and checks that nothing is left.
    fn end(mut self) {
        self.world.gateway.set_memory_low(false);
        for index in 0..self.clients.len() {
            self.clients[index].close(self.world.now, 0);
            self.exchange(index);
        }
        // Twice the longest timeout.
        for _ in 0..10 {
            self.end_upstreams();
            self.world.pass(Duration::from_secs(12));
        }
        self.end_upstreams();
        self.world.assert_at_rest();
    }

    fn end_upstreams(&mut self) {
        let keys: Vec<UpstreamKey> = self.world.books.upstreams.keys().copied().collect();
        for key in keys {
            for event in [Event::ConnectFailed(0), Event::WriteFailed(1), Event::End] {
                let upstreams = &self.world.books.upstreams;
                if let Some(index) = upstreams.keys().position(|open| *open == key) {
                    self.upstream(index as u8, event);
                    self.world.settle();
                }
            }
        }
    }
}

/// Returns a request with a body, whose length is not announced.
fn ask(method: &[u8], body: &[u8]) -> Vec<u8> {
    let head = section(&[
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/"),
    ]);
    let mut frames = frame(HEADERS, &head);
    if !body.is_empty() {
        frames.extend(frame(DATA, body));
    }
    frames
}

fn fault_of(number: u8) -> TransportFault {
    let faults = [
        TransportFault::Refused,
        TransportFault::Reset,
        TransportFault::Unreachable,
        TransportFault::TimedOut,
        TransportFault::Exhausted(Resource::Descriptor),
        TransportFault::Other,
    ];
    faults[usize::from(number) % faults.len()]
}
