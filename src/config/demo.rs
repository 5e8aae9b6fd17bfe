//! What runs without a file.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::model::*;
use super::{Surroundings, parse};

/// UDP port of the demonstration, on both loopback addresses.
pub const DEMO_PORT: u16 = 4433;

/// TCP port of the admin endpoint where nothing else is configured.
pub const DEMO_ADMIN_PORT: u16 = 9901;

/// The default of `[admin] listen`.
pub(super) fn admin_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, DEMO_ADMIN_PORT))
}

/// The demonstration: both loopback addresses, a certificate made in memory, everything to the
/// built-in origin at `origin`.
pub fn default_demo(origin: SocketAddr) -> Config {
    // Every value that is not special to the demonstration is the one that a short file would get.
    let text = "
        listeners = [{ name = 'demo', address = '127.0.0.1:4433' }]
        certificates = [{ hosts = 'localhost', cert = '-', key = '-' }]
        routes = [{ upstream = 'origin' }]
        upstreams = { origin = { endpoints = [{ address = '127.0.0.1:1' }] } }
    ";
    let nothing =
        Surroundings { env: &|_| None, resolve: &|_, _| Ok(Vec::new()), tcp_congestions: &|| None };
    let mut config = parse(text, Path::new("demonstration"), &nothing)
        .expect("the demonstration's configuration passes its own checks");
    config.listeners[0].addresses = vec![
        SocketAddr::from((Ipv4Addr::LOCALHOST, DEMO_PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, DEMO_PORT)),
    ];
    config.certificates[0].source = CertificateSource::SelfSigned;
    config.upstreams[0].endpoints[0].address = EndpointAddress::Tcp(origin);
    config
}
