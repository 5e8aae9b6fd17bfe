//! The client's side: requests in, bodies in, answers out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::api::{Downstream, DownstreamCommand, ExchangeKey, Output, Request};
use super::exchange::{Exchange, Stage};
use super::faults::Fault;
use super::fields::{clean_trailers, expects_continue, max_forwards};
use super::machine::{Owner, Proxy};
use super::upstream::GroupKey;
use crate::http1::{ConnectionOptions, Framing};
use crate::limits::RESPONSE_STALL_TIMEOUT;
use crate::message::{AccessRecord, Fields, Outcome, Refusal, Scheme};
use crate::planted::{Bug, is_planted};

impl Proxy {
    /// Begins an exchange. `ended`: no body follows. Whatever becomes of it is told by outputs; an
    /// response may be among them already.
    pub fn handle_request(
        &mut self,
        now: Instant,
        downstream: Downstream,
        mut request: Request,
        ended: bool,
    ) -> ExchangeKey {
        let record = AccessRecord {
            server_name: request.server_name.clone(),
            ..AccessRecord::new(now, request.client)
        };
        let mut exchange = Exchange::new(downstream, self.bounds(), record);
        let admitted = self.admit(&request, ended);
        exchange.body.ended = ended;
        let head = &request.head;
        exchange.framing = Framing::of(&head.method, head.content_length, ended);
        exchange.trusted = self.is_trusted(&request);
        if !exchange.trusted && matches!(downstream, Downstream::Stream { .. }) {
            // QUIC is always secured, whatever `:scheme` says.
            request.head.set_scheme(Scheme::Https);
        }
        let awaits_continue = !ended && expects_continue(&request.head.fields);
        exchange.request = Some(request);
        let key = self.insert(exchange, admitted.ok());
        if let Err(fault) = admitted {
            self.fail(now, key, fault);
            return key;
        }
        if awaits_continue {
            // RFC 9110 10.1.1: the gateway takes the body itself, so it is the one to say so.
            let (status, fields) = (StatusCode::CONTINUE, Fields::new());
            self.respond(downstream, key, DownstreamCommand::Interim { status, fields });
        }
        let exchange = self.exchanges.get_mut(key).expect("inserted above");
        if exchange.framing == Framing::Undecided {
            exchange.advance(Stage::Holding);
        } else {
            self.dispatch(now, key);
        }
        self.set_body_timer(now, key);
        key
    }

