//! A gateway in virtual time, with the pool's slots and the books on its outputs.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringway::testing::internal::config::{Certificate, CertificateSource, Config, Retry, Tls};
use ringway::testing::internal::demo;
use ringway::testing::internal::gateway::{Gateway, GatewaySettings};
use ringway::testing::internal::limits::{SLOT_COUNT_MIN, SLOT_LEN};
use ringway::testing::internal::pool::{Hugepages, Pool, PoolPlan, Regions};
use ringway::testing::internal::quic::{Datagram, Engine};
use ringway::testing::internal::tls::ServerTls;
use ringway::testing::{self, ClientTls, TestCertificate};

use super::books::Books;

/// Address of the gateway.
pub const GATEWAY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 443));

/// Bytes of all responses that may wait for clients.
const RESPONSES_LEN_MAX: usize = 1 << 20;

/// Most timers that are handled in one wait: more would be a timer that does not advance.
const TIMERS_MAX: usize = 20_000;

pub struct World {
    pub now: Instant,
    pub gateway: Gateway,
    pub books: Books,
    /// Datagrams that the gateway has sent.
    pub sent: Vec<(SocketAddr, Vec<u8>)>,
    /// Bytes received from and sent to each address.
    pub traffic: BTreeMap<SocketAddr, (usize, usize)>,
    /// The buffer for the next batch, so that not every step fills and frees a slot.
    batch: Option<Vec<u8>>,
    pool: Rc<Pool>,
    free_at_start: u32,
}

impl World {
    pub fn new(retry: Retry) -> Self {
        let (tls, pool) = (tls(), pool());
        let config = Arc::new(configuration(retry));
        let quic = config.listeners[0].quic.clone();
        let engine = Engine::new(testing::engine_settings(quic, &tls.server));
        let gateway = Gateway::new(GatewaySettings {
            config,
            engine: engine.expect("good settings"),
            tls: tls.server.clone(),
            socket_listeners: vec![0],
            worker_count: 1,
            responses_len_max: RESPONSES_LEN_MAX,
        });
        let free_at_start = pool.counts().free;
        Self {
            now: testing::epoch(),
            gateway,
            books: Books::default(),
            sent: Vec::new(),
            traffic: BTreeMap::new(),
            batch: None,
            pool,
            free_at_start,
        }
    }

    /// Lets a datagram arrive: in a slot, or on the heap if there is none.
    pub fn arrive(&mut self, remote: SocketAddr, bytes: &[u8]) {
        self.traffic.entry(remote).or_default().0 += bytes.len();
        let payload = self.received(bytes);
        let local_ip = Some(GATEWAY.ip());
        let datagram = Datagram { socket: 0, remote, local_ip, ecn: 0, payload };
        self.gateway.handle_datagram(self.now, datagram);
    }

    /// Returns `bytes` as the kernel delivers them.
    pub fn received(&self, bytes: &[u8]) -> BytesMut {
        let slot = self.pool.lease().filter(|_| bytes.len() <= SLOT_LEN);
        let mut received = slot.map_or_else(BytesMut::new, |slot| slot.into_bytes_mut());
        received.extend_from_slice(bytes);
        received
    }

    /// Carries out what the gateway wants, and checks the books.
    pub fn settle(&mut self) {
        let batch = self.batch.take().or_else(|| self.pool.lease_vec());
        let mut buffer = batch.unwrap_or_else(|| Vec::with_capacity(SLOT_LEN));
        loop {
            while let Some(output) = self.gateway.poll(self.now) {
                self.books.enter(&output);
            }
            buffer.clear();
            let Some(transmit) = self.gateway.poll_transmit(self.now, &mut buffer) else { break };
            assert_eq!(transmit.len, buffer.len());
            let to = transmit.destination;
            let account = self.traffic.get_mut(&to).expect("only senders are sent anything");
            account.1 += buffer.len();
            let segment_len = transmit.segment_len.unwrap_or(buffer.len()).max(1);
            self.sent.extend(buffer.chunks(segment_len).map(|datagram| (to, datagram.to_vec())));
        }
        self.batch = Some(buffer);
        self.books.check(&self.gateway, RESPONSES_LEN_MAX);
    }

