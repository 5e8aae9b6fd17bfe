//! A client's requests over HTTP/1.1. Input: a plan of cuts, and what the client sends.

use bytes::Bytes;
use ringway::testing::internal::http1::{Persistence, RequestDecoder};
use ringway::testing::internal::message::{FieldLimits, Head, Refusal, RequestEvent, Scheme};

use super::http1_response::dechunk;
use super::{cut, take_plan};

const LIMITS: FieldLimits = FieldLimits { field_section_len_max: 1024, field_count_max: 20 };

/// A request as it was decoded.
#[derive(Debug, PartialEq)]
struct Seen {
    head: Head,
    body: Vec<u8>,
    trailer_count: usize,
    is_whole: bool,
    persists: bool,
}

/// A connection's requests, and how it ended.
type Connection = (Vec<Seen>, Result<(), Box<Refusal>>);

/// # Panics
///
/// If the result depends on the cuts, or another parser finds other requests.
pub fn run(input: &[u8]) {
    let (plan, wire) = take_plan(input);
    let whole = decode(&[wire]);
    assert_eq!(decode(&cut(wire, plan)), whole, "cut by {plan:?}");
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(decode(&bytes), whole, "byte by byte");
    check(&whole.0, wire);
}

fn decode(pieces: &[&[u8]]) -> Connection {
    let mut decoder = RequestDecoder::new(Scheme::Https);
    let mut seen: Vec<Seen> = Vec::new();
    for piece in pieces {
        decoder.handle(Bytes::copy_from_slice(piece));
        let outcome = take_all(&mut decoder, &mut seen);
        if outcome.is_err() {
            assert_eq!(decoder.held_len(), 0, "a refused connection holds bytes");
            return (seen, outcome);
        }
        if !decoder.is_done() {
            assert!(decoder.held_len() <= LIMITS.field_section_len_max as usize);
        }
    }
    let outcome = decoder.handle_end();
    (seen, outcome)
}

/// Takes all parts of all requests, up to the last one of the connection.
fn take_all(decoder: &mut RequestDecoder, seen: &mut Vec<Seen>) -> Result<(), Box<Refusal>> {
    loop {
        match decoder.poll(&LIMITS)? {
            Some(RequestEvent::Head(head)) => seen.push(Seen {
                head,
                body: Vec::new(),
                trailer_count: 0,
                is_whole: decoder.is_done(),
                persists: decoder.persistence() == Persistence::KeepAlive,
            }),
            Some(RequestEvent::Body(piece)) => {
                assert!(!piece.is_empty(), "no empty pieces");
                seen.last_mut().expect("a body follows a head").body.extend_from_slice(&piece);
            }
            Some(RequestEvent::Trailers(fields)) => {
                assert!(!fields.is_empty() && decoder.is_done());
                seen.last_mut().expect("trailers follow a head").trailer_count = fields.len();
            }
            None if !decoder.is_done() => return Ok(()),
            None => {
                let request = seen.last_mut().expect("a request is done");
                request.is_whole = true;
                if !request.persists {
                    return Ok(());
                }
                decoder.start_next();
            }
        }
    }
}

/// Compares each request with what another parser and a simple reader of bodies find in the same
/// bytes.
fn check(seen: &[Seen], mut wire: &[u8]) {
    for request in seen {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(len)) = parsed.parse(wire) else {
            panic!("another parser does not find a request")
        };
        assert!(wire[..len].ends_with(b"\r\n\r\n"));
        assert_eq!(parsed.method, Some(request.head.method.as_str()));
        let values = |wanted: &str| -> Vec<&[u8]> {
            let found = parsed.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(wanted));
            found.map(|line| line.value).collect()
        };
        let host = values("host");
        assert!(
            host.len() <= 1 && host.iter().all(|host| *host == request.head.authority().as_bytes())
        );
        assert!(!request.head.fields.iter().any(|(name, _)| {
            matches!(name.as_str(), "host" | "content-length" | "transfer-encoding")
        }));
        let after = &wire[len..];
        let (body, rest) = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
            ([], []) => (Vec::new(), Some(after)),
            ([len], []) => {
                let len = std::str::from_utf8(len).expect("digits").parse().expect("a length");
                let taken = after.len().min(len);
                (after[..taken].to_vec(), after.get(len..))
            }
            ([], [coding]) => {
                assert!(coding.eq_ignore_ascii_case(b"chunked"));
                if !request.is_whole {
                    // Its rest may be malformed, which the simple reader does not expect.
                    return;
                }
                dechunk(after)
            }
            framing => panic!("two framings: {framing:?}"),
        };
        assert_eq!((&request.body, request.is_whole), (&body, rest.is_some()));
        wire = rest.unwrap_or_default();
    }
}
