//! One client's TCP connection: bytes in and out, and the protocol that they carry.
//!
//! ```text
//!   Received --> ByteStream --plain bytes--> Session --requests--> proxy
//!   (kernel)        TLS, or none            HTTP/1.1, HTTP/2          | responses
//!   Write   <--  ByteStream <--plain bytes-- Session <----------------'
//! ```
//!
//! Behind a proxy, the bytes begin with a PROXY header, which names the client.
//!
//! One receive and one write are in flight at most. Bytes leave the session only when a write can
//! take them, so what a client does not take stays where it is charged to it.

mod opening;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::ALT_SVC;

use super::client::Client;
use super::places::Stage;
use super::session::Session;
use super::{TcpCommand, TcpEvent};
use crate::base::timers::Timer;
use crate::gateway::Owner;
use crate::gateway::budget::Backlog;
use crate::gateway::context::Context;
use crate::limits::{
    HANDSHAKE_TIMEOUT, RESPONSE_PIECE_LEN_MIN, RESPONSE_STALL_TIMEOUT, TCP_COPY_LEN_MAX,
    TCP_LINGER_TIMEOUT, TCP_WRITE_LEN_MAX,
};
use crate::message::{AccessRecord, Ending, Fields, Handover, Outcome, owned_value};
use crate::metrics::CopyReason;
use crate::proxy::{DownstreamCommand, Proxy, TransportFault};
use crate::proxy_protocol::HeaderReader;
use crate::tls::{ByteStream, TlsEvent, TlsFault};

/// A client's connection over TCP.
pub(super) struct Connection {
    pub(super) client: Client,
    /// The reader of the PROXY header that is awaited, before anything else.
    header: Option<Box<HeaderReader>>,
    stream: ByteStream,
    session: Session,
    stage: Stage,
    phase: Phase,
    is_receiving: bool,
    writing: Option<Writing>,
    queue: Option<Queue>,
    timer: Timer,
    draining: Option<Draining>,
    /// The start of the phase, or of the session's own.
    since: Instant,
    /// Requests whose responses the kernel has taken whole, and whose records are about to come.
    delivered: Vec<u64>,
    /// TLS has failed: the session writes nothing more, and at most an alert is left.
    has_failed: bool,
    /// Why the gateway has closed the connection.
    closed_for: Option<Ending>,
}

/// The layers through which the bytes of a new connection go.
pub(super) struct Opening {
    pub(super) stream: ByteStream,
    /// The reader of the PROXY header that the connection begins with.
    pub(super) header: Option<HeaderReader>,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Our side ends with the bytes that are on their way.
    Ending,
    /// Our side is closed. The client's bytes are dropped until its end comes: to close the socket
    /// with bytes unread would make the kernel reset the connection, and the client could lose the
    /// last response (RFC 9112 9.6).
    Lingering,
    /// Nothing more is done.
    Over(Parting),
}

/// The way in which a connection that is over is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// The client gets all that the kernel has taken, and the end.
    Close,
    /// The client gets a reset: a response is not whole, or the client does not take it.
    Reset,
}

/// The drain of a connection.
struct Draining {
    since: Instant,
    /// When it is closed; `None` if that of the whole gateway closes it.
    end: Option<Instant>,
}

/// A write in flight.
struct Writing {
    since: Instant,
    /// Bytes of the session in it.
    len: usize,
    /// The request whose response it completes.
    finished: Vec<u64>,
}

/// Bytes of responses that are over for the proxy, and that wait for the client's windows.
struct Queue {
    len: usize,
    /// Since when it has not become shorter.
    since: Instant,
}

/// The state of a connection after it has been advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Continues,
    /// It is to be removed.
    Over,
}

impl Connection {
    pub(super) fn new(client: Client, opening: Opening, cx: &mut Context<'_>) -> Self {
        let Opening { stream, header } = opening;
        let mut connection = Self {
            client,
            header: header.map(Box::new),
            stream,
            session: Session::Handshake,
            stage: Stage::Handshake,
            phase: Phase::Open,
            is_receiving: false,
            writing: None,
            queue: None,
            timer: Timer::default(),
            draining: None,
            since: cx.now,
            delivered: Vec::new(),
            has_failed: false,
            closed_for: None,
        };
        match connection.header {
            // It names the client, whose share counts then.
            Some(_) => cx.shared.tcp.places.take_handshake(connection.client.address.ip().into()),
            None => connection.open(cx),
        }
        connection
    }

