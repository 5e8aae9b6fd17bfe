//! The gauges of a worker, taken when it reports.

/// All gauges of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Open connections, including handshakes.
    pub connections_open: u64,
    /// Those of them whose handshake is not complete.
    pub connections_handshaking: u64,
    /// Open TCP connections of clients.
    pub tcp_connections_open: u64,
    pub exchanges_active: u64,
    pub requests_waiting: u64,
    pub upstream_connections_open: u64,
    /// Those of them that are idle.
    pub upstream_connections_idle: u64,
    /// Response bytes queued for clients.
    pub responses_waiting_bytes: u64,
    pub pool_slots: PoolSlots,
    pub ring_operations: u64,
    /// TCP connections of clients that wait in the kernel to be accepted.
    pub tcp_connections_waiting: u64,
    /// UDP sockets for which HTTP/3 is not offered, since nothing arrives there.
    pub http3_withheld: u64,
    pub socket_offload: SocketOffload,
}

/// UDP sockets by whether the kernel handles many of their datagrams at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketOffload {
    /// One receive brings many datagrams.
    pub gro_on: u64,
    /// Each receive brings one.
    pub gro_off: u64,
    /// One send carries many datagrams.
    pub gso_on: u64,
    /// Each send carries one: a send of many was refused.
    pub gso_off: u64,
    /// Long batches are asked to leave without a copy.
    pub zero_copy_on: u64,
    /// The kernel copies or refuses.
    pub zero_copy_off: u64,
}

/// Slots of the pool by state; the sum is the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSlots {
    pub free: u64,
    pub owned: u64,
    /// The kernel may write into them.
    pub provided: u64,
    /// The kernel reads from them.
    pub in_kernel: u64,
}
