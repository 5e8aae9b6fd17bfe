//! The opening of a connection: the PROXY header, then the TLS handshake, up to the session.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::client::Client;
use super::super::places::Stage;
use super::super::session::Session;
use super::Connection;
use crate::gateway::context::Context;
use crate::gateway::coverage::Coverage;
use crate::message::{Ending, Incident, Outcome};
use crate::metrics::{HandshakeFailure, ProxyHeaderFailure};
use crate::proxy_protocol::{Announced, Malformed};
use crate::tls::{self, ByteStream, EarlyDataFate, Handshaken, TlsFault};

impl Connection {
    /// Reads the PROXY header, if it is awaited, and takes it off the front of `bytes`.
    pub(super) fn read_header(&mut self, bytes: &mut BytesMut, cx: &mut Context<'_>) {
        let Some(header) = &mut self.header else { return };
        match header.read(bytes) {
            Ok(None) => {}
            Ok(Some(announced)) => {
                self.header = None;
                self.admit(announced, cx);
            }
            Err(Malformed(rule)) => {
                self.note_failed_header(ProxyHeaderFailure::Malformed, Some(rule), cx);
                self.header = None;
                self.break_off(Outcome::ConnectionError.into(), cx);
            }
        }
    }

    /// Charges the connection to the client that a proxy has announced, from which on it is that
    /// client's. It is closed if the client's address has its share already.
    fn admit(&mut self, announced: Announced, cx: &mut Context<'_>) {
        self.end_handshake(cx);
        let Client { settings, address, .. } = &mut self.client;
        let places = &mut cx.shared.tcp.places;
        let mut is_refused = false;
        if let Announced::Client(client) = announced {
            places.give_back(settings, address.ip().into());
            *address = client;
            is_refused = places.are_at_share(settings, client.ip().into());
            places.take(settings, client.ip().into());
        }
        self.open(cx);
        if is_refused {
            cx.shared.counters.tcp.connections_refused += 1;
            self.break_off(Outcome::GatewayClosed.into(), cx);
        }
    }

    /// Begins what comes behind a PROXY header, or without one: the handshake, as soon as the
    /// address has a place for it, or the session.
    pub(super) fn open(&mut self, cx: &mut Context<'_>) {
        match &self.stream {
            ByteStream::Plain(_) => self.begin_plain(cx),
            ByteStream::Tls(_) => {
                self.stage = Stage::Waiting;
                self.begin_handshake(cx);
                if self.stage == Stage::Waiting {
                    cx.shared.tcp.places.wait(self.client.address.ip().into(), self.client.key);
                }
            }
        }
    }

    /// Begins the handshake of a connection that waits, if its address has a place for it.
    pub(super) fn begin_handshake(&mut self, cx: &mut Context<'_>) {
        let Client { settings, address, key, .. } = &self.client;
        let address = address.ip().into();
        if cx.shared.tcp.places.begin_handshake(settings, address, *key) {
            self.stage = Stage::Handshake;
            self.since = cx.now;
            cx.shared.tcp.unsettled.extend(cx.shared.tcp.places.next_waiting(address));
        }
    }

    /// Takes in what the client sends before the handshake is complete. The session begins with it.
    pub(super) fn handle_early_data(
        &mut self,
        chosen: Handshaken,
        bytes: Bytes,
        cx: &mut Context<'_>,
    ) {
        if matches!(self.session, Session::Handshake) {
            self.client.is_early = true;
            self.begin_secure(chosen, cx);
        }
        self.session.handle_data(bytes, cx);
    }

    /// Completes the handshake. The session may have begun with early data.
    pub(super) fn handle_handshaken(&mut self, handshaken: Handshaken, cx: &mut Context<'_>) {
        self.end_handshake(cx);
        let counters = &mut cx.shared.counters.tcp;
        counters.handshakes_completed += 1;
        match handshaken.early_data {
            EarlyDataFate::NotOffered => {}
            EarlyDataFate::Accepted => counters.early_data.accepted += 1,
            EarlyDataFate::Rejected => counters.early_data.rejected += 1,
        }
        self.stage = Stage::Session;
        self.since = cx.now;
        self.client.is_early = false;
        if matches!(self.session, Session::Handshake) {
            self.begin_secure(handshaken, cx);
        }
    }

    /// Begins the session that the handshake has chosen.
    fn begin_secure(&mut self, chosen: Handshaken, cx: &mut Context<'_>) {
        let certificates = cx.shared.settings.tls.clone();
        self.client.coverage = Some(Coverage::new(chosen.server_name, certificates));
        let certificate = chosen.client_certificate.as_deref();
        let listener = &self.client.settings.listener;
        self.client.certificate = tls::identify(certificate, listener).map(Arc::new);
        let session = Session::secure(chosen.alpn.as_deref(), &mut self.client, cx);
        self.begin(session, cx);
    }

