//! A configuration for the tests of other modules.

use std::net::SocketAddr;
use std::path::Path;

use super::{
    Accounts, CertificateSource, Config, EndpointAddress, HostPattern, Surroundings, parse,
};

/// Returns the configuration of a text, which must be valid. Names have no address.
pub(crate) fn parsed(text: &str) -> Config {
    parsed_with(text, &[])
}

/// Returns the configuration of a text, which must be valid. All names have these addresses.
pub(crate) fn parsed_with(text: &str, addresses: &[SocketAddr]) -> Config {
    let surroundings = Surroundings {
        env: &|_| None,
        resolve: &|_, _| Ok(addresses.to_vec()),
        tcp_congestions: &|| None,
        accounts: Accounts::NONE,
    };
    parse(text, Path::new("/etc/ringway/test.toml"), &surroundings)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// Returns `configs/minimal.toml` on a free port of 127.0.0.1, with a self-signed certificate for
/// localhost and one endpoint at `origin`.
pub(crate) fn minimal(origin: SocketAddr) -> Config {
    let text = include_str!("../../configs/minimal.toml");
    let nothing = Surroundings {
        env: &|_| None,
        resolve: &|_, _| Ok(Vec::new()),
        tcp_congestions: &|| None,
        accounts: Accounts::NONE,
    };
    let mut config = parse(text, Path::new("minimal.toml"), &nothing).unwrap();
    config.listeners[0].addresses = vec!["127.0.0.1:0".parse().unwrap()];
    config.certificates[0].hosts = vec![HostPattern::Exact("localhost".to_owned())];
    config.certificates[0].source = CertificateSource::SelfSigned;
    config.upstreams[0].endpoints[0].address = EndpointAddress::Tcp(origin);
    config
}
