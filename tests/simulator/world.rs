//! One simulated world: clients, a network, a kernel, the gateway, origins, and a clock that jumps.
//!
//! Everything that happens is an event in one queue, ordered by virtual time and then by the order
//! in which it was queued. Datagrams for the gateway lie in slots of a real pool, so that slots can
//! be counted at each step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringway::testing::internal::gateway::{Gateway, Output};
use ringway::testing::internal::pool::Pool;
use ringway::testing::internal::proxy::{UpstreamCommand, UpstreamKey};
use ringway::testing::internal::quic::Transmit;

use crate::books::{Books, Sums};
use crate::client::Client;
use crate::fixture::{self, Built};
use crate::kernel::Socket;
use crate::network::Network;
use crate::request::Got;
use crate::scenario::Scenario;
use crate::stranger::{self, Forged};
use crate::wire::{Arrival, Due, Wires};

/// An event of the world.
enum Happening {
    ToGateway { from: SocketAddr, ecn: u8, datagram: Vec<u8> },
    ToClient { to: SocketAddr, ecn: u8, datagram: Vec<u8> },
    Sent(u64),
    Upstream { key: UpstreamKey, arrival: Arrival },
    Reload,
    Drain,
}

/// Counters of events, by name.
pub type Marks = BTreeMap<String, u64>;

pub struct World {
    now: Instant,
    started: Instant,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    gateway: Gateway,
    gateway_deadline: Option<Instant>,
    window_budget: u64,
    free_at_start: u32,
    pool: Rc<Pool>,
    socket: Socket,
    network: Network,
    wires: Wires,
    clients: Vec<Client>,
    transmit_buffer: Option<Vec<u8>>,
    hash: DefaultHasher,
    step_count: u64,
    /// Reloads and drains that occurred while exchanges were in flight.
    reload_count: u64,
    drain_count: u64,
    forged_count: u64,
    pub books: Books,
    pub scenario: Scenario,
}

impl World {
    pub fn new(seed: u64, scenario: Scenario, pool: Rc<Pool>) -> Self {
        let Built { now, gateway, clients } = fixture::build(seed, &scenario);
        let asks = Rc::new(scenario.clients.iter().flat_map(|(_, asks)| asks.clone()).collect());
        let free_at_start = pool.counts().free;
        let mut world = Self {
            now,
            started: now,
            sequence: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            window_budget: gateway.engine().window_budget_left(),
            gateway,
            gateway_deadline: None,
            free_at_start,
            socket: Socket::new(seed, scenario.socket, Rc::clone(&pool)),
            pool,
            network: Network::new(seed, scenario.weather),
            wires: Wires::new(seed, scenario.troubles, asks),
            clients,
            transmit_buffer: None,
            hash: DefaultHasher::new(),
            step_count: 0,
            reload_count: 0,
            drain_count: 0,
            forged_count: 0,
            books: Books::new(&scenario),
            scenario,
        };
        for Forged { after, from, datagram } in
            world.scenario.flood.map_or(Vec::new(), |flood| stranger::forge(seed, flood))
        {
            world.forged_count += 1;
            world.queue(after, Happening::ToGateway { from, ecn: 0, datagram });
        }
        if let Some(after) = world.scenario.reload {
            world.queue(after, Happening::Reload);
        }
        if let Some(after) = world.scenario.drain {
            world.queue(after, Happening::Drain);
        }
        world
    }

    /// Runs until no event is left. Returns a hash over all events.
    pub fn run(&mut self) -> u64 {
        let total = self.pool.counts().total;
        self.drive_clients();
        self.run_gateway();
        while self.step() {
            self.step_count += 1;
            let passed = self.now - self.started;
            if self.step_count >= STEPS_MAX || passed >= PASSED_MAX {
                panic!("the world does not become idle: {}", self.unrest());
            }
            let counts = self.pool.counts();
            let sum = counts.free + counts.owned + counts.provided + counts.in_kernel;
            assert_eq!(sum, total, "slots are conserved: {counts:?}");
            if self.gateway.engine().counts().open == 0 {
                let count = self.gateway.proxy().gauges().exchanges;
                assert_eq!(count, 0, "no exchange outlives its client's connection");
            }
            self.books.check_held(&self.clients, self.wires.flows());
            let waiting_len = self.gateway.responses_waiting_len();
            self.books.check_shares(&self.clients, &self.wires.given, waiting_len);
        }
        self.hash.finish()
    }