    /// Takes pieces of the request's body. The gateway asks [`Proxy::body_room`] first: what is
    /// beyond it is taken too.
    pub fn handle_body(
        &mut self,
        now: Instant,
        key: ExchangeKey,
        pieces: impl IntoIterator<Item = Bytes>,
    ) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let before = exchange.body.received_len;
        pieces.into_iter().for_each(|piece| exchange.body.push(piece));
        let body_len = exchange.body.received_len;
        if body_len == before {
            return;
        }
        if exchange.stage() != Stage::Answered && !exchange.body.stopped {
            if matches!(exchange.framing, Framing::Length(len) if body_len > len) {
                let rule = "the request's body is longer than its content-length";
                return self.fail(now, key, Fault::BadRequest(rule));
            }
            if body_len > exchange.bounds.request_body_len_max {
                return self.fail(now, key, Fault::RequestTooLarge);
            }
        }
        match exchange.stage() {
            Stage::Holding => {
                exchange.framing = Framing::Chunked;
                exchange.advance(Stage::Arrived);
                self.dispatch(now, key);
            }
            Stage::Active { .. } => self.pump_later(key),
            Stage::Arrived | Stage::Waiting { .. } | Stage::Connecting { .. } => {}
            Stage::Answered => return,
        }
        self.set_body_timer(now, key);
    }

    /// The request is whole.
    pub fn handle_end(&mut self, now: Instant, key: ExchangeKey, trailers: Option<Fields>) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.body.ended {
            return;
        }
        exchange.body.ended = true;
        exchange.body_timer.disarm();
        if exchange.stage() == Stage::Answered || exchange.body.stopped {
            return;
        }
        // RFC 9114 4.1.2: checked here too, because what an upstream is told must hold whichever
        // way the end came: an incomplete body is never let stand on a connection.
        if matches!(exchange.framing, Framing::Length(len) if exchange.body.received_len != len) {
            let rule = "the request's body is shorter than its content-length";
            return self.fail(now, key, Fault::BadRequest(rule));
        }
        exchange.body.trailers = trailers.and_then(|mut trailers| {
            clean_trailers(&mut trailers);
            (!trailers.is_empty()).then_some(trailers)
        });
        match exchange.stage() {
            Stage::Holding => {
                exchange.framing = Framing::None;
                exchange.advance(Stage::Arrived);
                self.dispatch(now, key);
            }
            Stage::Active { .. } => self.pump_later(key),
            _ => {}
        }
    }

    /// Request body bytes that the exchange takes now; 0: stop reading the client until
    /// [`DownstreamCommand::BodyRoom`]. An exchange that is over takes and drops them.
    pub fn body_room(&self, key: ExchangeKey) -> usize {
        match self.exchanges.get(key) {
            Some(exchange) => exchange.body.room(),
            None => crate::limits::REQUEST_PENDING_LEN_MAX,
        }
    }

    /// The client is gone or wants no response any more. Nothing more is sent to it.
    pub fn handle_abort(&mut self, now: Instant, key: ExchangeKey) {
        if self.exchanges.get(key).is_none() {
            return;
        }
        let connection = self.detach(key);
        if connection.is_none() && is_planted(Bug::LeakedExchange) {
            return;
        }
        self.end(now, key, Outcome::Aborted);
        if let Some(connection) = connection {
            self.close(now, connection);
        }
    }

    /// The client's connection took `len` bytes of the response's body.
    pub fn handle_response_taken(&mut self, now: Instant, key: ExchangeKey, len: usize) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let pending_len = exchange.response.pending_len.checked_sub(len);
        exchange.response.pending_len = pending_len.expect("no more is taken than was given");
        exchange.record.response_len += len as u64;
        let pending_len = exchange.response.pending_len;
        exchange.response_timer.disarm();
        self.set_response_timer(now, key);
        let exchange = self.exchanges.get(key).expect("found above");
        match exchange.stage() {
            Stage::Answered => self.end_if_taken(now, key),
            Stage::Active { connection }
                if self.reads_on(pending_len) && self.receive(connection) =>
            {
                self.set_upstream_timer(now, key);
            }
            _ => {}
        }
    }

    /// The client's connection takes no more of the response for now: the watch over it begins, unless
    /// it runs.
    pub fn handle_response_blocked(&mut self, now: Instant, key: ExchangeKey) {
        if self.exchanges.get(key).is_some() {
            self.set_response_timer(now, key);
        }
    }

    /// Answers a request that was refused before it became one (400, 408, 431), so that it is
    /// answered and logged as all others are. `ended`: nothing more comes from the client.
    pub fn reject(
        &mut self,
        now: Instant,
        downstream: Downstream,
        client: SocketAddr,
        server_name: Option<Arc<str>>,
        refusal: Refusal,
        ended: bool,
    ) -> ExchangeKey {
        let record = AccessRecord {
            server_name,
            request: refusal.understood,
            rule: Some(refusal.rule),
            ..AccessRecord::new(now, client)
        };
        let mut exchange = Exchange::new(downstream, self.bounds(), record);
        exchange.body.ended = ended;
        let key = self.insert(exchange, None);
        self.fail(now, key, Fault::Refused(refusal.status, refusal.rule));
        key
    }

    /// Ends the exchange's way to an upstream for `fault`: by an own response, or by cutting off the
    /// response that has begun.
    pub(super) fn fail(&mut self, now: Instant, key: ExchangeKey, fault: Fault) {
        let connection = self.detach(key);
        let exchange = self.exchanges.get_mut(key).expect("an exchange that fails exists");
        if exchange.response.head_given {
            let (downstream, reason) = (exchange.downstream, fault.reset_reason());
            self.respond(downstream, key, DownstreamCommand::Reset(reason));
            self.end(now, key, Outcome::Reset(reason));
        } else {
            self.response_by_self(now, key, fault);
        }
        if let Some(connection) = connection {
            self.close(now, connection);
        }
    }

    pub(super) fn respond(
        &mut self,
        to: Downstream,
        exchange: ExchangeKey,
        command: DownstreamCommand,
    ) {
        self.outputs.push_back(Output::Downstream { to, exchange, command });
    }

    /// Asks the client for no more of its request.
    pub(super) fn stop_request(&mut self, key: ExchangeKey) {
        let exchange = self.exchanges.get_mut(key).expect("a request to stop exists");
        if !exchange.body.ended && !exchange.body.stopped {
            let downstream = exchange.downstream;
            self.respond(downstream, key, DownstreamCommand::StopRequest);
            let exchange = self.exchanges.get_mut(key).expect("found above");
            exchange.body.stop();
            exchange.body_timer.disarm();
            return;
        }
        exchange.body.stop();
        exchange.body_timer.disarm();
    }

    /// Restarts the watch over the client's sending.
    pub(super) fn set_body_timer(&mut self, now: Instant, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let body = &exchange.body;
        let is_whole = body.ended || exchange.framing == Framing::Length(body.received_len);
        let is_awaited = !is_whole && !body.stopped && body.room() > 0;
        if is_awaited && exchange.stage() != Stage::Answered {
            let due = now + exchange.bounds.request_body_timeout;
            self.timers.set(&mut exchange.body_timer, due, Owner::Body(key));
        } else {
            exchange.body_timer.disarm();
        }
    }

    /// Starts the watch over the client's taking, unless it runs.
    fn set_response_timer(&mut self, now: Instant, key: ExchangeKey) {
        let exchange = self.exchanges.get_mut(key).expect("an answered exchange exists");
        if exchange.response.pending_len > 0 && !exchange.response_timer.is_set() {
            let due = now + RESPONSE_STALL_TIMEOUT;
            self.timers.set(&mut exchange.response_timer, due, Owner::Response(key));
        }
    }

    /// Ends an answered exchange once the client's connection has all of the response.
    pub(super) fn end_if_taken(&mut self, now: Instant, key: ExchangeKey) {
        let exchange = self.exchanges.get(key).expect("an answered exchange exists");
        if exchange.stage() == Stage::Answered && exchange.response.pending_len == 0 {
            self.end(now, key, Outcome::Complete);
        }
    }

    fn response_by_self(&mut self, now: Instant, key: ExchangeKey, fault: Fault) {
        let (fields, body) = fault.response();
        let status = fault.status();
        let exchange = self.exchanges.get_mut(key).expect("an exchange to response exists");
        exchange.advance(Stage::Answered);
        exchange.note_upstream_end(now);
        exchange.note_head(status);
        exchange.record.error = Some(fault.token());
        let downstream = exchange.downstream;
        let method = exchange.request.as_ref().map(|request| &request.head.method);
        let ended = method.or(exchange.record.request.method.as_ref()) == Some(&Method::HEAD);
        let content_length = Some(body.len() as u64);
        if !ended {
            exchange.response.pending_len += body.len();
        }
        let head = DownstreamCommand::Head { status, fields, content_length, ended };
        self.respond(downstream, key, head);
        if !ended {
            self.respond(downstream, key, DownstreamCommand::Body(body));
            self.respond(downstream, key, DownstreamCommand::End(None));
        }
        self.stop_request(key);
        self.end_if_taken(now, key);
    }

    fn insert(&mut self, exchange: Exchange, group: Option<GroupKey>) -> ExchangeKey {
        self.tally.exchanges += 1;
        let key = self.exchanges.insert(exchange);
        if let Some(group) = group {
            self.groups.get_mut(group).expect("a routed group exists").user_count += 1;
            self.exchanges.get_mut(key).expect("inserted above").group = Some(group);
        }
        key
    }

    /// Checks what can be checked by the head alone, and finds the upstream.
    fn admit(
        &self,
        Request { head, misdirected, .. }: &Request,
        ended: bool,
    ) -> Result<GroupKey, Fault> {
        // RFC 9110 9.3.6: no tunnel is made here.
        if head.method == Method::CONNECT {
            return Err(Fault::ConnectMethod);
        }
        // RFC 9110 9.3.8: an echo would show the client what the gateway adds for the upstream.
        if head.method == Method::TRACE {
            return Err(Fault::TraceMethod);
        }
        if head.method == Method::OPTIONS {
            let forwards_left = max_forwards(head).map_err(Fault::BadRequest)?;
            if forwards_left == Some(0) {
                return Err(Fault::LastHop);
            }
        }
        if *misdirected {
            return Err(Fault::Misdirected);
        }
        if ConnectionOptions::read(&head.fields).is_none() {
            return Err(Fault::BadRequest("the connection field names too many fields"));
        }
        if ended && head.content_length.is_some_and(|len| len > 0) {
            return Err(Fault::BadRequest("the request has a content-length and no body"));
        }
        if head.content_length > Some(self.config.limits.request_body_len_max) {
            return Err(Fault::RequestTooLarge);
        }
        let route = self.routes.find(head.authority().host(), head.path()).ok_or(Fault::NoRoute)?;
        Ok(self.current_groups[self.config.routes[route].upstream])
    }

    fn is_trusted(&self, request: &Request) -> bool {
        let client = request.client.ip().to_canonical();
        let listener = self.config.listeners.get(request.listener);
        listener.is_some_and(|listener| {
            listener.trusted_proxies.iter().any(|network| network.contains(&client))
        })
    }
}
