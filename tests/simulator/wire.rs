//! The kernel's side of upstream connections: takes the gateway's operations, completes them in any
//! legal order, and injects faults.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use ringway::testing::internal::limits::{SLOT_LEN, UPSTREAM_WRITE_PIECES_MAX};
use ringway::testing::internal::pool::Pool;
use ringway::testing::internal::proxy::{Resource, TransportFault, UpstreamEvent, UpstreamKey};

use crate::origin::{Conversation, Ending};
use crate::plan::Ask;

/// The faults between the gateway and its upstreams.
#[derive(Debug, Clone, Copy)]
pub struct Troubles {
    /// Chance that a connect fails.
    pub connect_fails: f64,
    /// Chance that a connect is never answered.
    pub connect_hangs: f64,
    /// Chance that a connection breaks at a receive or at a write.
    pub breaks: f64,
    /// Chance that the origin reads a write only seconds later.
    pub stalls: f64,
    /// Maximum delay of a completion.
    pub delay: Duration,
    /// Maximum length of a piece of a receive.
    pub piece_len_max: usize,
}

impl Troubles {
    pub const NONE: Self = Self {
        connect_fails: 0.0,
        connect_hangs: 0.0,
        breaks: 0.0,
        stalls: 0.0,
        delay: Duration::ZERO,
        piece_len_max: 64 * 1024,
    };
}

/// A scheduled event on an upstream connection.
pub enum Arrival {
    /// The gateway gets a completion.
    Told(UpstreamEvent),
    /// Bytes reach the origin.
    Reached,
    /// The kernel checks whether there are bytes to receive.
    Look,
    /// The completion of an operation that was in flight at the close.
    Stale,
}

/// An arrival for a connection, with its delay.
pub type Due = (Duration, UpstreamKey, Arrival);

struct Wire {
    conversation: Conversation,
    /// Writes in flight to the origin; they arrive in order.
    under_way: VecDeque<Vec<Bytes>>,
    write_count: usize,
    writing: bool,
    receiving: bool,
    /// The peer has reset the connection.
    broken: bool,
    /// Whether an end or a failure was reported.
    ended: bool,
    given_len: usize,
    given_to: usize,
}

pub struct Wires {
    troubles: Troubles,
    rng: SmallRng,
    asks: Rc<Vec<Ask>>,
    wires: BTreeMap<u64, Wire>,
    /// How often the head of each request reached the origin.
    pub heads: BTreeMap<usize, usize>,
    /// Bytes of the response to each request that the gateway received at its last try.
    pub given: BTreeMap<usize, usize>,
    /// Connections waiting for a slot to receive into.
    slotless: Vec<UpstreamKey>,
    /// The remaining pieces of a receive that filled several slots; they are reported at once.
    rest: Option<UpstreamEvent>,
    /// Number of pieces for which no slot was free.
    pub starved_count: u64,
    /// Number of completions for dead keys.
    pub stale_count: u64,
}

