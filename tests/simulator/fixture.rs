//! What a world is built of: certificates, the gateway, clients.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use quinn_proto::crypto::rustls::QuicClientConfig;
use ringway::config::{Certificate, CertificateSource, HostPattern};
use ringway::gateway::{Gateway, GatewaySettings};
use ringway::host::clock;
use ringway::quic::{CidMask, Engine, EngineSettings, MTU_MAX_DEFAULT, TimeSource};
use ringway::tls::{ServerTls, provider};

use crate::client::Client;
use crate::scenario::Scenario;

/// Where the gateway is.
pub const GATEWAY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 443));

/// A world's moving parts.
pub struct Built {
    pub now: Instant,
    pub gateway: Gateway,
    pub clients: Vec<Client>,
}

pub fn build(seed: u64, scenario: &Scenario) -> Built {
    let tls = tls();
    let now = clock::now();
    let config = Arc::new(scenario.config.clone());
    let engine = Engine::new(EngineSettings {
        listeners: vec![config.listeners[0].quic.clone()],
        sockets: vec![0],
        tls: tls.server.config(),
        worker: 0,
        worker_count: 1,
        generation: false,
        window_budget_len: 4 << 20,
        mtu_max: MTU_MAX_DEFAULT,
        seed: seed_bytes(seed, 1),
        cid_key: seed_bytes(seed, 2),
        cid_mask: CidMask { k1: 3, k2: 5, k3: 7 },
        reset_key: [1; 64],
        token_key: [2; 64],
        time_source: Arc::new(NoTime),
    });
    let gateway = Gateway::new(GatewaySettings {
        config,
        engine: engine.unwrap(),
        socket_listeners: vec![0],
        worker_count: 1,
        responses_len_max: scenario.responses_len_max,
    });
    let clients = scenario.clients.iter().enumerate().map(|(index, (manner, asks))| {
        let address = SocketAddr::from(([10, 0, 1, 1], 10_000 + index as u16));
        let seed = seed.wrapping_mul(1_000).wrapping_add(index as u64);
        let addresses = (address, GATEWAY);
        Client::new(now, addresses, tls.client.clone(), seed, manner.clone(), asks.clone())
    });
    Built { now, gateway, clients: clients.collect() }
}

/// Applies the same configuration again, with one upstream's timeout changed.
pub fn reload(now: Instant, gateway: &mut Gateway, scenario: &Scenario) {
    let mut config = scenario.config.clone();
    config.upstreams[0].idle_timeout += Duration::from_millis(1);
    gateway.apply(now, Arc::new(config), &tls().server).unwrap();
}

/// A clock that stands still, for the age of tokens.
struct NoTime;

impl TimeSource for NoTime {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }
}

fn seed_bytes(seed: u64, salt: u8) -> [u8; 32] {
    let mut bytes = [salt; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// TLS settings of both sides.
struct Tls {
    server: ServerTls,
    client: quinn_proto::ClientConfig,
}

/// An Ed25519 certificate: its signatures have one length, so that worlds are the same.
fn tls() -> &'static Tls {
    static TLS: OnceLock<Tls> = OnceLock::new();
    TLS.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| -> PathBuf {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let source = CertificateSource::Files {
            cert: write("cert.pem", certificate.pem()),
            key: write("key.pem", key.serialize_pem()),
        };
        let hosts = vec![HostPattern::Exact("localhost".into())];
        let server =
            ServerTls::load(&[Certificate { hosts, source }], ringway::config::Tls::default())
                .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h3".to_vec()];
        // A ticket from another world would make this one another.
        client.resumption = rustls::client::Resumption::disabled();
        let client = QuicClientConfig::try_from(client).unwrap();
        Tls { server, client: quinn_proto::ClientConfig::new(Arc::new(client)) }
    })
}