    /// Describes the remaining work, for failure messages.
    fn unrest(&mut self) -> String {
        let (now, pool) = (self.now, self.pool.counts());
        let past = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        let clients: Vec<_> = self.clients.iter_mut().map(|client| client.unrest(now)).collect();
        format!(
            "after {:?}; gateway due in {:?}, {:?}, {:?}; queue {}; clients {clients:?}; {pool:?}",
            now - self.started,
            past(self.gateway_deadline),
            self.gateway.proxy().gauges(),
            self.gateway.engine().counts(),
            self.queue.len(),
        )
    }

    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Returns the counters that show whether the world exercised anything of interest.
    pub fn marks(&self) -> Marks {
        let (counters, stats) = (self.gateway.proxy().counters(), self.gateway.engine().stats());
        let network = &self.network.counts;
        let lost = self.clients.iter().filter(|client| client.is_out_of_reach());
        // With harsh faults any connection may be lost.
        let lost_count = if self.scenario.weather.is_harsh() { 0 } else { lost.count() };
        let counted = [
            ("upstream connect failures", counters.connect_failures),
            ("requests over kept connections", counters.exported.upstream_reuses),
            ("receives held back", counters.receives_paused),
            ("second tries", counters.exported.upstream_retries),
            ("kept connections discarded", counters.exported.upstream_idle_discarded),
            ("Retry packets", stats.retries),
            ("forged Initials", self.forged_count),
            ("handshakes that failed", stats.handshakes_failed),
            ("packets lost", stats.packets_lost),
            ("datagrams without a slot", self.socket.starved_count as u64),
            ("upstream pieces without a slot", self.wires.starved_count),
            ("completions for dead keys", self.wires.stale_count),
            ("datagrams lost in bursts", network.lost_in_bursts),
            ("datagrams lost in blackouts", network.lost_in_blackouts),
            ("datagrams longer than the MTU", network.too_long),
            ("datagrams corrupted", network.corrupted),
            ("datagrams marked by congestion", network.marked),
            ("datagrams doubled", network.doubled),
            ("sends refused", self.socket.refused_count),
            (OUT_OF_REACH_MARK, lost_count as u64),
            ("moves of clients", self.clients.iter().map(|client| client.move_count).sum()),
            ("reloads", self.reload_count),
            ("drains", self.drain_count),
            ("steps", self.step_count),
        ];
        let mut marks: Marks = counted.map(|(mark, count)| (mark.to_owned(), count)).into();
        for request in self.clients.iter().flat_map(|client| &client.requests) {
            let mark = request.got.as_ref().map_or("no outcome".to_owned(), Got::mark);
            *marks.entry(mark).or_default() += 1;
        }
        marks
    }

    /// Returns how often the head of each request reached an origin.
    pub fn heads(&self) -> &BTreeMap<usize, usize> {
        &self.wires.heads
    }

    /// Asserts that no exchange, no connection and no slot is left in use.
    pub fn assert_at_rest(mut self) {
        let proxy = self.gateway.proxy();
        assert_eq!(proxy.gauges(), Default::default(), "the proxy holds nothing");
        let counted = Sums::counted(&self.gateway);
        assert_eq!(self.books.sums, counted, "sums over the access log are what was counted");
        assert!(self.gateway.is_idle(), "no connection and no exchange is left");
        let counts = self.gateway.engine().counts();
        assert_eq!(counts.open + counts.handshaking + counts.closing, 0, "{counts:?}");
        let budget = self.gateway.engine().window_budget_left();
        assert_eq!(budget, self.window_budget, "the window budget is fully restored");
        assert_eq!(self.gateway.held_len(), 0, "nothing is charged to anybody");
        assert!(self.wires.is_empty(), "every upstream connection was closed");
        assert_eq!(self.gateway.responses_waiting_len(), 0, "no response is waiting");
        self.transmit_buffer = None;
        drop(self.gateway);
        drop(self.wires);
        self.socket.close();
        let counts = self.pool.counts();
        assert_eq!(counts.free, self.free_at_start, "every slot was returned: {counts:?}");
    }

