//! How much of responses may wait for clients: bounds of a connection, shares of the worker's budget.
//!
//! A response piece that a connection has not taken yet lies in a slot or on the heap. Each stream
//! has its own bound in the proxy; a client with a hundred slow streams, or a thousand slow clients,
//! would still hold a hundred or a thousand times that. So a receive from an upstream is held back
//! while its client's connection has its share waiting. The share follows what is left of the
//! worker's budget, as slots of received bytes do: it shrinks as more waits.
//!
//! Only a response of which something waits itself is held back. So
//!
//! - streams that are not read stop no other stream of their connection, and clients that do not
//!   read starve none that do: each response gets its first piece, whatever waits beside it;
//! - nothing is held for ever: what waits is taken, and the receive is asked for anew, or it is not,
//!   and the response's stall timeout ends it. Nobody keeps a list of what is held.
//!
//! What a connection has waiting is thus bounded by its share and one receive for each of its
//! streams (`max_streams`). No rule that looks at what waits does better: a client that asks for
//! everything at once has as many receives under way before the first of them brings anything.
//! A receive fills more than one slot only where as much for every stream of the connection fits
//! into the share: those are no more than another share, however many streams come after them.

use std::time::Instant;

use super::respond::stream_of;
use super::{Gateway, Output, StreamRef};
use crate::limits::{CONNECTION_RESPONSES_LEN_MAX, RECEIVE_SLOT_COUNT_MAX, SLOT_LEN};
use crate::planted::{Bug, is_planted};
use crate::proxy::{Downstream, UpstreamCommand, UpstreamKey};
use crate::quic::ConnectionKey;

/// What waits in the whole worker.
#[derive(Debug)]
pub(super) struct ResponseBudget {
    len: usize,
    len_max: usize,
}

impl ResponseBudget {
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

    /// What is left of the share of a connection of which `waiting_len` bytes wait.
    fn room(&self, waiting_len: usize) -> usize {
        let share = self.len_max.saturating_sub(self.len).min(CONNECTION_RESPONSES_LEN_MAX);
        share.saturating_sub(waiting_len)
    }
}

impl Gateway {
    /// `len` more bytes wait for the connection.
    pub(super) fn charge_response(&mut self, connection: ConnectionKey, len: usize) {
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.responses_len += len;
            self.responses.len += len;
        }
    }

    /// `len` bytes wait no more.
    pub(super) fn discharge_response(&mut self, connection: ConnectionKey, len: usize) {
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.responses_len -= len;
            self.responses.len -= len;
        }
    }

    /// Passes a receive on, or pauses it while its client takes too little.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        downstream: Option<Downstream>,
    ) {
        let at = downstream.map(stream_of);
        match at.map_or(1, |at| self.receive_slot_count(at)) {
            0 => self.proxy.pause_receive(now, key),
            slot_count_max => {
                let command = UpstreamCommand::Receive { key, downstream, slot_count_max };
                self.outputs.push_back(Output::Upstream(command));
            }
        }
    }

    /// Slots that a receive of the stream's answer may fill; 0 holds it back.
    fn receive_slot_count(&mut self, at: StreamRef) -> usize {
        let Some(connection) = self.connections.get_mut(at.connection) else { return 1 };
        let Some(stream) = connection.streams.get(&at.stream) else { return 1 };
        let room = self.responses.room(connection.responses_len);
        if connection.streams.len() * RECEIVE_SLOT_COUNT_MAX * SLOT_LEN <= room {
            return RECEIVE_SLOT_COUNT_MAX;
        }
        let is_held = room == 0 && stream.response.body_waiting_len() > 0;
        usize::from(!is_held || is_planted(Bug::BoundlessResponses))
    }
}
