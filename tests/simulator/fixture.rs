//! The parts of a world: certificates, the gateway, clients.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ringway::testing::internal::config::{Certificate, HostPattern};
use ringway::testing::internal::gateway::{Gateway, GatewaySettings};
use ringway::testing::internal::quic::{Engine, EngineSettings};
use ringway::testing::internal::tls::ServerTls;
use ringway::testing::{self, ClientTls, TestCertificate};

use crate::client::Client;
use crate::scenario::Scenario;

/// Address of the gateway.
pub const GATEWAY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 443));

/// The parts from which a world is built.
pub struct Built {
    pub now: Instant,
    pub gateway: Gateway,
    pub clients: Vec<Client>,
}

pub fn build(seed: u64, scenario: &Scenario) -> Built {
    let tls = tls();
    let now = testing::epoch();
    let config = Arc::new(scenario.config.clone());
    let engine = Engine::new(EngineSettings {
        window_budget_len: 4 << 20,
        seed: seed_bytes(seed, 1),
        cid_key: seed_bytes(seed, 2),
        ..testing::engine_settings(config.listeners[0].quic.clone(), &tls.server)
    });
    let gateway = Gateway::new(GatewaySettings {
        config,
        engine: engine.unwrap(),
        tls: tls.server.clone(),
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

/// Returns the TLS settings of the gateway.
pub fn server_tls() -> &'static ServerTls {
    &tls().server
}

/// Returns the TLS settings of a client.
pub fn client_tls() -> quinn_proto::ClientConfig {
    tls().client.clone()
}

/// Applies the same configuration again, with one upstream's timeout changed.
pub fn reload(now: Instant, gateway: &mut Gateway, scenario: &Scenario) {
    let mut config = scenario.config.clone();
    config.upstreams[0].idle_timeout += Duration::from_millis(1);
    gateway.apply(now, Arc::new(config), &tls().server, &[Some(0)]).unwrap();
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

/// Returns TLS settings with an Ed25519 certificate: its signatures have a fixed length, so that
/// worlds are reproducible.
fn tls() -> &'static Tls {
    static TLS: OnceLock<Tls> = OnceLock::new();
    TLS.get_or_init(|| {
        let made = TestCertificate::ed25519(&["localhost"]);
        let folder = tempfile::tempdir().unwrap();
        let source = made.write(folder.path());
        let hosts = vec![HostPattern::Exact("localhost".into())];
        let server = ServerTls::load(
            &[Certificate { hosts, addresses: Vec::new(), source }],
            ringway::testing::internal::config::Tls::default(),
        )
        .unwrap();
        // A session ticket from another world would make this one irreproducible.
        let resumption = rustls::client::Resumption::disabled();
        let mut client = ClientTls { resumption, ..ClientTls::trusting(made.der) }.quic();
        // Nor may a token.
        client.token_store(Arc::new(quinn_proto::NoneTokenStore));
        Tls { server, client }
    })
}