    /// Handles one event or one deadline. Returns false when none is left.
    fn step(&mut self) -> bool {
        let event_at = self.queue.peek().map(|Reverse((at, _))| *at);
        let clients = self.clients.iter_mut();
        let client_at = clients.filter_map(Client::next_deadline).min();
        let deadlines = [event_at, self.gateway_deadline, client_at];
        let Some(next) = deadlines.into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied()
            && at <= self.now
        {
            self.queue.pop();
            let happening = self.happenings.remove(&sequence).expect("queued with its key");
            self.happen(happening);
        }
        for datagram in self.socket.deliver() {
            self.gateway.handle_datagram(self.now, datagram);
        }
        for key in self.wires.take_slotless() {
            self.arrive(key, Arrival::Look);
        }
        let now = self.now;
        for client in &mut self.clients {
            if client.next_deadline().is_some_and(|deadline| deadline <= now) {
                client.handle_timeout(now);
            }
        }
        self.gateway.handle_timeout(now);
        self.drive_clients();
        self.run_gateway();
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToGateway { from, ecn, datagram } => {
                self.note(1, datagram.len());
                self.socket.take_in(from, ecn, datagram);
            }
            Happening::ToClient { to, ecn, datagram } => {
                self.note(2, datagram.len());
                // A client that has moved does not receive datagrams sent to its old address.
                let client = self.clients.iter_mut().find(|client| client.address == to);
                if let Some(client) = client {
                    client.handle_datagram(self.now, fixture::GATEWAY, ecn, &datagram);
                }
            }
            Happening::Sent(number) => {
                if let Some((transmit, datagrams)) = self.socket.sent(number) {
                    self.carry(&transmit, datagrams);
                }
            }
            Happening::Upstream { key, arrival } => self.arrive(key, arrival),
            Happening::Reload => {
                self.reload_count += u64::from(!self.gateway.is_idle());
                fixture::reload(self.now, &mut self.gateway, &self.scenario);
            }
            Happening::Drain => {
                self.drain_count += u64::from(!self.gateway.is_idle());
                self.gateway.drain(self.now, self.now + DRAIN_TIMEOUT);
            }
        }
    }

    fn arrive(&mut self, key: UpstreamKey, arrival: Arrival) {
        let (event, due) = self.wires.arrive(self.now, key, arrival, &self.pool);
        self.queue_due(due);
        if let Some(event) = event {
            self.note(5, key.index());
            self.gateway.handle_upstream(self.now, key, event);
        }
        if let Some(rest) = self.wires.take_rest() {
            self.gateway.handle_upstream(self.now, key, rest);
        }
    }

    fn run_gateway(&mut self) {
        self.gateway.set_memory_low(self.pool.is_low());
        loop {
            self.carry_out();
            let Some(mut buffer) = self.transmit_buffer.take().or_else(|| self.pool.lease_vec())
            else {
                break;
            };
            let Some(transmit) = self.gateway.poll_transmit(self.now, &mut buffer) else {
                self.transmit_buffer = Some(buffer);
                break;
            };
            let to = transmit.destination;
            let client = self.clients.iter_mut().find(|client| client.address == to);
            if let Some(account) = client.and_then(|client| client.account.as_mut()) {
                account.give(transmit.len);
            }
            let (number, delay) = self.socket.send(transmit, buffer);
            self.queue(delay, Happening::Sent(number));
        }
        self.gateway_deadline = self.gateway.next_deadline();
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.gateway.poll(self.now) {
            match output {
                Output::Upstream(command) => self.carry_out_upstream(command),
                Output::Access(record) => {
                    self.note(6, record.response_len as usize);
                    self.books.take(*record);
                }
                Output::Tcp(_) | Output::Incident(_) => {}
            }
        }
    }

    fn carry_out_upstream(&mut self, command: UpstreamCommand) {
        match command {
            UpstreamCommand::Connect { key, .. } => {
                self.note(3, key.index());
                let due = self.wires.connect(key);
                self.queue_due(due);
            }
            UpstreamCommand::Write { key, pieces } => {
                self.note(4, pieces.iter().map(Bytes::len).sum());
                let dues = self.wires.write(key, pieces);
                self.queue_due(dues);
            }
            UpstreamCommand::Receive { key, .. } => {
                let due = self.wires.receive(key);
                self.queue_due(Some(due));
            }
            UpstreamCommand::Close { key } => {
                let due = self.wires.close(key);
                self.queue_due(due);
            }
        }
    }

    /// Sends the datagrams of a batch towards a client.
    fn carry(&mut self, transmit: &Transmit, datagrams: Vec<Vec<u8>>) {
        let at = self.now - self.started;
        let to = transmit.destination;
        for mut datagram in datagrams {
            let mut ecn = transmit.ecn;
            for delay in self.network.carry(at, &mut datagram, &mut ecn) {
                let datagram = datagram.clone();
                self.queue(delay, Happening::ToClient { to, ecn, datagram });
            }
        }
    }

    fn drive_clients(&mut self) {
        let at = self.now - self.started;
        for index in 0..self.clients.len() {
            let sent = self.clients[index].drive(self.now);
            let from = self.clients[index].address;
            for mut sent in sent {
                let whole = sent.bytes.clone();
                let delays = self.network.carry(at, &mut sent.bytes, &mut sent.ecn);
                if let Some(account) = self.clients[index].account.as_mut()
                    && sent.bytes == whole
                {
                    account.earn(whole.len(), delays.len());
                }
                for delay in delays {
                    let (ecn, datagram) = (sent.ecn, sent.bytes.clone());
                    self.queue(delay, Happening::ToGateway { from, ecn, datagram });
                }
            }
        }
    }

    fn queue_due(&mut self, dues: impl IntoIterator<Item = Due>) {
        for (delay, key, arrival) in dues {
            self.queue(delay, Happening::Upstream { key, arrival });
        }
    }

    fn queue(&mut self, delay: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + delay, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn note(&mut self, kind: u8, len: usize) {
        (kind, len, self.now - self.started).hash(&mut self.hash);
    }
}

/// Counter of clients lost because the gateway could not send another challenge to their new
/// address.
pub const OUT_OF_REACH_MARK: &str = "clients out of reach";

/// Maximum duration of a drain.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

const STEPS_MAX: u64 = 500_000;
/// Deadline of a world. No single wait is longer than a minute, so a world that is not done by then
/// hangs.
const PASSED_MAX: Duration = Duration::from_secs(1_200);
