//! Removal of trailing PADDING before quinn-proto parses a packet's frames, and of the memory that
//! a short packet would hold.
//!
//! quinn-proto parses PADDING byte by byte, at some 15 ns each: the padding of a handshake and its
//! MTU probes costs as much CPU time as its signature, and for an attacker padding is the most
//! expensive byte to send. Packet keys see each packet right after decryption, so they remove it
//! there.
//!
//! quinn-proto keeps the bytes of frames that arrive before their turn as parts of the datagram,
//! and bounds what it holds by the packet's length. So a packet that is much shorter than its
//! datagram (its padding is gone, or others follow it) gets memory of its own length here:
//! otherwise one byte would hold a datagram, and quinn-proto would count one byte.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use quinn_proto::crypto::{
    CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig,
    Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError};

use crate::base::varint;

/// Wraps `inner` so that its keys remove the padding of packets that they decrypt.
pub(super) fn without_padding(inner: Arc<dyn ServerConfig>) -> Arc<dyn ServerConfig> {
    Arc::new(Server(inner))
}

struct Server(Arc<dyn ServerConfig>);

impl ServerConfig for Server {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        let keys = self.0.initial_keys(version, id)?;
        let remote = CuttingKey { inner: keys.packet.remote, spares_next: AtomicBool::new(true) };
        let packet = KeyPair { remote: Box::new(remote) as _, ..keys.packet };
        Ok(Keys { packet, ..keys })
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, id, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn Session> {
        Box::new(CuttingSession(Arc::clone(&self.0).start_session(version, parameters)))
    }
}

struct CuttingSession(Box<dyn Session>);

impl Session for CuttingSession {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        cutting(self.0.initial_keys(id, side))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.0.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.0.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.0.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.0.transport_parameters()
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        self.0.write_handshake(out).map(cutting)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.next_1rtt_keys().map(cutting_pair)
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.0.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        out: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.export_keying_material(out, label, context)
    }
}

fn cutting(keys: Keys) -> Keys {
    Keys { packet: cutting_pair(keys.packet), ..keys }
}

fn cutting_pair(pair: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
    let remote = CuttingKey { inner: pair.remote, spares_next: AtomicBool::new(false) };
    KeyPair { remote: Box::new(remote), ..pair }
}

struct CuttingKey {
    inner: Box<dyn PacketKey>,
    /// The next packet keeps its padding: it is the first Initial of a connection. quinn-proto
    /// takes its length for what the client has sent, and sends back three times as much at most.
    spares_next: AtomicBool,
}

