//! The responses of upstreams. Input: a byte of flags, a plan of cuts, and what the upstream sends.

use bytes::BytesMut;
use ringway::testing::internal::http1::{Error, Part, ResponseDecoder, ResponseHead};

use super::{cut, take_plan};

/// The most bytes that a head or a trailer section may have.
const HEAD_LEN_MAX: usize = 4096;

/// A response as it was decoded.
#[derive(Debug, Default, PartialEq)]
struct Decoded {
    interim: Vec<ResponseHead>,
    head: Option<ResponseHead>,
    body: Vec<u8>,
    trailer_count: usize,
    is_whole: bool,
    keeps_alive: bool,
    /// Bytes after the response.
    leftover: Vec<u8>,
    /// The end of the connection ended it.
    ended_with_connection: bool,
}

/// # Panics
///
/// If the result depends on the cuts, or another body than the right one is found.
pub fn run(input: &[u8]) {
    let Some((&flags, rest)) = input.split_first() else { return };
    let (plan, wire) = take_plan(rest);
    let to_head = flags & 1 != 0;
    let whole = decode(&[wire], to_head);
    assert_eq!(decode(&cut(wire, plan), to_head), whole, "cut by {plan:?}");
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(decode(&bytes, to_head), whole, "byte by byte");
    if let Ok(decoded) = whole {
        check(&decoded, wire);
    }
}

fn decode(pieces: &[&[u8]], to_head: bool) -> Result<Decoded, Error> {
    let mut decoder = ResponseDecoder::new(to_head, HEAD_LEN_MAX);
    let mut decoded = Decoded::default();
    for piece in pieces {
        let mut piece = BytesMut::from(*piece);
        while let Some(part) = decoder.decode(&mut piece)? {
            assert!(!decoded.is_whole, "a part follows the end");
            match part {
                Part::Interim(head) => decoded.interim.push(head),
                Part::Head(head) => {
                    assert!(decoded.head.is_none(), "a second head");
                    decoded.is_whole = head.ended;
                    decoded.head = Some(head);
                }
                Part::Body(bytes) => {
                    assert!(!bytes.is_empty(), "no empty pieces");
                    decoded.body.extend_from_slice(&bytes);
                }
                Part::End(trailers) => {
                    decoded.trailer_count = trailers.len();
                    decoded.is_whole = true;
                }
            }
        }
        assert!(decoded.is_whole || piece.is_empty(), "bytes that are not read");
        decoded.leftover.extend_from_slice(&piece);
    }
    assert_eq!(decoder.is_done(), decoded.is_whole);
    decoded.ended_with_connection = decoder.ends_with_connection();
    decoded.keeps_alive = decoder.keeps_alive();
    Ok(decoded)
}

/// Compares the result with what a simple reader finds in the same bytes.
fn check(decoded: &Decoded, wire: &[u8]) {
    let Some(head) = &decoded.head else {
        assert!(decoded.body.is_empty() && !decoded.is_whole);
        return;
    };
    let mut after = wire;
    for _ in 0..=decoded.interim.len() {
        let len = find(after, b"\r\n\r\n").expect("a head ends with an empty line") + 4;
        after = &after[len..];
    }
    let is_chunked = head.fields.iter().any(|(name, _)| name == "transfer-encoding");
    if head.ended {
        assert_eq!(decoded.leftover, after, "a response without a body takes nothing");
    } else if is_chunked {
        let (body, rest) = dechunk(after);
        assert_eq!(decoded.body, body);
        assert_eq!(decoded.is_whole, rest.is_some(), "a chunked body is whole after its trailers");
        assert_eq!(decoded.leftover, rest.unwrap_or_default());
    } else if let Some(len) = head.content_length {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(after.len());
        assert_eq!((&decoded.body[..], &decoded.leftover[..]), after.split_at(len));
        assert_eq!(decoded.is_whole, head.content_length == Some(len as u64));
    } else {
        assert_eq!(decoded.body, after, "the rest is the body");
        assert!(decoded.ended_with_connection && !decoded.keeps_alive);
    }
    assert!(decoded.is_whole || !decoded.keeps_alive, "a cut connection is not used again");
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Reads a chunked body that is known to be valid as far as it goes. Returns its payload, and the
/// bytes after its trailers if these are there.
pub fn dechunk(mut wire: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(wire, b"\r\n") else { return (body, None) };
        // An extension may hold any text, in any encoding.
        let digits = wire[..end].split(|byte| *byte == b';').next().unwrap_or_default();
        let digits = std::str::from_utf8(digits.trim_ascii_end()).expect("digits are ASCII");
        let len = u64::from_str_radix(digits, 16).expect("a size is a number");
        wire = &wire[end + 2..];
        if len == 0 {
            // Trailers: lines up to an empty one.
            loop {
                let Some(end) = find(wire, b"\r\n") else { return (body, None) };
                wire = &wire[end + 2..];
                if end == 0 {
                    return (body, Some(wire));
                }
            }
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len >= wire.len() {
            body.extend_from_slice(wire);
            return (body, None);
        }
        body.extend_from_slice(&wire[..len]);
        let Some(after) = wire[len..].strip_prefix(b"\r\n") else { return (body, None) };
        wire = after;
    }
}
