//! The server name of a ClientHello (RFC 8446 4.1.2, RFC 6066 3), which rustls does not return for
//! connections of the unbuffered kind. rustls judges the message; this reader only looks for the
//! name, and finds none in a message that rustls will refuse.

use rustls::pki_types::DnsName;

use super::records::HEADER_LEN;

const RECORD_OF_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Type and length of a handshake message.
const MESSAGE_HEADER_LEN: usize = 4;

/// The first message of a client, until it is whole; then the name in it.
#[derive(Debug)]
pub(super) enum ClientHello {
    Incomplete(Vec<u8>),
    Complete { server_name: Option<String> },
}

impl ClientHello {
    /// Reads a record, with its header, that is not encrypted if the message is incomplete.
    pub(super) fn read_record(&mut self, record: &[u8]) {
        let Self::Incomplete(message) = self else { return };
        let Some((header, payload)) = record.split_at_checked(HEADER_LEN) else { return };
        if header[0] != RECORD_OF_HANDSHAKE {
            return;
        }
        message.extend_from_slice(payload);
        let Some(&[kind, a, b, c]) = message.first_chunk::<MESSAGE_HEADER_LEN>() else { return };
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        if let Some(body) = message[MESSAGE_HEADER_LEN..].get(..len) {
            let name = if kind == CLIENT_HELLO { server_name(body) } else { None };
            // rustls lowers the case too.
            let server_name = name.map(|name| name.as_ref().to_ascii_lowercase());
            *self = Self::Complete { server_name };
        }
    }

    pub(super) fn is_untouched(&self) -> bool {
        matches!(self, Self::Incomplete(message) if message.is_empty())
    }

    pub(super) fn held_len(&self) -> usize {
        match self {
            Self::Incomplete(message) => message.capacity(),
            Self::Complete { server_name } => server_name.as_ref().map_or(0, String::capacity),
        }
    }

    pub(super) fn into_server_name(self) -> Option<String> {
        match self {
            Self::Incomplete(_) => None,
            Self::Complete { server_name } => server_name,
        }
    }
}

/// Returns the name in the body of a ClientHello; `None` for an address too, as in rustls.
fn server_name(body: &[u8]) -> Option<DnsName<'_>> {
    let mut rest = body;
    let _version_and_random = take(&mut rest, 2 + 32)?;
    let _session_id = take_vector::<1>(&mut rest)?;
    let _cipher_suites = take_vector::<2>(&mut rest)?;
    let _compression_methods = take_vector::<1>(&mut rest)?;
    let mut extensions = take_vector::<2>(&mut rest)?;
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2)?;
        let mut extension = take_vector::<2>(&mut extensions)?;
        if kind == SERVER_NAME.to_be_bytes() {
            let mut names = take_vector::<2>(&mut extension)?;
            let kind = take(&mut names, 1)?;
            let name = take_vector::<2>(&mut names)?;
            return if kind == [HOST_NAME] { DnsName::try_from(name).ok() } else { None };
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(taken)
}

/// Takes a vector behind its length of `N` bytes (RFC 8446 3.4).
fn take_vector<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take(rest, N)?.iter().fold(0, |len, byte| (len << 8) | usize::from(*byte));
    take(rest, len)
}
