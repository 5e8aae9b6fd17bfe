//! The `keep-alive` field of a response (RFC 2068 19.7.1.1, draft-thomson-hybi-http-timeout): how
//! long the upstream keeps the connection.

use std::time::Duration;

use http::HeaderName;

use crate::message::Fields;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The hint of an upstream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepAlive {
    /// `timeout`: the time without a request after which the upstream closes the connection.
    pub(crate) timeout: Option<Duration>,
    /// `max` is 0: no further request is accepted.
    pub(crate) is_last: bool,
}

impl KeepAlive {
    /// Reads all `keep-alive` fields. The field is a custom, so what is not understood is ignored.
    pub(crate) fn read(fields: &Fields) -> Self {
        let mut read = Self::default();
        let values = fields.iter().filter(|(name, _)| name == KEEP_ALIVE);
        for parameter in values.flat_map(|(_, value)| value.as_bytes().split(|byte| *byte == b','))
        {
            let Some((name, number)) = parse(parameter) else { continue };
            if name.eq_ignore_ascii_case("timeout") {
                let timeout = Duration::from_secs(number);
                read.timeout = Some(read.timeout.map_or(timeout, |other| other.min(timeout)));
            } else if name.eq_ignore_ascii_case("max") {
                read.is_last |= number == 0;
            }
        }
        read
    }
}

/// Parses `name=number`.
fn parse(parameter: &[u8]) -> Option<(&str, u64)> {
    let (name, value) = std::str::from_utf8(parameter).ok()?.split_once('=')?;
    let digits = value.trim().trim_matches('"');
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number that does not fit is very long.
    is_number.then(|| (name.trim(), digits.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_and_what_is_no_hint_is_ignored() {
        let read = |values: &[&str]| {
            let fields = values.iter().map(|value| (KEEP_ALIVE, value.parse().unwrap()));
            let KeepAlive { timeout, is_last } = KeepAlive::read(&fields.collect());
            (timeout.map(|timeout| timeout.as_secs()), is_last)
        };
        for (values, expected) in [
            (&[][..], (None, false)),
            // Node, Apache httpd, nginx.
            (&["timeout=5"], (Some(5), false)),
            (&["timeout=5, max=100"], (Some(5), false)),
            (&["timeout=20"], (Some(20), false)),
            (&["Timeout = \"7\" ,max=0"], (Some(7), true)),
            (&["timeout=9", "timeout=3"], (Some(3), false)),
            (&["timeout=0"], (Some(0), false)),
            (&["timeout=99999999999999999999"], (Some(u64::MAX), false)),
            (&["timeout=-1"], (None, false)),
            (&["timeout=+5"], (None, false)),
            (&["timeout=5.5"], (None, false)),
            (&["timeout="], (None, false)),
            (&["timeout", "=5", "max", "300"], (None, false)),
        ] {
            assert_eq!(read(values), expected, "{values:?}");
        }
    }
}
