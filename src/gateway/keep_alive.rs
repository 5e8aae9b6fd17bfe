//! Keeps a connection alive while a request runs on it.
//!
//! Many clients send nothing while they wait for a response, so a slow upstream would lose them to
//! the idle timeout (RFC 9000 10.1). After each half of that time the gateway sends a PING, which a
//! client that is still there acknowledges (10.1.2). One that is gone does not, and its connection
//! ends in at most one and a half idle timeouts: only the first PING without an acknowledgement
//! restarts the timeout.
//!
//! The time is that of our own idle timeout. quinn-proto does not reveal the client's; one that is
//! less than half of ours ends the connection all the same, as the client asked for.

use std::time::Duration;

use super::Owner;
use super::connection::Connection;
use super::context::Context;
use crate::base::timers::Timer;

/// The next PING of one connection.
pub(super) struct KeepAlive {
    interval: Duration,
    timer: Timer,
}

impl KeepAlive {
    /// Creates the one of a connection with this idle timeout.
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self { interval: idle_timeout / 2, timer: Timer::default() }
    }

    /// Clears the timer before the connection is dropped.
    pub(super) fn clear(&mut self, cx: &mut Context<'_>) {
        cx.shared.timers.clear(&mut self.timer);
    }
}

impl Connection {
    /// Starts the timer of the next PING, unless it is running.
    pub(super) fn start_keep_alive(&mut self, cx: &mut Context<'_>) {
        if !self.keep_alive.timer.is_set() {
            let due = cx.now + self.keep_alive.interval;
            let owner = Owner::KeepAlive(self.client.key);
            cx.shared.timers.set(&mut self.keep_alive.timer, due, owner);
        }
    }

    /// Sends a PING if it is due and a request is still running. Without one the timer stops.
    pub(super) fn handle_keep_alive_timer(&mut self, cx: &mut Context<'_>) {
        let owner = Owner::KeepAlive(self.client.key);
        let fires = cx.shared.timers.fires(&mut self.keep_alive.timer, cx.now, owner);
        if fires && self.has_request() {
            cx.engine.ping(self.client.key);
            self.start_keep_alive(cx);
        }
    }
}
