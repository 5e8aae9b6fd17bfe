//! From the proxy's outputs to the streams and to the upstreams.

use std::time::Instant;

use super::{Gateway, Output, StreamRef};
use crate::http3::Code;
use crate::planted::{Bug, is_planted};
use crate::proxy::{self, Downstream, DownstreamCommand, ResetReason, UpstreamCommand};
use crate::quic::{ConnectionKey, WriteError};

impl Gateway {
    pub(super) fn handle_proxy_output(&mut self, now: Instant, output: proxy::Output) {
        match output {
            proxy::Output::Upstream(UpstreamCommand::Receive { key, downstream, .. }) => {
                self.receive(now, key, downstream);
            }
            proxy::Output::Upstream(command) => self.outputs.push_back(Output::Upstream(command)),
            proxy::Output::Downstream { to, command, .. } => {
                self.handle_downstream(now, to, command);
            }
            proxy::Output::Access(record) => {
                self.counts.note_exchange(&record);
                self.outputs.push_back(Output::Access(record));
            }
        }
    }

    fn handle_downstream(&mut self, now: Instant, to: Downstream, command: DownstreamCommand) {
        match command {
            DownstreamCommand::Interim { status, fields } => {
                self.response(to, |response, _, _| {
                    response.push_interim(status, &fields);
                    if is_planted(Bug::DoubleResponse) {
                        response.push_head(http::StatusCode::OK, &fields, None);
                    }
                });
            }
            DownstreamCommand::Head { status, fields, content_length, ended } => {
                let body_len = content_length.filter(|_| !ended);
                self.response(to, |response, _, _| {
                    response.push_head(status, &fields, body_len);
                    if ended {
                        response.end();
                    }
                });
            }
            DownstreamCommand::Body(piece) => {
                self.response(to, |response, memory_low, ledger| {
                    response.push_body(piece, memory_low, ledger);
                });
            }
            DownstreamCommand::End(trailers) => {
                self.response(to, |response, _, _| {
                    if let Some(fields) = trailers {
                        response.push_trailers(&fields);
                    }
                    response.end();
                });
            }
            DownstreamCommand::Reset(reason) => self.reset_response(now, to, reason),
            DownstreamCommand::StopRequest => {
                let at = stream_of(to);
                self.close_intake(at, Code::NoError);
                self.forget_if_over(now, at);
            }
            DownstreamCommand::BodyRoom => self.read_request(now, stream_of(to)),
        }
    }

    fn response(
        &mut self,
        downstream: Downstream,
        push: impl FnOnce(&mut super::response::ResponseQueue, bool, &mut super::Ledger),
    ) {
        let at = stream_of(downstream);
        let Some(stream) = self.connections.stream_mut(at) else { return };
        let before = stream.response.pending_len();
        push(&mut stream.response, self.memory_low, &mut self.ledger);
        let grown = stream.response.pending_len() - before;
        self.charge_response(at.connection, grown);
        if self.unwritten.last() != Some(&at) {
            self.unwritten.push(at);
        }
    }

    /// The upstream broke off: never a clean end (RFC 9114 4.1, H3_INTERNAL_ERROR).
    fn reset_response(&mut self, now: Instant, downstream: Downstream, reason: ResetReason) {
        let at = stream_of(downstream);
        if let Some(stream) = self.connections.stream_mut(at) {
            stream.exchange = None;
            self.abandon(now, at, Code::InternalError);
            if reason.is_of_client() {
                self.charge_reset(now, at.connection);
            }
        }
    }

    /// Writes what waits for the stream, as far as the connection takes it.
    pub(super) fn write_response(&mut self, now: Instant, at: StreamRef) {
        while let Some(stream) = self.connections.stream_mut(at)
            && !stream.answered
        {
            if stream.response.pending_len() == 0 {
                if stream.response.is_complete() && !is_planted(Bug::LostFin) {
                    self.finish_response(now, at);
                }
                return;
            }
            match self.engine.write(at.connection, at.stream, stream.response.pieces()) {
                Ok(written) => {
                    self.ledger.response_copied(super::CopyReason::Gather, written.bytes);
                    let body_taken = stream.response.taken(written.bytes, written.pieces);
                    let exchange = stream.exchange;
                    self.discharge_response(at.connection, written.bytes);
                    if let (Some(exchange), 1..) = (exchange, body_taken) {
                        self.proxy.handle_response_taken(now, exchange, body_taken);
                    }
                }
                Err(WriteError::Blocked) => {
                    if let Some(exchange) = stream.exchange {
                        self.proxy.handle_response_blocked(now, exchange);
                    }
                    return;
                }
                Err(WriteError::Gone) => return,
                Err(WriteError::Stopped(_)) => {
                    self.counts.http3.streams_cancelled += 1;
                    self.abandon(now, at, Code::RequestCancelled);
                    return self.charge_reset(now, at.connection);
                }
            }
        }
    }
}

pub(super) fn stream_of(downstream: Downstream) -> StreamRef {
    match downstream {
        Downstream::Stream { connection, stream } => {
            StreamRef { connection: ConnectionKey::from_bits(connection), stream: stream.into() }
        }
        Downstream::Front(id) => unreachable!("no front door gave exchange {id} to this gateway"),
    }
}
