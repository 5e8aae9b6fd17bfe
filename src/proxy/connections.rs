//! What happens on upstream connections: requests leave, answers come.

use std::time::Instant;

use bytes::BytesMut;
use http::StatusCode;

use super::api::{
    DownstreamCommand, ExchangeKey, Output, UpstreamCommand, UpstreamEvent, UpstreamKey,
};
use super::exchange::{Exchange, Stage};
use super::faults::Fault;
use super::fields::{clean_response, clean_trailers};
use super::machine::{Owner, Proxy};
use super::upstream::Role;
use crate::http1::Part;
use crate::message::Fields;
use crate::planted::{Bug, is_planted};

impl Proxy {
    /// Takes in what happened to an upstream connection.
    pub fn handle_upstream(&mut self, now: Instant, key: UpstreamKey, event: UpstreamEvent) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match event {
            UpstreamEvent::Connected => {
                let Role::Connecting(exchange) = connection.role else { return };
                self.start(exchange, key);
            }
            UpstreamEvent::ConnectFailed(fault) => {
                self.connect_failed(now, key, Fault::Connect(fault));
            }
            UpstreamEvent::Wrote => {
                connection.writing = false;
                self.handle_wrote(now, key);
            }
            UpstreamEvent::WriteFailed(_) => {
                connection.writing = false;
                connection.broken = true;
                self.handle_write_failed(now, key);
            }
            UpstreamEvent::Received(piece) => {
                connection.receiving = false;
                self.handle_received(now, key, piece, false);
            }
            UpstreamEvent::ReceivedPart(piece) => self.handle_received(now, key, piece, true),
            UpstreamEvent::End => {
                connection.receiving = false;
                self.handle_connection_end(now, key, true);
            }
            UpstreamEvent::Failed(fault) => match connection.role {
                Role::Connecting(_) => self.connect_failed(now, key, Fault::Connect(fault)),
                _ => self.handle_connection_end(now, key, false),
            },
        }
    }

    /// The last [`UpstreamCommand::Receive`] is not made: the client takes too little of this response, of which
    /// something must wait for it. It is asked for anew when the client takes something; until then
    /// the upstream is not late, whatever it does.
    pub fn pause_receive(&mut self, now: Instant, key: UpstreamKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Role::Busy(exchange, _) = &connection.role else {
            unreachable!("a receive is held back for a response that has begun")
        };
        let exchange = *exchange;
        connection.receiving = false;
        let pending_len =
            self.exchanges.get(exchange).map(|exchange| exchange.response.pending_len);
        assert!(pending_len > Some(0), "nothing would ever ask for a receive that was held back");
        self.tally.held += 1;
        self.set_upstream_timer(now, exchange);
    }

    /// Writes what there is of the exchange's request once all inputs are in: the head and what has
    /// come of the body leave in one write.
    pub(super) fn pump_later(&mut self, key: ExchangeKey) {
        let exchange = self.exchanges.get_mut(key).expect("an exchange to pump exists");
        if !std::mem::replace(&mut exchange.is_pump_due, true) {
            self.due_pumps.push_back(key);
        }
    }

    /// Writes what there is of the exchange's request, unless it is over by now.
    pub(super) fn pump(&mut self, now: Instant, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.is_pump_due = false;
        let Stage::Active { connection: connection_key } = exchange.stage() else { return };
        let connection = self.connections.get_mut(connection_key);
        let connection = connection.expect("an active exchange has its connection");
        if connection.writing || connection.broken {
            return;
        }
        let mut pieces = Vec::from_iter(exchange.unsent_head.take());
        exchange.body.take_pieces(exchange.framing, &mut pieces);
        if !pieces.is_empty() {
            connection.writing = true;
            let write = UpstreamCommand::Write { key: connection_key, pieces };
            self.outputs.push_back(Output::Upstream(write));
        }
        if exchange.body.has_room_again() && !is_planted(Bug::ForgottenBodyRoom) {
            let downstream = exchange.downstream;
            self.respond(downstream, key, DownstreamCommand::BodyRoom);
            self.set_body_timer(now, key);
        }
        self.set_upstream_timer(now, key);
    }

    /// Restarts the watch over the upstream of an active exchange: while it is to take or to give
    /// something, and not while the client is waited for.
    pub(super) fn set_upstream_timer(&mut self, now: Instant, key: ExchangeKey) {
        let exchange = self.exchanges.get(key).expect("an active exchange exists");
        let Stage::Active { connection: connection_key } = exchange.stage() else { return };
        let connection = self.connections.get_mut(connection_key);
        let connection = connection.expect("an active exchange has its connection");
        let group = self.groups.get(connection.group).expect("a used group exists");
        let request_is_out = exchange.body.given || exchange.body.stopped;
        // Room for more is not enough: nobody asks for it before the client has taken something.
        if connection.writing || request_is_out && connection.receiving {
            let due = now + group.config.response_timeout;
            self.timers.set(&mut connection.timer, due, Owner::Connection(connection_key));
        } else {
            connection.timer.disarm();
        }
    }

    fn handle_wrote(&mut self, now: Instant, key: UpstreamKey) {
        let connection = self.connections.get(key).expect("found by the caller");
        let exchange_key = match &connection.role {
            Role::Finishing => return self.keep_or_close(now, key),
            Role::Busy(exchange, _) => *exchange,
            Role::Connecting(_) | Role::Idle(_) => return,
        };
        let exchange = self.exchanges.get_mut(exchange_key).expect("a busy one's exchange exists");
        exchange.body.wrote();
        self.pump_later(exchange_key);
    }

    /// The upstream takes no more. What it has sent may be a response all the same (an early 413,
    /// then a close): it is read to its end before anything is concluded.
    fn handle_write_failed(&mut self, now: Instant, key: UpstreamKey) {
        let connection = self.connections.get(key).expect("found by the caller");
        let exchange_key = match &connection.role {
            Role::Busy(exchange, _) => *exchange,
            Role::Finishing | Role::Idle(_) => return self.close(now, key),
            Role::Connecting(_) => return,
        };
        let exchange = self.exchanges.get_mut(exchange_key).expect("a busy one's exchange exists");
        exchange.body.wrote();
        if !exchange.body.given {
            self.stop_request(exchange_key);
        }
        self.set_upstream_timer(now, exchange_key);
    }

    /// `more_follows`: these are not all the bytes that have come.
    fn handle_received(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        piece: BytesMut,
        more_follows: bool,
    ) {
        let connection = self.connections.get(key).expect("found by the caller");
        match &connection.role {
            Role::Busy(exchange, _) => {
                let exchange = *exchange;
                self.read_response(now, key, exchange, piece, more_follows);
            }
            // Nobody asked for these bytes: the next request would take them for its response.
            Role::Idle(_) | Role::Finishing => {
                self.tally.idle_discarded += 1;
                self.close(now, key);
            }
            Role::Connecting(_) => {}
        }
    }

    /// The peer sends no more; `clean` when it said so itself.
    fn handle_connection_end(&mut self, now: Instant, key: UpstreamKey, clean: bool) {
        let connection = self.connections.get_mut(key).expect("found by the caller");
        let (exchange, is_response_end) = match &mut connection.role {
            Role::Busy(exchange, decoder) if clean => (*exchange, decoder.ends_with_connection()),
            Role::Busy(exchange, _) => (*exchange, false),
            Role::Idle(_) | Role::Finishing => {
                self.tally.idle_discarded += 1;
                return self.close(now, key);
            }
            Role::Connecting(_) => return,
        };
        let has_head = |state: &Exchange| state.response.head_given;
        let looks_whole = is_planted(Bug::TruncatedAsCleanEnd)
            && self.exchanges.get(exchange).is_some_and(has_head);
        if is_response_end || looks_whole {
            self.give(now, key, exchange, Part::End(Fields::new()), false);
            return;
        }
        let state = self.exchanges.get(exchange).expect("a busy one's exchange exists");
        let fault = if state.response.byte_came { Fault::Incomplete } else { Fault::Terminated };
        self.connection_lost(now, key, fault);
    }

    /// Gives the client what `piece` holds of its response.
    fn read_response(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        exchange_key: ExchangeKey,
        mut piece: BytesMut,
        more_follows: bool,
    ) {
        let exchange = self.exchanges.get_mut(exchange_key).expect("a busy one's exchange exists");
        exchange.response.byte_came = true;
        loop {
            let connection = self.connections.get_mut(key).expect("the response is not whole");
            let Role::Busy(_, decoder) = &mut connection.role else {
                unreachable!("a response is read from a busy connection")
            };
            match decoder.decode(&mut piece) {
                Ok(Some(part)) => {
                    let leftover = more_follows || !piece.is_empty();
                    if self.give(now, key, exchange_key, part, leftover) {
                        return;
                    }
                }
                Ok(None) => break,
                Err(fault) => {
                    self.note_failure(now, key);
                    return self.fail(now, exchange_key, fault.into());
                }
            }
        }
        let connection = self.connections.get(key).expect("the response is not whole");
        // The wait for a head is one wait: crumbs of a head do not prolong it.
        let in_head = matches!(&connection.role, Role::Busy(_, decoder) if decoder.is_in_head());
        let exchange = self.exchanges.get(exchange_key).expect("the response is not whole");
        if self.reads_on(exchange.response.pending_len) || is_planted(Bug::WrongCredit) {
            self.receive(key);
        }
        if !in_head {
            self.set_upstream_timer(now, exchange_key);
        }
    }

    /// Passes one part of the response on. True when it was the last one; `leftover` when bytes
    /// follow it.
    fn give(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        exchange_key: ExchangeKey,
        part: Part,
        leftover: bool,
    ) -> bool {
        let exchange = self.exchanges.get_mut(exchange_key).expect("a busy one's exchange exists");
        let (downstream, exchange_key) = (exchange.downstream, exchange_key);
        let is_last = match part {
            // The gateway has said 100 itself where it was waited for.
            Part::Interim(head) if head.status == StatusCode::CONTINUE => false,
            Part::Interim(mut head) => {
                clean_response(&mut head.fields, &head.options);
                let (status, fields) = (head.status, head.fields);
                let command = DownstreamCommand::Interim { status, fields };
                self.respond(downstream, exchange_key, command);
                false
            }
            Part::Head(mut head) => {
                clean_response(&mut head.fields, &head.options);
                exchange.note_head(head.status);
                // No second try after this: the head that would be sent again is let go.
                if let Some(request) = &mut exchange.request {
                    request.head.fields = Vec::new();
                }
                let command = DownstreamCommand::Head {
                    status: head.status,
                    fields: head.fields,
                    content_length: head.content_length,
                    ended: head.ended,
                };
                self.respond(downstream, exchange_key, command);
                self.note_response(key);
                head.ended
            }
            Part::Body(piece) => {
                exchange.response.pending_len += piece.len();
                self.respond(downstream, exchange_key, DownstreamCommand::Body(piece));
                false
            }
            Part::End(mut trailers) => {
                clean_trailers(&mut trailers);
                let trailers = (!trailers.is_empty()).then_some(trailers);
                self.respond(downstream, exchange_key, DownstreamCommand::End(trailers));
                true
            }
        };
        if is_last {
            self.complete(now, key, exchange_key, leftover);
        }
        is_last
    }

    /// The response is whole: parts exchange and connection.
    fn complete(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        exchange_key: ExchangeKey,
        leftover: bool,
    ) {
        let exchange = self.exchanges.get_mut(exchange_key).expect("a busy one's exchange exists");
        exchange.note_upstream_end(now);
        exchange.advance(Stage::Answered);
        let request_is_whole = exchange.body.given || is_planted(Bug::PooledDirtyConnection);
        self.stop_request(exchange_key);
        self.end_if_taken(now, exchange_key);

        let connection = self.connections.get_mut(key).expect("a busy connection exists");
        let Role::Busy(_, decoder) = &connection.role else {
            unreachable!("a response is read from a busy connection")
        };
        let is_clean = request_is_whole && decoder.keeps_alive() && !leftover && !connection.broken;
        if !is_clean {
            return self.close(now, key);
        }
        connection.role = Role::Finishing;
        if !connection.writing {
            return self.keep_or_close(now, key);
        }
        // The kernel has not told yet that the request's last bytes are out.
        let group = self.groups.get(connection.group).expect("a used group exists");
        let due = now + group.config.idle_timeout;
        self.timers.set(&mut connection.timer, due, Owner::Connection(key));
        self.receive(key);
    }

    /// Keeps a connection whose messages are both complete, unless nothing is kept any more.
    fn keep_or_close(&mut self, now: Instant, key: UpstreamKey) {
        let connection = self.connections.get(key).expect("a finished connection exists");
        if self.keeps_connections_of(connection.group) && !connection.broken {
            self.keep(now, key);
        } else {
            self.close(now, key);
        }
    }
}
