//! The socket, the endpoint, the timers: one loop over all connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, NoneTokenStore,
    TransportConfig, VarInt,
};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use ringway::testing;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::link::{Link, Request};
use crate::work::Work;
use crate::{Arguments, Done, Failure, now, tls};

const DATAGRAMS_LEN: usize = 64 * 1024;
const SOCKET_BUFFER_LEN: usize = 8 << 20;
const SEGMENTS_MAX: usize = 32;
/// Maximum concurrent handshakes during setup: more would only queue in the server.
const OPENING_MAX: usize = 64;

struct Client {
    server: SocketAddr,
    host: String,
    config: ClientConfig,
    endpoint: Endpoint,
    socket: UdpSocket,
    udp: UdpSocketState,
    links: BTreeMap<usize, Link>,
    timers: BTreeSet<(Instant, usize)>,
    /// Connections that must be driven.
    dirty: Vec<usize>,
    opening_count: usize,
    request: Arc<Request>,
    streams_max: usize,
    /// Each request has a connection of its own.
    renews: bool,
    /// Number of requests that a connection may make.
    requests_each: u64,
    work: Work,
    /// Whether the requests may begin.
    is_open: bool,
    loss: f64,
    /// Chooses the datagrams to drop, the same in each run.
    random: SmallRng,
    arrived: Vec<Vec<u8>>,
    outgoing: Vec<u8>,
}

/// Runs the load that the arguments describe.
pub fn run(server: SocketAddr, arguments: &Arguments) -> Result<Done, Failure> {
    let mut client = Client::new(server, arguments)?;
    let wanted = arguments.connections as usize;
    if arguments.handshakes {
        client.work.restart(now());
        client.is_open = true;
        client.until(|client| client.renew(wanted))?;
    } else {
        client.until(|client| client.fill(wanted))?;
        client.work.restart(now());
        client.is_open = true;
        client.dirty.extend(client.links.keys());
        client.until(|client| {
            client.fill(wanted)?;
            Ok(client.work.is_done())
        })?;
    }
    let took = now() - client.work.counted_from();
    let end = now() + Duration::from_secs_f64(arguments.hold);
    client.timers.insert((end, usize::MAX));
    client.until(|_| Ok(now() >= end))?;
    client.close_all()?;
    let Work { response_len, latency_micros, failures, .. } = client.work;
    Ok(Done { took, response_len, latency_micros, failures })
}

/// Returns the time after which a silent server is given up.
fn idle_timeout(arguments: &Arguments) -> Duration {
    match arguments.patience {
        Some(seconds) if arguments.handshakes => Duration::from_secs_f64(seconds),
        _ => Duration::from_secs(120),
    }
}

