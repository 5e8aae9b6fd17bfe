//! HTTP/2 frames. Input: a byte that chooses raw bytes (even) or frames behind a valid handshake
//! (odd), a plan of cuts, and the bytes. For frames, each begins with a byte for its kind, one for
//! its flags, one for its stream, and one for its length.

use std::collections::VecDeque;

use bytes::Bytes;
use http::StatusCode;
use ringway::testing::internal::http2::{Code, Connection, Event, LocalSettings};
use ringway::testing::internal::message::FieldLimits;

use super::{cut, take_plan};

const SETTINGS: LocalSettings = LocalSettings {
    fields: FieldLimits { field_section_len_max: 2 * 1024, field_count_max: 20 },
    stream_count_max: 8,
    stream_window: 16 * 1024,
    connection_window: 64 * 1024,
};

/// The most that a connection may hold: windows, queues, unread input, streams and its state.
const HELD_LEN_MAX: usize = 1 << 20;

/// # Panics
///
/// If a connection holds more than it may, reports an event of a stream that has none open, or
/// reports anything after its end. How it ends depends on the cuts: a burst has limits of its own.
pub fn run(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    let (plan, rest) = take_plan(rest);
    let bytes = if choice & 1 == 0 { rest.to_vec() } else { framed(rest) };
    for take_len in [usize::MAX, 100] {
        serve(&[&bytes], take_len);
        serve(&cut(&bytes, plan), take_len);
    }
}

fn framed(mut rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    while let [kind, flags, stream, len, after @ ..] = rest {
        let (payload, after) = after.split_at(usize::from(*len).min(after.len()));
        bytes.extend([0, 0, payload.len() as u8, kind % 10, *flags, 0, 0, 0, *stream]);
        bytes.extend_from_slice(payload);
        rest = after;
    }
    bytes
}

/// Serves a client: each request gets a response with a body, each body is released.
fn serve(pieces: &[&[u8]], take_len: usize) {
    let mut connection = Connection::new(&SETTINGS);
    let mut open: Vec<u32> = Vec::new();
    let mut left: VecDeque<(u32, VecDeque<Bytes>)> = VecDeque::new();
    let mut is_closed = false;
    for piece in pieces {
        connection.handle(Bytes::copy_from_slice(piece));
        // A turn more than there can be of progress ends the loop.
        for _ in 0..1000 {
            while let Some(event) = connection.poll() {
                assert!(!is_closed, "an event after the end: {event:?}");
                act(&mut connection, &event, &mut open, &mut left);
                is_closed = matches!(event, Event::Closed(_));
            }
            assert!(connection.held_len() <= HELD_LEN_MAX + piece.len());
            let len = connection.take_output(&mut Vec::new(), take_len);
            assert!(len <= take_len);
            if len == 0 {
                break;
            }
        }
    }
}

fn act(
    connection: &mut Connection,
    event: &Event,
    open: &mut Vec<u32>,
    left: &mut VecDeque<(u32, VecDeque<Bytes>)>,
) {
    match event {
        Event::Request { stream, .. } => {
            open.push(*stream);
            connection.respond(*stream, StatusCode::OK, Vec::new(), false);
            let mut body = VecDeque::from([Bytes::from_static(&[7; 40_000])]);
            connection.write(*stream, &mut body);
            left.push_back((*stream, body));
        }
        Event::Refused { stream, refusal } => {
            connection.respond(*stream, refusal.status, Vec::new(), true);
        }
        Event::Body { stream, piece } => {
            assert!(open.contains(stream) && !piece.is_empty());
            connection.release(*stream, piece.len());
        }
        Event::Trailers { stream, .. } | Event::End { stream } => assert!(open.contains(stream)),
        Event::Writable { stream } => {
            let found = left.iter_mut().find(|(number, _)| number == stream);
            let (_, body) = found.expect("it has a response");
            connection.write(*stream, body);
            if body.is_empty() {
                connection.reset(*stream, Code::Cancel);
            }
        }
        Event::Malformed { stream, .. } | Event::Reset { stream, .. } => {
            open.retain(|number| number != stream);
        }
        Event::Closed(_) => {}
    }
}
