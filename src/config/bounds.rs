//! Default, minimum and maximum of every number in the file, with the reason.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::model::Runtime;
use crate::limits;

#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<T> {
    /// Value if the key is absent.
    pub(super) default: T,
    pub(super) min: T,
    pub(super) max: T,
}

/// The default of `admin.listen`.
pub(super) const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn slots_len(count: u32) -> u64 {
    count as u64 * limits::SLOT_LEN as u64
}

const fn bound<T: Copy>(default: T, min: T, max: T) -> Bound<T> {
    Bound { default, min, max }
}

/// Length of the file. 4 MiB hold some 40,000 routes; a longer file is not a configuration.
pub(super) const FILE_LEN_MAX: u64 = 4 * MIB;

/// Addresses of all listeners. Each needs a socket per worker.
pub(super) const ADDRESS_COUNT_MAX: usize = 64;

/// Workers: 7 bits of a connection id carry the index, and 64 leave half of them to a successor.
/// The default is not used: without the key the number goes by cores, CPU quota and memory.
pub(super) const WORKERS: Bound<u64> = bound(1, 1, 64);

/// A pool is a whole number of huge pages of 2 MiB.
pub(super) const POOL_STEP: u64 = 2 * MIB;
/// The fewest and the most slots that a pool can be divided into, in whole pages; 64 MiB give 963.
/// The default is not used: without the key the size goes by the memory that there is.
pub(super) const POOL_PER_WORKER: Bound<u64> = bound(
    Runtime::POOL_LEN_AUTO as u64,
    slots_len(limits::SLOT_COUNT_MIN).next_multiple_of(POOL_STEP),
    slots_len(limits::SLOT_COUNT_MAX) / POOL_STEP * POOL_STEP,
);

/// The minimum holds the connections of a small site. The default is not used: without the key the
/// budget goes by the memory that there is.
pub(super) const MEMORY_PER_WORKER: Bound<u64> =
    bound(Runtime::HEAP_LEN_AUTO as u64, 64 * MIB, 1024 * GIB);

/// Long enough for most downloads; supervisors usually kill after 90 s.
pub(super) const DRAIN_TIMEOUT: Bound<Duration> = bound(secs(30), secs(0), secs(24 * 3600));
/// Two seconds less than the ten after which `docker stop` kills.
pub(super) const STOP_TIMEOUT: Bound<Duration> = bound(secs(8), secs(0), secs(24 * 3600));
/// Where no balancer reads readiness, waiting for one would only make restarts slow.
pub(super) const LAME_DUCK: Bound<Duration> = bound(secs(0), secs(0), secs(3600));

/// An idle connection costs about 24 KB, so 100,000 cost up to 2.4 GB.
pub(super) const MAX_CONNECTIONS: Bound<u64> = bound(100_000, 1, 10_000_000);
/// A tenth: 10,000 of the default, which serves the users of a large carrier's NAT.
pub(super) const CONNECTIONS_PER_ADDRESS: Bound<u64> = bound(10, 1, 100);
/// A tenth of a worker's: 103 handshakes at once.
pub(super) const HALF_OPEN_PER_ADDRESS: Bound<u64> = bound(10, 1, 100);
/// RFC 9000 10.1; NAT bindings for UDP live about 30 s.
pub(super) const IDLE_TIMEOUT: Bound<Duration> = bound(secs(30), secs(1), secs(600));
/// RFC 9114 6.1 recommends at least 100; 1,000 would cost 102 KB per connection.
pub(super) const MAX_STREAMS: Bound<u64> = bound(100, 1, 10_000);
/// A stream then reaches 80 Mbit/s at a round-trip time of 100 ms. See
/// docs/decisions/stream-windows-do-not-grow.md.
pub(super) const STREAM_RECEIVE_WINDOW: Bound<u64> = bound(MIB, 16 * KIB, 64 * MIB);
/// A connection's window starts at 1.5 MiB at most and grows to this when the path needs it.
pub(super) const MAX_RECEIVE_WINDOW: Bound<u64> = bound(6 * MIB, 64 * KIB, 256 * MIB);
/// The same for bytes that are sent and not acknowledged.
pub(super) const MAX_SEND_WINDOW: Bound<u64> = bound(6 * MIB, 64 * KIB, 256 * MIB);

/// An idle connection with TLS costs about 40 KB at most, so 50,000 cost up to 2 GB.
pub(super) const TCP_MAX_CONNECTIONS: Bound<u64> = bound(50_000, 1, 10_000_000);
/// Browsers keep connections for some minutes; that of nginx is 75 s, that of Caddy 5 min.
pub(super) const TCP_IDLE_TIMEOUT: Bound<Duration> = bound(secs(60), secs(1), secs(3600));
/// RFC 9113 6.5.2 recommends at least 100.
pub(super) const TCP_MAX_STREAMS: Bound<u64> = bound(100, 1, 1000);