    /// Handles an event, up to what [`advance`](Self::advance) does.
    pub(super) fn handle(&mut self, event: TcpEvent, cx: &mut Context<'_>) {
        match event {
            TcpEvent::Received(bytes) => {
                self.is_receiving = false;
                self.receive(bytes, cx);
            }
            TcpEvent::ReceivedPart(bytes) => self.receive(bytes, cx),
            TcpEvent::End => self.handle_end(cx),
            TcpEvent::Failed(fault) | TcpEvent::WriteFailed(fault) => {
                self.break_off(gone_by(fault), cx);
            }
            TcpEvent::Wrote => self.handle_written(cx),
        }
    }

    /// Takes in bytes. Small pieces are copied, so that they do not pin their slots.
    fn receive(&mut self, mut bytes: BytesMut, cx: &mut Context<'_>) {
        self.read_header(&mut bytes, cx);
        if self.phase != Phase::Open || bytes.is_empty() {
            return;
        }
        if bytes.len() > TCP_COPY_LEN_MAX {
            return self.stream.receive(bytes);
        }
        cx.shared.ledger.request_copied(CopyReason::Small, bytes.len());
        self.stream.receive(BytesMut::from(&bytes[..]));
    }

    fn handle_end(&mut self, cx: &mut Context<'_>) {
        self.is_receiving = false;
        if self.phase == Phase::Lingering {
            self.phase = Phase::Over(Parting::Close);
        }
        if self.is_handshaking() {
            // There will be no handshake, and each further receive would return the end again.
            return self.break_off(Outcome::ClientClosed.into(), cx);
        }
        let _end = self.stream.handle_end();
        self.session.handle_end();
    }

    fn handle_written(&mut self, cx: &mut Context<'_>) {
        let Some(Writing { len, finished, .. }) = self.writing.take() else { return };
        if matches!(self.phase, Phase::Over(_)) {
            return;
        }
        self.session.taken(len, &mut self.client, cx);
        for number in finished {
            self.log_delivery(number, cx);
        }
    }

    fn log_delivery(&mut self, number: u64, cx: &mut Context<'_>) {
        match self.client.deliveries.acknowledged(number) {
            Some(record) => log_delivered(record, cx),
            None => self.delivered.push(number),
        }
    }

    /// Carries out a command of the proxy's, up to what [`advance`](Self::advance) does.
    pub(super) fn handle_command(
        &mut self,
        stream: u64,
        mut command: DownstreamCommand,
        cx: &mut Context<'_>,
    ) {
        if let DownstreamCommand::Head { status, fields, .. } = &mut command {
            self.add_alt_svc(*status, fields, cx);
        }
        match &mut command {
            DownstreamCommand::Body(piece) => {
                cx.shared.ledger.response_moved(piece.len());
                free_slot(piece, cx);
            }
            DownstreamCommand::End(Some(trailers)) => {
                trailers.iter_mut().for_each(|(_, value)| *value = owned_value(value));
            }
            _ => {}
        }
        if let Err(ending) = self.session.handle(stream, command, &mut self.client, cx) {
            self.break_off(ending, cx);
        }
    }

    /// Adds the offer of HTTP/3 to the fields of a response, unless the upstream makes its own. It
    /// is for clients whose connection is secure, and means nothing with 421 (RFC 7838 2.1, 6).
    fn add_alt_svc(&self, status: StatusCode, fields: &mut Fields, cx: &Context<'_>) {
        let is_heard = self.client.coverage.is_some() && status != StatusCode::MISDIRECTED_REQUEST;
        if is_heard && fields.iter().all(|(name, _)| name != ALT_SVC) {
            let Client { settings, address, .. } = &self.client;
            let value = cx.shared.alt_svc(cx.now, &settings.listener, address.ip());
            fields.extend(value.map(|value| (ALT_SVC, value)));
        }
    }

