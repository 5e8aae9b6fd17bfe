//! The field `alt-svc` of responses over TCP, by which clients find HTTP/3 (RFC 7838).
//!
//! ```text
//!   a UDP socket of the listener receives, of the client's family     h3=":443"; ma=86400
//!   none does                                                         no field
//!   HTTP/3 is off since a reload, and clients may remember it         clear
//! ```
//!
//! That a socket receives is shown by the worker's probes, and by connections that clients have
//! established there. See docs/decisions/alt-svc.md.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::Gateway;
use super::context::{Edge, Shared};
use crate::config::Listener;
use crate::message::Incident;

/// Probes lost in a row until HTTP/3 is not offered any more. One may be lost in a full buffer.
const PROBES_LOST_MAX: u32 = 3;

/// Time for which a client's new connection outweighs probes that are lost.
const CONNECTION_COUNTS_FOR: Duration = Duration::from_secs(60);

/// The outcome of a worker's probe of its own UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeOutcome {
    Returned,
    Lost,
}

/// The reception of one UDP socket.
#[derive(Debug)]
pub(super) struct Reception {
    /// The socket's address, with the port that the kernel chose where 0 was asked for.
    address: SocketAddr,
    verdict: Verdict,
    /// Probes lost in a row.
    lost_count: u32,
    connected_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing is known yet.
    Open,
    Receives,
    /// Nothing arrives.
    Silent,
}

impl Reception {
    fn new(address: SocketAddr) -> Self {
        Self { address, verdict: Verdict::Open, lost_count: 0, connected_at: None }
    }

    fn note_probe(&mut self, now: Instant, outcome: ProbeOutcome) -> Option<Incident> {
        let connected = self.connected_at.map(|at| now.saturating_duration_since(at));
        let verdict = match outcome {
            ProbeOutcome::Returned => {
                self.lost_count = 0;
                Verdict::Receives
            }
            ProbeOutcome::Lost => {
                self.lost_count = self.lost_count.saturating_add(1);
                match connected {
                    Some(age) if age < CONNECTION_COUNTS_FOR => Verdict::Receives,
                    _ if self.lost_count < PROBES_LOST_MAX => self.verdict,
                    _ => Verdict::Silent,
                }
            }
        };
        self.judge(verdict)
    }

    fn note_connection(&mut self, now: Instant) -> Option<Incident> {
        self.connected_at = Some(now);
        self.judge(Verdict::Receives)
    }

    /// Sets the verdict. Returns what is to be logged of it.
    fn judge(&mut self, verdict: Verdict) -> Option<Incident> {
        let address = self.address;
        match (std::mem::replace(&mut self.verdict, verdict), verdict) {
            (Verdict::Open | Verdict::Receives, Verdict::Silent) => {
                Some(Incident::Http3Withheld { address })
            }
            (Verdict::Silent, Verdict::Receives) => Some(Incident::Http3Offered { address }),
            _ => None,
        }
    }
}

impl Edge {
    /// Returns the offer of HTTP/3 for a client with this address, if the socket can serve it.
    fn offer(&self, listener: &Listener, client: IpAddr) -> Option<&HeaderValue> {
        let is_its = self.drain_end.is_none() && self.listener.name == listener.name;
        let reception = self.reception.as_ref().filter(|_| is_its)?;
        let receives = reception.verdict == Verdict::Receives;
        let is_of_family = reception.address.is_ipv4() == client.is_ipv4();
        self.alt_svc.as_ref().filter(|_| receives && is_of_family)
    }

    /// Forms the offer anew, after the listener or the socket has changed.
    pub(super) fn renew_offer(&mut self) {
        self.alt_svc = self.listener.http3_offer().zip(self.reception.as_ref()).and_then(
            |(advertise, reception)| {
                let port = advertise.port.unwrap_or(reception.address.port());
                let offer = format!("h3=\":{port}\"; ma={}", advertise.max_age.as_secs());
                HeaderValue::from_str(&offer).ok()
            },
        );
    }

    /// Returns whether the listener would offer HTTP/3, but nothing arrives at the socket.
    fn is_withheld(&self) -> bool {
        let is_silent = |reception: &Reception| reception.verdict == Verdict::Silent;
        self.drain_end.is_none()
            && self.listener.http3_offer().is_some()
            && self.reception.as_ref().is_some_and(is_silent)
    }
}

/// The listeners whose clients may remember an offer, by name.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    listeners: BTreeMap<String, Memory>,
}

/// The memory of a listener's clients.
#[derive(Debug)]
struct Memory {
    /// How long they remember an offer of the running configuration; `None` if it has none.
    max_age: Option<Duration>,
    /// HTTP/3 is served.
    has_http3: bool,
    /// When the offers of earlier configurations are forgotten.
    until: Option<Instant>,
}

impl Remembered {
    pub(super) fn new(listeners: &[Arc<Listener>]) -> Self {
        let memory = |listener: &Arc<Listener>| {
            let max_age = listener.http3_offer().map(|advertise| advertise.max_age);
            let memory = Memory { max_age, has_http3: listener.protocols.h3, until: None };
            (listener.name.clone(), memory)
        };
        Self { listeners: listeners.iter().map(memory).collect() }
    }

