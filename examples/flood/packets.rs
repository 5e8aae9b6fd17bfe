//! The datagrams of a flood, sealed before it begins.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::ValueEnum;
use rand::Rng as _;
use rand::rngs::SmallRng;
use ringway::testing::ClientTls;
use ringway::testing::forger::{CLOSE, Forger, PING};
use ringway::testing::internal::demo;
use ringway::testing::internal::tls::ServerTls;
use rustls::quic::{ClientConnection, Version};

use crate::{Arguments, Failure};

/// Shortest datagram that a server takes for a first one (RFC 9000 14.1).
const DATAGRAM_LEN: usize = 1200;
/// Different ClientHellos: a server cannot know one again, and making one takes long.
const HELLO_COUNT: usize = 64;
/// Transport parameters of a client: the source connection id of the forger's packets
/// (RFC 9000 18.2, initial_source_connection_id), and some credit.
const TRANSPORT_PARAMETERS: &[u8] =
    &[0x0f, 4, 9, 9, 9, 9, 0x04, 4, 0x80, 0x10, 0, 0, 0x08, 1, 16, 0x09, 1, 3];

/// The contents of a flood's datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A handshake's first packet, which is never followed by a second one
    Hello,
    /// An Initial with PING, which begins nothing
    Ping,
    /// An Initial that closes the connection which it opens
    Close,
    /// Random bytes
    Random,
    /// A quarter of each
    Mixed,
}

/// Makes the datagrams, each with a connection id of its own.
pub fn make(arguments: &Arguments, random: &mut SmallRng) -> Result<Vec<Vec<u8>>, Failure> {
    // Keys of Initials need no certificate, but rustls has no settings without one.
    let config = demo::config(SocketAddr::from(([127, 0, 0, 1], 1)));
    let forger = Forger::new(&ServerTls::load(&config.certificates, config.tls)?);
    let hellos = client_hellos(&arguments.host)?;
    let make_one = |number| {
        let kinds = [Kind::Hello, Kind::Ping, Kind::Close, Kind::Random];
        let kind = match arguments.kind {
            Kind::Mixed => kinds[number % kinds.len()],
            kind => kind,
        };
        let frames: &[u8] = match kind {
            Kind::Hello => &hellos[random.random_range(0..hellos.len())],
            Kind::Close => &CLOSE,
            Kind::Random => {
                let mut bytes = vec![0; DATAGRAM_LEN];
                random.fill(&mut bytes[..]);
                return bytes;
            }
            Kind::Ping | Kind::Mixed => &PING,
        };
        forger.initial(random.random(), &[], 0, frames, DATAGRAM_LEN)
    };
    Ok((0..arguments.different as usize).map(make_one).collect())
}

/// Returns CRYPTO frames (RFC 9000 19.6) with a ClientHello each. They offer X25519 only, so that
/// one fits into one datagram.
fn client_hellos(host: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let mut tls = ClientTls::trusting_nobody();
    tls.provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let config = Arc::new(tls.tls13());
    let hello = |_| {
        let name = host.to_owned().try_into()?;
        let parameters = TRANSPORT_PARAMETERS.to_vec();
        let mut connection =
            ClientConnection::new(Arc::clone(&config), Version::V1, name, parameters)?;
        let mut hello = Vec::new();
        // The keys change only once the server has responded.
        let _no_keys = connection.write_hs(&mut hello);
        let mut frame = vec![0x06, 0];
        frame.extend((0x4000 | hello.len() as u16).to_be_bytes());
        frame.extend(hello);
        Ok(frame)
    };
    (0..HELLO_COUNT).map(hello).collect()
}