    /// Lets time pass, timer by timer.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..TIMERS_MAX {
            let next = self.gateway.next_deadline().filter(|next| *next <= end);
            self.now = self.now.max(next.unwrap_or(end));
            self.gateway.handle_timeout(self.now);
            self.settle();
            if next.is_none() {
                return;
            }
        }
        panic!("timers do not advance: {:?}", self.gateway.engine().counts());
    }

    /// Applies the configuration again, with a changed timeout.
    pub fn reload(&mut self, retry: Retry) {
        let mut config = configuration(retry);
        config.upstreams[0].idle_timeout += Duration::from_millis(1);
        let applied = self.gateway.apply(self.now, Arc::new(config), &tls().server, &[Some(0)]);
        applied.expect("the settings that it began with");
    }

    /// Asserts that nothing is left: no connection, no exchange, no slot.
    pub fn assert_at_rest(self) {
        assert_eq!(self.gateway.proxy().gauges(), Default::default(), "the proxy holds nothing");
        let counts = self.gateway.engine().counts();
        assert_eq!(counts, Default::default(), "no connection is left");
        assert!(self.gateway.is_idle() && self.books.upstreams.is_empty());
        assert_eq!(self.gateway.responses_waiting_len(), 0);
        drop((self.gateway, self.batch));
        assert_eq!(self.pool.counts().free, self.free_at_start, "every slot was returned");
    }
}

/// Returns a configuration with short bounds, so that inputs of some hundred bytes reach them.
fn configuration(retry: Retry) -> Config {
    static DEMONSTRATION: OnceLock<Config> = OnceLock::new();
    let read = || demo::config(SocketAddr::from(([127, 0, 0, 1], 1)));
    let mut config = DEMONSTRATION.get_or_init(read).clone();
    config.upstreams[0].max_connections = 3;
    let quic = &mut config.listeners[0].quic;
    quic.retry = retry;
    quic.idle_timeout = Duration::from_secs(20);
    config
}

/// TLS settings of both sides.
pub struct TlsPair {
    pub server: ServerTls,
    pub client: quinn_proto::ClientConfig,
}

pub fn tls() -> &'static TlsPair {
    static TLS: OnceLock<TlsPair> = OnceLock::new();
    TLS.get_or_init(|| {
        // Its signatures have a fixed length.
        let made = TestCertificate::ed25519(&["localhost"]);
        let folder = std::env::temp_dir().join(format!("ringway-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the certificate");
        let source: CertificateSource = made.write(&folder);
        let hosts = demo::config(GATEWAY).certificates[0].hosts.clone();
        let server = ServerTls::load(
            &[Certificate { hosts, addresses: Vec::new(), source }],
            Tls::default(),
        );
        std::fs::remove_dir_all(&folder).expect("the folder that was just made");
        let mut client = ClientTls::trusting(made.der);
        client.resumption = rustls::client::Resumption::disabled();
        // The fastest one: handshakes are not what is tested.
        client.provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::X25519);
        TlsPair { server: server.expect("a valid certificate"), client: client.quic() }
    })
}

/// Returns the smallest pool, one for the thread.
fn pool() -> Rc<Pool> {
    thread_local! {
        static POOL: Rc<Pool> = {
            let plan = PoolPlan::new(SLOT_COUNT_MIN as usize * SLOT_LEN).expect("long enough");
            let regions = Regions::reserve(1, plan).expect("address space");
            let (region, _) = regions.lend(Hugepages::Try).expect("memory");
            Rc::new(Pool::attach(region))
        };
    }
    POOL.with(Rc::clone)
}
