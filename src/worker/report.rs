//! A worker's own counts, and its report of everybody's.

use super::Worker;
use crate::metrics::{Counters, Gauges, PoolCounters, PoolSlots, WorkerCounters, WorkerReport};

/// What the loop itself counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) turns: u64,
    pub(super) sleeps: u64,
    pub(super) commands: u64,
    pub(super) restarts: u64,
    pub(super) access_records_dropped: u64,
    pub(super) low_water_events: u64,
    pub(super) memory_low: bool,
    /// Batches that the kernel had refused to segment when that was last looked at.
    pub(super) gso_fallbacks: u64,
    pub(super) is_unsegmented_told: bool,
}

impl Tally {
    /// Counts each fall below the low-water mark once.
    pub(super) fn note_memory(&mut self, low: bool) {
        if low && !self.memory_low {
            self.low_water_events += 1;
        }
        self.memory_low = low;
    }
}

impl Worker<'_> {
    /// Says once that sends are no longer segmented: each datagram then costs a pass of its own
    /// through the network stack.
    pub(super) fn note_offload(&mut self) {
        let fallbacks = self.ring.stats().gso_fallbacks;
        if std::mem::replace(&mut self.tally.gso_fallbacks, fallbacks) == fallbacks {
            return;
        }
        let sockets = self.ring.socket_offload().gso_off;
        if sockets > 0 && !std::mem::replace(&mut self.tally.is_unsegmented_told, true) {
            tracing::warn!(
                worker = self.setup.index,
                sockets,
                "the kernel refuses to segment sends (UDP_SEGMENT), each datagram is sent by \
                 itself: the device lacks checksum offload (`ethtool -K DEVICE tx on`), or the \
                 route goes through IPsec; a restart tries again"
            );
        }
    }

    pub(super) fn report(&self) -> WorkerReport {
        let counts = self.gateway.counters();
        WorkerReport {
            worker: self.setup.index,
            counters: Counters {
                quic: self.gateway.engine().stats().clone(),
                connections_closed: counts.connections_closed.clone(),
                http3: counts.http3.clone(),
                broken_rules: counts.broken_rules.clone(),
                proxy: counts.proxy(self.gateway.proxy()),
                ring: self.ring.stats().clone(),
                pool: PoolCounters { low_water_events: self.tally.low_water_events },
                worker: WorkerCounters {
                    loop_turns: self.tally.turns,
                    commands: self.tally.commands,
                    restarts: self.tally.restarts,
                    access_records_dropped: self.tally.access_records_dropped,
                    sleeps: self.tally.sleeps,
                },
                ledger: self.gateway.ledger().counts().clone(),
            },
            gauges: self.gauges(),
            request_duration: counts.request_duration.clone(),
            upstream_duration: counts.upstream_duration.clone(),
        }
    }

    fn gauges(&self) -> Gauges {
        let connections = self.gateway.engine().counts();
        let proxy = self.gateway.proxy().counts();
        let slots = self.pool.counts();
        Gauges {
            connections_open: (connections.open + connections.handshaking) as u64,
            connections_handshaking: connections.handshaking as u64,
            exchanges_active: proxy.exchanges as u64,
            requests_waiting: proxy.waiting as u64,
            upstream_connections_open: proxy.connections as u64,
            upstream_connections_idle: proxy.idle as u64,
            responses_waiting_bytes: self.gateway.responses_waiting_len() as u64,
            pool_slots: PoolSlots {
                free: slots.free.into(),
                owned: slots.owned.into(),
                provided: slots.provided.into(),
                in_kernel: slots.in_kernel.into(),
            },
            ring_operations: self.ring.operations_in_flight() as u64,
            socket_offload: self.ring.socket_offload(),
        }
    }
}
