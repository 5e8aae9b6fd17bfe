//! Every fixed bound of the program, with its reason. A bound that an operator may change is a
//! configuration key: its default, minimum and maximum are in the `config` module.

use std::time::Duration;

/// Length of one pool slot in bytes: a whole GRO bundle (65,507 B) behind 192 B of recvmsg header
/// and control data, a transmit batch of 64 KiB, or one piece of an upstream's response.
pub const SLOT_LEN: usize = 68 * 1024;

/// Longest UDP payload over IPv4 in bytes (65,535 less 20 B of IP and 8 B of UDP header); also the
/// most that one segmented send may carry.
pub const DATAGRAM_LEN_MAX: usize = 65_507;

/// Pieces of a response shorter than this are copied to a heap buffer of their length: quinn-proto
/// holds them until they are acknowledged, and one held byte pins a whole slot.
pub const RESPONSE_PIECE_LEN_MIN: usize = 16 * 1024;

/// Longest file of certificates or of a private key, in bytes. A chain of ten certificates has
/// 20 KiB; a log or a device that is named by mistake is not read to its end.
pub(crate) const CERTIFICATE_FILE_LEN_MAX: usize = 1 << 20;

/// Longest file of revocation lists, in bytes: those of large authorities have a few MiB.
pub(crate) const REVOCATION_FILE_LEN_MAX: usize = 32 << 20;

/// Longest field of a request that tells an upstream about a client's certificate, in bytes. A
/// certificate has 1 to 2 KiB, a third more in base64, and servers take 8 to 64 KiB of fields.
pub(crate) const CLIENT_FIELD_LEN_MAX: usize = 16 * 1024;

/// Bytes of TLS records that are kept for a handshake message which is not whole. rustls refuses
/// messages of more than 64 KiB; the rest is room for headers and tags, if the records have a few
/// hundred bytes each.
pub(crate) const TLS_HANDSHAKE_HELD_LEN_MAX: usize = 72 * 1024;

/// Keys of session tickets that are read from a file. With a rotation each hour, they are those of
/// a ticket's whole lifetime.
pub(crate) const TICKET_KEY_COUNT_MAX: usize = 16;

/// Time for which a ticket under a key of a file is good, as under keys that rustls draws.
pub(crate) const TICKET_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// Sessions that the process remembers for listeners with early data, and the bytes that they may
/// hold. A session has about 400 bytes; with ten new ones a second this is half an hour of them.
pub(crate) const TLS_SESSION_COUNT_MAX: usize = 20_000;
pub(crate) const TLS_SESSIONS_LEN_MAX: usize = 16 << 20;

/// Bytes of early data that a client may send over TCP (RFC 8446 4.2.10): some requests without a
/// body, with cookies. More of it is an error of the client's.
pub(crate) const EARLY_DATA_LEN_MAX: u32 = 16 * 1024;

/// Bytes of one response that may wait for the client's connection before its upstream is no longer
/// read (backpressure).
pub const RESPONSE_PENDING_LEN_MAX: usize = 256 * 1024;

/// Bytes of all responses of one connection that may wait for it before its upstreams are no longer
/// read. Eight streams at their own bound: a client gains nothing from more at once.
pub const CONNECTION_RESPONSES_LEN_MAX: usize = 8 * RESPONSE_PENDING_LEN_MAX;

/// The most slots that one receive from an upstream fills, if the kernel is known to have more
/// bytes than one slot holds. Each receive makes the kernel acknowledge the bytes read and wake the
/// sender, so fewer receives cost less per byte.
pub const RECEIVE_SLOT_COUNT_MAX: usize = 4;

/// Bytes of one request body that may wait for the upstream before the client's stream is no longer
/// read (flow control then stops the client).
pub const REQUEST_PENDING_LEN_MAX: usize = 256 * 1024;

/// Longest payload of an HTTP/3 SETTINGS frame that is read, in bytes: the settings known to any
/// registry fit several times over; a longer one is H3_EXCESSIVE_LOAD.
pub(crate) const SETTINGS_LEN_MAX: usize = 1024;

/// Unidirectional streams of one HTTP/3 peer that are held at once: its control, encoder and
/// decoder stream, and others until their type is known.
pub(crate) const UNI_STREAM_HELD_COUNT_MAX: usize = 16;

/// Fewest slots of a pool: the sum of its holders' minimum needs (see the pool's plan). 64 slots
/// are 4.25 MiB.
pub const SLOT_COUNT_MIN: u32 = 64;

