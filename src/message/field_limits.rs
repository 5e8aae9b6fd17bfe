//! Limits of a field section: a request's head, or its trailers.

use http::header::{self, HeaderName};

/// The limits that we impose on the field sections of clients, whichever protocol they use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldLimits {
    /// Maximum decoded length of one field section as RFC 9114 4.2.2 counts it (each field's name,
    /// value and 32 bytes more). HTTP/3 sends it to the peer as SETTINGS_MAX_FIELD_SECTION_SIZE.
    pub field_section_len_max: u32,
    /// Maximum number of fields in one section. Pseudo-header fields and the `host` of HTTP/1.1 do
    /// not count, and all lines of `cookie` count as one.
    pub field_count_max: u32,
}

/// The limit that a field section exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    /// [`FieldLimits::field_section_len_max`]
    Length,
    /// [`FieldLimits::field_count_max`]
    Count,
}

/// Bytes that a line counts besides its name and value (RFC 9114 4.2.2).
pub(crate) const LINE_OVERHEAD_LEN: u64 = 32;

/// The number of fields in a section, which has a limit. Pseudo-header fields are parts of the
/// request line. All lines of `cookie` are one field, which browsers send in a line for each
/// cookie, so that QPACK can compress them (RFC 9114 4.2.1); the section's length bounds their
/// number.
#[derive(Debug)]
pub(crate) struct FieldCount {
    left: u32,
    has_cookie: bool,
}

impl FieldCount {
    pub(crate) fn new(limits: &FieldLimits) -> Self {
        Self { left: limits.field_count_max, has_cookie: false }
    }

    /// Counts a field line.
    pub(crate) fn add(&mut self, name: &HeaderName) -> Result<(), Excess> {
        let is_more_of_cookie =
            *name == header::COOKIE && std::mem::replace(&mut self.has_cookie, true);
        if !is_more_of_cookie {
            self.left = self.left.checked_sub(1).ok_or(Excess::Count)?;
        }
        Ok(())
    }
}
