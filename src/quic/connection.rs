//! One connection: quinn-proto's, and the engine's own state for it.

use std::net::SocketAddr;
use std::time::Instant;

use quinn_proto::{ConnectionId, FrameStats};

use super::congestion;
use super::held::{Unacknowledged, Unread};
use super::marks::Marks;
use super::paths::Paths;
use super::stream_credit::StreamCredit;
use super::turns::Turns;
use super::types::Local;
use super::windows::Windows;
use crate::base::shares::ClientAddress;
use crate::base::timers::Timer;
use crate::limits::CONNECTION_LEN;
use crate::metrics::QuicCounters;

/// The state of a connection.
///
/// ```text
///  Handshaking --Connected--> Open --closed by either side--> Closed --drained, too late--> gone
///       |                                                                                   ^
///       +--refused by TLS, closed by either side--> Failed --its close has left-------------+
///       +--not done in time-----------------------------------------------------------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before `Connected`: the application does not know of it.
    /// A client that responds may have until `last_deadline`.
    Handshaking { deadline: Instant, last_deadline: Instant },
    /// The handshake has ended without a connection. It is half-open until it is gone, which is as
    /// soon as its close has left: a client can cause this by one datagram from a forged address.
    Failed,
    /// Between `Connected` and `Closed`.
    Open,
    /// Kept to answer late packets with the close (RFC 9000 10.2), until `deadline` at the latest:
    /// quinn-proto's own timer follows the round trips, which the client can draw out.
    Closed { deadline: Instant },
}

/// A connection of quinn-proto and what the engine keeps beside it.
pub(super) struct Connection {
    pub(super) proto: quinn_proto::Connection,
    pub(super) listener: Option<usize>,
    pub(super) phase: Phase,
    /// The destination id of the client's first Initial, which the client chose.
    pub(super) first_destination: ConnectionId,
    pub(super) local: Local,
    pub(super) paths: Paths,
    pub(super) marks: Marks,
    /// The client's last validated address.
    pub(super) client: SocketAddr,
    /// The address that began it, which is charged for it until it is gone.
    pub(super) address: ClientAddress,
    pub(super) windows: Windows,
    pub(super) unacknowledged: Unacknowledged,
    pub(super) turns: Turns,
    pub(super) unread: Unread,
    /// Its entry in the engine's queue of timers.
    pub(super) timer: Timer,
    /// It has moved to another address and has not been polled for datagrams since.
    pub(super) moved_unasked: bool,
    /// It is in the table's queue of senders.
    pub(super) dirty: bool,
    /// It is in the engine's list of connections to settle.
    pub(super) is_heard: bool,
    pub(super) counted: Counted,
    pub(super) stream_credit: StreamCredit,
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Returns whether its deadline is over. A handshake whose client has responded is given more
    /// time, once. If the client's address is not validated, only while `are_few` handshakes are in
    /// progress: nobody needs to receive our Initial packets to acknowledge them.
    pub(super) fn is_out_of_time(&mut self, now: Instant, are_few: bool) -> bool {
        let has_responded = self.proto.stats().frame_rx.acks > 0;
        match &mut self.phase {
            Phase::Handshaking { deadline, last_deadline } if *deadline <= now => {
                if has_responded && (are_few || self.paths.is_proven()) {
                    *deadline = *last_deadline;
                }
                *deadline <= now
            }
            Phase::Closed { deadline } => *deadline <= now,
            Phase::Handshaking { .. } | Phase::Failed | Phase::Open => false,
        }
    }

    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let timer = self.proto.poll_timeout();
        match self.phase {
            Phase::Handshaking { deadline, .. } | Phase::Closed { deadline } => {
                Some(timer.map_or(deadline, |at| at.min(deadline)))
            }
            Phase::Failed | Phase::Open => timer,
        }
    }

    /// Follows quinn-proto to the connection's current address. Returns whether it moved.
    pub(super) fn follow(&mut self, now: Instant) -> bool {
        let remote = self.proto.remote_address();
        let moved = self.paths.follow(now, remote);
        if moved {
            congestion::forget_acknowledged(&self.proto);
            let acknowledged = congestion::acknowledged(&self.proto);
            self.marks.follow(now, self.proto.rtt(), remote, acknowledged);
        }
        moved
    }

    /// Returns whether the datagrams that were just built for `destination` may carry ECN marks.
    pub(super) fn may_mark(&mut self, now: Instant, destination: SocketAddr) -> bool {
        let sent = self.proto.stats().frame_tx;
        let eliciting_count = frame_count(&sent) - sent.acks - sent.connection_close;
        self.marks.permit(now, self.proto.rtt(), destination, eliciting_count)
    }

    /// Adopts the current path's address as the client's once the path is validated: an attacker
    /// that spoofs a source address never receives the challenge. A PATH_RESPONSE alone is no
    /// proof, since only quinn-proto knows whether it is the right one.
    pub(super) fn note_client(&mut self) {
        let remote = self.proto.remote_address();
        if self.client != remote && congestion::was_acknowledged(&self.proto) {
            self.client = remote;
        }
    }

    /// Returns an upper bound of the bytes that are held for it.
    pub(super) fn held_len(&self) -> u64 {
        CONNECTION_LEN
            + self.unacknowledged.held_len(self.windows.send())
            + self.unread.held_len(self.windows.receive())
    }

    /// Adds to the engine's counters what quinn-proto has counted since the last call.
    pub(super) fn count(&mut self, counters: &mut QuicCounters) {
        let stats = self.proto.stats();
        let now = Counted {
            packets_lost: stats.path.lost_packets,
            data_blocked: stats.frame_rx.data_blocked,
            stream_data_blocked: stats.frame_rx.stream_data_blocked,
        };
        let before = std::mem::replace(&mut self.counted, now);
        counters.packets_lost += now.packets_lost - before.packets_lost;
        let blocked = &mut counters.flow_blocked;
        blocked.connection += now.data_blocked - before.data_blocked;
        blocked.stream += now.stream_data_blocked - before.stream_data_blocked;
    }

    /// Returns the numbers of frames received in authentic packets so far.
    pub(super) fn evidence(&self) -> Evidence {
        let frames = self.proto.stats().frame_rx;
        Evidence {
            frame_count: frame_count(&frames),
            path_challenge_count: frames.path_challenge,
            path_response_count: frames.path_response,
        }
    }
}

/// Counts of one connection that the engine's counters include already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    packets_lost: u64,
    data_blocked: u64,
    stream_data_blocked: u64,
}

/// Counts of frames in authentic packets. quinn-proto does not report which packets were authentic,
/// but it counts their frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    pub(super) frame_count: u64,
    pub(super) path_challenge_count: u64,
    pub(super) path_response_count: u64,
}

/// Returns the number of all frames but PADDING.
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