/// Most slots of one pool (2.1 GiB): a buffer ring has at most 32,768 entries and names each by 16
/// bits.
pub(crate) const SLOT_COUNT_MAX: u32 = 32_768;

/// Most buffer regions of one process: one for each worker.
pub(crate) const REGION_COUNT_MAX: usize = 64;

const _: () = assert!(SLOT_LEN > DATAGRAM_LEN_MAX + 192);

/// Unidirectional streams a client may open: HTTP/3 uses three (control, QPACK encoder and
/// decoder, RFC 9114 6.2), and some are left for kinds that are reserved or unknown.
pub(crate) const UNI_STREAM_COUNT_MAX: u32 = 8;

/// Receive window that a connection starts with, in bytes: one and a half stream windows, so that
/// one stalled upload does not stop the others. It grows with the client's sending rate.
pub(crate) const RECEIVE_WINDOW_START: u32 = 1536 * 1024;

/// Send window that a connection starts with, in bytes: the bound of unacknowledged response bytes
/// held for it, for a client that acknowledges nothing. It grows with the congestion window, which
/// starts at a tenth of it.
pub(crate) const SEND_WINDOW_START: u32 = 128 * 1024;

/// Bytes that an idle connection holds: its state and the handshake's.
pub(crate) const CONNECTION_LEN: u64 = 24 * 1024;

/// Bytes that a half-open connection holds: its state and the certificate chain, until both are
/// acknowledged.
pub(crate) const HALF_OPEN_LEN: u64 = 30 * 1024;

/// Bytes that a request stream holds beside its bytes: its state, quinn-proto's and the gateway's.
pub(crate) const STREAM_LEN: usize = 1024;

/// Bytes that a piece of a request's body holds beside its own: the rest of its datagram, its
/// allocation's header and its place in a list.
pub(crate) const BODY_PIECE_COST_LEN: usize = 168;

/// Bytes that an exchange holds beside its head and body: its state, and an upstream connection's.
pub(crate) const EXCHANGE_LEN: usize = 2048;

/// Half-open handshakes of one worker from which on an adaptive listener requires address
/// validation (Retry). A half-open connection holds 20 to 45 kB: about 11 MB in all.
pub(crate) const HALF_OPEN_RETRY_COUNT: usize = 256;

/// The most half-open handshakes of one worker with unvalidated addresses; further Initials are
/// dropped without a response. Reached only if Retry is turned off.
pub(crate) const HALF_OPEN_COUNT_MAX: usize = 1024;

/// Handshakes that one worker begins in a second for addresses that are not validated, at 0.3 ms
/// each. While more are wanted, all meet Retry on an adaptive listener.
pub(crate) const UNVALIDATED_RATE_MAX: u32 = 1000;

/// The longest that even the shortest turn of an interval may take. Requests then wait as long on
/// their way in, and their responses on their way out.
pub(crate) const TURN_TIME_MAX: Duration = Duration::from_millis(10);

/// The interval in which the shortest turn is looked for: the longest burst that is not excess
/// load (RFC 8289 4.3 has 100 ms).
pub(crate) const ADMISSION_INTERVAL: Duration = Duration::from_millis(100);

/// Least time between two reductions of one connection's streams: what was on its way when the
/// first request was refused is refused too.
pub(crate) const STREAM_CUT_INTERVAL: Duration = Duration::from_millis(50);

/// Time after which a connection whose streams were reduced gets an eighth more.
pub(crate) const STREAM_RAISE_INTERVAL: Duration = Duration::from_millis(500);

/// Time that a request may wait in a queue that stands.
pub(crate) const QUEUE_WAIT_MAX: Duration = Duration::from_millis(50);

/// The same, in times that it takes until a request leaves the queue: with a slow upstream a queue
/// of a few requests is not long.
pub(crate) const QUEUE_WAIT_GRANTS: u32 = 4;

/// First packets that wait for a later turn of their worker; more are dropped, and their clients
/// send again. They are 1.3 MB, and 20 ms of work if all meet Retry.
pub(crate) const FIRST_PACKET_COUNT_MAX: usize = 1024;

/// The cost of the first packets that a turn handles, in that of a Retry (ten microseconds), for
/// those that use an id of the worker and for others. Established clients wait so long at most.
pub(crate) const FIRST_PACKET_TURN_COST: u32 = 16;

/// The cost of a handshake beyond that of the Retry it might have met, in the same unit.
pub(crate) const HANDSHAKE_COST: u32 = 20;