/// The port of `https` URLs, unless they name another.
pub(super) const HTTPS_PORT: Bound<u64> = bound(443, 1, 65_535);

/// Of Alt-Svc. A day, as RFC 7838 3.1 has it.
pub(super) const ADVERTISE_MAX_AGE: Bound<Duration> =
    bound(secs(24 * 3600), secs(1), secs(365 * 24 * 3600));

/// Per endpoint and process, the default of most proxies.
pub(super) const UPSTREAM_MAX_CONNECTIONS: Bound<u64> = bound(1024, 1, 65_535);
/// A quarter; more while more than that are free.
pub(super) const UPSTREAM_CONNECTIONS_PER_ADDRESS: Bound<u64> = bound(25, 1, 100);
/// Requests in the queue cost memory and time; 0 answers 503 at once.
pub(super) const UPSTREAM_MAX_WAITING: Bound<u64> = bound(1024, 0, 1_000_000);
/// Share relative to the other endpoints.
pub(super) const WEIGHT: Bound<u64> = bound(1, 1, 1000);
/// Within one data centre a connection takes milliseconds; 2 s allow for one lost SYN.
pub(super) const CONNECT_TIMEOUT: Bound<Duration> =
    bound(secs(2), Duration::from_millis(1), secs(600));
/// Time that an upstream has to respond: that of nginx, so that event streams with a heartbeat
/// every 30 s live.
pub(super) const RESPONSE_TIMEOUT: Bound<Duration> =
    bound(secs(60), Duration::from_millis(1), secs(24 * 3600));
/// Of a whole exchange; there is no limit by default, since some responses are streams.
pub(super) const ROUTE_TIMEOUT: Bound<Duration> =
    bound(secs(60), Duration::from_millis(1), secs(24 * 3600));
/// Below the 75 s for which nginx keeps a connection. An upstream that closes earlier is noticed.
pub(super) const UPSTREAM_IDLE_TIMEOUT: Bound<Duration> =
    bound(secs(60), Duration::from_millis(1), secs(3600));

/// A single failure may be caused by its request; three in a row hardly are.
pub(super) const HEALTH_FAILURES: Bound<u64> = bound(3, 1, 1000);
/// Long enough to spare a struggling endpoint, short enough for a restart not to be noticed.
pub(super) const HEALTH_PAUSE: Bound<Duration> =
    bound(secs(1), Duration::from_millis(1), secs(3600));
/// An endpoint that has recovered is used again within a minute.
pub(super) const HEALTH_MAX_PAUSE: Bound<Duration> =
    bound(secs(60), Duration::from_millis(1), secs(24 * 3600));

/// As decoded (RFC 9114 4.2.2: each field counts 32 bytes more than its text).
pub(super) const MAX_HEADER_SIZE: Bound<u64> = bound(32 * KIB, KIB, MIB);
/// Browsers send 20 to 40, cookies aside.
pub(super) const MAX_HEADER_COUNT: Bound<u64> = bound(100, 10, 1000);
/// Bodies are streamed and cost no memory; the limit protects the upstream.
pub(super) const MAX_BODY_SIZE: Bound<u64> = bound(GIB, 0, 1024 * 1024 * GIB);
/// A head fits one flight of packets; 10 s allow for many losses.
pub(super) const HEADER_TIMEOUT: Bound<Duration> =
    bound(secs(10), Duration::from_millis(1), secs(600));
/// Longest pause, not the duration of the whole body.
pub(super) const BODY_TIMEOUT: Bound<Duration> =
    bound(secs(30), Duration::from_millis(1), secs(3600));
/// Each costs a few kilobytes. A hundred connections at the default of max_streams.
pub(super) const MAX_REQUESTS_PER_ADDRESS: Bound<u64> = bound(10_000, 1, 10_000_000);
/// A second. The slowest modem is faster by an order of magnitude.
pub(super) const MIN_RATE: Bound<u64> = bound(256, 0, MIB);
/// Twice the default of max_streams: a user who leaves a page may cancel all of them.
pub(super) const MAX_STREAM_RESETS: Bound<u64> = bound(200, 1, 1_000_000);
/// A response's head must fit a receive of 68 KiB with room to spare.
pub(super) const MAX_RESPONSE_HEADER_SIZE: Bound<u64> = bound(32 * KIB, KIB, 64 * KIB);

const _: () = assert!(POOL_PER_WORKER.default.is_multiple_of(POOL_STEP));
const _: () = assert!(POOL_PER_WORKER.min <= POOL_PER_WORKER.default);
const _: () = assert!(POOL_PER_WORKER.default <= POOL_PER_WORKER.max);
const _: () = assert!(MAX_RESPONSE_HEADER_SIZE.max <= limits::SLOT_LEN as u64);