impl PacketKey for CuttingKey {
    fn encrypt(&self, packet: u64, bytes: &mut [u8], header_len: usize) {
        self.inner.encrypt(packet, bytes, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)?;
        if self.spares_next.load(Ordering::Relaxed) {
            self.spares_next.store(false, Ordering::Relaxed);
        } else {
            cut(payload);
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

/// Cuts a packet's padding, and the memory that it shares if little is left.
fn cut(payload: &mut BytesMut) {
    // A packet without frames is an error (RFC 9000 12.4), one of padding alone is not. So one byte
    // of padding is left, where there is one.
    let len = len_without_padding(payload).max(1).min(payload.len());
    if len < DATAGRAM_SHARE_MIN_LEN {
        *payload = BytesMut::from(&payload[..len]);
    } else {
        payload.truncate(len);
    }
}

/// Packets shorter than this do not share their datagram's memory. Of longer ones, quinn-proto
/// counts an eighth of what they hold at least.
const DATAGRAM_SHARE_MIN_LEN: usize = 200;

/// The type of a PADDING frame (RFC 9000 19.1).
const PADDING: u8 = 0;

/// Returns the length of a packet's payload without its trailing PADDING frames: the whole length
/// if there are none, or if a frame is unknown or extends to the end of the packet.
fn len_without_padding(payload: &[u8]) -> usize {
    if payload.last() != Some(&PADDING) {
        return payload.len();
    }
    let mut rest = payload;
    while let Some(&kind) = rest.first() {
        let next = match kind {
            PADDING => match rest.iter().position(|&byte| byte != PADDING) {
                Some(len) => Some(&rest[len..]),
                None => return payload.len() - rest.len(),
            },
            _ => after_frame(kind, &rest[1..]),
        };
        match next {
            Some(next) => rest = next,
            None => break,
        }
    }
    payload.len()
}

/// Returns what follows a frame (RFC 9000 19); `rest` is the payload after the frame's type.
fn after_frame(kind: u8, mut rest: &[u8]) -> Option<&[u8]> {
    match kind {
        // PING, HANDSHAKE_DONE, IMMEDIATE_ACK (of the ACK frequency draft, in quinn's MTU probes).
        0x01 | 0x1e | 0x1f => {}
        // ACK: largest, delay, count, first range; gap and length of each; counts of ECN.
        0x02 | 0x03 => {
            skip_integers(&mut rest, 2)?;
            let range_count = integer(&mut rest)?;
            skip_integers(&mut rest, 1)?;
            // Missing ranges end the loop.
            for _ in 0..range_count {
                skip_integers(&mut rest, 2)?;
            }
            skip_integers(&mut rest, if kind == 0x03 { 3 } else { 0 })?;
        }
        // MAX_DATA, MAX_STREAMS, DATA_BLOCKED, STREAMS_BLOCKED, RETIRE_CONNECTION_ID.
        0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => skip_integers(&mut rest, 1)?,
        // STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED.
        0x05 | 0x11 | 0x15 => skip_integers(&mut rest, 2)?,
        // RESET_STREAM.
        0x04 => skip_integers(&mut rest, 3)?,
        // CRYPTO: offset, and bytes with their length.
        0x06 => {
            skip_integers(&mut rest, 1)?;
            skip_bytes(&mut rest)?;
        }
        // STREAM: id, offset if there is one, and bytes; without a length they end the packet.
        0x08..=0x0f => {
            skip_integers(&mut rest, if kind & 0x04 == 0 { 1 } else { 2 })?;
            if kind & 0x02 == 0 {
                return None;
            }
            skip_bytes(&mut rest)?;
        }
        // NEW_CONNECTION_ID: sequence, retired before; the id with its length in a byte; a token.
        0x18 => {
            skip_integers(&mut rest, 2)?;
            let id_len = *rest.first()?;
            rest = rest.get(1 + usize::from(id_len) + 16..)?;
        }
        // PATH_CHALLENGE, PATH_RESPONSE.
        0x1a | 0x1b => rest = rest.get(8..)?,
        _ => return None,
    }
    Some(rest)
}

/// Reads a variable-length integer (RFC 9000 16).
fn integer(rest: &mut &[u8]) -> Option<u64> {
    let (value, len) = varint::read(rest)?;
    *rest = &rest[len..];
    Some(value)
}

fn skip_integers(rest: &mut &[u8], count: usize) -> Option<()> {
    for _ in 0..count {
        integer(rest)?;
    }
    Some(())
}

fn skip_bytes(rest: &mut &[u8]) -> Option<()> {
    let len = usize::try_from(integer(rest)?).ok()?;
    *rest = rest.get(len..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each frame that a client sends, most of them ending in zeros.
    const FRAMES: [&[u8]; 15] = [
        &[0x01],
        &[0x1f],
        &[0x02, 5, 0, 1, 0, 0, 0],
        &[0x03, 0x40, 5, 0, 0, 0, 0, 0, 0],
        &[0x04, 4, 0, 0],
        &[0x05, 4, 0],
        &[0x06, 0, 3, 9, 0, 0],
        &[0x0a, 0, 2, 0, 0],
        &[0x0f, 4, 0x80, 0, 1, 0, 2, 0, 0],
        &[0x10, 0x40, 0],
        &[0x11, 4, 0],
        &[0x16, 0],
        &[0x18, 1, 0, 4, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x19, 0],
        &[0x1a, 0, 0, 0, 0, 0, 0, 0, 0],
    ];

    fn padded(frames: &[&[u8]], padding_len: usize) -> Vec<u8> {
        let mut payload = frames.concat();
        payload.resize(payload.len() + padding_len, PADDING);
        payload
    }

    #[test]
    fn padding_is_distinguished_from_the_zeros_that_end_a_frame() {
        for (index, frame) in FRAMES.iter().enumerate() {
            for padding_len in [0, 1, 700] {
                let payload = padded(&[FRAMES[0], &[PADDING; 3], frame], padding_len);
                assert_eq!(len_without_padding(&payload), 4 + frame.len(), "{index}");
            }
        }
        let all = padded(&FRAMES, 50);
        assert_eq!(len_without_padding(&all), all.len() - 50);
    }

    #[test]
    fn payloads_with_an_unbounded_or_unknown_frame_stay_whole() {
        // A STREAM frame to the packet's end, a long form of PING's type, RFC 9221, a cut ACK.
        let odd: [&[u8]; 4] = [&[0x0c, 4, 0], &[0x40, 0x01], &[0x31, 1], &[0x02, 5, 0, 0x7f, 0xff]];
        for frame in odd {
            let payload = padded(&[FRAMES[0], frame], 40);
            assert_eq!(len_without_padding(&payload), payload.len(), "{frame:?}");
        }
    }

    /// A key that finds every packet authentic.
    struct Open;

    impl PacketKey for Open {
        fn encrypt(&self, _: u64, _: &mut [u8], _: usize) {}

        fn decrypt(&self, _: u64, _: &[u8], _: &mut BytesMut) -> Result<(), CryptoError> {
            Ok(())
        }

        fn tag_len(&self) -> usize {
            16
        }

        fn confidentiality_limit(&self) -> u64 {
            u64::MAX
        }

        fn integrity_limit(&self) -> u64 {
            u64::MAX
        }
    }

    /// A frame of one byte behind a gap, padded to a full datagram, or before another packet.
    #[test]
    fn a_short_packet_holds_no_more_than_its_length() {
        let frame: &[u8] = &[0x0e, 0, 0x40, 9, 1, b'x'];
        for len in [frame.len(), DATAGRAM_SHARE_MIN_LEN - 1, DATAGRAM_SHARE_MIN_LEN, 1200] {
            let mut payload = BytesMut::from(&padded(&[&vec![1; len - frame.len()], frame], 0)[..]);
            payload.resize(1500, PADDING);
            let datagram = payload.as_ptr();
            let key = CuttingKey { inner: Box::new(Open), spares_next: AtomicBool::new(false) };
            key.decrypt(0, &[], &mut payload).unwrap();
            assert_eq!((payload.len(), &payload[len - frame.len()..]), (len, frame));
            let is_copied = payload.as_ptr() != datagram;
            assert_eq!(is_copied, len < DATAGRAM_SHARE_MIN_LEN, "{len}");
            assert!(!is_copied || payload.capacity() <= len + 16, "{}", payload.capacity());
        }
    }

    #[test]
    fn padding_alone_and_the_empty_payload() {
        assert_eq!(len_without_padding(&[PADDING; 1200]), 0);
        assert_eq!(len_without_padding(&[]), 0);
    }

    #[test]
    fn a_packet_without_frames_stays_empty() {
        let mut payload = BytesMut::new();
        cut(&mut payload);
        assert!(payload.is_empty());
    }

    #[test]
    fn arbitrary_bytes_do_not_panic_and_lose_only_padding() {
        use rand::{Rng as _, SeedableRng as _};
        let mut dice = rand::rngs::SmallRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let len = dice.random_range(0..60);
            let payload: Vec<u8> =
                (0..len).map(|_| dice.random_range(0..0x20) * dice.random_range(0..2)).collect();
            let kept = len_without_padding(&payload);
            assert!(payload[kept..].iter().all(|&byte| byte == PADDING));
        }
    }
}