    /// Takes the record of an exchange of this connection that is over.
    pub(super) fn take_record(
        &mut self,
        stream: u64,
        record: Box<AccessRecord>,
        cx: &mut Context<'_>,
    ) {
        let place = self.delivered.iter().position(|number| *number == stream);
        match place {
            Some(place) if record.handover == Handover::Whole => {
                self.delivered.swap_remove(place);
                log_delivered(record, cx);
            }
            _ => self.client.deliveries.begin(stream, record, cx),
        }
    }

    /// Does all that can be done now: reads requests, writes responses, receives, closes.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>) -> Progress {
        if self.stage == Stage::Waiting {
            self.begin_handshake(cx);
        }
        if self.phase == Phase::Open && self.stage != Stage::Waiting {
            self.read(cx);
        }
        // Behind a fault there may be bytes that look like a request.
        if !self.has_failed
            && let Err(ending) = self.session.advance(&mut self.client, cx)
            && self.phase == Phase::Open
        {
            self.break_off(ending, cx);
        }
        let is_closing = self.session.is_closing() && !self.client.is_early;
        if self.phase == Phase::Open && is_closing {
            self.end_our_side(cx);
        }
        self.write(cx);
        self.count_copies(cx);
        if matches!(self.phase, Phase::Over(_)) {
            return Progress::Over;
        }
        self.receive_more(cx);
        self.note_queue(cx.now);
        self.set_timer(cx);
        Progress::Continues
    }

    /// Notes whether bytes that wait for the client's windows have become fewer.
    fn note_queue(&mut self, now: Instant) {
        let len = self.session.queued_len();
        self.queue = match &self.queue {
            _ if len == 0 => None,
            Some(queue) if queue.len <= len => Some(Queue { len, since: queue.since }),
            _ => Some(Queue { len, since: now }),
        };
    }

    /// Passes on what the client has sent.
    fn read(&mut self, cx: &mut Context<'_>) {
        loop {
            match self.stream.poll() {
                Ok(Some(TlsEvent::EarlyData(chosen, bytes))) => {
                    self.handle_early_data(chosen, bytes, cx);
                }
                Ok(Some(TlsEvent::Handshaken(handshaken))) => {
                    self.handle_handshaken(handshaken, cx);
                }
                Ok(Some(TlsEvent::Data(bytes))) => self.session.handle_data(bytes, cx),
                Ok(Some(TlsEvent::Closed)) => self.session.handle_end(),
                Ok(None) => return,
                Err(fault) => return self.handle_fault(fault, cx),
            }
        }
    }

    /// Lets our side end with the bytes that are on their way.
    fn end_our_side(&mut self, cx: &Context<'_>) {
        self.phase = Phase::Ending;
        self.since = cx.now;
    }

    /// Hands bytes to the kernel, as many as one write takes.
    fn write(&mut self, cx: &mut Context<'_>) {
        if self.writing.is_some() || matches!(self.phase, Phase::Lingering | Phase::Over(_)) {
            return;
        }
        let mut written = (0, Vec::new());
        if !self.has_failed {
            written = match self.write_session() {
                Ok(written) => written,
                Err(_fault) => return self.break_off(Outcome::ConnectionError.into(), cx),
            };
            if self.phase == Phase::Ending && !self.session.has_output() {
                self.stream.close();
            }
        }
        let (len, finished) = written;
        let pieces = self.stream.take_output();
        if pieces.is_empty() {
            finished.into_iter().for_each(|number| self.log_delivery(number, cx));
            if self.phase == Phase::Ending {
                self.linger(cx);
            }
            return;
        }
        self.writing = Some(Writing { since: cx.now, len, finished });
        cx.shared.tcp.commands.push_back(TcpCommand::Write { key: self.client.key, pieces });
    }

    /// Hands bytes of the session to TLS. Returns their number, and the requests whose responses
    /// they complete.
    fn write_session(&mut self) -> Result<(usize, Vec<u64>), TlsFault> {
        let mut pieces = VecDeque::new();
        self.session.output(&mut pieces, TCP_WRITE_LEN_MAX);
        let finished = self.session.take_finished();
        let len = self.stream.write(&mut pieces, TCP_WRITE_LEN_MAX)?;
        debug_assert!(pieces.is_empty(), "a session writes once TLS can");
        Ok((len, finished))
    }

    /// Closes our side, and waits for the client to close its own.
    fn linger(&mut self, cx: &mut Context<'_>) {
        self.phase = Phase::Lingering;
        self.since = cx.now;
        cx.shared.tcp.commands.push_back(TcpCommand::ShutDown { key: self.client.key });
    }

    /// Charges the copies that TLS makes to the ledger.
    fn count_copies(&mut self, cx: &mut Context<'_>) {
        let copied_len = self.stream.take_copied_len();
        if copied_len.received > 0 {
            cx.shared.ledger.request_copied(CopyReason::Tls, copied_len.received);
        }
        if copied_len.sent > 0 {
            cx.shared.ledger.response_copied(CopyReason::Tls, copied_len.sent);
        }
    }

    fn receive_more(&mut self, cx: &mut Context<'_>) {
        let wants = match self.phase {
            // The rest of the handshake is behind early data, which is bounded.
            Phase::Open if self.client.is_early => true,
            Phase::Open => self.stage != Stage::Waiting && self.session.wants_input(cx.proxy),
            Phase::Lingering => true,
            Phase::Ending | Phase::Over(_) => false,
        };
        if wants && !self.is_receiving {
            self.is_receiving = true;
            let command = TcpCommand::Receive { key: self.client.key, slot_count_max: 1 };
            cx.shared.tcp.commands.push_back(command);
        }
    }

    /// Ends the connection at once, so that nothing looks complete that is not.
    fn break_off(&mut self, ending: Ending, cx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Over(_)) {
            self.note_broken_handshake(ending.outcome, cx);
            let is_cut = self.writing.is_some() || self.session.has_request();
            self.phase = Phase::Over(if is_cut { Parting::Reset } else { Parting::Close });
            self.closed_for.get_or_insert(ending);
        }
        let ending = self.closed_for.unwrap_or(ending);
        self.session.end(ending, &mut self.client, cx);
    }

    /// Closes the connection for a reason of the gateway's.
    pub(super) fn close(&mut self, ending: Ending, cx: &mut Context<'_>) {
        self.break_off(ending, cx);
    }

    /// Lets the connection end once its requests are served.
    pub(super) fn drain(&mut self, end: Option<Instant>, now: Instant) {
        self.draining.get_or_insert(Draining { since: now, end });
        self.session.drain();
    }

    /// Ends what is left of a connection that is removed.
    pub(super) fn remove(mut self, cx: &mut Context<'_>) {
        cx.shared.timers.clear(&mut self.timer);
        self.leave(cx);
        let ending = self.closed_for.unwrap_or(Outcome::ClientClosed.into());
        self.session.end(ending, &mut self.client, cx);
        cx.shared.responses.forget(&mut self.client.waiting);
        self.client.deliveries.end(ending, cx);
        let key = self.client.key;
        cx.shared.tcp.commands.push_back(match self.phase {
            Phase::Over(Parting::Reset) => TcpCommand::Reset { key },
            _ => TcpCommand::Close { key },
        });
    }

    /// Handles the timer of the connection.
    pub(super) fn handle_timer(&mut self, cx: &mut Context<'_>) {
        let owner = Owner::Tcp(self.client.key);
        if !cx.shared.timers.fires(&mut self.timer, cx.now, owner) {
            return;
        }
        let expired = self.patience(cx).filter(|(due, _)| *due <= cx.now);
        let Some((_, patience)) = expired else { return };
        match patience {
            Patience::Handshake => self.break_off(Outcome::IdleTimeout.into(), cx),
            Patience::Write => self.break_off(Outcome::ResponseStalled.into(), cx),
            Patience::Head => {
                if let Err(ending) = self.session.handle_head_timeout(&mut self.client, cx) {
                    self.break_off(ending, cx);
                }
            }
            Patience::Idle => {
                self.closed_for.get_or_insert(Outcome::IdleTimeout.into());
                self.session.close();
                self.end_our_side(cx);
            }
            Patience::Linger => self.phase = Phase::Over(Parting::Close),
            Patience::Drain => self.break_off(Outcome::GatewayClosed.into(), cx),
        }
    }

    fn set_timer(&mut self, cx: &mut Context<'_>) {
        match self.patience(cx) {
            Some((due, _)) => {
                let owner = Owner::Tcp(self.client.key);
                cx.shared.timers.set(&mut self.timer, due, owner);
            }
            None => self.timer.disarm(),
        }
    }

    /// Returns what the connection waits for, and until when. A request that is served has timeouts
    /// of its own, in the proxy.
    fn patience(&self, cx: &Context<'_>) -> Option<(Instant, Patience)> {
        let settings = &cx.shared.settings;
        let writing = self.writing.as_ref().map(|writing| writing.since);
        let stalled = writing.or(self.queue.as_ref().map(|queue| queue.since));
        let write = stalled.map(|since| (since + RESPONSE_STALL_TIMEOUT, Patience::Write));
        let other = match self.phase {
            Phase::Open if self.is_handshaking() => {
                Some((self.since + HANDSHAKE_TIMEOUT, Patience::Handshake))
            }
            Phase::Open if self.session.is_in_head() => {
                Some((self.session.since(self.since) + settings.head_timeout, Patience::Head))
            }
            Phase::Open if self.session.is_idle() => {
                let since = self.session.since(self.since);
                let due = match &self.draining {
                    // A request that is on its way when the drain begins is still served.
                    Some(draining) => since.max(draining.since) + TCP_LINGER_TIMEOUT,
                    None => since + self.client.settings.listener.tcp.idle_timeout,
                };
                Some((due, Patience::Idle))
            }
            Phase::Lingering => Some((self.since + TCP_LINGER_TIMEOUT, Patience::Linger)),
            Phase::Open | Phase::Ending | Phase::Over(_) => None,
        };
        let drain = self.draining.as_ref().and_then(|draining| draining.end);
        let drain = drain.map(|end| (end, Patience::Drain));
        [write, other, drain].into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    /// Returns what waits for the client of the response in this stream.
    pub(super) fn backlog(&self, stream: u64) -> Backlog {
        Backlog {
            waiting_len: self.client.waiting.len(),
            stream_count: self.session.stream_count(),
            body_waiting_len: self.session.body_waiting_len(stream),
        }
    }

    /// Returns the number of bytes that are charged to it.
    pub(super) fn held_len(&self, proxy: &Proxy) -> usize {
        let header_len = self.header.as_ref().map_or(0, |header| header.held_len());
        let fixed = size_of::<Self>() + header_len + self.client.deliveries.held_len();
        fixed + self.stream.held_len() + self.client.waiting.len() + self.session.held_len(proxy)
    }

    pub(super) fn listener_name(&self) -> &str {
        &self.client.settings.listener.name
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.client.address
    }
}

