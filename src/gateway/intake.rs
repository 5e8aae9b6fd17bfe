//! From a request stream's bytes to the proxy: head, body, trailers, end.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::connection::Intake;
use super::{Gateway, StreamRef};
use crate::http3::{self, AsciiText, Code, Fields, RequestError, RequestEvent, RequestHead};
use crate::planted::{Bug, is_planted};
use crate::proxy::{Downstream, Refused, Request};
use crate::quic::{Read, ReadError};

impl Gateway {
    /// Reads what the stream has and the exchange takes. Called when bytes came and when room came.
    pub(super) fn read_request(&mut self, now: Instant, at: StreamRef) {
        loop {
            let Some(stream) = self.connections.stream_mut(at) else { return };
            if stream.intake == Intake::Closed {
                return;
            }
            let room = match stream.exchange {
                Some(exchange) => self.proxy.body_room(exchange),
                None => HEAD_READ_LEN_MAX,
            };
            if room == 0 {
                return;
            }
            let mut len = 0;
            let read = self.engine.read(at.connection, at.stream, room, |chunk| {
                len += chunk.len();
                stream.request.handle(chunk);
            });
            self.ledger.request_moved(len);
            if len > 0 && !self.pass_events(now, at) {
                return;
            }
            match read {
                Ok(Read::Full) => {}
                Ok(Read::Blocked) => return self.begin_exchange(now, at, false),
                Ok(Read::End) => return self.end_request(now, at),
                Err(ReadError::Reset(_)) if is_planted(Bug::CutRequestLooksWhole) => {
                    return self.end_request(now, at);
                }
                Err(error) => return self.lose_request(now, at, error),
            }
        }
    }

    /// The client's side of the stream is over before its end.
    fn lose_request(&mut self, now: Instant, at: StreamRef, error: ReadError) {
        let Some(stream) = self.connections.stream_mut(at) else { return };
        stream.intake = Intake::Closed;
        if let ReadError::Reset(_) = error {
            self.counts.http3.streams_cancelled += 1;
            self.abandon(now, at, Code::RequestCancelled);
            self.charge_reset(now, at.connection);
        }
    }

