//! Datagrams of strangers. Input: a byte that chooses the Retry policy, and then for each datagram
//! a byte for its sender and its form, one for the time before it, its length in two bytes, and its
//! bytes. A datagram is sent as it is, or its bytes are the frames of an Initial packet that is
//! sealed here: its keys are public (RFC 9001 5.2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use quinn_proto::ConnectionId;
use quinn_proto::crypto::ServerConfig as _;
use quinn_proto::crypto::rustls::QuicServerConfig;
use ringway::testing::internal::config::Retry;

use super::world::{World, tls};

/// A sender's address: its index in the low three bits.
const SENDER: u8 = 0b0000_0111;
/// The datagram is an Initial packet that is sealed here.
const IS_SEALED: u8 = 0b0000_1000;
/// The connection id of a sealed packet: one of two of the client's choice.
const ID: u8 = 0b0001_0000;
/// A sealed packet goes to the id that the gateway chose in its last response to this sender.
const TO_GATEWAYS_ID: u8 = 0b0010_0000;
/// A sealed packet is not padded to 1,200 bytes.
const IS_SHORT: u8 = 0b0100_0000;
/// The next packet is in the same datagram.
const IS_COALESCED: u8 = 0b1000_0000;

/// The source connection id of sealed packets, which the transport parameters of a ClientHello must
/// name too (RFC 9000 7.3).
pub const CLIENT_ID: [u8; 8] = [9; 8];

const LEN_MIN: usize = 1_200;
/// Longest datagram over a 1500-byte link.
const LEN_MAX: usize = 1_472;

/// # Panics
///
/// If the gateway sends a stranger more than three times what came from there, or holds something
/// after half a minute.
pub fn run(input: &[u8]) {
    let Some((&policy, mut rest)) = input.split_first() else { return };
    let retry = [Retry::Adaptive, Retry::Always, Retry::Never][usize::from(policy % 3)];
    let mut strangers = Strangers::new(retry);
    while let Some((&[form, wait, high, low], after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (bytes, after) = after.split_at(len);
        strangers.send(form, wait, bytes);
        rest = after;
    }
    // Handshakes are repeated, and given up.
    strangers.world.pass(Duration::from_secs(30));
    strangers.read_responses();
    strangers.world.assert_at_rest();
}

struct Strangers {
    world: World,
    keys: QuicServerConfig,
    /// A datagram of which another part is to come.
    unsent: Vec<u8>,
    packet_count: u32,
    /// Of the last response to each sender: the gateway's connection id, and a Retry token.
    responses: BTreeMap<SocketAddr, (Vec<u8>, Vec<u8>)>,
    /// Senders that have sent the token of a Retry packet: their addresses are validated (RFC 9000
    /// 8.1.2).
    validated: BTreeSet<SocketAddr>,
}

impl Strangers {
    fn new(retry: Retry) -> Self {
        let keys = QuicServerConfig::try_from(tls().server.config()).expect("TLS 1.3");
        let (unsent, responses, validated) = Default::default();
        Self { world: World::new(retry), keys, unsent, packet_count: 0, responses, validated }
    }

    fn send(&mut self, form: u8, wait: u8, bytes: &[u8]) {
        let from = sender(form & SENDER);
        if form & IS_SEALED != 0 {
            let packet = self.initial(from, form, bytes);
            self.unsent.extend(packet);
        } else {
            self.unsent.extend_from_slice(bytes);
        }
        if form & IS_COALESCED != 0 {
            return;
        }
        let mut datagram = std::mem::take(&mut self.unsent);
        datagram.truncate(LEN_MAX);
        // Powers of two: up to some seconds.
        self.world.pass(Duration::from_millis((1 << (wait & 15)) >> 3));
        self.world.arrive(from, &datagram);
        self.world.settle();
        self.read_responses();
    }

    /// Returns a sealed Initial packet (RFC 9000 17.2.2) with these frames.
    fn initial(&mut self, from: SocketAddr, form: u8, frames: &[u8]) -> Vec<u8> {
        let first = [u8::from(form & ID != 0), form & SENDER, 3, 4, 5, 6, 7, 8];
        let known = self.responses.get(&from).filter(|_| form & TO_GATEWAYS_ID != 0);
        let (id, token) = known.cloned().unwrap_or((first.to_vec(), Vec::new()));
        if !token.is_empty() {
            self.validated.insert(from);
        }
        // After Retry the keys follow from the gateway's id, else from the client's first one.
        let key_id = if token.is_empty() { &first[..] } else { &id };
        let keys = self.keys.initial_keys(1, &ConnectionId::new(key_id)).expect("version 1");
        let mut packet = vec![0xc3, 0, 0, 0, 1, id.len() as u8];
        packet.extend(&id);
        packet.push(CLIENT_ID.len() as u8);
        packet.extend(CLIENT_ID);
        packet.extend((0x4000 | token.len() as u16).to_be_bytes());
        packet.extend(&token);
        let header_len = packet.len() + 6;
        let frames = &frames[..frames.len().min(LEN_MAX - header_len - TAG_LEN)];
        let len_min = if form & IS_SHORT == 0 { LEN_MIN } else { 0 };
        // Header protection takes its sample from behind the packet number.
        let len = (header_len + frames.len() + TAG_LEN).max(header_len + 20).max(len_min);
        packet.extend((0x4000 | (len - header_len + 4) as u16).to_be_bytes());
        packet.extend(self.packet_count.to_be_bytes());
        packet.extend(frames);
        packet.resize(len, 0);
        keys.packet.remote.encrypt(self.packet_count.into(), &mut packet, header_len);
        keys.header.remote.encrypt(header_len - 4, &mut packet);
        self.packet_count += 1;
        packet
    }

    /// Notes the connection ids and tokens in the gateway's responses, and checks its account with
    /// each sender.
    fn read_responses(&mut self) {
        for (to, datagram) in std::mem::take(&mut self.world.sent) {
            let Some((id, rest)) = gateways_id(&datagram) else { continue };
            let is_retry = datagram[0] & 0x30 == 0x30;
            let token = rest.len().checked_sub(TAG_LEN).filter(|_| is_retry);
            let token = token.map_or_else(Vec::new, |len| rest[..len].to_vec());
            self.responses.insert(to, (id.to_vec(), token));
        }
        for (address, (received, sent)) in &self.world.traffic {
            let is_validated = self.validated.contains(address);
            let is_earned = *sent <= 3 * received;
            assert!(is_validated || is_earned, "{sent} bytes to {address} for {received}");
        }
    }
}

/// Length of the tag of a sealed packet, and of Retry's (RFC 9001 5.3, 5.8).
const TAG_LEN: usize = 16;

/// Returns the source connection id of a long header of version 1, and the bytes after it.
fn gateways_id(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_long = datagram.first()? & 0x80 != 0 && datagram.get(1..5)? == [0, 0, 0, 1];
    let (destination_len, rest) = datagram.get(5..).filter(|_| is_long)?.split_first()?;
    let (source_len, rest) = rest.get(usize::from(*destination_len)..)?.split_first()?;
    rest.split_at_checked(usize::from(*source_len))
}

/// Returns one of eight addresses: several hosts, ports of one host, port 0.
fn sender(index: u8) -> SocketAddr {
    match index {
        0..4 => SocketAddr::from(([203, 0, 113, 1 + index], 4_000)),
        4..7 => SocketAddr::from(([203, 0, 113, 1], 5_000 + u16::from(index))),
        _ => SocketAddr::from(([203, 0, 113, 9], 0)),
    }
}