/// Connections to an upstream, and places in its queue, that any client address may have: so few
/// are not shared out.
pub(crate) const SHARE_COUNT_MIN: usize = 4;

/// Used Retry tokens that one worker remembers in a token's lifetime (15 s), and first Initials
/// that came from a second address; more tokens are not accepted. A core has no time for as many
/// handshakes.
pub(crate) const RECENT_COUNT_MAX: usize = 64 * 1024;

/// NEW_TOKEN tokens that one worker remembers as used. When more are used, older ones are no longer
/// accepted.
pub(crate) const USED_TOKEN_COUNT_MAX: usize = 64 * 1024;

/// Time that a closed connection is kept to answer late packets: three times a long round trip
/// (RFC 9000 10.2 asks for three probe timeouts).
pub(crate) const CLOSING_TIMEOUT: Duration = Duration::from_secs(3);

/// Initial packets that quinn-proto may hold undecided, for one connection and for all. The engine
/// decides on each at once, so neither is ever reached.
pub(crate) const INCOMING_BUFFER_LEN_MAX: u64 = 64 * 1024;
/// See [`INCOMING_BUFFER_LEN_MAX`].
pub(crate) const INCOMING_BUFFERS_LEN_MAX: u64 = 8 * 1024 * 1024;

/// Queued responses that belong to no connection (Retry, version negotiation, reset, refusal); more
/// are dropped, since a flood of datagrams must not cost memory.
pub(crate) const RESPONSE_COUNT_MAX: usize = 256;

/// Stateless resets of one worker in a second, and in a burst (RFC 9000 10.3.3 asks for a limit).
/// Those whose connections were lost come back together, after a restart or after silence, and
/// give up their old connections only when they are told. Each reset is shorter than what caused
/// it, so this many are no attack on anybody.
pub(crate) const RESET_RATE_MAX: u32 = 1000;

/// Datagrams of one segmented send: the kernel takes 64 (128 since 6.10).
pub(crate) const SEGMENT_COUNT_MAX: usize = 64;

/// Datagrams that a connection may send at once to unvalidated paths beyond the anti-amplification
/// limit of each (RFC 9000 8.1). Clients behind a NAT that rebinds often, or that lose the
/// response, need two or three. What a client has sent in all bounds them too.
pub(crate) const FREE_DATAGRAM_COUNT_MAX: u32 = 8;

/// Longest datagram that is received, in bytes of UDP payload; clients are told (RFC 9000 18.2). It
/// fits a link of 1,500 bytes. A longer one would be memory that a byte of it can hold.
pub(crate) const RECEIVE_LEN_MAX: u16 = 1500;

/// Time from a client's first datagram to the end of its handshake. A silent client would otherwise
/// hold its state for the whole idle timeout; five lost flights in a row still fit (1 + 2 + 4 s of
/// probes).
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for a client that has acknowledged something by then, unless many handshakes are in
/// progress and its address is not validated. Where a third of the packets is lost at round trips
/// of 600 ms, five of a hundred clients need longer than [`HANDSHAKE_TIMEOUT`].
pub(crate) const SLOW_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Unread handshake bytes of one connection; RFC 9000 7.5 asks for 4,096 at least, a ClientHello
/// with a post-quantum key share has about 1,800.
pub(crate) const CRYPTO_BUFFER_LEN_MAX: usize = 16 * 1024;

const _: () = assert!(HALF_OPEN_RETRY_COUNT <= HALF_OPEN_COUNT_MAX);
const _: () = assert!(SEGMENT_COUNT_MAX * 1200 > DATAGRAM_LEN_MAX, "length decides at any MTU");

/// Part of the heap's budget, in percent, from which on nothing new is admitted: no connections, no
/// requests, no growth of windows.
pub(crate) const HEAP_HIGH_PERCENT: usize = 75;

/// Part of the heap's budget, in percent, that may stay in use once connections had to be
/// closed.
pub(crate) const HEAP_RELIEF_PERCENT: usize = 90;

const _: () = assert!(HEAP_HIGH_PERCENT < HEAP_RELIEF_PERCENT && HEAP_RELIEF_PERCENT < 100);

/// Time that a client has to acknowledge a response to its end. Until then it is memory, and all
/// other timeouts of it are over.
pub(crate) const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes by which the windows of all connections of one worker may grow above their start values.
pub(crate) const WINDOW_BUDGET_LEN: u64 = 256 * 1024 * 1024;

