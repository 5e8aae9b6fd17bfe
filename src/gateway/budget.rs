//! How much of answers may wait for clients: bounds of a connection, shares of the worker's budget.
//!
//! An answer piece that a connection has not taken yet lies in a slot or on the heap. Each stream
//! has its own bound in the proxy; a client with a hundred slow streams, or a thousand slow clients,
//! would still hold a hundred or a thousand times that. So a receive from an upstream is held back
//! while its client's connection has its share waiting. The share follows what is left of the
//! worker's budget, as slots of received bytes do: it shrinks as more waits, and whoever has nothing
//! waiting may always have one piece, so that clients that do not read never starve those that do.

use std::collections::BTreeMap;

use super::{Gateway, Output};
use crate::limits::CONNECTION_ANSWERS_LEN_MAX;
use crate::proxy::{Downstream, UpstreamKey};
use crate::quic::ConnectionKey;

/// What waits in the whole worker, and which receives are held back.
#[derive(Debug)]
pub(super) struct AnswerBudget {
    len: usize,
    len_max: usize,
    /// Of connections that have something waiting: only they are held back, so each is looked at
    /// again when it takes something.
    held: BTreeMap<ConnectionKey, Vec<UpstreamKey>>,
}

impl AnswerBudget {
    pub(super) fn new(len_max: usize) -> Self {
        Self { len: 0, len_max, held: BTreeMap::new() }
    }

    /// Bytes that wait in the whole worker.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The connection is over, and with it the upstream connections that answered it.
    pub(super) fn forget(&mut self, connection: ConnectionKey, waiting_len: usize) {
        self.len -= waiting_len;
        self.held.remove(&connection);
    }

    fn has_room(&self, waiting_len: usize) -> bool {
        let share = self.len_max.saturating_sub(self.len).min(CONNECTION_ANSWERS_LEN_MAX);
        waiting_len == 0 || waiting_len < share
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

    /// `len` bytes wait no more. Passes on receives that were held back for them.
    pub(super) fn discharge_answer(&mut self, key: ConnectionKey, len: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.answers_len -= len;
        self.answers.len -= len;
        if !self.answers.held.is_empty() && self.answers.has_room(connection.answers_len) {
            let held = self.answers.held.remove(&key).unwrap_or_default();
            self.outputs.extend(held.into_iter().map(|key| Output::Receive { key }));
        }
    }

    /// Passes a receive on, or holds it back while its client takes too little.
    pub(super) fn receive(&mut self, key: UpstreamKey, downstream: Option<Downstream>) {
        if let Some(Downstream::Stream { connection, .. }) = downstream {
            let connection = ConnectionKey::from_bits(connection);
            let waiting = self.connections.get_mut(connection).map(|found| found.answers_len);
            if waiting.is_some_and(|len| !self.answers.has_room(len)) {
                self.answers.held.entry(connection).or_default().push(key);
                return;
            }
        }
        self.outputs.push_back(Output::Receive { key });
    }
}
