//! How much of answers may wait for clients: bounds of a connection, shares of the worker's budget.
//!
//! An answer piece that a connection has not taken yet lies in a slot or on the heap. Each stream
//! has its own bound in the proxy; a client with a hundred slow streams, or a thousand slow clients,
//! would still hold a hundred or a thousand times that. So a receive from an upstream is held back
//! while its client's connection has its share waiting. The share follows what is left of the
//! worker's budget, as slots of received bytes do: it shrinks as more waits.
//!
//! Only an answer of which something waits itself is held back. So
//!
//! - streams that are not read stop no other stream of their connection, and clients that do not
//!   read starve none that do: each answer gets its first piece, whatever waits beside it;
//! - nothing is held for ever: what waits is taken, and the receive is asked for anew, or it is not,
//!   and the answer's stall timeout ends it. Nobody keeps a list of what is held.
//!
//! What a connection has waiting is thus bounded by its share and one receive for each of its
//! streams (`max_streams`). No rule that looks at what waits does better: a client that asks for
//! everything at once has as many receives under way before the first of them brings anything.

use std::time::Instant;

use super::respond::stream_of;
use super::{Gateway, Output, StreamRef};
use crate::limits::CONNECTION_ANSWERS_LEN_MAX;
use crate::planted::{Bug, is_planted};
use crate::proxy::{Downstream, UpstreamKey};
use crate::quic::ConnectionKey;

/// What waits in the whole worker.
#[derive(Debug)]
pub(super) struct AnswerBudget {
    len: usize,
    len_max: usize,
}

impl AnswerBudget {
    pub(super) fn new(len_max: usize) -> Self {
        Self { len: 0, len_max }
    }

    /// Bytes that wait in the whole worker.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A connection is over, of which `waiting_len` bytes waited.
    pub(super) fn forget(&mut self, waiting_len: usize) {
        self.len -= waiting_len;
    }

    fn has_room(&self, waiting_len: usize) -> bool {
        let share = self.len_max.saturating_sub(self.len).min(CONNECTION_ANSWERS_LEN_MAX);
        waiting_len < share || is_planted(Bug::BoundlessAnswers)
    }
}

impl Gateway {
    /// `len` more bytes wait for the connection.
    pub(super) fn charge_answer(&mut self, connection: ConnectionKey, len: usize) {
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.answers_len += len;
            self.answers.len += len;
        }
    }

    /// `len` bytes wait no more.
    pub(super) fn discharge_answer(&mut self, connection: ConnectionKey, len: usize) {
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.answers_len -= len;
            self.answers.len -= len;
        }
    }

    /// Passes a receive on, or holds it back while its client takes too little.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        downstream: Option<Downstream>,
    ) {
        if downstream.is_some_and(|downstream| self.holds_back(stream_of(downstream))) {
            self.proxy.hold(now, key);
        } else {
            self.outputs.push_back(Output::Receive { key });
        }
    }

    fn holds_back(&mut self, at: StreamRef) -> bool {
        let Some(connection) = self.connections.get_mut(at.connection) else { return false };
        let Some(stream) = connection.streams.get(&at.stream) else { return false };
        stream.answer.body_waiting_len() > 0 && !self.answers.has_room(connection.answers_len)
    }
}
