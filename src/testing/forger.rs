//! Initial packets that a stranger makes: their keys follow from the connection id (RFC 9001 5.2),
//! and their source address can be forged.

use quinn_proto::ConnectionId;
use quinn_proto::crypto::ServerConfig as _;
use quinn_proto::crypto::rustls::QuicServerConfig;

use crate::tls::ServerTls;

/// CONNECTION_CLOSE with NO_ERROR (RFC 9000 19.19).
pub const CLOSE: [u8; 4] = [0x1c, 0, 0, 0];
pub const PING: [u8; 1] = [0x01];
/// MAX_DATA, which an Initial may not contain (RFC 9000 12.4).
pub const FORBIDDEN: [u8; 2] = [0x10, 0x01];
/// CRYPTO with one byte at a gap (RFC 9000 19.6).
pub const GAP: [u8; 4] = [0x06, 0x3f, 0x01, 0x00];

/// Seals Initials.
pub struct Forger {
    keys: QuicServerConfig,
}

impl Forger {
    /// Returns a forger of Initials to a server, whose settings serve for their keys.
    pub fn new(server: &ServerTls) -> Self {
        Self { keys: QuicServerConfig::try_from(server.config()).expect("QUIC's cipher suite") }
    }

    /// Returns a sealed Initial (RFC 9000 17.2.2) to the id `id`, with `frames` padded to `len`
    /// bytes.
    pub fn initial(
        &self,
        id: u64,
        token: &[u8],
        number: u32,
        frames: &[u8],
        len: usize,
    ) -> Vec<u8> {
        let destination = id.to_be_bytes();
        let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
        packet.extend(destination);
        packet.extend([4, 9, 9, 9, 9]);
        packet.extend((0x4000 | token.len() as u16).to_be_bytes());
        packet.extend(token);
        let header_len = packet.len() + 6;
        packet.extend((0x4000 | (len - header_len + 4) as u16).to_be_bytes());
        packet.extend(number.to_be_bytes());
        packet.extend(frames);
        packet.resize(len, 0);
        let keys = self.keys.initial_keys(1, &ConnectionId::new(&destination));
        let keys = keys.expect("QUIC v1");
        keys.packet.remote.encrypt(number.into(), &mut packet, header_len);
        keys.header.remote.encrypt(header_len - 4, &mut packet);
        packet
    }
}
