//! One exchange of HTTP/2 on a connection that is used again: both heads and a body of 1 KiB.

use std::collections::VecDeque;

use bytes::Bytes;
use divan::Bencher;
use http::{HeaderValue, StatusCode, header};
use ringway::testing::internal::http2::{Connection, Event, LocalSettings};
use ringway::testing::internal::message::FieldLimits;

use crate::client::REQUEST;

const SETTINGS: LocalSettings = LocalSettings {
    fields: FieldLimits { field_section_len_max: 64 * 1024, field_count_max: 100 },
    stream_count_max: 100,
    stream_window: 256 * 1024,
    connection_window: 1024 * 1024,
};

const HEADERS: u8 = 0x1;
const SETTINGS_FRAME: u8 = 0x4;
const WINDOW_UPDATE: u8 = 0x8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A client that has sent a preface and large windows.
fn connection() -> Connection {
    let mut connection = Connection::new(&SETTINGS);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS_FRAME, 0, 0, &[]));
    bytes.extend(frame(SETTINGS_FRAME, 1, 0, &[]));
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()));
    connection.handle(bytes.into());
    assert!(connection.poll().is_none());
    connection.take_output(&mut Vec::new(), 1 << 16);
    connection
}

/// Serves a GET of ten field lines, which are not in the table, with two fields and 1 KiB.
#[divan::bench(sample_size = 100)]
fn exchange(bencher: Bencher<'_, '_>) {
    let mut section = Vec::new();
    for (name, value) in REQUEST {
        section.push(0);
        for text in [name.as_bytes(), value.as_bytes()] {
            assert!(text.len() < 127 + 128, "two bytes hold the length");
            match u8::try_from(text.len()).expect("short").checked_sub(127) {
                None => section.push(text.len() as u8),
                Some(rest) => section.extend([127, rest]),
            }
            section.extend_from_slice(text);
        }
    }
    let mut connection = connection();
    let body = Bytes::from(vec![7; 1024]);
    let mut out = Vec::new();
    let mut stream = 1;
    let requests = std::iter::from_fn(move || {
        let bytes: Bytes = frame(HEADERS, 0x5, stream, &section).into();
        stream += 2;
        Some((stream - 2, bytes))
    });
    let mut requests = requests;
    bencher.with_inputs(|| requests.next().expect("it does not end")).bench_local_values(
        |(stream, bytes)| {
            connection.handle(bytes);
            let Some(Event::Request { head, .. }) = connection.poll() else {
                panic!("expected a request")
            };
            let fields = vec![
                (header::CONTENT_TYPE, HeaderValue::from_static("text/plain")),
                (header::CONTENT_LENGTH, HeaderValue::from_static("1024")),
            ];
            connection.respond(stream, StatusCode::OK, fields, false);
            connection.write(stream, &mut VecDeque::from([body.clone()]));
            connection.finish(stream, None);
            out.clear();
            let len = connection.take_output(&mut out, 1 << 16);
            assert!(len > 1024);
            head
        },
    );
}