/// Bytes of datagrams that a turn builds before it submits them to the kernel, which copies them:
/// with more, the first would have left the core's cache by then, and reused slots would be cold.
pub(crate) const TURN_SEND_LEN_MAX: usize = 256 * 1024;

/// Submissions per io_uring_enter call; a turn with more calls it again.
pub(crate) const SUBMISSION_QUEUE_LEN: u32 = 512;

/// Completions that fit the completion queue; the kernel keeps further ones in a list (slower,
/// counted).
pub(crate) const COMPLETION_QUEUE_LEN: u32 = 8192;

/// How long a worker under load waits for completions to gather: far below the latency of a request
/// on any network, while a wake-up costs 3 to 5 us.
pub(crate) const GATHER_TIME: Duration = Duration::from_micros(50);

/// Completions of a turn from which on the next turn gathers them; after a less busy turn, the
/// worker is woken by the first.
pub const GATHER_COUNT_MIN: u32 = 16;

/// The most completions that are gathered.
pub(crate) const GATHER_COUNT_MAX: u32 = 128;

/// UDP sockets of one worker: one per address that the configuration listens on.
pub(crate) const RING_SOCKETS_MAX: u16 = 64;

/// Datagram batches of one worker that the kernel may hold at once.
pub(crate) const RING_SENDS_MAX: u32 = 1024;

/// Listening TCP sockets of one worker, as above.
pub(crate) const RING_LISTENERS_MAX: u16 = RING_SOCKETS_MAX;

/// Connections of one worker, of clients and to upstreams. The file table takes eight bytes of the
/// kernel for each. Memory of ours grows with those that exist. An idle connection has one
/// operation in flight, the receive, for which the kernel keeps some 350 bytes, and no slot.
pub(crate) const RING_STREAMS_MAX: u32 = 131_072;

/// Part of a worker's connections that clients may have: one in two, so that each finds one to an
/// upstream.
pub(crate) const RING_CLIENTS_SHARE: u32 = 2;

/// Accepts that are armed on one listening socket: connections that a worker takes in one turn. As
/// many as make a turn a busy one.
pub(crate) const ACCEPTS_ARMED: usize = GATHER_COUNT_MIN as usize;

const _: () = assert!(RING_STREAMS_MAX <= 1 << 20, "the kernel's longest file table");
const _: () = assert!(
    RING_LISTENERS_MAX as u32 * GATHER_COUNT_MIN < RING_STREAMS_MAX / RING_CLIENTS_SHARE / 8,
    "armed accepts take few of the clients' places"
);

/// Kernel threads for a worker's blocking operations: connects to a unix socket whose backlog is
/// full. Without this bound each would get a thread, up to all connections of an upstream. Further
/// ones are queued; a connect that need not block is not held up by them.
pub const RING_THREADS_MAX: u32 = 16;

/// Pieces of one request body that may wait for the upstream: each may pin a pool slot, so a client
/// that sends single bytes reaches this bound before the one in bytes. A single read of a stream
/// may exceed it.
pub(crate) const REQUEST_PENDING_PIECES_MAX: usize = 256;

/// Chunks per read of a stream; a client may send single bytes.
pub(crate) const READ_CHUNK_COUNT_MAX: usize = 256;

/// Free room in a request's queue below which its stream is not read, to avoid many small reads.
pub(crate) const REQUEST_ROOM_LEN_MIN: usize = 16 * 1024;

/// Pieces of one write to an upstream (vectored; IOV_MAX is 1,024): enough for all waiting bytes of
/// a body that arrives in full packets.
pub const UPSTREAM_WRITE_PIECES_MAX: usize = 256;

/// Fields of one response head or trailer section from an upstream; more is 502.
pub(crate) const RESPONSE_FIELD_COUNT_MAX: usize = 128;

/// Interim (1xx) responses forwarded for one request; more is 502.
pub(crate) const RESPONSE_INTERIM_COUNT_MAX: u32 = 8;

/// Length of a chunk-size line, extensions included, in bytes.
pub(crate) const CHUNK_LINE_LEN_MAX: usize = 256;

/// Names that a `connection` field may list; real ones list one or two, and each costs a comparison
/// for every field.
pub(crate) const NOMINATED_COUNT_MAX: usize = 32;

/// Time by which a kept connection is closed before the upstream says that it closes it: a request
/// that is on its way then would be lost. Half of a shorter time is used.
pub(crate) const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// How long a client may accept no byte of a waiting response before the response is reset: with
/// flow control, a client that keeps its connection alive could stall a response forever.
pub const RESPONSE_STALL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

