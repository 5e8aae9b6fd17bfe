//! PROXY headers. Input: a plan of cuts, and the bytes of a connection.

use std::net::SocketAddr;

use bytes::BytesMut;
use ringway::testing::internal::proxy_protocol::{Announced, HeaderReader, Malformed};

use super::{cut, take_plan};

/// Announcement and the bytes behind the header; `None` if the header is not whole.
type Outcome = Result<Option<(Announced, Vec<u8>)>, Malformed>;

/// Twice the longest header: a vector grows by doubling.
const HELD_LEN_MAX: usize = 2 * 4096;

/// # Panics
///
/// If the outcome depends on the cuts, bytes are lost, too many are held, or another client is
/// announced than the header has.
pub fn run(input: &[u8]) {
    let (plan, bytes) = take_plan(input);
    let whole = read(&[bytes]);
    assert_eq!(read(&cut(bytes, plan)), whole, "cut by {plan:?}");
    assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    let Ok(Some((announced, rest))) = whole else { return };
    assert!(bytes.ends_with(&rest), "the bytes behind the header are as they came");
    let header = &bytes[..bytes.len() - rest.len()];
    let Announced::Client(client) = announced else { return };
    assert_eq!(client, client_of(header), "{header:?}");
    let again = read(&[&header_of(client)]);
    assert_eq!(again, Ok(Some((announced, Vec::new()))), "written and read again");
}

fn read(pieces: &[&[u8]]) -> Outcome {
    let mut reader = HeaderReader::default();
    let mut found: Option<(Announced, Vec<u8>)> = None;
    for piece in pieces {
        let mut piece = BytesMut::from(*piece);
        if let Some((_, rest)) = &mut found {
            rest.extend_from_slice(&piece);
            continue;
        }
        let outcome = reader.read(&mut piece)?;
        assert!(reader.held_len() <= HELD_LEN_MAX, "{} bytes are held", reader.held_len());
        assert!(outcome.is_some() || piece.is_empty(), "what is not read is behind the header");
        found = outcome.map(|announced| (announced, piece.to_vec()));
    }
    Ok(found)
}

/// Reads the client of a valid header by its places.
fn client_of(header: &[u8]) -> SocketAddr {
    if let Ok(line) = std::str::from_utf8(header)
        && line.starts_with("PROXY ")
    {
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        return SocketAddr::new(words[2].parse().unwrap(), words[4].parse().unwrap());
    }
    let port = |place: usize| u16::from_be_bytes([header[place], header[place + 1]]);
    match header[13] {
        0x11 => (<[u8; 4]>::try_from(&header[16..20]).unwrap(), port(24)).into(),
        0x21 => (<[u8; 16]>::try_from(&header[16..32]).unwrap(), port(48)).into(),
        other => panic!("family and transport {other:#x} have no client"),
    }
}

/// Writes a header of version 1, to the client itself.
fn header_of(client: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (address, port) = (client.ip(), client.port());
    format!("PROXY {family} {address} {address} {port} {port}\r\n").into_bytes()
}
