//! From the proxy's outputs to the streams and to the upstreams.

use std::time::Instant;

use super::{Gateway, Output, StreamRef};
use crate::http3::Code;
use crate::metrics::{CopyReason, Ledger};
use crate::planted::{Bug, is_planted};
use crate::proxy::{self, Downstream, ResetReason};
use crate::quic::{ConnectionKey, WriteError};

impl Gateway {
    pub(super) fn handle_proxy_output(&mut self, now: Instant, output: proxy::Output) {
        use proxy::Output as From;
        match output {
            From::Connect { key, address, congestion } => {
                self.outputs.push_back(Output::Connect { key, address, congestion });
            }
            From::Write { key, pieces } => self.outputs.push_back(Output::Write { key, pieces }),
            From::Receive { key, downstream } => self.receive(now, key, downstream),
            From::Close { key } => self.outputs.push_back(Output::Close { key }),
            From::Access(record) => {
                self.counts.note_exchange(&record);
                self.outputs.push_back(Output::Access(record));
            }
            From::Interim { downstream, status, fields, .. } => {
                self.response(downstream, |response, _, _| {
                    response.push_interim(status, &fields);
                    if is_planted(Bug::DoubleResponse) {
                        response.push_head(http::StatusCode::OK, &fields, None);
                    }
                });
            }
            From::ResponseHead { downstream, status, fields, content_length, ended, .. } => {
                let body_len = content_length.filter(|_| !ended);
                self.response(downstream, |response, _, _| {
                    response.push_head(status, &fields, body_len);
                    if ended {
                        response.end();
                    }
                });
            }
            From::ResponseBody { downstream, piece, .. } => {
                self.response(downstream, |response, memory_low, ledger| {
                    response.push_body(piece, memory_low, ledger);
                });
            }
            From::ResponseEnd { downstream, trailers, .. } => {
                self.response(downstream, |response, _, _| {
                    if let Some(fields) = trailers {
                        response.push_trailers(&fields);
                    }
                    response.end();
                });
            }
            From::ResponseReset { downstream, reason, .. } => {
                self.reset_response(now, downstream, reason);
            }
            From::StopRequest { downstream, .. } => {
                let at = stream_of(downstream);
                self.close_intake(at, Code::NoError);
                self.forget_if_over(now, at);
            }
            From::BodyRoom { downstream, .. } => self.read_request(now, stream_of(downstream)),
        }
    }

    fn response(
        &mut self,
        downstream: Downstream,
        push: impl FnOnce(&mut super::response::ResponseQueue, bool, &mut Ledger),
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
                    self.ledger.response_copied(CopyReason::Gather, written.bytes);
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