    /// Takes over from another configuration, which is the running one until now.
    pub(super) fn replace(&mut self, now: Instant, listeners: &[Arc<Listener>]) {
        let earlier = std::mem::replace(self, Self::new(listeners));
        for (name, memory) in &mut self.listeners {
            if let Some(before) = earlier.listeners.get(name) {
                let last = before.max_age.map(|max_age| now + max_age);
                memory.until = before.until.max(last);
            }
        }
    }

    /// Returns whether clients of a listener without HTTP/3 may remember that it had it.
    fn is_outdated(&self, now: Instant, listener: &str) -> bool {
        self.listeners.get(listener).is_some_and(|memory| {
            !memory.has_http3 && memory.until.is_some_and(|until| now < until)
        })
    }
}

impl Shared {
    /// Returns the value of `alt-svc` for a client of this listener.
    pub(super) fn alt_svc(
        &self,
        now: Instant,
        listener: &Listener,
        client: IpAddr,
    ) -> Option<HeaderValue> {
        let offer = self.sockets.iter().find_map(|edge| edge.offer(listener, client));
        offer.cloned().or_else(|| {
            let is_outdated = self.remembered.is_outdated(now, &listener.name);
            is_outdated.then(|| HeaderValue::from_static("clear"))
        })
    }

    /// Notes that a client has established a connection on a socket.
    pub(super) fn note_connection(&mut self, now: Instant, socket: u16) {
        let reception = &mut self.sockets[usize::from(socket)].reception;
        let incident = reception.as_mut().and_then(|reception| reception.note_connection(now));
        self.incidents.extend(incident.map(Box::new));
    }
}

impl Gateway {
    /// Notes the outcome of a probe of a socket, which is bound to this address.
    pub(crate) fn handle_probe(
        &mut self,
        now: Instant,
        socket: u16,
        address: SocketAddr,
        outcome: ProbeOutcome,
    ) {
        let edge = &mut self.shared.sockets[usize::from(socket)];
        if edge.reception.as_ref().is_none_or(|reception| reception.address != address) {
            edge.reception = Some(Reception::new(address));
            edge.renew_offer();
        }
        let reception = edge.reception.as_mut();
        let incident = reception.and_then(|reception| reception.note_probe(now, outcome));
        self.shared.incidents.extend(incident.map(Box::new));
    }

    /// Returns the number of sockets for which HTTP/3 is not offered since nothing arrives there.
    pub(crate) fn withheld_count(&self) -> usize {
        self.shared.sockets.iter().filter(|edge| edge.is_withheld()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    const SECOND: Duration = Duration::from_secs(1);

    fn reception() -> Reception {
        Reception::new(([192, 0, 2, 1], 443).into())
    }

    /// Names what a step is to log.
    fn logged(incident: Option<Incident>) -> &'static str {
        match incident {
            None => "",
            Some(Incident::Http3Withheld { .. }) => "withheld",
            Some(Incident::Http3Offered { .. }) => "offered",
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_socket_is_silent_after_three_lost_probes_and_receives_after_one() {
        use ProbeOutcome::{Lost, Returned};
        let (mut reception, mut now) = (reception(), epoch());
        let steps = [
            (Returned, "", Verdict::Receives),
            (Lost, "", Verdict::Receives),
            (Lost, "", Verdict::Receives),
            (Returned, "", Verdict::Receives),
            (Lost, "", Verdict::Receives),
            (Lost, "", Verdict::Receives),
            (Lost, "withheld", Verdict::Silent),
            (Lost, "", Verdict::Silent),
            (Returned, "offered", Verdict::Receives),
        ];
        for (index, (outcome, line, verdict)) in steps.into_iter().enumerate() {
            now += SECOND;
            assert_eq!(logged(reception.note_probe(now, outcome)), line, "step {index}");
            assert_eq!(reception.verdict, verdict, "step {index}");
        }
    }

    #[test]
    fn nothing_is_known_of_a_socket_before_its_first_probe_returns() {
        let mut reception = reception();
        assert_eq!(reception.verdict, Verdict::Open);
        assert_eq!(logged(reception.note_probe(epoch(), ProbeOutcome::Lost)), "");
        assert_eq!(reception.verdict, Verdict::Open);
    }

    #[test]
    fn a_connection_outweighs_lost_probes_for_a_minute() {
        let (mut reception, start) = (reception(), epoch());
        assert_eq!(logged(reception.note_connection(start)), "");
        for second in 1..60 {
            let now = start + second * SECOND;
            assert_eq!(logged(reception.note_probe(now, ProbeOutcome::Lost)), "");
        }
        let late = start + CONNECTION_COUNTS_FOR;
        assert_eq!(logged(reception.note_probe(late, ProbeOutcome::Lost)), "withheld");
        assert_eq!(logged(reception.note_connection(late + SECOND)), "offered");
    }
}
