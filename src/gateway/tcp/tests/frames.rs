//! Frames of HTTP/2 as a client writes them by hand (RFC 9113 4, 6).

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;

pub(super) const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
pub(super) const CANCEL: u32 = 0x8;
pub(super) const ENHANCE_YOUR_CALM: u32 = 0xb;
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// Returns a frame on the wire.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&header, payload].concat()
}

/// Returns the head of a request for `/a`, as literals that are not indexed (RFC 7541 6.2.2).
pub(super) fn request(stream: u32, method: &str, flags: u8) -> Vec<u8> {
    let lines =
        [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", "/a")];
    let mut section = Vec::new();
    for (name, value) in lines {
        section.push(0);
        for text in [name, value] {
            section.push(u8::try_from(text.len()).expect("a short text"));
            section.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS | flags, stream, &section)
}

/// Returns the frame that cancels a stream.
pub(super) fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// Splits bytes into frames.
pub(super) fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let (kind, flags) = (bytes[3], bytes[4]);
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        let payload = bytes[9..9 + len].to_vec();
        frames.push(Frame { kind, flags, stream, payload });
        bytes = &bytes[9 + len..];
    }
    frames
}
