//! The protocol of a connection: none before the handshake is over, then the one that it chose.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;

use super::client::Client;
use super::http1::Http1;
use super::http2::Http2;
use crate::gateway::context::Context;
use crate::message::{Ending, Protocol, Refusal, Scheme};
use crate::proxy::{DownstreamCommand, Proxy};
use crate::tls::ALPN_H2;

pub(super) enum Session {
    Handshake,
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

impl Session {
    /// Begins the session of a connection without TLS.
    pub(super) fn plain(now: Instant) -> Self {
        Self::Http1(Box::new(Http1::new(Scheme::Http, now)))
    }

    /// Begins the session of a connection with TLS. A client that has not chosen a protocol speaks
    /// HTTP/1.1.
    pub(super) fn secure(alpn: Option<&[u8]>, client: &mut Client, cx: &Context<'_>) -> Self {
        if alpn == Some(ALPN_H2) {
            client.protocol = Protocol::Http2;
            return Self::Http2(Box::new(Http2::new(client, cx)));
        }
        Self::Http1(Box::new(Http1::new(Scheme::Https, cx.now)))
    }

    /// Handles bytes of the client.
    pub(super) fn handle_data(&mut self, bytes: Bytes, cx: &Context<'_>) {
        match self {
            Self::Handshake => unreachable!("bytes follow the handshake"),
            Self::Http1(http1) => http1.handle_data(bytes, cx.now),
            Self::Http2(http2) => http2.handle_data(bytes),
        }
    }

    /// Handles the end of the client's side.
    pub(super) fn handle_end(&mut self) {
        match self {
            Self::Handshake => {}
            Self::Http1(http1) => http1.handle_end(),
            Self::Http2(http2) => http2.handle_end(),
        }
    }

    /// Reads requests as far as the proxy takes them. Returns an error if the connection is to be
    /// broken off.
    pub(super) fn advance(
        &mut self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        match self {
            Self::Handshake => Ok(()),
            Self::Http1(http1) => http1.advance(client, cx),
            Self::Http2(http2) => http2.advance(client, cx),
        }
    }

    /// Carries out a command of the proxy's. Returns an error if the connection is to be broken
    /// off.
    pub(super) fn handle(
        &mut self,
        stream: u64,
        command: DownstreamCommand,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        match self {
            Self::Handshake => Ok(()),
            Self::Http1(http1) => http1.handle(stream, command, client, cx),
            Self::Http2(http2) => {
                http2.handle(stream, command, client, cx);
                Ok(())
            }
        }
    }

    /// Moves bytes for the client to `out`, `len_max` at most.
    pub(super) fn output(&mut self, out: &mut VecDeque<Bytes>, len_max: usize) {
        match self {
            Self::Handshake => {}
            Self::Http1(http1) => http1.output(out, len_max),
            Self::Http2(http2) => http2.output(out, len_max),
        }
    }

    /// Returns whether there are bytes for the client.
    pub(super) fn has_output(&self) -> bool {
        match self {
            Self::Handshake => false,
            Self::Http1(http1) => http1.has_output(),
            Self::Http2(http2) => http2.has_output(),
        }
    }

    /// Returns the number of body bytes that the proxy has handed over whole, and that wait for the
    /// client's windows.
    pub(super) fn queued_len(&self) -> usize {
        match self {
            Self::Handshake | Self::Http1(_) => 0,
            Self::Http2(http2) => http2.queued_len(),
        }
    }

    /// Takes the numbers of the requests whose responses the last output has completed.
    pub(super) fn take_finished(&mut self) -> Vec<u64> {
        match self {
            Self::Handshake => Vec::new(),
            Self::Http1(http1) => http1.take_finished(),
            Self::Http2(http2) => http2.take_finished(),
        }
    }

    /// Notes that the kernel has taken `len` bytes of the output.
    pub(super) fn taken(&mut self, len: usize, client: &mut Client, cx: &mut Context<'_>) {
        if let Self::Http1(http1) = self {
            http1.taken(len, client, cx);
        }
    }

