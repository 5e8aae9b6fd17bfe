//! One client's QUIC connection: its control stream, its request streams and its close.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::budget::{Backlog, Waiting};
use super::context::Context;
use super::control_stream::ControlStream;
use super::coverage::Coverage;
use super::delivery::Deliveries;
use super::drain::Drain;
use super::keep_alive::KeepAlive;
use super::reset_budget::{Cost, ResetBudget};
use super::stream::{Fault, Stream, Verdict};
use crate::config::Listener;
use crate::http3::{Code, ConnectionError};
use crate::message::{
    AccessRecord, Bound, ClientCertificate, Ending, Handover, Incident, Outcome, Protocol, Sender,
};
use crate::metrics::StreamShed;
use crate::proxy::Proxy;
use crate::quic::{CloseReason, ConnectionKey, Event, StreamId};
use crate::tls;

/// A connection whose handshake is complete.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) drain: Drain,
    pub(super) keep_alive: KeepAlive,
    /// The lowest id of a request stream that the client has not opened yet.
    pub(super) next_request: u64,
    pub(super) control: ControlStream,
    /// Request streams that either side has not ended. Boxed: a map keeps the room of its last
    /// entries, and most connections are idle.
    streams: BTreeMap<StreamId, Box<Stream>>,
    /// Why the gateway has closed the connection.
    closed_for: Option<Closure>,
}

/// The reason for which the gateway closed a connection.
#[derive(Debug, Clone, Copy)]
struct Closure {
    ending: Ending,
    /// The request stream that broke a rule.
    culprit: Option<StreamId>,
}

/// The client of a connection: the state that all of its streams share.
pub(super) struct Client {
    pub(super) key: ConnectionKey,
    /// The last address that was seen to be validated.
    pub(super) address: SocketAddr,
    /// The listener, as configured when the connection was opened.
    pub(super) listener: Arc<Listener>,
    /// Number of the socket on which it was opened.
    pub(super) socket: u16,
    pub(super) coverage: Coverage,
    /// The certificate that it has proved to be its own, if it has shown one.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    /// Bytes of responses that wait for this connection to take them.
    pub(super) waiting: Waiting,
    /// Finished responses that the client has not fully acknowledged.
    pub(super) unacknowledged_count: usize,
    pub(super) resets: ResetBudget,
    /// The records of responses that the client has not fully acknowledged.
    pub(super) deliveries: Deliveries,
}

impl Connection {
    /// Opens the HTTP/3 side of a connection. Returns an error if the client's stream limit leaves
    /// no room for our control stream.
    pub(super) fn open(
        key: ConnectionKey,
        server_name: Option<String>,
        certificate: Option<Bytes>,
        socket: u16,
        cx: &mut Context<'_>,
    ) -> Result<Self, ConnectionError> {
        let control = ControlStream::open(key, cx)?;
        let address = cx.engine.client_address(key).expect("an open connection has an address");
        let settings = &cx.shared.settings;
        let edge = &cx.shared.sockets[usize::from(socket)];
        let (listener, drain_end) = (Arc::clone(&edge.listener), edge.drain_end);
        let mut connection = Self {
            client: Client {
                key,
                address,
                listener: Arc::clone(&listener),
                socket,
                coverage: Coverage::new(server_name, settings.tls.clone()),
                certificate: tls::identify(certificate.as_deref(), &listener).map(Arc::new),
                waiting: Waiting::default(),
                unacknowledged_count: 0,
                resets: ResetBudget::default(),
                deliveries: Deliveries::default(),
            },
            drain: Drain::default(),
            keep_alive: KeepAlive::new(listener.quic.idle_timeout),
            next_request: 0,
            control,
            streams: BTreeMap::new(),
            closed_for: None,
        };
        if let Some(end) = cx.shared.drain_end.or(drain_end) {
            connection.begin_drain(end, cx);
        }
        Ok(connection)
    }

