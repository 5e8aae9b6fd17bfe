//! The PROXY protocol, versions 1 and 2, received: the header in front of a TCP connection's bytes,
//! in which a proxy announces the client whose connection it passes on
//! (haproxy.org/download/3.0/doc/proxy-protocol.txt).
//!
//! ```text
//!   version 1:  PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\n
//!   version 2:  signature (12) | version, command (1) | family, transport (1) | length (2)
//!               source address | destination address | source port | destination port | TLVs
//! ```
//!
//! Bytes go in as they were received, however they are cut. The header's own are taken, and those
//! behind it are left.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BytesMut;

use crate::limits::PROXY_HEADER_LEN_MAX;

/// The announcement of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// The proxy passes on the connection of the client at this address.
    Client(SocketAddr),
    /// The proxy announces nobody: the connection is its own, as for a health check, or its client
    /// has no address of the internet.
    Nobody,
}

/// A header that breaks this rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A reader of one header.
#[derive(Debug, Default)]
pub struct HeaderReader {
    /// The header so far, [`PROXY_HEADER_LEN_MAX`] bytes at most.
    held: Vec<u8>,
}

/// The first bytes of version 1.
const FIRST_WORD: &[u8] = b"PROXY ";
/// The longest header of version 1, line end included (2.1).
const LINE_LEN_MAX: usize = 107;
/// The first bytes of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes of version 2 in front of the addresses.
const PREFIX_LEN: usize = 16;

impl HeaderReader {
    /// Takes the bytes of the header off the front of `bytes`. Returns what it announces once it is
    /// whole; until then it takes all bytes. After an error nothing more is to be read.
    pub fn read(&mut self, bytes: &mut BytesMut) -> Result<Option<Announced>, Malformed> {
        while !bytes.is_empty() {
            let len = self.missing_len().min(bytes.len());
            self.held.extend_from_slice(&bytes.split_to(len));
            let announced = match &self.held[..] {
                held if begins_like(held, FIRST_WORD) => judge_line(held)?,
                held if begins_like(held, SIGNATURE) => judge_binary(held)?,
                _ => return Err(Malformed("the connection does not begin with a PROXY header")),
            };
            if announced.is_some() {
                return Ok(announced);
            }
        }
        Ok(None)
    }

    /// Returns whether a byte of the header has come.
    pub fn has_begun(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns the number of bytes that it holds.
    pub fn held_len(&self) -> usize {
        self.held.capacity()
    }

    /// Returns how many bytes the header lacks at least. More could be of what follows it.
    fn missing_len(&self) -> usize {
        match self.held.first() {
            Some(first) if *first == SIGNATURE[0] => binary_len(&self.held) - self.held.len(),
            // The end of a line is found as its bytes come.
            _ => 1,
        }
    }
}

fn begins_like(held: &[u8], start: &[u8]) -> bool {
    let len = held.len().min(start.len());
    held[..len] == start[..len]
}

/// Judges a header of version 1 (2.1). Returns `None` if its line has not ended.
fn judge_line(held: &[u8]) -> Result<Option<Announced>, Malformed> {
    let Some(line) = held.strip_suffix(b"\r\n") else {
        return match held.len() < LINE_LEN_MAX {
            true => Ok(None),
            false => Err(Malformed("a PROXY line of more than 107 bytes")),
        };
    };
    let words = std::str::from_utf8(line).ok().map(|line| line.split(' ').collect::<Vec<_>>());
    match words.as_deref() {
        // The rest of the line is to be ignored.
        Some(["PROXY", "UNKNOWN", ..]) => Ok(Some(Announced::Nobody)),
        Some(["PROXY", family @ ("TCP4" | "TCP6"), source, destination, port, port_of_ours]) => {
            let is_v4 = *family == "TCP4";
            let client = address(source, is_v4).zip(self::port(port));
            let ours = address(destination, is_v4).zip(self::port(port_of_ours));
            let client = client.filter(|_| ours.is_some());
            let client = client.ok_or(Malformed("a PROXY line with a bad address or port"))?;
            Ok(Some(Announced::Client(client.into())))
        }
        _ => Err(Malformed("a PROXY line that is not as the protocol has it")),
    }
}

fn address(text: &str, is_v4: bool) -> Option<IpAddr> {
    match is_v4 {
        true => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        false => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}

/// Parses a port: digits only, without leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_shortest = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain && is_shortest)
}

/// Returns the length of a header of version 2, as far as its first bytes tell.
fn binary_len(held: &[u8]) -> usize {
    match held.get(..PREFIX_LEN) {
        Some(prefix) => PREFIX_LEN + usize::from(u16::from_be_bytes([prefix[14], prefix[15]])),
        None => PREFIX_LEN,
    }
}

/// Judges a header of version 2 (2.2). Returns `None` if it is not whole.
fn judge_binary(held: &[u8]) -> Result<Option<Announced>, Malformed> {
    let Some((prefix, rest)) = held.split_at_checked(PREFIX_LEN) else { return Ok(None) };
    let (version, command) = (prefix[12] >> 4, prefix[12] & 0xf);
    let (family, transport) = (prefix[13] >> 4, prefix[13] & 0xf);
    // LOCAL: the rest is to be ignored.
    let (addresses_len, announces) = match (command, family, transport) {
        _ if version != 2 => return Err(Malformed("a PROXY header of an unknown version")),
        (0, _, _) => (0, false),
        (1, _, 3..) | (1, 4.., _) => {
            return Err(Malformed("a PROXY header with an unassigned family or transport"));
        }
        // UNSPEC.
        (1, 0, _) | (1, _, 0) => (0, false),
        (1, 1, _) => (12, transport == 1),
        (1, 2, _) => (36, transport == 1),
        // Paths of unix sockets.
        (1, 3, _) => (216, false),
        _ => return Err(Malformed("a PROXY header whose command is neither LOCAL nor PROXY")),
    };
    let len = binary_len(held);
    if len > PROXY_HEADER_LEN_MAX {
        return Err(Malformed("a PROXY header that is longer than is accepted"));
    }
    if len < PREFIX_LEN + addresses_len {
        return Err(Malformed("a PROXY header whose addresses are longer than it is"));
    }
    if held.len() < len {
        return Ok(None);
    }
    let client = match addresses_len {
        _ if !announces => return Ok(Some(Announced::Nobody)),
        12 => number::<4>(rest, 0).zip(number(rest, 8)).map(|(address, port)| {
            SocketAddr::from((Ipv4Addr::from(address), u16::from_be_bytes(port)))
        }),
        _ => number::<16>(rest, 0).zip(number(rest, 32)).map(|(address, port)| {
            SocketAddr::from((Ipv6Addr::from(address), u16::from_be_bytes(port)))
        }),
    };
    Ok(client.map(Announced::Client))
}

/// Returns the bytes of a number.
fn number<const LEN: usize>(bytes: &[u8], place: usize) -> Option<[u8; LEN]> {
    bytes.get(place..)?.first_chunk().copied()
}
