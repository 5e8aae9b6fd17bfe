//! One request of a TCP connection, on its way to the proxy.

use std::sync::Arc;

use bytes::Bytes;

use super::client::Client;
use crate::gateway::context::Context;
use crate::gateway::{TcpStreamRef, downstream_of_tcp};
use crate::message::{AccessRecord, Ending, Fields, Handover, Head, Refusal, Understood};
use crate::proxy::{self, ExchangeKey, Proxy};

/// A request whose stream is not over.
pub(super) struct Request {
    /// Its number on the connection.
    number: u64,
    phase: Phase,
    trailers: Option<Fields>,
}

/// The progress of a request.
enum Phase {
    /// Its head is not complete.
    InHead,
    /// Its head is complete; whether the request ends with it is not known yet.
    Decoded(Box<Head>),
    /// It is an exchange of the proxy's.
    Begun(ExchangeKey),
    /// The proxy has ended it.
    Over,
}

impl Request {
    pub(super) fn new(number: u64) -> Self {
        Self { number, phase: Phase::InHead, trailers: None }
    }

    /// Returns the number of bytes of the body that the proxy accepts now.
    pub(super) fn body_room(&self, proxy: &Proxy) -> usize {
        match &self.phase {
            Phase::Begun(exchange) => proxy.body_room(*exchange),
            Phase::InHead | Phase::Decoded(_) | Phase::Over => usize::MAX,
        }
    }

    /// Returns the number of bytes that the proxy holds for it.
    pub(super) fn held_len(&self, proxy: &Proxy) -> usize {
        match &self.phase {
            Phase::Begun(exchange) => proxy.held_len(*exchange),
            Phase::InHead | Phase::Decoded(_) | Phase::Over => 0,
        }
    }

    /// Returns whether its head is not complete.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.phase, Phase::InHead)
    }

    /// Returns whether it has become an exchange.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.phase, Phase::Begun(_))
    }

    /// Returns whether its head is complete and has to wait for the end of the handshake; `ended`
    /// when the request ends with the head.
    pub(super) fn is_deferred(&self, ended: bool, client: &Client) -> bool {
        matches!(&self.phase, Phase::Decoded(head) if client.defers(head, ended))
    }

    pub(super) fn set_head(&mut self, head: Head) {
        self.phase = Phase::Decoded(Box::new(head));
    }

    pub(super) fn set_trailers(&mut self, trailers: Fields) {
        self.trailers = Some(trailers);
    }

    /// Passes on pieces of the body.
    pub(super) fn handle_body(
        &mut self,
        pieces: impl IntoIterator<Item = Bytes>,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) {
        self.begin(false, client, cx);
        if let Phase::Begun(exchange) = self.phase {
            let ledger = &mut cx.shared.ledger;
            let pieces = pieces.into_iter().inspect(|piece| ledger.request_moved(piece.len()));
            cx.proxy.handle_body(cx.now, exchange, pieces);
        }
    }

    /// Passes on the end of the request.
    pub(super) fn handle_end(&mut self, client: &mut Client, cx: &mut Context<'_>) {
        let trailers = self.trailers.take();
        let ends_with_head = trailers.is_none() && matches!(self.phase, Phase::Decoded(_));
        self.begin(ends_with_head, client, cx);
        if let (Phase::Begun(exchange), false) = (&self.phase, ends_with_head) {
            cx.proxy.handle_end(cx.now, *exchange, trailers);
        }
    }

    /// Hands a complete head to the proxy; `ended` when the request ends with it.
    pub(super) fn begin(&mut self, ended: bool, client: &mut Client, cx: &mut Context<'_>) {
        let head = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Decoded(head) => *head,
            other => return self.phase = other,
        };
        let request = proxy::Request {
            misdirected: client.misdirects(head.authority()),
            head,
            sender: client.sender(),
            listener: Arc::clone(&client.settings.listener),
        };
        let exchange = cx.proxy.handle_request(cx.now, self.downstream(client), request, ended);
        self.phase = Phase::Begun(exchange);
    }

    /// Has the proxy respond to a request that is refused before it becomes an exchange with an
    /// upstream. Returns an error if it is one already: its response may have begun.
    pub(super) fn refuse(
        &mut self,
        mut refusal: Refusal,
        client: &Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::InHead => {}
            Phase::Decoded(head) => refusal.understood = head.understood(),
            Phase::Begun(exchange) => {
                self.phase = Phase::Begun(exchange);
                return Err(refusal.ending());
            }
            Phase::Over => return Ok(()),
        }
        let (downstream, sender) = (self.downstream(client), client.sender());
        let exchange = cx.proxy.reject(cx.now, downstream, sender, refusal, true);
        self.phase = Phase::Begun(exchange);
        Ok(())
    }

    /// Has the proxy respond with 503 to a request whose head is complete, and for which there is
    /// no time or no memory; `ended` when the request ends with its head.
    pub(super) fn shed(&mut self, ended: bool, client: &Client, cx: &mut Context<'_>) {
        let Phase::Decoded(head) = std::mem::replace(&mut self.phase, Phase::Over) else {
            unreachable!("the caller has just set the head");
        };
        let (downstream, sender) = (self.downstream(client), client.sender());
        let exchange = cx.proxy.shed(cx.now, downstream, sender, head.understood(), ended);
        self.phase = Phase::Begun(exchange);
    }

    /// Reports `len` bytes of the response's body that the client's connection has taken.
    pub(super) fn handle_response_taken(&self, len: usize, cx: &mut Context<'_>) {
        if let (Phase::Begun(exchange), 1..) = (&self.phase, len) {
            cx.proxy.handle_response_taken(cx.now, *exchange, len);
        }
    }

    /// Reports that the client's connection takes nothing of the response for now.
    pub(super) fn handle_response_blocked(&self, cx: &mut Context<'_>) {
        if let Phase::Begun(exchange) = self.phase {
            cx.proxy.handle_response_blocked(cx.now, exchange);
        }
    }

    /// Notes that the proxy has reset the response: the exchange is over.
    pub(super) fn note_over(&mut self) {
        self.phase = Phase::Over;
    }

    /// Ends a request whose response was not delivered: its exchange, or with a record of what was
    /// `understood` if it has not become one.
    pub(super) fn end(
        &mut self,
        ending: Ending,
        understood: Understood,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) {
        let understood = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Begun(exchange) => {
                cx.proxy.handle_abort(cx.now, exchange, ending);
                return client.deliveries.cut(self.number, ending, cx);
            }
            Phase::Over => return,
            Phase::InHead => understood,
            Phase::Decoded(head) => head.understood(),
        };
        let mut record = AccessRecord {
            request: understood,
            handover: Handover::Cut,
            ..AccessRecord::new(cx.now, client.sender())
        };
        record.end(ending);
        cx.shared.counters.count_rule(&record);
        cx.log(Box::new(record));
    }

    fn downstream(&self, client: &Client) -> proxy::Downstream {
        downstream_of_tcp(TcpStreamRef { connection: client.key, stream: self.number })
    }
}