    /// Handles an event on the connection. The gateway handles its opening and its close.
    pub(super) fn handle(&mut self, event: Event, cx: &mut Context<'_>) {
        match event {
            Event::StreamOpened(id) if is_request(id) => self.open_request(id, cx),
            Event::Readable(id) if is_request(id) => self.on_stream(id, cx, Stream::read),
            Event::StreamOpened(id) | Event::Readable(id) => {
                if let Err(error) = self.control.read(self.client.key, id, cx) {
                    self.close(error, None, cx);
                }
            }
            Event::Writable(id) if self.control.is(id) => self.control.write(self.client.key, cx),
            Event::Writable(id) => self.on_stream(id, cx, Stream::write),
            Event::SendFinished(id) if is_request(id) => {
                self.client.log_delivery(id, cx);
                self.handle_acknowledged(cx);
            }
            Event::SendFinished(_) => {}
            Event::Stopped(id, code) => self.handle_stopped(id, code, cx),
            Event::Unacknowledged => {
                let rule = "responses that are not acknowledged for 60 s, a fixed bound";
                self.close(ConnectionError { code: Code::ExcessiveLoad, rule }, None, cx);
            }
            Event::Connected { .. } | Event::Closed(_) => {
                unreachable!("the gateway opens and forgets connections")
            }
        }
    }