impl Wires {
    pub fn new(seed: u64, troubles: Troubles, asks: Rc<Vec<Ask>>) -> Self {
        Self {
            troubles,
            rng: SmallRng::seed_from_u64(seed ^ 0x7769_7265),
            asks,
            wires: BTreeMap::new(),
            heads: BTreeMap::new(),
            given: BTreeMap::new(),
            slotless: Vec::new(),
            rest: None,
            starved_count: 0,
            stale_count: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.wires.is_empty()
    }

    /// Returns for each connection the request it reads with the body length received, and the
    /// response it sends with the length sent.
    pub fn flows(&self) -> impl Iterator<Item = ((usize, usize), (usize, usize))> {
        // A broken connection receives no more: later bytes for it are dropped.
        let busy = self.wires.values().filter(|wire| wire.write_count > 0 && !wire.broken);
        busy.map(|wire| (wire.conversation.request(), (wire.given_to, wire.given_len)))
    }

    pub fn connect(&mut self, key: UpstreamKey) -> Option<Due> {
        let wire = Wire {
            conversation: Conversation::new(Rc::clone(&self.asks)),
            under_way: VecDeque::new(),
            write_count: 0,
            writing: false,
            receiving: false,
            broken: false,
            ended: false,
            given_len: 0,
            given_to: usize::MAX,
        };
        assert!(
            self.wires.insert(key.to_bits(), wire).is_none(),
            "a key in use was assigned again"
        );
        if self.rng.random_bool(self.troubles.connect_hangs) {
            return None;
        }
        let event = if self.rng.random_bool(self.troubles.connect_fails) {
            let faults = [
                TransportFault::Refused,
                TransportFault::Unreachable,
                TransportFault::TimedOut,
                TransportFault::Exhausted(Resource::Descriptor),
            ];
            UpstreamEvent::ConnectFailed(faults[self.rng.random_range(0..faults.len())])
        } else {
            UpstreamEvent::Connected
        };
        Some((self.delay(), key, Arrival::Told(event)))
    }

    pub fn write(&mut self, key: UpstreamKey, pieces: Vec<Bytes>) -> Vec<Due> {
        let breaks = self.rng.random_bool(self.troubles.breaks);
        let (first, mut second) = (self.delay(), self.delay());
        if self.rng.random_bool(self.troubles.stalls) {
            second += STALL.mul_f64(self.rng.random_range(0.0..1.0));
        }
        let wire = self.wires.get_mut(&key.to_bits()).expect("written to while it is open");
        assert!(!std::mem::replace(&mut wire.writing, true), "one write at a time");
        assert!(!pieces.is_empty() && pieces.len() <= UPSTREAM_WRITE_PIECES_MAX);
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "no piece is empty");
        wire.write_count += 1;
        // Bytes that arrive while a request is in flight would be taken for its response: HTTP/1.1
        // has no remedy.
        wire.conversation.sendings.retain(|sending| !sending.only_idle);
        if breaks || wire.broken {
            wire.broken = true;
            let event = UpstreamEvent::WriteFailed(TransportFault::Reset);
            return vec![(first, key, Arrival::Told(event)), (second, key, Arrival::Look)];
        }
        // The origin may have responded before the kernel completes the write.
        wire.under_way.push_back(pieces);
        vec![(first, key, Arrival::Reached), (second, key, Arrival::Told(UpstreamEvent::Wrote))]
    }

    pub fn receive(&mut self, key: UpstreamKey) -> Due {
        let delay = self.delay();
        let wire = self.wires.get_mut(&key.to_bits()).expect("read from while it is open");
        assert!(!std::mem::replace(&mut wire.receiving, true), "one receive at a time");
        assert!(!wire.ended, "read from after its end");
        (delay, key, Arrival::Look)
    }

    /// Closes the connection; operations in flight may still complete.
    pub fn close(&mut self, key: UpstreamKey) -> Option<Due> {
        let wire = self.wires.remove(&key.to_bits()).expect("closed once");
        let stale = wire.receiving && self.rng.random_bool(0.5);
        stale.then(|| (self.delay(), key, Arrival::Stale))
    }

    /// Returns the connections to check again now that a slot may be free.
    pub fn take_slotless(&mut self) -> Vec<UpstreamKey> {
        std::mem::take(&mut self.slotless)
    }

    /// Returns the event that must directly follow the last one reported.
    pub fn take_rest(&mut self) -> Option<UpstreamEvent> {
        self.rest.take()
    }

    /// Handles an arrival. Returns the event for the gateway; later arrivals are scheduled.
    pub fn arrive(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        arrival: Arrival,
        pool: &Pool,
    ) -> (Option<UpstreamEvent>, Option<Due>) {
        let wire = self.wires.get_mut(&key.to_bits());
        match (arrival, wire) {
            (Arrival::Told(event), wire) => {
                self.stale_count += u64::from(wire.is_none());
                let is_write =
                    matches!(event, UpstreamEvent::Wrote | UpstreamEvent::WriteFailed(_));
                if let (true, Some(wire)) = (is_write, wire) {
                    wire.writing = false;
                }
                (Some(event), None)
            }
            (Arrival::Reached, Some(wire)) => {
                for piece in wire.under_way.pop_front().expect("one for each write") {
                    wire.conversation.handle(now, &piece);
                }
                for id in std::mem::take(&mut wire.conversation.heads) {
                    (wire.given_to, wire.given_len) = (id, 0);
                    *self.heads.entry(id).or_default() += 1;
                    self.given.insert(id, 0);
                }
                (None, Some((self.delay(), key, Arrival::Look)))
            }
            (Arrival::Look, Some(_)) => self.look(now, key, pool),
            (Arrival::Stale, None) => (self.stale(pool), None),
            (Arrival::Stale, Some(_)) => panic!("a closed key was assigned again"),
            (Arrival::Reached | Arrival::Look, None) => (None, None),
        }
    }

