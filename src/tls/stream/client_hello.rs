//! The server name of a ClientHello (RFC 8446 4.1.2, RFC 6066 3), and whether it offers early data:
//! rustls does not return them for connections of the unbuffered kind. rustls judges the message.
//! This reader only looks for these extensions, and finds none in a message that rustls refuses.

use rustls::pki_types::DnsName;

use super::records::HEADER_LEN;

const RECORD_OF_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const EARLY_DATA: u16 = 42;
const HOST_NAME: u8 = 0;
/// Type and length of a handshake message.
const MESSAGE_HEADER_LEN: usize = 4;

/// The first message of a client, until it is whole; then what it says.
#[derive(Debug)]
pub(super) enum ClientHello {
    Incomplete(Vec<u8>),
    Complete { server_name: Option<String>, offers_early_data: bool },
}

impl Default for ClientHello {
    fn default() -> Self {
        Self::Incomplete(Vec::new())
    }
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
            let body = if kind == CLIENT_HELLO { body } else { &[] };
            // rustls lowers the case too.
            let server_name = extension(body, SERVER_NAME)
                .and_then(server_name)
                .map(|name| name.as_ref().to_ascii_lowercase());
            let offers_early_data = extension(body, EARLY_DATA).is_some();
            *self = Self::Complete { server_name, offers_early_data };
        }
    }

    pub(super) fn is_untouched(&self) -> bool {
        matches!(self, Self::Incomplete(message) if message.is_empty())
    }

    pub(super) fn held_len(&self) -> usize {
        match self {
            Self::Incomplete(message) => message.capacity(),
            Self::Complete { server_name, .. } => server_name.as_ref().map_or(0, String::capacity),
        }
    }

    pub(super) fn server_name(&self) -> Option<&String> {
        match self {
            Self::Incomplete(_) => None,
            Self::Complete { server_name, .. } => server_name.as_ref(),
        }
    }

    pub(super) fn offers_early_data(&self) -> bool {
        matches!(self, Self::Complete { offers_early_data: true, .. })
    }
}

/// Returns the content of an extension in the body of a ClientHello.
fn extension(body: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = body;
    let _version_and_random = take(&mut rest, 2 + 32)?;
    let _session_id = take_vector::<1>(&mut rest)?;
    let _cipher_suites = take_vector::<2>(&mut rest)?;
    let _compression_methods = take_vector::<1>(&mut rest)?;
    let mut extensions = take_vector::<2>(&mut rest)?;
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2)?;
        let content = take_vector::<2>(&mut extensions)?;
        if kind == wanted.to_be_bytes() {
            return Some(content);
        }
    }
    None
}

/// Returns the name in the content of its extension; `None` for an address too, as in rustls.
fn server_name(mut extension: &[u8]) -> Option<DnsName<'_>> {
    let mut names = take_vector::<2>(&mut extension)?;
    let kind = take(&mut names, 1)?;
    let name = take_vector::<2>(&mut names)?;
    if kind == [HOST_NAME] { DnsName::try_from(name).ok() } else { None }
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
