//! ECN marks, and the paths on which marked packets get lost (RFC 9000 13.4.2).
//!
//! quinn-proto marks what it sends on a path until an acknowledgement shows that the marks do not
//! arrive. Some networks drop marked packets instead. No acknowledgement comes then, so quinn-proto
//! would mark every repetition too, and the connection would die. The marks are taken off here:
//!
//! ```text
//!  new path --nothing is acknowledged before the first probe timeout--------> unmarked
//!     |                                                                          ^
//!     +--acknowledged--> confirmed --nothing is acknowledged for two of them-----+
//! ```
//!
//! A path that is merely interrupted loses its marks too, which is harmless. They do not come back
//! on it: quinn-proto itself stops to mark once an unmarked packet is acknowledged. See
//! docs/decisions/ecn-marks-that-get-lost.md.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::congestion::Acknowledged;

/// Time that a client may delay acknowledgements (RFC 9000 18.2, the default of `max_ack_delay`).
const ACK_DELAY_MAX: Duration = Duration::from_millis(25);

/// The marks of one connection.
pub(super) struct Marks {
    remote: SocketAddr,
    acknowledged: Acknowledged,
    /// The acknowledgements and the frames to acknowledge, as of the last datagram.
    acknowledged_count: u64,
    eliciting_count: u64,
    /// Something was acknowledged on the current path.
    is_confirmed: bool,
    /// When the first datagram since the last acknowledgement left that asks for another.
    waiting_since: Option<Instant>,
    /// The last addresses on whose paths marked packets got lost. There are two, since a move to
    /// such a path may fail: then the connection returns to the old one, waits there in vain too,
    /// and moves again.
    unmarked: [Option<SocketAddr>; 2],
}

impl Marks {
    pub(super) fn new(remote: SocketAddr, acknowledged: Acknowledged) -> Self {
        Self {
            remote,
            acknowledged_count: acknowledged.count(),
            acknowledged,
            eliciting_count: 0,
            is_confirmed: false,
            waiting_since: None,
            unmarked: [None; 2],
        }
    }

    /// Follows the connection to the path to `remote`, whose acknowledgements are these.
    pub(super) fn follow(
        &mut self,
        now: Instant,
        rtt: Duration,
        remote: SocketAddr,
        acknowledged: Acknowledged,
    ) {
        self.note_acknowledged();
        if self.is_overdue(now, rtt) {
            self.give_up();
        }
        self.remote = remote;
        self.acknowledged_count = acknowledged.count();
        self.acknowledged = acknowledged;
        self.is_confirmed = false;
        self.waiting_since = None;
    }

    /// Returns whether a datagram that was just built may carry a mark. `eliciting_count` is the
    /// number of frames sent so far that a client has to acknowledge.
    pub(super) fn permit(
        &mut self,
        now: Instant,
        rtt: Duration,
        destination: SocketAddr,
        eliciting_count: u64,
    ) -> bool {
        self.note_acknowledged();
        if self.is_overdue(now, rtt) {
            self.give_up();
        }
        if eliciting_count > self.eliciting_count {
            self.waiting_since.get_or_insert(now);
        }
        self.eliciting_count = eliciting_count;
        !self.is_unmarked(self.remote) && !self.is_unmarked(destination)
    }

    fn note_acknowledged(&mut self) {
        let count = self.acknowledged.count();
        if count != self.acknowledged_count {
            self.acknowledged_count = count;
            self.is_confirmed = true;
            self.waiting_since = None;
        }
    }

    /// Returns whether an acknowledgement is overdue. quinn-proto does not report its probe
    /// timeouts (RFC 9002 6.2), so they are estimated: the first comes after three round trips.
    fn is_overdue(&self, now: Instant, rtt: Duration) -> bool {
        let patience = if self.is_confirmed { 2 * (3 * rtt + ACK_DELAY_MAX) } else { 2 * rtt };
        self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
    }

    fn give_up(&mut self) {
        if !self.is_unmarked(self.remote) {
            self.unmarked = [Some(self.remote), self.unmarked[0]];
        }
    }

    fn is_unmarked(&self, remote: SocketAddr) -> bool {
        self.unmarked.contains(&Some(remote))
    }
}