/// The event that a connection waits for within a limited time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Handshake,
    /// The rest of a request's head.
    Head,
    /// A request.
    Idle,
    /// The client takes what is written.
    Write,
    /// The client closes its side.
    Linger,
    /// The end of a drain.
    Drain,
}

/// Copies a piece of a body, unless it is worth the slot of the pool that it lies in: the client
/// may take its time. The same decision as for HTTP/3.
fn free_slot(piece: &mut Bytes, cx: &mut Context<'_>) {
    let reason = match piece.len() {
        len if len < RESPONSE_PIECE_LEN_MIN => CopyReason::Small,
        _ if cx.shared.memory_low => CopyReason::LowWater,
        _ => return,
    };
    cx.shared.ledger.response_copied(reason, piece.len());
    *piece = Bytes::copy_from_slice(piece);
}

fn log_delivered(mut record: Box<AccessRecord>, cx: &mut Context<'_>) {
    record.delivered = Some(cx.now.saturating_duration_since(record.start));
    cx.log(record);
}

/// Returns the end of the requests of a client whose connection broke.
fn gone_by(fault: TransportFault) -> Ending {
    match fault {
        TransportFault::TimedOut => Outcome::IdleTimeout.into(),
        _ => Outcome::ClientReset.into(),
    }
}