impl Client {
    fn new(server: SocketAddr, arguments: &Arguments) -> Result<Self, Failure> {
        let mut config = testing::quic_client(tls::config());
        if arguments.no_tokens {
            config.token_store(Arc::new(NoneTokenStore));
        }
        let mut transport = TransportConfig::default();
        transport
            .receive_window(VarInt::from_u32(64 << 20))
            .stream_receive_window(VarInt::from_u32(16 << 20))
            .send_window(64 << 20)
            .max_idle_timeout(Some(idle_timeout(arguments).try_into()?));
        config.transport_config(Arc::new(transport));
        let ip = if server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind(SocketAddr::new(ip, 0))?;
        let udp = UdpSocketState::new((&socket).into())?;
        udp.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER_LEN)?;
        udp.set_send_buffer_size((&socket).into(), SOCKET_BUFFER_LEN)?;
        Ok(Self {
            server,
            host: arguments.host.clone(),
            config,
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None),
            socket,
            udp,
            links: BTreeMap::new(),
            timers: BTreeSet::new(),
            dirty: Vec::new(),
            opening_count: 0,
            request: Request::new(arguments),
            streams_max: arguments.streams as usize,
            renews: arguments.handshakes,
            requests_each: if arguments.handshakes { 1 } else { u64::MAX },
            work: Work::new(now(), arguments)?,
            is_open: false,
            loss: arguments.loss.clamp(0.0, 1.0),
            random: SmallRng::seed_from_u64(1),
            arrived: vec![vec![0; DATAGRAMS_LEN]; BATCH_SIZE],
            outgoing: Vec::with_capacity(DATAGRAMS_LEN),
        })
    }

    fn connect(&mut self, due: Option<Instant>) -> Result<(), Failure> {
        let config = self.config.clone();
        let (handle, connection) = self.endpoint.connect(now(), config, self.server, &self.host)?;
        let request = Arc::clone(&self.request);
        let link = Link::new(connection, request, self.streams_max, self.requests_each, due);
        self.links.insert(handle.0, link);
        self.dirty.push(handle.0);
        self.opening_count += 1;
        Ok(())
    }

    /// Opens connections until there are `wanted`. Returns true once all are established.
    fn fill(&mut self, wanted: usize) -> Result<bool, Failure> {
        while self.links.len() < wanted && self.opening_count < OPENING_MAX {
            self.connect(None)?;
        }
        Ok(self.links.len() == wanted && self.opening_count == 0)
    }

    /// Gives each request a connection of its own, `wanted` at a time. Returns true once all are
    /// answered.
    fn renew(&mut self, wanted: usize) -> Result<bool, Failure> {
        let at = now();
        for (&index, link) in self.links.iter_mut().filter(|(_, link)| link.is_used_up()) {
            if !link.connection.is_closed() {
                link.close(at);
                self.dirty.push(index);
            }
        }
        let open = self.links.values().filter(|link| !link.connection.is_closed()).count();
        for _ in open..wanted {
            let due = if self.work.is_by_clock() { self.work.begin(at) } else { None };
            if due.is_some() || !self.work.is_by_clock() && self.work.next_due(at).is_some() {
                self.connect(due)?;
            }
        }
        Ok(self.work.is_done())
    }

    /// Runs the loop until `is_done`.
    fn until(
        &mut self,
        mut is_done: impl FnMut(&mut Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        loop {
            while self.receive()? {}
            let at = now();
            while let Some(&(due, index)) = self.timers.first().filter(|(due, _)| *due <= at) {
                self.timers.remove(&(due, index));
                if let Some(link) = self.links.get_mut(&index) {
                    link.timer = None;
                    link.connection.handle_timeout(at);
                    self.dirty.push(index);
                }
            }
            if self.is_open && self.work.is_by_clock() {
                self.work.give_up_overdue(at)?;
            }
            self.begin_due(at)?;
            self.drive(at)?;
            if is_done(self)? {
                return Ok(());
            }
            if self.dirty.is_empty() {
                self.wait(at)?;
            }
        }
    }

    /// Assigns due requests to the connections with the fewest requests (open loop).
    fn begin_due(&mut self, at: Instant) -> Result<(), Failure> {
        while self.is_open && self.work.is_by_clock() && !self.renews {
            let free = self.links.iter_mut().filter(|(_, link)| link.has_room());
            let Some((&index, link)) = free.min_by_key(|(_, link)| link.in_flight()) else { break };
            if !link.begin_request(at, &mut self.work)? {
                break;
            }
            self.dirty.push(index);
        }
        Ok(())
    }

    fn wait(&mut self, at: Instant) -> Result<(), Failure> {
        let timer = self.timers.first().map(|(due, _)| *due);
        // A request that is already due waits for room, which a response makes.
        let due = self.work.next_due(at).filter(|due| self.is_open && *due > at);
        let end = timer.into_iter().chain(due).min();
        let left = end.map(|end| end.saturating_duration_since(now()));
        let left = left.map(Timespec::try_from).transpose()?;
        poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], left.as_ref())?;
        Ok(())
    }

    /// Receives one batch from the socket. Returns false when there is none.
    fn receive(&mut self) -> Result<bool, Failure> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut slices: Vec<IoSliceMut<'_>> =
            self.arrived.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let received = self.udp.recv((&self.socket).into(), &mut slices, &mut metas);
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        drop(slices);
        let at = now();
        for (place, meta) in metas.iter().enumerate().take(count) {
            let mut bundle = BytesMut::from(&self.arrived[place][..meta.len]);
            while !bundle.is_empty() {
                let datagram = bundle.split_to(meta.stride.min(bundle.len()));
                if self.loss > 0.0 && self.random.random_bool(self.loss) {
                    continue;
                }
                self.handle_datagram(at, meta, datagram);
            }
        }
        Ok(true)
    }

    fn handle_datagram(&mut self, at: Instant, meta: &RecvMeta, datagram: BytesMut) {
        let ecn = meta.ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        self.outgoing.clear();
        let event =
            self.endpoint.handle(at, meta.addr, meta.dst_ip, ecn, datagram, &mut self.outgoing);
        if let Some(DatagramEvent::ConnectionEvent(handle, event)) = event
            && let Some(link) = self.links.get_mut(&handle.0)
        {
            link.connection.handle_event(event);
            if self.dirty.last() != Some(&handle.0) {
                self.dirty.push(handle.0);
            }
        }
    }

    /// Drives each connection that had an event and sends its datagrams.
    fn drive(&mut self, at: Instant) -> Result<(), Failure> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        for index in dirty.drain(..) {
            self.drive_one(at, index)?;
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
        Ok(())
    }

    fn drive_one(&mut self, at: Instant, index: usize) -> Result<(), Failure> {
        let Some(link) = self.links.get_mut(&index) else { return Ok(()) };
        let was_opening = link.is_opening();
        link.handle_events(at, &mut self.work)?;
        self.opening_count -= usize::from(was_opening && !link.is_opening());
        if !link.connection.is_closed() {
            let begins = self.is_open && (!self.work.is_by_clock() || link.is_due());
            while begins && link.begin_request(at, &mut self.work)? {}
        }
        let mut is_gone = false;
        while let Some(event) = link.connection.poll_endpoint_events() {
            is_gone |= event.is_drained();
            let reply = self.endpoint.handle_event(ConnectionHandle(index), event);
            if let Some(reply) = reply {
                link.connection.handle_event(reply);
            }
        }
        loop {
            self.outgoing.clear();
            let transmit = link.connection.poll_transmit(at, SEGMENTS_MAX, &mut self.outgoing);
            let Some(transmit) = transmit else { break };
            let outgoing = quinn_udp::Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
                contents: &self.outgoing[..transmit.size],
                segment_size: transmit.segment_size,
                src_ip: None,
            };
            loop {
                match self.udp.try_send((&self.socket).into(), &outgoing) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], None)?;
                    }
                    sent => break sent?,
                }
            }
        }
        let timer = link.connection.poll_timeout();
        if timer != link.timer {
            if let Some(earlier) = link.timer.take() {
                self.timers.remove(&(earlier, index));
            }
            link.timer = timer;
            self.timers.extend(timer.map(|due| (due, index)));
        }
        if is_gone {
            if let Some(timer) = link.timer {
                self.timers.remove(&(timer, index));
            }
            self.links.remove(&index);
        }
        Ok(())
    }

    /// Closes all connections.
    fn close_all(&mut self) -> Result<(), Failure> {
        let at = now();
        for (&index, link) in &mut self.links {
            link.close(at);
            self.dirty.push(index);
        }
        self.drive(at)
    }
}