    /// Returns whether more bytes of the client are to be received.
    pub(super) fn wants_input(&self, proxy: &Proxy) -> bool {
        match self {
            Self::Handshake => true,
            Self::Http1(http1) => http1.wants_input(proxy),
            Self::Http2(http2) => http2.wants_input(),
        }
    }

    /// Returns whether our side is to be closed.
    pub(super) fn is_closing(&self) -> bool {
        match self {
            Self::Handshake => false,
            Self::Http1(http1) => http1.is_closing(),
            Self::Http2(http2) => http2.is_closing(),
        }
    }

    /// Returns whether no request has begun.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Handshake => false,
            Self::Http1(http1) => http1.is_idle(),
            Self::Http2(http2) => http2.is_idle(),
        }
    }

    /// Returns whether a request is open: its response is not whole.
    pub(super) fn has_request(&self) -> bool {
        match self {
            Self::Handshake => false,
            Self::Http1(http1) => http1.has_request(),
            Self::Http2(http2) => http2.has_request(),
        }
    }

    /// Returns whether the connection waits for the rest of a head.
    pub(super) fn is_in_head(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.is_in_head(),
            Self::Handshake | Self::Http2(_) => false,
        }
    }

    /// Returns since when it is idle or in a head; `since` for a session that has not begun.
    pub(super) fn since(&self, since: Instant) -> Instant {
        match self {
            Self::Handshake => since,
            Self::Http1(http1) => http1.since(),
            Self::Http2(http2) => http2.since(),
        }
    }

    /// Refuses the current request, and reads nothing more.
    pub(super) fn refuse(
        &mut self,
        rule: &'static str,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        match self {
            Self::Http1(http1) => {
                http1.refuse(Refusal::new(StatusCode::BAD_REQUEST, rule), client, cx)
            }
            Self::Handshake | Self::Http2(_) => Ok(()),
        }
    }

    /// Responds to a head that is not complete in time.
    pub(super) fn handle_head_timeout(
        &mut self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        match self {
            Self::Http1(http1) => http1.handle_head_timeout(client, cx),
            Self::Handshake | Self::Http2(_) => Ok(()),
        }
    }

    /// Lets the connection end once its requests are served.
    pub(super) fn drain(&mut self) {
        match self {
            Self::Handshake => {}
            Self::Http1(http1) => http1.drain(),
            Self::Http2(http2) => http2.drain(),
        }
    }

    /// Says goodbye on an idle connection, where the protocol has words for it.
    pub(super) fn close(&mut self) {
        if let Self::Http2(http2) = self {
            http2.close();
        }
    }

    /// Ends all requests of a connection that is broken off or gone.
    pub(super) fn end(&mut self, ending: Ending, client: &mut Client, cx: &mut Context<'_>) {
        match self {
            Self::Handshake => {}
            Self::Http1(http1) => http1.end(ending, client, cx),
            Self::Http2(http2) => http2.end(ending, client, cx),
        }
    }

    /// Returns the number of requests that are open.
    pub(super) fn stream_count(&self) -> usize {
        match self {
            Self::Handshake | Self::Http1(_) => 1,
            Self::Http2(http2) => http2.stream_count(),
        }
    }

    /// Returns the number of body bytes of a response that the proxy counts as not taken.
    pub(super) fn body_waiting_len(&self, stream: u64) -> usize {
        match self {
            Self::Handshake => 0,
            Self::Http1(http1) => http1.body_waiting_len(),
            Self::Http2(http2) => http2.body_waiting_len(stream),
        }
    }

    /// Returns the number of bytes that are held for its requests.
    pub(super) fn held_len(&self, proxy: &Proxy) -> usize {
        match self {
            Self::Handshake => 0,
            Self::Http1(http1) => http1.held_len(proxy),
            Self::Http2(http2) => http2.held_len(proxy),
        }
    }
}
