//! The bodies of the fuzz targets: each takes any bytes, and panics if the gateway breaks a
//! promise. The programs in `fuzz_targets/` run them under libFuzzer, and `tests/fuzz_corpora.rs`
//! runs the kept inputs in every ordinary run.
//!
//! | target | input | must hold |
//! |---|---|---|
//! | `config` | TOML | each refusal has a line of the file; a valid file is read the same twice |
//! | `qpack` | a field section | limits; another implementation reads the same lines; it survives our encoder |
//! | `frames` | a request stream, or unidirectional streams | the same result however the bytes are cut |
//! | `request_head` | field lines | an HTTP/1.1 parser finds one request in what is forwarded, with the same fields |
//! | `http1_request` | a client's bytes over HTTP/1.1 | the same result however they are cut; another parser finds the same requests, and a simple reader their bodies |
//! | `http1_response` | an upstream's bytes | the same result however they are cut, and the body that a simple reader finds |
//! | `http2` | HTTP/2: raw bytes, or frames behind a handshake | what is held is bounded; no event of a stream without a request, and none after the end |
//! | `proxy_header` | the first bytes of a proxy's connection | the same result however they are cut, and the client that a simple reader finds; bytes behind the header stay |
//! | `datagram` | datagrams of strangers, sealed Initials among them | before Retry, three times what came is sent at most; nothing is left after a while |
//! | `gateway_inputs` | clients' streams, damaged datagrams, upstream events, time, memory, drain | the books of `books.rs` at each step; nothing is left at the end |
//! | `canary` | as `http1_response` | nothing: it has a planted bug, which must be found |

mod books;
pub mod canary;
mod client;
pub mod config;
pub mod datagram;
pub mod frames;
pub mod gateway_inputs;
pub mod http1_request;
pub mod http1_response;
pub mod http2;
mod lines;
pub mod proxy_header;
pub mod qpack;
pub mod request_head;
pub mod seeds;
mod world;

/// A target's name and its body, which takes an input.
type Target = (&'static str, fn(&[u8]));

/// All targets, by name.
pub const TARGETS: [Target; 11] = [
    ("canary", canary::run),
    ("config", config::run),
    ("datagram", datagram::run),
    ("frames", frames::run),
    ("gateway_inputs", gateway_inputs::run),
    ("http1_request", http1_request::run),
    ("http1_response", http1_response::run),
    ("http2", http2::run),
    ("proxy_header", proxy_header::run),
    ("qpack", qpack::run),
    ("request_head", request_head::run),
];

/// Cuts `bytes` into pieces. The bytes of `plan` are the lengths of the pieces in turn, and the
/// last piece is the rest.
fn cut<'a>(bytes: &'a [u8], plan: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for &len in plan {
        let (piece, after) = rest.split_at(usize::from(len).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// Takes a plan of cuts off the start of an input: its length (at most 15) and its bytes.
fn take_plan(input: &[u8]) -> (&[u8], &[u8]) {
    let Some((&len, rest)) = input.split_first() else { return (&[], &[]) };
    rest.split_at(usize::from(len & 15).min(rest.len()))
}
