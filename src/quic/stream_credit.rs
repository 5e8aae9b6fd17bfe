//! The number of request streams that a connection may have open at once.
//!
//! A request that is refused for lack of room costs the gateway a third of one that is served, and
//! a client that is owed more streams sends the next one at once. So each refusal halves what its
//! connection may have open, down to one stream: the rest waits with the client. It comes back
//! with time. Under too much load of the worker, all connections have less
//! ([`super::Engine::set_stream_share`]).

use std::time::Instant;

use quinn_proto::{Connection, Dir};

use crate::base::stream_share::StreamShare;
use crate::limits::{STREAM_CUT_INTERVAL, STREAM_RAISE_INTERVAL};

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct StreamCredit {
    /// The configured number.
    max: u32,
    /// The number that quinn-proto has.
    count: u32,
    share: StreamShare,
    changed: Option<Instant>,
}

impl StreamCredit {
    pub(super) fn new(max: u32) -> Self {
        Self { max, count: max, share: StreamShare::default(), changed: None }
    }

    /// Notes that a request was refused. Those that came with it were on their way already.
    pub(super) fn refused(&mut self, now: Instant) {
        if !self.is_older(now, STREAM_CUT_INTERVAL) {
            return;
        }
        self.share = self.share.halved();
        self.changed = Some(now);
    }

    /// Sets the number in quinn-proto, if it has changed. Streams that the client may open already
    /// are not taken back (RFC 9000 4.6).
    pub(super) fn update(
        &mut self,
        now: Instant,
        worker: StreamShare,
        connection: &mut Connection,
    ) {
        if !self.share.is_whole() && self.is_older(now, STREAM_RAISE_INTERVAL) {
            self.share = self.share.raised();
            self.changed = Some(now);
        }
        let count = self.share.min(worker).of(self.max);
        if std::mem::replace(&mut self.count, count) != count {
            connection.set_max_concurrent_streams(Dir::Bi, count.into());
        }
    }

    fn is_older(&self, now: Instant, age: std::time::Duration) -> bool {
        self.changed.is_none_or(|changed| now.saturating_duration_since(changed) >= age)
    }
}
