//! HTTP/3 frames. Input: a byte that chooses request stream (even) or unidirectional streams, a
//! plan of cuts, and the bytes.

use bytes::Bytes;
use ringway::testing::internal::http3::{
    Connection, ConnectionError, LocalSettings, RequestError, RequestEvent, RequestStream,
    UniVerdict,
};

use super::{cut, take_plan};

const SETTINGS: LocalSettings =
    LocalSettings { field_section_len_max: 4 * 1024, field_count_max: 50 };

/// # Panics
///
/// If the result depends on how the bytes are cut, or a refused stream holds bytes.
pub fn run(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    let (plan, bytes) = take_plan(rest);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let halves = [first, second];
    if choice & 1 == 0 {
        let whole = read_request(&[bytes]);
        assert_eq!(read_request(&cut(bytes, plan)), whole, "cut by {plan:?}");
        assert_eq!(read_request(&single), whole, "byte by byte");
        assert_eq!(read_request(&halves), whole, "in halves");
    } else {
        let whole = read_uni(&[bytes]);
        assert_eq!(read_uni(&cut(bytes, plan)), whole, "cut by {plan:?}");
        assert_eq!(read_uni(&single), whole, "byte by byte");
        assert_eq!(read_uni(&halves), whole, "in halves");
        read_streams(bytes, plan);
    }
}

/// Reads a request stream to its end. Returns its parts, adjacent pieces of the body joined, and
/// the outcome.
fn read_request(chunks: &[&[u8]]) -> (Vec<RequestEvent>, Result<(), RequestError>) {
    let mut stream = RequestStream::default();
    let mut events: Vec<RequestEvent> = Vec::new();
    for chunk in chunks {
        stream.handle(Bytes::copy_from_slice(chunk));
        loop {
            match stream.poll(&SETTINGS) {
                Ok(Some(event)) => add(&mut events, event),
                Ok(None) => break,
                Err(error) => {
                    assert_holds_nothing(&mut stream);
                    return (events, Err(error));
                }
            }
        }
    }
    let outcome = stream.handle_end();
    (events, outcome)
}

fn add(events: &mut Vec<RequestEvent>, event: RequestEvent) {
    match (events.last_mut(), event) {
        (Some(RequestEvent::Body(before)), RequestEvent::Body(piece)) => {
            assert!(!piece.is_empty(), "no empty pieces");
            *before = Bytes::from([&before[..], &piece].concat());
        }
        (_, event) => {
            let is_head = matches!(event, RequestEvent::Head(_));
            assert_eq!(is_head, events.is_empty(), "the head is first, and once");
            let is_over = matches!(events.last(), Some(RequestEvent::Trailers(_)));
            assert!(!is_over, "trailers are last");
            events.push(event);
        }
    }
}

/// Asserts that a refused stream keeps no bytes and reports nothing more.
fn assert_holds_nothing(stream: &mut RequestStream) {
    let chunk = Bytes::from(vec![0; 100]);
    stream.handle(chunk.clone());
    assert!(chunk.is_unique(), "a refused stream holds nothing");
    assert_eq!(stream.poll(&SETTINGS), Ok(None));
    assert_eq!(stream.handle_end(), Ok(()));
}

/// Reads one unidirectional stream to its end.
fn read_uni(chunks: &[&[u8]]) -> Result<UniVerdict, ConnectionError> {
    let mut connection = Connection::new(&SETTINGS);
    for chunk in chunks {
        match connection.handle_uni(2, Bytes::copy_from_slice(chunk))? {
            UniVerdict::Continue => {}
            stop @ UniVerdict::StopSending(_) => return Ok(stop),
        }
    }
    connection.handle_uni_end(2).map(|()| UniVerdict::Continue)
}

/// Gives the pieces in turn to one of four unidirectional streams of one connection. Streams that
/// end, and those that are refused, come back as new ones.
fn read_streams(bytes: &[u8], plan: &[u8]) {
    let mut connection = Connection::new(&SETTINGS);
    let mut ids = [2, 6, 10, 14];
    for (piece, choice) in cut(bytes, plan).into_iter().zip(plan.iter().rev().chain(&[0])) {
        let id = &mut ids[usize::from(choice & 3)];
        match connection.handle_uni(*id, Bytes::copy_from_slice(piece)) {
            Ok(UniVerdict::Continue) => {}
            Ok(UniVerdict::StopSending(_)) => *id += 16,
            Err(_) => return,
        }
        if choice & 4 != 0 {
            if connection.handle_uni_end(*id).is_err() {
                return;
            }
            *id += 16;
        }
    }
}
