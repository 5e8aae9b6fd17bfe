//! The books on a gateway: what it may ask of upstream connections, and what its gauges must say,
//! counted from its outputs.

use std::collections::BTreeMap;

use ringway::testing::internal::gateway::{Gateway, Output};
use ringway::testing::internal::limits::{
    RECEIVE_SLOT_COUNT_MAX, SLOT_LEN, UPSTREAM_WRITE_PIECES_MAX,
};
use ringway::testing::internal::proxy::{UpstreamCommand, UpstreamKey};

/// An upstream connection that the gateway has asked for and not closed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upstream {
    pub is_connected: bool,
    /// It failed to connect or broke: the gateway must close it.
    pub has_failed: bool,
    pub is_writing: bool,
    pub is_receiving: bool,
    /// Slots that the receive may fill.
    pub slot_count: usize,
}

/// Everything that the gateway has asked for.
#[derive(Debug, Default)]
pub struct Books {
    pub upstreams: BTreeMap<UpstreamKey, Upstream>,
    /// A connection that was closed.
    pub closed: Option<UpstreamKey>,
    record_count: u64,
}

impl Books {
    /// Enters an output.
    ///
    /// # Panics
    ///
    /// If it is about a connection that does not exist, or is not its turn.
    pub fn enter(&mut self, output: &Output) {
        let Output::Upstream(command) = output else {
            self.record_count += u64::from(matches!(output, Output::Access(_)));
            return;
        };
        match command {
            UpstreamCommand::Connect { key, .. } => {
                let before = self.upstreams.insert(*key, Upstream::default());
                assert!(before.is_none(), "{key:?} is opened twice");
            }
            UpstreamCommand::Write { key, pieces } => {
                let upstream = self.connected(*key);
                assert!(!upstream.is_writing, "{key:?}: two writes at once");
                upstream.is_writing = true;
                assert!((1..=UPSTREAM_WRITE_PIECES_MAX).contains(&pieces.len()));
                assert!(pieces.iter().all(|piece| !piece.is_empty()), "an empty piece");
            }
            UpstreamCommand::Receive { key, slot_count_max, .. } => {
                let upstream = self.connected(*key);
                assert!(!upstream.is_receiving, "{key:?}: two receives at once");
                assert!((1..=RECEIVE_SLOT_COUNT_MAX).contains(slot_count_max));
                upstream.is_receiving = true;
                upstream.slot_count = *slot_count_max;
            }
            UpstreamCommand::Close { key } => {
                let before = self.upstreams.remove(key);
                assert!(before.is_some(), "{key:?} is closed, but not open");
                self.closed = Some(*key);
            }
        }
    }

    fn connected(&mut self, key: UpstreamKey) -> &mut Upstream {
        let upstream = self.upstreams.get_mut(&key);
        let upstream = upstream.unwrap_or_else(|| panic!("{key:?} is used, but not open"));
        assert!(upstream.is_connected, "{key:?} is used before it is connected");
        upstream
    }

    /// Compares the gateway's gauges with the books, after all outputs were entered.
    ///
    /// # Panics
    ///
    /// If they differ.
    pub fn check(&self, gateway: &Gateway, responses_len_max: usize) {
        let gauges = gateway.proxy().gauges();
        assert_eq!(gauges.connections, self.upstreams.len(), "open upstream connections");
        assert!(gauges.idle <= gauges.connections && gauges.waiting <= gauges.exchanges);
        let opened = gateway.counters().http3.streams_opened;
        assert!(self.record_count <= opened, "a request has one record");
        if gateway.engine().counts().open == 0 {
            assert_eq!(gauges.exchanges, 0, "no exchange outlives its client's connection");
            assert_eq!(self.record_count, opened, "no request is without its record");
        }
        // Each response may exceed the budget by one receive.
        let most = responses_len_max + gauges.exchanges * RECEIVE_SLOT_COUNT_MAX * SLOT_LEN;
        assert!(gateway.responses_waiting_len() <= most, "the budget of waiting responses");
    }
}
