//! First packets: those that may begin a connection, deferred when there are too many.
//!
//! Each costs ten microseconds or more (its keys, a Retry), anybody can send them, and under a
//! flood they are nearly all that comes. So a turn handles a bounded number of them, and those
//! that are left wait for the next turns in a bounded queue. What established clients send is
//! handled at once, whatever waits here, and the kernel's queue, which both share, is read fast.
//!
//! | a datagram begins with | it is handled |
//! |---|---|
//! | an Initial with an id of this worker | at once, up to a number a turn |
//! | the same with a token: its client had a Retry | at once, up to a number a turn |
//! | another Initial, or another version's packet | the same, unless others wait |
//! | anything else | at once |
//!
//! The first packet of a client with a NEW_TOKEN token names an id that the client chose, so it is
//! handled like any other. Only the handshake that it begins is charged as one after a Retry, since
//! its address is validated as well.
//!
//! Packets of one client stay in order, unless one of them exceeds such a number.

use std::collections::VecDeque;
use std::time::Instant;

use quinn_proto::EcnCodepoint;

use super::cid::WorkerIds;
use super::credit;
use super::demux::Arrival;
use crate::limits::{FIRST_PACKET_COUNT_MAX, FIRST_PACKET_TURN_COST, HANDSHAKE_COST};

/// A datagram that waits, copied: its slot of the pool is free again.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) arrival: Arrival,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: Vec<u8>,
    since: Instant,
}

/// The way of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    AtOnce,
    /// To the end of the queue.
    Deferred,
    /// Nowhere: the queue is full.
    Dropped,
}

/// The claims of a first packet about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It had a response: it uses an id of this worker.
    Later,
    /// It had a Retry.
    Proven,
    /// It is new.
    New,
}

/// The queue of first packets, and what may still be spent on them in this turn.
#[derive(Debug, Default)]
pub(super) struct FirstPackets {
    waiting: VecDeque<Waiting>,
    /// Spent in this turn on each kind, in units of a Retry's cost.
    spent: [u32; 3],
}

impl FirstPackets {
    /// Returns the way of a datagram that has come.
    pub(super) fn way(&mut self, ids: &WorkerIds, payload: &[u8]) -> Way {
        if !credit::may_begin_connection(payload) {
            return Way::AtOnce;
        }
        let claim = match credit::initial(payload) {
            Some(initial) if !ids.is_ours(initial.destination) => Claim::New,
            Some(initial) if initial.has_token => Claim::Proven,
            Some(_) => Claim::Later,
            None => Claim::New,
        };
        let may_overtake = claim != Claim::New || self.waiting.is_empty();
        match () {
            () if may_overtake && self.spend(claim) => Way::AtOnce,
            () if self.waiting.len() < FIRST_PACKET_COUNT_MAX => Way::Deferred,
            () => Way::Dropped,
        }
    }

    pub(super) fn defer(
        &mut self,
        now: Instant,
        arrival: Arrival,
        ecn: Option<EcnCodepoint>,
        payload: &[u8],
    ) {
        let payload = payload.to_vec();
        self.waiting.push_back(Waiting { arrival, ecn, payload, since: now });
    }

    /// Begins a turn.
    pub(super) fn begin_turn(&mut self) {
        self.spent = [0; 3];
    }

    /// Returns the next one that this turn has time for.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        if self.waiting.is_empty() || !self.spend(Claim::New) {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Notes that a first packet began a handshake, which costs more than a Retry.
    pub(super) fn handshake_began(&mut self, is_validated: bool) {
        let claim = if is_validated { Claim::Proven } else { Claim::New };
        self.spent[claim as usize] += HANDSHAKE_COST;
    }

    /// Returns when the first of those that wait came. It is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.since)
    }

    /// Spends a Retry's cost, if there is anything left.
    fn spend(&mut self, claim: Claim) -> bool {
        let spent = &mut self.spent[claim as usize];
        let is_left = *spent < FIRST_PACKET_TURN_COST;
        *spent += u32::from(is_left);
        is_left
    }
}