    /// Calls `act` on a stream and carries out its verdict. Does nothing if the stream is over: the
    /// event came too late to matter.
    pub(super) fn on_stream(
        &mut self,
        id: StreamId,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Stream, &mut Client, &mut Context<'_>) -> Verdict,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match act(stream, &mut self.client, cx) {
            Verdict::Continue if stream.is_over() => {
                self.remove_stream(id, cx);
                self.close_if_drained(cx);
            }
            Verdict::Continue => {}
            Verdict::Abandon(code, fault, ending) => self.abandon(id, code, fault, ending, cx),
            Verdict::Close(error) => self.close(error, Some(id), cx),
        }
    }

    /// Returns what waits for the client of the response in this stream, if the stream is open.
    pub(super) fn backlog(&self, id: StreamId) -> Option<Backlog> {
        Some(Backlog {
            waiting_len: self.client.waiting.len(),
            stream_count: self.streams.len(),
            body_waiting_len: self.streams.get(&id)?.body_waiting_len(),
        })
    }

    /// Returns whether a request runs that its response has not ended.
    pub(super) fn has_request(&self) -> bool {
        self.streams.values().any(|stream| stream.awaits_response())
    }

    /// Returns the number of bytes that its heads, bodies and responses hold.
    pub(super) fn held_len(&self, proxy: &Proxy) -> usize {
        let streams = self.streams.values().map(|stream| stream.held_len(proxy));
        self.client.waiting.len() + self.client.deliveries.held_len() + streams.sum::<usize>()
    }

    /// Returns whether no request is open and the client has acknowledged every response in full.
    pub(super) fn is_quiet(&self) -> bool {
        self.streams.is_empty() && self.client.unacknowledged_count == 0
    }

    /// Ends the exchanges of a connection that is gone.
    pub(super) fn end(mut self, reason: &CloseReason, cx: &mut Context<'_>) {
        self.drain.clear(cx);
        self.keep_alive.clear(cx);
        cx.shared.responses.forget(&mut self.client.waiting);
        let closure = self.closed_for;
        if let (None, CloseReason::Violation { code, reason }) = (closure, reason) {
            let client = self.client.current_address(cx).unwrap_or(self.client.address);
            let (code, reason) = (*code, reason.clone());
            cx.shared.incidents.push_back(Box::new(Incident::Violation { client, code, reason }));
        }
        let closure = closure.unwrap_or(Closure { ending: ending_of(reason), culprit: None });
        // The rule is that of the stream that broke it.
        let others = Ending::from(closure.ending.outcome);
        let client = &mut self.client;
        for (id, stream) in self.streams {
            let is_culprit = closure.culprit == Some(id);
            stream.end(client, if is_culprit { closure.ending } else { others }, cx);
        }
        client.deliveries.end(others, cx);
    }

    /// Takes the record of an exchange of this connection that is over.
    pub(super) fn take_record(
        &mut self,
        id: StreamId,
        mut record: Box<AccessRecord>,
        cx: &mut Context<'_>,
    ) {
        // The address that follows is that of the acknowledgement.
        if record.handover != Handover::Whole
            && let Some(address) = self.client.current_address(cx)
        {
            record.client = address;
        }
        self.client.deliveries.begin(id.into(), record, cx);
    }

    /// Notes that the connection is about to be closed because memory is used up.
    pub(super) fn note_eviction(&mut self, cx: &mut Context<'_>) {
        let closure = Closure { ending: Outcome::Evicted.into(), culprit: None };
        self.note_closure(closure, cx);
    }

    /// Notes why the gateway closes the connection, for the records of its requests and for the
    /// process log.
    fn note_closure(&mut self, closure: Closure, cx: &mut Context<'_>) {
        if self.closed_for.is_none() {
            self.closed_for = Some(closure);
            let client = self.client.current_address(cx).unwrap_or(self.client.address);
            let incident = Incident::Closed { client, cause: closure.ending };
            cx.shared.incidents.push_back(Box::new(incident));
        }
    }

    /// Closes the connection because its client broke a rule, in request stream `culprit` if it was
    /// in one.
    fn close(&mut self, error: ConnectionError, culprit: Option<StreamId>, cx: &mut Context<'_>) {
        let outcome = match error.code {
            Code::ExcessiveLoad => Outcome::ExcessiveLoad,
            _ => Outcome::ConnectionError,
        };
        self.close_with(Ending::by_rule(outcome, error.rule), culprit, error, cx);
    }

    fn close_with(
        &mut self,
        ending: Ending,
        culprit: Option<StreamId>,
        error: ConnectionError,
        cx: &mut Context<'_>,
    ) {
        self.note_closure(Closure { ending, culprit }, cx);
        cx.close(self.client.key, error);
    }

    fn open_request(&mut self, id: StreamId, cx: &mut Context<'_>) {
        self.next_request = self.next_request.max(u64::from(id) + 4);
        if self.drain.refuses(id.into()) {
            return self.shed_request(id, StreamShed::Draining, cx);
        }
        if let Some(reason) = cx.shed_reason() {
            return self.shed_request(id, reason, cx);
        }
        self.streams.insert(id, Box::new(Stream::new(id)));
        cx.shared.counters.http3.streams_opened += 1;
        self.on_stream(id, cx, |stream, client, cx| {
            let verdict = stream.read(client, cx);
            stream.await_head(client, cx);
            verdict
        });
        self.start_keep_alive(cx);
    }

    /// Rejects a request that is not processed in any way, so that the client may send it again,
    /// here or elsewhere (RFC 9114 4.1.1).
    fn shed_request(&mut self, id: StreamId, reason: StreamShed, cx: &mut Context<'_>) {
        cx.shared.counters.http3.streams_shed.count(reason, 1);
        cx.engine.note_refused(cx.now, self.client.key);
        cx.stop_sending(self.client.key, id, Code::RequestRejected);
        cx.reset(self.client.key, id, Code::RequestRejected);
    }

    fn handle_acknowledged(&mut self, cx: &mut Context<'_>) {
        let count = &mut self.client.unacknowledged_count;
        *count = count.saturating_sub(1);
        self.close_if_drained(cx);
    }

    fn handle_stopped(&mut self, id: StreamId, code: u64, cx: &mut Context<'_>) {
        if self.control.is(id) {
            let rule = "the control stream must not be stopped (RFC 9114 6.2.1)";
            let error = ConnectionError { code: Code::ClosedCriticalStream, rule };
            return self.close(error, None, cx);
        }
        let is_finished = match self.streams.get(&id) {
            Some(stream) => {
                let has_responded = stream.has_responded();
                cx.shared.counters.http3.streams_cancelled += 1;
                let ending = Outcome::ClientCancelled.into();
                self.abandon(id, Code::RequestCancelled, Fault::Client, ending, cx);
                has_responded
            }
            None => true,
        };
        if is_finished {
            // The response was finished but not acknowledged: RFC 9000 3.5 requires a reset.
            let _gone = cx.engine.reset(self.client.key, id, code);
            let _finished = self.client.deliveries.stopped(id.into(), cx);
            self.handle_acknowledged(cx);
        }
    }

    /// Ends both sides of a stream with `code`, and its request with `ending`.
    fn abandon(
        &mut self,
        id: StreamId,
        code: Code,
        fault: Fault,
        ending: Ending,
        cx: &mut Context<'_>,
    ) {
        let mut cost = Cost::Whole;
        if let Some(stream) = self.remove_stream(id, cx) {
            cost = stream.cost_of(ending);
            stream.abandon(&mut self.client, code, ending, cx);
            self.close_if_drained(cx);
        }
        if fault == Fault::Client {
            self.charge_reset(cost, cx);
        }
    }

    fn remove_stream(&mut self, id: StreamId, cx: &mut Context<'_>) -> Option<Box<Stream>> {
        let mut stream = self.streams.remove(&id)?;
        stream.clear(&mut self.client, cx);
        Some(stream)
    }

    /// Charges a request that failed through the client's own fault. Too many of them close the
    /// connection (RFC 9114 8.1, 10.5).
    fn charge_reset(&mut self, cost: Cost, cx: &mut Context<'_>) {
        let max = cx.shared.settings.reset_count_max;
        if self.client.resets.charge(cx.now, cost, max) {
            let rule = "too many requests that come to nothing";
            let bound = Bound { key: "limits.max_stream_resets", max: max.into() };
            let ending = Ending::by_rule(Outcome::ExcessiveLoad, rule);
            let ending = Ending { bound: Some(bound), ..ending };
            let error = ConnectionError { code: Code::ExcessiveLoad, rule };
            self.close_with(ending, None, error, cx);
        }
    }
}