const _: () = assert!(REQUEST_ROOM_LEN_MIN <= REQUEST_PENDING_LEN_MAX / 4);
const _: () = assert!(UPSTREAM_WRITE_PIECES_MAX >= 8 && UPSTREAM_WRITE_PIECES_MAX <= 1024);

/// TLS handshakes over TCP in progress at once, as for QUIC. Further connections wait in the
/// kernel.
pub(crate) const TCP_HANDSHAKES_MAX: usize = HALF_OPEN_COUNT_MAX;

/// Bytes of a PROXY header of version 2, extensions included. They are held for the time of a
/// handshake. Proxies send some tens to hundreds of bytes; with a client's certificate it is a few
/// thousand.
pub(crate) const PROXY_HEADER_LEN_MAX: usize = 4096;

/// Bytes received over TCP that are copied, in bytes, so that a small piece does not pin a slot.
pub(crate) const TCP_COPY_LEN_MAX: usize = 4 * 1024;

/// Bytes of a connection that one write to TCP carries: four records of TLS.
pub(crate) const TCP_WRITE_LEN_MAX: usize = 64 * 1024;

/// How long a TCP connection whose side of ours is closed waits for the client to close its own,
/// and an idle one for a request that is on its way when a drain begins.
pub(crate) const TCP_LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of one request's body that an HTTP/2 client may send ahead: as much as waits for the
/// upstream in the proxy.
pub(crate) const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all requests of a connection.
pub(crate) const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Backoff before the restart of a worker that died for the second time in a row. It doubles with
/// each death.
pub(crate) const WORKER_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest such backoff: for this time a share of new clients gets no response.
pub(crate) const WORKER_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A worker that ran for this long is healthy: its next death counts as the first.
pub(crate) const WORKER_HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Consecutive start failures of a worker after which the process exits, so that its supervisor can
/// restart it: eleven seconds in all, while memory that the kernel frees late is back within one.
pub(crate) const WORKER_FAILURE_COUNT_MAX: u32 = 8;

/// Bytes that an HTTP/2 connection holds beside its bodies: `h2`'s buffers for reading and writing
/// (16 KiB each), both HPACK tables (4 KiB each), and its own state.
pub(crate) const HTTP2_CONNECTION_LEN: usize = 48 * 1024;

/// Bytes that an HTTP/2 client may have sent that were not read, before it is not read from: its
/// requests wait for room in its own direction only while it does not take responses.
pub(crate) const HTTP2_INPUT_LEN_MAX: usize = 64 * 1024;

/// Bytes of response bodies that one HTTP/2 connection queues between the gateway and the
/// transport: two turns of writing 128 KiB.
pub(crate) const HTTP2_QUEUED_LEN_MAX: usize = 256 * 1024;

/// The same for one of its streams, so that responses take turns at the connection's window.
pub(crate) const HTTP2_STREAM_QUEUED_LEN_MAX: usize = 64 * 1024;

/// Requests of one burst that may be cancelled in it (CVE-2023-44487). The gateway counts those
/// that are cancelled later.
pub(crate) const HTTP2_PENDING_RESET_COUNT_MAX: usize = 20;

/// Streams of one HTTP/2 connection that may be reset for broken frames (CVE-2025-8671), over its
/// life. DATA that arrives when a refused upload has been forgotten counts too, so there are some
/// for honest clients.
pub(crate) const HTTP2_ERROR_RESET_COUNT_MAX: usize = 512;

/// Streams of one HTTP/2 connection that we have reset and remember, to ignore what was on its way.
/// As many as are open at once by default; each takes 400 bytes.
pub(crate) const HTTP2_RESET_HELD_COUNT_MAX: usize = 100;

/// Time for which these are remembered: two round trips of a slow path.
pub(crate) const HTTP2_RESET_LINGER: Duration = Duration::from_secs(5);

/// Bytes of bookkeeping that DATA frames shorter than 256 bytes may cost before their bytes are
/// taken: each costs the 256 bytes that it lacks.
pub(crate) const HTTP2_SMALL_FRAMES_LEN_MAX: usize = 128 * 1024;

/// Pieces of a request's body shorter than this are joined in a buffer of their length: one byte
/// would pin the buffer of 16 KiB in which it was read.
pub(crate) const HTTP2_BODY_PIECE_LEN_MIN: usize = 1024;
