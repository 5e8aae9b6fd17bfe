//! Tests of HTTP/2 against a client that writes frames by hand, and against `h2`'s own client.

mod attacks;
mod client;
mod exchanges;
mod foreign;
mod heads;

use super::LocalSettings;
use crate::message::FieldLimits;

const SETTINGS: LocalSettings = LocalSettings {
    fields: FieldLimits { field_section_len_max: 4096, field_count_max: 20 },
    stream_count_max: 100,
    stream_window: 256 * 1024,
    connection_window: 1024 * 1024,
};
