//! The engine's settings, and quinn-proto's settings made from them, each bound set on purpose.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TimeSource, TransportConfig,
    ValidationTokenConfig, VarInt,
};

use super::cid::WorkerIds;
use super::padding::without_padding;
use super::used_tokens::UsedTokens;
use super::{congestion, windows};
use crate::base::shares::Shares;
use crate::cid::{CidMask, WORKER_INDEX_MAX};
use crate::config;
use crate::limits;
use crate::tls::ServerTls;

/// Longest UDP payload over IPv4 on a 1500-byte link: the default upper bound of MTU discovery.
pub const MTU_MAX_DEFAULT: u16 = 1472;

/// Difference between the header lengths of IPv6 and IPv4 (RFC 8200 3): the upper bound of MTU
/// discovery over IPv6 is this much lower.
const IPV6_HEADER_EXTRA: u16 = 20;

/// MTU discovery ends when the next probe would be longer by less than this. The result is then
/// still right on a 1500-byte link with a few bytes of overhead (PPPoE takes 8).
const MTU_STEP_MIN: u16 = 10;

/// Smallest datagram size of QUIC (RFC 9000 14).
pub(super) const MTU_MIN: u16 = 1200;

/// The only version offered: QUIC v1 (RFC 9000 15). quinn-proto would add drafts.
const VERSIONS: [u32; 1] = [1];

/// Lifetime of a Retry token: a client uses it at once or not at all (RFC 9000 8.1.4).
pub(super) const RETRY_TOKEN_LIFETIME: Duration = Duration::from_secs(15);

/// Lifetime of a token for a later connection (RFC 9000 8.1.3): a client that comes back the next
/// day skips Retry.
const NEW_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Settings of an [`super::Engine`]. Time and randomness are among them, so that the same settings
/// and inputs give the same run.
pub struct EngineSettings {
    pub listeners: Vec<ListenerSettings>,
    /// Index of the listener of each socket, by the socket's number.
    pub sockets: Vec<usize>,
    /// Index of this worker, at most [`WORKER_INDEX_MAX`].
    pub worker: u16,
    /// Number of workers that share [`config::Quic::max_connections`], at least one.
    pub worker_count: u16,
    /// Bit that distinguishes the ids of a process from those of the one it replaces.
    pub generation: bool,
    /// Bytes that the windows of all connections of this worker may grow by.
    pub window_budget_len: u64,
    /// Upper bound of MTU discovery over IPv4; [`MTU_MAX_DEFAULT`] outside of tests.
    pub mtu_max: u16,
    /// Seed of everything random in the QUIC layer (TLS has its own randomness).
    pub seed: [u8; 32],
    /// Key of this worker's connection ids; no two workers have the same.
    pub cid_key: [u8; 32],
    /// Masks the worker's index; the same in all workers and in the steering program.
    pub cid_mask: CidMask,
    /// Key of stateless resets; the same in all workers.
    pub reset_key: [u8; 64],
    /// Key of address validation tokens; the same in all workers.
    pub token_key: [u8; 64],
    /// The wall clock, for the age of tokens.
    pub time_source: Arc<dyn TimeSource>,
}

/// The settings of one listener.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    pub quic: config::Quic,
    pub tls: Arc<rustls::ServerConfig>,
}

impl ListenerSettings {
    /// Returns the settings of `listener`.
    pub(crate) fn of(listener: &config::Listener, tls: &ServerTls) -> Self {
        Self { quic: listener.quic.clone(), tls: tls.config_of(listener) }
    }
}

/// Listeners and settings that replace those of an [`super::Engine`].
pub struct EngineChange {
    pub listeners: Vec<ListenerSettings>,
    /// For each listener, the index of the one before that it continues: their connections count
    /// together.
    pub continued: Vec<Option<usize>>,
    /// The listener of each socket, by the socket's number. `None` accepts no connections.
    pub sockets: Vec<Option<usize>>,
}

/// The reason why an engine cannot be made: a bug of the program or of its configuration checks.
#[derive(Debug, PartialEq, Eq)]
pub enum EngineError {
    /// More workers than a connection id can name.
    WorkerIndex(u16),
    /// A socket belongs to a listener that does not exist.
    UnknownListener { socket: usize, listener: usize },
    /// The idle timeout can't be written in a transport parameter.
    IdleTimeout,
    /// The TLS settings lack the cipher suite that Initial packets need (RFC 9001 5).
    InitialCipherSuite,
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkerIndex(index) => write!(
                f,
                "worker {index} can't be named in a connection id, the last one is {}; set \
                 runtime.workers lower",
                WORKER_INDEX_MAX
            ),
            Self::UnknownListener { socket, listener } => {
                write!(f, "socket {socket} belongs to listener {listener}, which does not exist")
            }
            Self::IdleTimeout => f.write_str("quic.idle_timeout exceeds what QUIC can encode"),
            Self::InitialCipherSuite => f.write_str(
                "the TLS settings lack TLS13_AES_128_GCM_SHA256, which QUIC's Initial packets need",
            ),
        }
    }
}

impl std::error::Error for EngineError {}

/// The engine's state of one listener.
pub(super) struct Listener {
    pub(super) quic: config::Quic,
    pub(super) over_ipv4: Arc<ServerConfig>,
    pub(super) over_ipv6: Arc<ServerConfig>,
    /// This worker's share of the connections.
    pub(super) count_max: usize,
    /// The most of them that one client address may have, and of a worker's half-open handshakes.
    pub(super) count_per_address_max: usize,
    pub(super) half_open_per_address_max: usize,
    /// Current connections, closing ones included.
    pub(super) connections: Shares,
}

