//! The SETTINGS frame (RFC 9114 7.2.4, RFC 9204 5).

use bytes::BytesMut;

use super::LocalSettings;
use super::error::{Code, ConnectionError, refuse};
use crate::base::varint;

const FRAME_TYPE: u64 = 0x04;
const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const QPACK_BLOCKED_STREAMS: u64 = 0x07;

/// A reserved identifier (RFC 9114 7.2.4.1): those of the form 0x1f * N + 0x21 have no meaning and
/// exercise the rule that unknown ones are ignored. The choice of N is arbitrary.
const GREASE: u64 = 0x1f * 0x7269_6e67 + 0x21;

/// Appends our SETTINGS frame. The zeros in it are the defaults, sent so that traces show them.
pub(super) fn encode(settings: &LocalSettings, out: &mut BytesMut) {
    let mut payload = BytesMut::with_capacity(32);
    for (id, value) in [
        (QPACK_MAX_TABLE_CAPACITY, 0),
        (MAX_FIELD_SECTION_SIZE, u64::from(settings.field_section_len_max)),
        (QPACK_BLOCKED_STREAMS, 0),
        (GREASE, 0),
    ] {
        varint::write(id, &mut payload);
        varint::write(value, &mut payload);
    }
    varint::write(FRAME_TYPE, out);
    varint::write(payload.len() as u64, out);
    out.extend_from_slice(&payload);
}

/// Checks the payload of the peer's SETTINGS frame. Its values are not kept: the peer's QPACK
/// settings allow us a dynamic table that we never use, and its limit on field sections is advisory
/// (RFC 9114 4.2.2) and not enforced on responses.
pub(super) fn check(mut payload: &[u8]) -> Result<(), ConnectionError> {
    let mut ids = Vec::new();
    while !payload.is_empty() {
        let Some((id, len)) = read_setting(payload) else {
            return refuse(Code::FrameError, "a SETTINGS frame that ends inside a setting");
        };
        payload = &payload[len..];
        // RFC 9114 7.2.4.1, 11.2.2: settings of HTTP/2 without a counterpart.
        if matches!(id, 0x00 | 0x02..=0x05) {
            return refuse(Code::SettingsError, "a setting identifier reserved from HTTP/2");
        }
        ids.push(id);
    }
    // RFC 9114 7.2.4: the same identifier must not occur more than once.
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return refuse(Code::SettingsError, "a setting that occurs twice");
    }
    Ok(())
}

/// Returns the identifier of the first setting, and the setting's length.
fn read_setting(payload: &[u8]) -> Option<(u64, usize)> {
    let (id, id_len) = varint::read(payload)?;
    let (_, value_len) = varint::read(&payload[id_len..])?;
    Some((id, id_len + value_len))
}
