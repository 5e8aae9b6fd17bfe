//! One connection: quinn-proto's, and what the engine knows about it besides.

use std::net::SocketAddr;
use std::time::Instant;

use quinn_proto::{ConnectionId, FrameStats};

use super::congestion;
use super::paths::Paths;
use super::types::Local;
use super::windows::Windows;
use crate::base::timers::Timer;

/// How far a connection has come.
///
/// ```text
///  Handshaking --Connected--> Open --closed by either side, lost--> Closed --drained--> gone
///       |                                                            ^
///       +-------- refused by TLS, closed by the client --------------+
///       +-------- not done in time -----------------------------------------------> gone
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The application has not heard of it.
    Handshaking {
        /// When it is given up.
        deadline: Instant,
    },
    /// Between `Connected` and `Closed`.
    Open,
    /// Kept for a while to response late packets with the close (RFC 9000 10.2).
    Closed,
}

/// A connection of quinn-proto and what the engine keeps beside it.
pub(super) struct Connection {
    pub(super) proto: quinn_proto::Connection,
    pub(super) listener: usize,
    pub(super) phase: Phase,
    /// The id that the client made up for its first Initial.
    pub(super) first_destination: ConnectionId,
    pub(super) local: Local,
    pub(super) paths: Paths,
    /// The last address that the client has proved to be its own.
    pub(super) client: SocketAddr,
    pub(super) windows: Windows,
    /// Its entry in the engine's queue of timers.
    pub(super) timer: Timer,
    /// Whether it has moved to another address and not been asked since what it has to send there.
    pub(super) moved_unasked: bool,
    /// Whether it waits in the table's queue of senders.
    pub(super) dirty: bool,
    /// Whether it stands in the engine's list of those that have heard something.
    pub(super) is_heard: bool,
    /// Lost packets that the engine's counters have already.
    pub(super) lost_counted: u64,
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// When the connection is to be looked at next.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let timer = self.proto.poll_timeout();
        match self.phase {
            Phase::Handshaking { deadline } => Some(timer.map_or(deadline, |at| at.min(deadline))),
            Phase::Open | Phase::Closed => timer,
        }
    }

    /// Follows quinn-proto to the address where the connection is now; tells whether it moved.
    pub(super) fn follow(&mut self) -> bool {
        let moved = self.paths.follow(self.proto.remote_address());
        if moved {
            congestion::forget_acknowledged(&self.proto);
        }
        moved
    }

    /// Takes the current address for the client's once that has answered the challenge to it: who
    /// writes a foreign address on its packets never sees one. A PATH_RESPONSE by itself says
    /// nothing, since only quinn-proto knows whether it is the right one.
    pub(super) fn note_client(&mut self) {
        let remote = self.proto.remote_address();
        if self.client != remote && congestion::was_acknowledged(&self.proto) {
            self.client = remote;
            self.paths.renew_free();
        }
    }

    /// Packets lost since the last call.
    pub(super) fn newly_lost(&mut self) -> u64 {
        let lost = self.proto.stats().path.lost_packets;
        lost - std::mem::replace(&mut self.lost_counted, lost)
    }

    /// Frames of authentic packets so far.
    pub(super) fn evidence(&self) -> Evidence {
        let frames = self.proto.stats().frame_rx;
        Evidence {
            frame_count: frame_count(&frames),
            path_challenge_count: frames.path_challenge,
            path_response_count: frames.path_response,
        }
    }
}

/// What was received and proved authentic. quinn-proto does not tell which packets did, but counts
/// their frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    pub(super) frame_count: u64,
    pub(super) path_challenge_count: u64,
    pub(super) path_response_count: u64,
}

/// All frames but padding.
fn frame_count(frames: &FrameStats) -> u64 {
    let FrameStats {
        acks,
        crypto,
        connection_close,
        ping,
        path_challenge,
        path_response,
        new_connection_id,
        retire_connection_id,
        max_data,
        max_stream_data,
        max_streams_bidi,
        max_streams_uni,
        data_blocked,
        stream_data_blocked,
        streams_blocked_bidi,
        streams_blocked_uni,
        reset_stream,
        stop_sending,
        stream,
        immediate_ack,
        ..
    } = frames;
    acks + crypto
        + connection_close
        + ping
        + path_challenge
        + path_response
        + new_connection_id
        + retire_connection_id
        + max_data
        + max_stream_data
        + max_streams_bidi
        + max_streams_uni
        + data_blocked
        + stream_data_blocked
        + streams_blocked_bidi
        + streams_blocked_uni
        + reset_stream
        + stop_sending
        + stream
        + immediate_ack
}