impl Listener {
    pub(super) fn new(
        settings: &EngineSettings,
        listener: &ListenerSettings,
        used_tokens: &Arc<UsedTokens>,
    ) -> Result<Self, EngineError> {
        let quic = &listener.quic;
        let count_max = share(quic.max_connections, settings.worker_count);
        Ok(Self {
            over_ipv4: settings.server(listener, settings.mtu_max, used_tokens)?,
            over_ipv6: settings.server(
                listener,
                settings.mtu_max - IPV6_HEADER_EXTRA,
                used_tokens,
            )?,
            count_max,
            count_per_address_max: percent(quic.connections_per_address, count_max),
            half_open_per_address_max: percent(
                quic.half_open_per_address,
                limits::HALF_OPEN_COUNT_MAX,
            ),
            connections: Shares::default(),
            quic: quic.clone(),
        })
    }

    /// Returns quinn-proto's settings for a client at `address`.
    pub(super) fn server(&self, address: IpAddr) -> &Arc<ServerConfig> {
        if address.is_ipv4() { &self.over_ipv4 } else { &self.over_ipv6 }
    }
}

impl EngineSettings {
    pub(super) fn check(&self) -> Result<(), EngineError> {
        if self.worker > WORKER_INDEX_MAX {
            return Err(EngineError::WorkerIndex(self.worker));
        }
        for (socket, &listener) in self.sockets.iter().enumerate() {
            if listener >= self.listeners.len() {
                return Err(EngineError::UnknownListener { socket, listener });
            }
        }
        Ok(())
    }

    pub(super) fn worker_ids(&self) -> WorkerIds {
        WorkerIds::new(self.worker, self.generation, self.cid_mask, &self.cid_key)
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &self.reset_key);
        let ids = self.worker_ids();
        let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
        endpoint
            .cid_generator(move || Box::new(ids.clone()))
            .supported_versions(VERSIONS.to_vec())
            .grease_quic_bit(true)
            // The engine has a limit of its own, with room for a burst.
            .min_reset_interval(Duration::ZERO)
            .rng_seed(Some(self.seed));
        endpoint
            .max_udp_payload_size(limits::RECEIVE_LEN_MAX)
            .expect("a datagram of a common link is in quinn-proto's range");
        endpoint
    }

    /// Returns quinn-proto's settings for one listener over paths of at most `mtu_max`.
    fn server(
        &self,
        listener: &ListenerSettings,
        mtu_max: u16,
        used_tokens: &Arc<UsedTokens>,
    ) -> Result<Arc<ServerConfig>, EngineError> {
        let crypto = QuicServerConfig::try_from(Arc::clone(&listener.tls))
            .map_err(|_| EngineError::InitialCipherSuite)?;
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&self.token_key);
        let crypto = without_padding(Arc::new(crypto));
        let mut server = ServerConfig::new(crypto, Arc::new(token_key));
        let mut validation = ValidationTokenConfig::default();
        validation.sent(1).lifetime(NEW_TOKEN_LIFETIME).log(Arc::clone(used_tokens) as _);
        server
            .transport_config(Arc::new(self.transport(&listener.quic, mtu_max)?))
            .validation_token_config(validation)
            .retry_token_lifetime(RETRY_TOKEN_LIFETIME)
            .migration(true)
            .max_incoming(limits::HALF_OPEN_COUNT_MAX)
            .incoming_buffer_size(limits::INCOMING_BUFFER_LEN_MAX)
            .incoming_buffer_size_total(limits::INCOMING_BUFFERS_LEN_MAX)
            .time_source(Arc::clone(&self.time_source));
        Ok(Arc::new(server))
    }

    fn transport(&self, quic: &config::Quic, mtu_max: u16) -> Result<TransportConfig, EngineError> {
        let idle =
            IdleTimeout::try_from(quic.idle_timeout).map_err(|_| EngineError::IdleTimeout)?;
        let receive_window = VarInt::from_u64(windows::receive_start(quic))
            .expect("the start of a window is below 4 GiB");
        let mut mtu_discovery = MtuDiscoveryConfig::default();
        mtu_discovery.upper_bound(mtu_max).minimum_change(MTU_STEP_MIN);
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(quic.max_streams.into())
            .max_concurrent_uni_streams(limits::UNI_STREAM_COUNT_MAX.into())
            .stream_receive_window(quic.stream_receive_window.into())
            .receive_window(receive_window)
            .send_window(windows::send_start(quic))
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(None)
            .initial_mtu(MTU_MIN)
            .min_mtu(MTU_MIN)
            .mtu_discovery_config(Some(mtu_discovery))
            .crypto_buffer_size(limits::CRYPTO_BUFFER_LEN_MAX)
            // Unreliable datagrams (RFC 9221) are not offered.
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0)
            .enable_segmentation_offload(true)
            .congestion_controller_factory(congestion::factory(quic.congestion));
        Ok(transport)
    }
}

/// Returns so many percent of `count`, at least 1.
fn percent(percent: u8, count: usize) -> usize {
    (count * usize::from(percent) / 100).max(1)
}

/// Returns this worker's share of `connection_count`, rounded up: the sum may be a few more.
fn share(connection_count: u32, worker_count: u16) -> usize {
    connection_count.div_ceil(u32::from(worker_count.max(1))) as usize
}
