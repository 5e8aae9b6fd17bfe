//! The demonstration's configuration.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::{Accounts, CertificateSource, Config, EndpointAddress, Surroundings, parse};

/// UDP port of the demonstration, on both loopback addresses.
const PORT: u16 = 4433;

/// Returns the configuration: both loopback addresses, a certificate made in memory, and every
/// request forwarded to `origin`.
pub fn config(origin: SocketAddr) -> Config {
    // Keys that are left out have the defaults that a short file gets.
    let text = "
        listeners = [{ name = 'demo', address = '127.0.0.1:4433' }]
        certificates = [{ hosts = 'localhost', cert = '-', key = '-' }]
        routes = [{ upstream = 'origin' }]
        upstreams = { origin = { endpoints = [{ address = '127.0.0.1:1' }] } }
    ";
    let nothing = Surroundings {
        env: &|_| None,
        resolve: &|_, _| Ok(Vec::new()),
        tcp_congestions: &|| None,
        accounts: Accounts::NONE,
    };
    let mut config = parse(text, Path::new("demonstration"), &nothing)
        .expect("the demonstration's configuration is valid");
    config.listeners[0].addresses = vec![
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)),
    ];
    config.certificates[0].source = CertificateSource::SelfSigned;
    config.upstreams[0].endpoints[0].address = EndpointAddress::Tcp(origin);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demonstration_listens_on_loopback_only() {
        let config = config("127.0.0.1:5000".parse().unwrap());
        assert!(config.listeners[0].addresses.iter().all(|address| address.ip().is_loopback()));
        assert_eq!(config.listeners[0].addresses.len(), 2);
        assert_eq!(config.certificates[0].source, CertificateSource::SelfSigned);
        assert!(config.certificates[0].hosts[0].matches("localhost"));
        let endpoint = &config.upstreams[config.routes[0].upstream].endpoints[0].address;
        assert_eq!(*endpoint, EndpointAddress::Tcp("127.0.0.1:5000".parse().unwrap()));
    }
}
