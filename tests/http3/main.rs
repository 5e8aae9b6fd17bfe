//! HTTP/3 from a peer's view: bytes in, requests and errors out, compared with the RFCs' own
//! vectors and with other implementations.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its support code too")]
#![allow(clippy::too_many_lines, reason = "a table of cases is as long as its cases")]

mod connection;
mod interop;
mod qpack;
mod random;
mod request_heads;
mod requests;

use bytes::{BufMut, Bytes, BytesMut};
use ringway::testing::internal::http3::qpack::encode;
use ringway::testing::internal::http3::{LocalSettings, RequestError, RequestEvent, RequestStream};

const SETTINGS: LocalSettings =
    LocalSettings { field_section_len_max: 16 * 1024, field_count_max: 100 };

const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;
const GREASE: u64 = 0x1f * 7 + 0x21;

/// Encodes a QUIC varint independently of the code under test.
fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 1 << 14).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 2 << 30).to_be_bytes().to_vec(),
        _ => (value | 3 << 62).to_be_bytes().to_vec(),
    }
}

fn frame(frame_type: u64, payload: &[u8]) -> Vec<u8> {
    [&varint(frame_type)[..], &varint(payload.len() as u64), payload].concat()
}

/// Encodes a field section of literals without Huffman coding, so that names and values may hold
/// any byte.
fn section(lines: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in lines {
        let mut line = BytesMut::new();
        ringway::testing::internal::http3::qpack::integer::write(
            0x20,
            3,
            name.len() as u64,
            &mut line,
        );
        line.put_slice(name.as_bytes());
        ringway::testing::internal::http3::qpack::integer::write(
            0,
            7,
            value.len() as u64,
            &mut line,
        );
        line.put_slice(value);
        out.extend_from_slice(&line);
    }
    out
}

/// Encodes the same with all features of our encoder.
fn packed_section(lines: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::put_prefix(&mut out);
    for (name, value) in lines {
        encode::put_line(name, value, false, &mut out);
    }
    out.to_vec()
}

const GET: &[(&str, &[u8])] =
    &[(":method", b"GET"), (":scheme", b"https"), (":authority", b"example.com"), (":path", b"/")];

/// Returns `GET` with `lines` applied: lines of the same name are replaced, those with the value
/// `REMOVED` removed, others added.
fn get_with(changes: &[(&'static str, &'static [u8])]) -> Vec<(&'static str, &'static [u8])> {
    let mut lines: Vec<(&str, &[u8])> = GET.to_vec();
    for &(name, value) in changes {
        match lines.iter().position(|line| line.0 == name && name.starts_with(':')) {
            Some(index) if value == REMOVED => drop(lines.remove(index)),
            Some(index) => lines[index].1 = value,
            None => lines.push((name, value)),
        }
    }
    lines
}

const REMOVED: &[u8] = b"\0removed";

/// Feeds `chunks` and then the end to a new stream. Returns all events up to the first error, and
/// the error.
fn run(
    chunks: impl IntoIterator<Item = Bytes>,
    settings: &LocalSettings,
) -> (Vec<RequestEvent>, Result<(), RequestError>) {
    let mut stream = RequestStream::default();
    let mut events = Vec::new();
    for chunk in chunks {
        stream.handle(chunk);
        loop {
            match stream.poll(settings) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => {
                    assert_refused(&mut stream, settings);
                    return (events, Err(error));
                }
            }
        }
    }
    (events, stream.handle_end())
}

/// Asserts that after an error nothing more is held or reported.
fn assert_refused(stream: &mut RequestStream, settings: &LocalSettings) {
    let chunk = Bytes::from(vec![0; 1000]);
    stream.handle(chunk.clone());
    assert!(chunk.is_unique(), "a refused stream holds nothing");
    assert_eq!(stream.poll(settings), Ok(None));
    assert_eq!(stream.handle_end(), Ok(()));
}

fn run_bytes(bytes: &[u8]) -> (Vec<RequestEvent>, Result<(), RequestError>) {
    run([Bytes::copy_from_slice(bytes)], &SETTINGS)
}

/// Returns the events with adjacent body pieces joined, so that runs with different chunks compare
/// equal.
fn joined(events: Vec<RequestEvent>) -> Vec<RequestEvent> {
    let mut joined: Vec<RequestEvent> = Vec::new();
    for event in events {
        if let RequestEvent::Body(piece) = &event
            && let Some(RequestEvent::Body(before)) = joined.last_mut()
        {
            assert!(!piece.is_empty(), "no empty pieces");
            *before = Bytes::from([&before[..], piece].concat());
            continue;
        }
        joined.push(event);
    }
    joined
}
