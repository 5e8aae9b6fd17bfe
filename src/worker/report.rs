//! The reports of a worker: its counters and gauges, and a warning when sends are not segmented.

use std::time::{Duration, Instant};

use super::Worker;
use crate::base::pressure::{HeapUse, Pressure};
use crate::metrics::{Counters, Gauges, PoolSlots, WorkerReport};
use crate::pool;

/// Pause between two warnings that memory is short.
const HEAP_WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Notices that the kernel has refused to segment sends.
#[derive(Debug, Default)]
pub(super) struct SegmentationWatch {
    /// The ring's count of refused batches at the last look.
    fallbacks: u64,
    is_warned: bool,
}

impl Worker<'_> {
    /// Counts each fall of the pool below its low-water mark once.
    pub(super) fn note_memory(&mut self, is_low: bool) {
        self.pool_counters.low_water_events += u64::from(is_low && !self.was_memory_low);
        self.was_memory_low = is_low;
    }

    /// Warns when the heap comes near to its budget, once in a while.
    pub(super) fn note_heap(&mut self, now: Instant, heap: HeapUse) {
        if heap.pressure() == Pressure::None {
            return;
        }
        let since = self.heap_warned.map(|at| now.saturating_duration_since(at));
        if since.is_none_or(|since| since >= HEAP_WARNING_PAUSE) {
            self.heap_warned = Some(now);
            let HeapUse { len, budget } = heap;
            tracing::warn!(
                worker = self.setup.index,
                used = len,
                budget,
                "memory is short: no connections and requests are admitted, and when it is used \
                 up, the clients that hold the most are closed; runtime.memory raises the budget"
            );
        }
    }

    /// Returns how much of the process's heap is in use, and how much may be.
    pub(super) fn heap_use(&self) -> HeapUse {
        HeapUse { len: pool::heap_len(), budget: self.setup.heap_len_max }
    }

    /// Warns once when sends are no longer segmented: each datagram then passes through the network
    /// stack by itself.
    pub(super) fn note_offload(&mut self) {
        let fallbacks = self.ring.stats().gso_fallbacks;
        if std::mem::replace(&mut self.segmentation.fallbacks, fallbacks) == fallbacks {
            return;
        }
        let sockets = self.ring.socket_offload().gso_off;
        if sockets > 0 && !std::mem::replace(&mut self.segmentation.is_warned, true) {
            tracing::warn!(
                worker = self.setup.index,
                sockets,
                "the kernel refuses to segment sends (UDP_SEGMENT), so each datagram is sent by \
                 itself: the device lacks checksum offload (`ethtool -K DEVICE tx on`), or the \
                 route goes through IPsec; a restart tries again"
            );
        }
    }

    pub(super) fn report(&self) -> WorkerReport {
        let counts = self.gateway.counters();
        WorkerReport {
            worker: self.setup.index,
            generation: self.snapshot.generation,
            counters: Counters {
                quic: self.gateway.engine().stats().clone(),
                connections_closed: counts.connections_closed.clone(),
                tcp: counts.tcp.clone(),
                http3: counts.http3.clone(),
                broken_rules: counts.broken_rules.clone(),
                proxy: counts.proxy(self.gateway.proxy()),
                outcomes: counts.outcomes.clone(),
                ring: self.ring.stats().clone(),
                pool: self.pool_counters.clone(),
                worker: self.counters.clone(),
                ledger: self.gateway.ledger().clone(),
            },
            gauges: self.gauges(),
            endpoints: self.gateway.proxy().endpoints(),
            heap: self.heap_use(),
            request_duration: counts.request_duration.clone(),
            upstream_duration: counts.upstream_duration.clone(),
            delivery_duration: counts.delivery_duration.clone(),
        }
    }

    fn gauges(&self) -> Gauges {
        let connections = self.gateway.engine().counts();
        let proxy = self.gateway.proxy().gauges();
        let slots = self.pool.counts();
        Gauges {
            connections_open: (connections.open + connections.handshaking) as u64,
            connections_handshaking: connections.handshaking as u64,
            tcp_connections_open: self.gateway.tcp_connection_count() as u64,
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
            tcp_connections_waiting: self.waiting_count(),
            http3_withheld: self.gateway.withheld_count() as u64,
            socket_offload: self.ring.socket_offload(),
        }
    }
}