    /// Returns the result of a receive.
    fn look(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        pool: &Pool,
    ) -> (Option<UpstreamEvent>, Option<Due>) {
        let breaks = self.rng.random_bool(self.troubles.breaks);
        let len = self.piece_len();
        let cut = self.rng.random_bool(0.2).then(|| self.rng.random_range(1..=len));
        let wire = self.wires.get_mut(&key.to_bits()).expect("looked up by the caller");
        if !wire.receiving || wire.ended {
            return (None, None);
        }
        let sendings = &mut wire.conversation.sendings;
        if let Some(first) = sendings.front()
            && first.ready > now
        {
            return (None, Some((first.ready - now, key, Arrival::Look)));
        }
        if breaks || wire.broken && sendings.is_empty() {
            (wire.broken, wire.ended, wire.receiving) = (true, true, false);
            return (Some(UpstreamEvent::Failed(TransportFault::Reset)), None);
        }
        let Some(first) = sendings.front_mut() else {
            let Some(ending) = wire.conversation.ending else { return (None, None) };
            (wire.ended, wire.receiving) = (true, false);
            wire.broken = ending == Ending::Reset;
            return match ending {
                Ending::Close => (Some(UpstreamEvent::End), None),
                Ending::Reset => (Some(UpstreamEvent::Failed(TransportFault::Reset)), None),
            };
        };
        let mut len = len.min(first.bytes.len());
        if first.glue == Some(len) {
            len += 1;
        }
        let Some(mut slot) = fill(pool, &first.bytes[..len]) else {
            self.slotless.push(key);
            self.starved_count += 1;
            return (None, None);
        };
        let _given = first.bytes.split_to(len);
        first.glue = first.glue.and_then(|glue| glue.checked_sub(len));
        if first.bytes.is_empty() {
            sendings.pop_front();
        }
        wire.receiving = false;
        wire.given_len += len;
        *self.given.entry(wire.given_to).or_default() += len;
        if let Some(cut) = cut.filter(|cut| *cut < len) {
            let rest = slot.split_off(cut);
            self.rest = Some(UpstreamEvent::Received(rest));
            return (Some(UpstreamEvent::ReceivedPart(slot)), None);
        }
        (Some(UpstreamEvent::Received(slot)), None)
    }

    /// Returns a completion for a connection that is already closed: its dead key must be ignored.
    fn stale(&mut self, pool: &Pool) -> Option<UpstreamEvent> {
        self.stale_count += 1;
        let poison = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale";
        match self.rng.random_range(0..3) {
            0 => Some(UpstreamEvent::End),
            1 => Some(UpstreamEvent::Failed(TransportFault::Other)),
            _ => fill(pool, poison).map(UpstreamEvent::Received),
        }
    }

    fn piece_len(&mut self) -> usize {
        let most = self.troubles.piece_len_max;
        match self.rng.random_range(0..20) {
            0 => 1,
            1 => self.rng.random_range(1..=most.min(200)),
            2..6 => self.rng.random_range(1..=most),
            _ => most,
        }
    }

    fn delay(&mut self) -> Duration {
        let late = self.troubles.delay.mul_f64(self.rng.random_range(0.0..1.0));
        // Most completions are fast.
        if self.rng.random_bool(0.1) { DELAY + late } else { DELAY + late / 50 }
    }
}

fn fill(pool: &Pool, bytes: &[u8]) -> Option<BytesMut> {
    let mut slot = pool.lease()?.into_bytes_mut();
    assert!(bytes.len() <= SLOT_LEN);
    slot.extend_from_slice(bytes);
    Some(slot)
}

/// The longest stall of a write; every timeout of a response is longer.
const STALL: Duration = Duration::from_secs(4);
/// Minimum delay of a completion.
const DELAY: Duration = Duration::from_micros(200);