    fn begin_plain(&mut self, cx: &Context<'_>) {
        self.stage = Stage::Session;
        self.since = cx.now;
        self.begin(Session::plain(cx.now), cx);
    }

    fn begin(&mut self, session: Session, cx: &Context<'_>) {
        self.session = session;
        if self.draining.is_some() || cx.shared.drain_end.is_some() {
            self.session.drain();
        }
    }

    /// Returns whether the TLS handshake, or what comes before it, is not complete. A session may
    /// have begun with early data.
    pub(super) fn is_handshaking(&self) -> bool {
        self.stage != Stage::Session
    }

    /// Gives back the place of the handshake, to a connection of the same address that waits.
    fn end_handshake(&self, cx: &mut Context<'_>) {
        assert_eq!(self.stage, Stage::Handshake, "no other stage has such a place");
        let address = self.client.address.ip().into();
        cx.shared.tcp.places.end_handshake(address);
        cx.shared.tcp.unsettled.extend(cx.shared.tcp.places.next_waiting(address));
    }

    /// Gives back all places of a connection that ends.
    pub(super) fn leave(&self, cx: &mut Context<'_>) {
        let address = self.client.address.ip().into();
        match self.stage {
            Stage::Waiting => cx.shared.tcp.places.stop_waiting(address, self.client.key),
            Stage::Handshake => self.end_handshake(cx),
            Stage::Session => {}
        }
        cx.shared.tcp.places.give_back(&self.client.settings, address);
    }

    pub(super) fn handle_fault(&mut self, fault: TlsFault, cx: &mut Context<'_>) {
        if self.is_handshaking() {
            self.note_failed_handshake(fault.reason(), cx);
        }
        if fault == TlsFault::PlainHttp {
            return self.refuse_plain(cx);
        }
        self.has_failed = true;
        let ending = Ending::from(Outcome::ConnectionError);
        self.session.end(ending, &mut self.client, cx);
        self.closed_for.get_or_insert(ending);
        // The alert is in the output.
        self.end_our_side(cx);
    }

    /// Notes the end of a handshake, or of a PROXY header, that is broken off. A client that leaves
    /// before its first byte has begun none: many check so that a port is open.
    pub(super) fn note_broken_handshake(&self, outcome: Outcome, cx: &mut Context<'_>) {
        if !self.is_handshaking() || self.has_failed {
            return;
        }
        if let Some(header) = &self.header {
            let failure = match outcome {
                Outcome::IdleTimeout => ProxyHeaderFailure::TimedOut,
                _ if header.has_begun() => ProxyHeaderFailure::CutOff,
                _ => return,
            };
            return self.note_failed_header(failure, None, cx);
        }
        let reason = match outcome {
            Outcome::IdleTimeout => HandshakeFailure::TimedOut,
            _ if self.stream.is_untouched() => return,
            Outcome::ClientClosed | Outcome::ClientReset => HandshakeFailure::Client,
            _ => HandshakeFailure::Other,
        };
        self.note_failed_handshake(reason, cx);
    }

    /// Counts a PROXY header that did not come or is none, and reports it.
    fn note_failed_header(
        &self,
        failure: ProxyHeaderFailure,
        rule: Option<&'static str>,
        cx: &mut Context<'_>,
    ) {
        let peer = self.client.address;
        cx.shared.incidents.push_back(Box::new(Incident::ProxyHeader { peer, failure, rule }));
        cx.shared.counters.tcp.proxy_header_failures.count(failure, 1);
    }

    /// Counts a handshake that has failed, and reports it.
    fn note_failed_handshake(&self, reason: HandshakeFailure, cx: &mut Context<'_>) {
        let incident = Incident::HandshakeFailed { client: self.client.address, reason };
        cx.shared.incidents.push_back(Box::new(incident));
        cx.shared.counters.tcp.handshake_failures.count(reason, 1);
    }

    /// Responds in plain HTTP to a client that speaks it to a TLS port.
    fn refuse_plain(&mut self, cx: &mut Context<'_>) {
        self.end_handshake(cx);
        self.stream = ByteStream::plain();
        self.begin_plain(cx);
        let rule = "this port speaks TLS, and the request came without; use https";
        if let Err(ending) = self.session.refuse(rule, &mut self.client, cx) {
            self.break_off(ending, cx);
        }
    }
}