impl Client {
    /// Logs the record of a response that the client has acknowledged.
    fn log_delivery(&mut self, id: StreamId, cx: &mut Context<'_>) {
        if let Some(mut record) = self.deliveries.acknowledged(id.into()) {
            record.delivered = Some(cx.now.saturating_duration_since(record.start));
            record.client = self.current_address(cx).unwrap_or(self.address);
            cx.log(record);
        }
    }

    /// Returns the client's validated address, if the connection is still there.
    pub(super) fn current_address(&mut self, cx: &Context<'_>) -> Option<SocketAddr> {
        self.address = cx.engine.client_address(self.key)?;
        Some(self.address)
    }

    /// Returns the client as the sender of a request from `address`.
    pub(super) fn sender(&self, address: SocketAddr) -> Sender {
        let server_name = self.coverage.server_name.clone();
        let certificate = self.certificate.clone();
        Sender { address, server_name, certificate, protocol: Protocol::Http3, is_early: false }
    }
}

/// Returns the end of the requests of a connection that the gateway did not close for a rule.
fn ending_of(reason: &CloseReason) -> Ending {
    match reason {
        CloseReason::Local { .. } => Outcome::GatewayClosed.into(),
        CloseReason::Peer { .. } | CloseReason::PeerTransport { code: 0, .. } => {
            Outcome::ClientClosed.into()
        }
        CloseReason::PeerTransport { .. } | CloseReason::Violation { .. } => {
            Outcome::ConnectionError.into()
        }
        CloseReason::Reset => Outcome::ClientReset.into(),
        CloseReason::IdleTimeout => Outcome::IdleTimeout.into(),
    }
}

/// Returns whether the stream carries a request: it is client-initiated and bidirectional
/// (RFC 9114 6.1).
fn is_request(stream: StreamId) -> bool {
    stream.is_bidirectional() && stream.is_from_client()
}
