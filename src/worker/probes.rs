//! Probes: a worker sends datagrams to its own UDP sockets, and offers HTTP/3 to clients over TCP
//! only while they come back.
//!
//! A probe looks like a packet of one of this worker's connections, so it passes the filter of
//! short datagrams and the steering, and comes back to the socket that sent it if all of that works
//! and no firewall of this host drops it. It is recognised by its bytes, with 152 random bits:
//! whoever could forge one would only show that the socket receives. Any other datagram of the same
//! length is a stranger's. docs/decisions/alt-svc.md says what probes cannot see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Phase, Worker};
use crate::cid::CID_LEN;
use crate::gateway::ProbeOutcome;
use crate::ring::{DatagramSend, SocketIndex};

/// Pause between two probes of a socket that receives. A few packets a minute cost nothing, and a
/// new rule of the firewall is noticed within seconds.
const PROBE_PAUSE: Duration = Duration::from_secs(10);

/// Time after which a probe is lost, and another is sent. Loopback takes microseconds; a second is
/// that of a worker that is very busy.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause if the ring has no room for a probe.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Length of a probe: that of the shortest QUIC packet. No stateless reset responds to one that is
/// late and is not known any more (RFC 9000 10.3.3).
const PROBE_LEN: usize = 21;

/// The first byte of a packet with a short header (RFC 9000 17.3.1).
const SHORT_HEADER: u8 = 0x40;

/// The probes of a worker's sockets.
#[derive(Default)]
pub(super) struct Probes {
    watched: Vec<Watched>,
}

/// A socket whose listener offers HTTP/3.
struct Watched {
    socket: SocketIndex,
    address: SocketAddr,
    /// The probe on its way.
    sent: Option<[u8; PROBE_LEN]>,
    /// When the next one is sent. One on its way is lost by then.
    due: Instant,
}

impl Probes {
    /// Returns when the next probe is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.watched.iter().map(|watched| watched.due).min()
    }

    /// Takes a probe that has come back. Returns the address that its socket is bound to, or `None`
    /// if the datagram is not a probe of that socket.
    fn take(&mut self, now: Instant, socket: SocketIndex, payload: &[u8]) -> Option<SocketAddr> {
        if payload.len() != PROBE_LEN {
            return None;
        }
        let watched = self.watched.iter_mut().find(|watched| watched.socket == socket)?;
        watched.sent.take_if(|sent| *sent == payload)?;
        watched.due = now + PROBE_PAUSE;
        Some(watched.address)
    }
}

impl Worker<'_> {
    /// Probes the sockets of the listeners that offer HTTP/3 now, and then once in a while.
    pub(super) fn watch_sockets(&mut self, now: Instant) {
        let listeners = &self.snapshot.config.listeners;
        let watched = self.edges.bound(&self.snapshot).filter_map(|(socket, address, listener)| {
            listeners[listener].http3_offer()?;
            Some(Watched { socket, address, sent: None, due: now })
        });
        self.probes.watched = watched.collect();
    }

    /// Sends the probes that are due, and reports those before them that are lost.
    pub(super) fn send_probes(&mut self, now: Instant) {
        if self.phase != Phase::Serving {
            self.probes.watched.clear();
            return;
        }
        for index in 0..self.probes.watched.len() {
            let watched = &mut self.probes.watched[index];
            if watched.due > now {
                continue;
            }
            let (socket, address) = (watched.socket, watched.address);
            if watched.sent.take().is_some() {
                self.counters.probes_lost += 1;
                let number = socket.index() as u16;
                self.gateway.handle_probe(now, number, address, ProbeOutcome::Lost);
            }
            let probe = self.probe();
            let send = DatagramSend {
                buffer: probe.to_vec(),
                destination: destination(address),
                source: None,
                ecn: 0,
                segment_len: None,
            };
            let is_sent = self.try_send(socket, send).is_ok();
            let watched = &mut self.probes.watched[index];
            watched.sent = is_sent.then_some(probe);
            watched.due = now + if is_sent { PROBE_TIMEOUT } else { ROOM_PAUSE };
        }
    }

    /// Returns whether a datagram is a probe of ours that has come back, after reporting it.
    pub(super) fn take_probe(&mut self, now: Instant, socket: SocketIndex, payload: &[u8]) -> bool {
        let Some(address) = self.probes.take(now, socket, payload) else { return false };
        self.counters.probes_returned += 1;
        let number = socket.index() as u16;
        self.gateway.handle_probe(now, number, address, ProbeOutcome::Returned);
        true
    }

    /// Returns a packet that is steered to this worker and cannot be guessed.
    fn probe(&self) -> [u8; PROBE_LEN] {
        let mut probe = [0; PROBE_LEN];
        (self.setup.random)(&mut probe);
        probe[0] = SHORT_HEADER;
        let (id, _) = probe[1..].split_first_chunk_mut::<CID_LEN>().expect("a probe has an id");
        let [_, tail @ ..] = *id;
        *id = self.setup.keys.cid_mask.id(self.setup.index, false, tail);
        probe
    }
}

/// Returns the address that reaches a socket from this host.
fn destination(bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, bound.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, bound.port()).into(),
        IpAddr::V4(_) | IpAddr::V6(_) => bound,
    }
}