    /// Passes on what the bytes so far mean: pieces of the body together. False when the stream
    /// takes no more.
    fn pass_events(&mut self, now: Instant, at: StreamRef) -> bool {
        let Some(stream) = self.connections.stream_mut(at) else { return false };
        let mut body = std::mem::take(&mut self.body);
        let outcome = loop {
            match stream.request.poll(&self.settings) {
                Ok(Some(RequestEvent::Head(head))) => stream.head = Some(head),
                Ok(Some(RequestEvent::Body(piece))) => body.push(piece),
                Ok(Some(RequestEvent::Trailers(fields))) => stream.trailers = Some(fields),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if !body.is_empty() {
            self.pass_body(now, at, &mut body);
            body.clear();
        }
        self.body = body;
        match outcome {
            Ok(()) => true,
            Err(error) => {
                self.refuse(now, at, error);
                false
            }
        }
    }

    fn pass_body(&mut self, now: Instant, at: StreamRef, body: &mut Vec<Bytes>) {
        self.begin_exchange(now, at, false);
        let exchange = self.connections.stream_mut(at).and_then(|stream| stream.exchange);
        if is_planted(Bug::CopiedBody) {
            body.iter_mut().for_each(|piece| *piece = Bytes::copy_from_slice(piece));
        }
        if let Some(exchange) = exchange {
            self.proxy.handle_body(now, exchange, body.drain(..));
        }
    }

    fn end_request(&mut self, now: Instant, at: StreamRef) {
        let Some(stream) = self.connections.stream_mut(at) else { return };
        stream.intake = Intake::Closed;
        if let Err(error) = stream.request.handle_end() {
            return self.refuse(now, at, error);
        }
        let trailers: Option<Fields> = stream.trailers.take();
        if let Some(exchange) = stream.exchange {
            self.proxy.handle_end(now, exchange, trailers);
        } else {
            self.begin_exchange(now, at, trailers.is_none());
            let exchange = self.connections.stream_mut(at).and_then(|stream| stream.exchange);
            if let (Some(exchange), Some(trailers)) = (exchange, trailers) {
                self.proxy.handle_end(now, exchange, Some(trailers));
            }
        }
        self.forget_if_over(now, at);
    }

    /// Hands a waiting head to the proxy; `ended` when the request ends with it.
    fn begin_exchange(&mut self, now: Instant, at: StreamRef, ended: bool) {
        let Some(connection) = self.connections.get_mut(at.connection) else { return };
        let Some(stream) = connection.streams.get_mut(&at.stream) else { return };
        let Some(head) = stream.head.take() else { return };
        let Some(client) = self.engine.client_address(at.connection) else { return };
        let RequestHead { method, scheme, authority, path, fields, content_length } = head;
        let authority = header_value(authority);
        let server_name = connection.server_name.clone();
        let misdirected = connection.audience.misdirects(server_name.as_deref(), &authority);
        let request = Request {
            method,
            scheme: uri_scheme(scheme),
            authority,
            path: path.map_or_else(Bytes::new, AsciiText::into_bytes),
            fields,
            content_length,
            client,
            server_name,
            listener: connection.listener,
            misdirected,
        };
        let exchange = self.proxy.handle_request(now, at.downstream(), request, ended);
        stream.exchange = Some(exchange);
    }

    /// Answers a request that breaks a rule the way the rule says.
    fn refuse(&mut self, now: Instant, at: StreamRef, error: RequestError) {
        match error {
            RequestError::Connection(error) => {
                self.close_on_error(now, at.connection, Err(error));
            }
            RequestError::Stream { code, .. } => {
                self.counts.http3.requests_malformed += 1;
                self.abandon(now, at, code);
                self.charge_reset(now, at.connection);
            }
            RequestError::TooLarge { rule } => {
                self.response_refused(now, at, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, rule);
            }
            RequestError::BadRequest { rule } => {
                self.response_refused(now, at, StatusCode::BAD_REQUEST, rule);
            }
        }
    }

    /// Answers a request that never becomes an exchange with an upstream.
    fn response_refused(
        &mut self,
        now: Instant,
        at: StreamRef,
        status: StatusCode,
        rule: &'static str,
    ) {
        let Some(connection) = self.connections.get_mut(at.connection) else { return };
        let Some(client) = self.engine.client_address(at.connection) else { return };
        let server_name = connection.server_name.clone();
        let Some(stream) = connection.streams.get_mut(&at.stream) else { return };
        if stream.exchange.is_some() {
            // Its response may have begun: only a reset is left.
            self.abandon(now, at, Code::ExcessiveLoad);
            return self.charge_reset(now, at.connection);
        }
        let ended = stream.intake == Intake::Closed;
        let refused = Refused { client, server_name, method: None, authority: None, path: None };
        let downstream = at.downstream();
        let exchange = self.proxy.reject(now, downstream, refused, ended, status, rule);
        stream.exchange = Some(exchange);
    }

    /// Tells the client that no more of the request is wanted (RFC 9114 4.1).
    pub(super) fn close_intake(&mut self, at: StreamRef, code: Code) {
        let Some(stream) = self.connections.stream_mut(at) else { return };
        if stream.intake == Intake::Open {
            stream.intake = Intake::Closed;
            self.stop_sending(at, code);
        }
    }

    /// Answers 408 on streams whose head did not come in time.
    pub(super) fn expire_heads(&mut self, now: Instant) {
        while let Some(at) = self.heads.pop_due(now) {
            let Some(stream) = self.connections.stream_mut(at) else { continue };
            if stream.exchange.is_none() && stream.head.is_none() && !stream.answered {
                let rule = "the request's head did not come whole in time";
                self.response_refused(now, at, StatusCode::REQUEST_TIMEOUT, rule);
            }
        }
    }
}

impl StreamRef {
    pub(super) fn downstream(self) -> Downstream {
        Downstream::Stream { connection: self.connection.to_bits(), stream: self.stream.into() }
    }
}

/// CONNECT has no scheme; it is answered before one would matter.
fn uri_scheme(scheme: Option<http3::Scheme>) -> http::uri::Scheme {
    match scheme {
        Some(http3::Scheme::Http) => http::uri::Scheme::HTTP,
        Some(http3::Scheme::Https) | None => http::uri::Scheme::HTTPS,
    }
}

fn header_value(text: AsciiText) -> HeaderValue {
    HeaderValue::from_maybe_shared(text.into_bytes()).expect("visible ASCII is a field value")
}

/// Bytes read at a time before the head is known; http3 bounds what it keeps of them.
const HEAD_READ_LEN_MAX: usize = 64 * 1024;
