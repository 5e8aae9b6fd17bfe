//! Requests and responses, frame by frame.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE, ETAG, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::super::{Closure, Code, ConnectionError, Event, LocalSettings};
use super::SETTINGS;
use super::client::{
    self, Client, DATA, END_STREAM, GET, GOAWAY, HEADERS, PING, POST, RST_STREAM, WINDOW_UPDATE,
    frame, request, window_update,
};
use crate::message::Fields;

#[test]
fn a_request_without_a_body_is_ended_with_its_head() {
    let mut client = Client::new(&SETTINGS);
    let events = client.exchange(&request(1, &GET, END_STREAM));
    let [Event::Request { stream: 1, head, ended: true }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((&head.method, head.path()), (&Method::GET, &b"/"[..]));
    assert_eq!(head.authority().as_str(), "a.example");
    assert!(!client.connection.is_idle());
    let length = (CONTENT_LENGTH, HeaderValue::from_static("5"));
    client.connection.respond(1, StatusCode::OK, vec![length], true);
    let frames = client.frames();
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!((frames[0].kind, frames[0].flags), (HEADERS, 0x5));
    assert!(client.connection.is_idle());
}

#[test]
fn payload_leaves_as_the_memory_that_was_written() {
    let mut client = Client::new(&SETTINGS);
    client.exchange(&request(1, &GET, END_STREAM));
    let body = Bytes::from(vec![7; 20_000]);
    assert!(client.respond(1, std::slice::from_ref(&body)).is_empty());
    let mut out = Vec::new();
    // In small takes, which cut the payload anywhere.
    while client.connection.take_output(&mut out, 3000) > 0 {}
    let own: Vec<&Bytes> =
        out.iter().filter(|piece| body.as_ptr_range().contains(&piece.as_ptr())).collect();
    let own_len: usize = own.iter().map(|piece| piece.len()).sum();
    // `h2` copies the start of each frame beside its header, up to 256 bytes.
    assert!(own_len >= body.len() - 2 * 256, "{own_len} bytes were not copied");
    let payload_len = out.concat().iter().filter(|byte| **byte == 7).count();
    assert!(payload_len >= body.len(), "{payload_len}");
}

/// Memory that tells whether it is still referred to, as a slot of the pool would be.
struct Slot(#[expect(dead_code, reason = "its count is asked for")] Arc<()>, Vec<u8>);

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

#[test]
fn memory_of_a_response_is_let_go_of_when_it_was_taken() {
    for len in [1, 255, 256, 1024, 16 * 1024, 60_000] {
        let mut client = Client::new(&SETTINGS);
        client.exchange(&request(1, &GET, END_STREAM));
        let held = Arc::new(());
        let slot = Bytes::from_owner(Slot(Arc::clone(&held), vec![b'7'; len]));
        // Fields that the compression table takes and does not take, RFC 7541 2.3.2.
        let value = HeaderValue::from_maybe_shared(slot.slice(..1)).expect("a digit");
        let fields = [DATE, ETAG, CONTENT_LENGTH, HeaderName::from_static("x-own")];
        let fields = fields.map(|name| (name, value.clone())).to_vec();
        client.connection.respond(1, StatusCode::OK, fields, false);
        let mut pieces = VecDeque::from([slot]);
        client.connection.write(1, &mut pieces);
        drop((value, pieces));
        assert_eq!(client.events(), []);
        client.connection.finish(1, None);
        assert_eq!(client.events(), []);
        // One take, as of one write to the socket: nobody asks again when nothing is left.
        assert!(client.connection.take_output(&mut Vec::new(), 1 << 20) > len);
        assert!(!client.connection.has_output());
        assert_eq!(Arc::strong_count(&held), 1, "{len} bytes");
    }
}

#[test]
fn output_is_no_longer_than_it_may_be() {
    let mut client = Client::new(&SETTINGS);
    client.exchange(&request(1, &GET, END_STREAM));
    client.respond(1, &[Bytes::from(vec![7; 60_000])]);
    let mut left: i64 = 60_000;
    while left > 0 {
        let mut out = Vec::new();
        let len = client.connection.take_output(&mut out, 1234);
        assert!(len > 0 && len <= 1234, "{len}");
        assert!(client.connection.has_output() || len < 1234 || left <= 1234);
        left -= len as i64;
    }
}

#[test]
fn our_settings_are_cut_as_the_transport_takes_them() {
    for len_max in [1, 5, 1000] {
        let mut client = Client::unready(&SETTINGS);
        client.send(&[client::PREFACE, &frame(client::SETTINGS, 0, 0, &[])].concat());
        assert_eq!(client.events(), []);
        let mut out = Vec::new();
        loop {
            let len = client.connection.take_output(&mut out, len_max);
            assert!(len <= len_max, "{len} of {len_max}");
            if len == 0 {
                break;
            }
        }
        let out = out.concat();
        // Its length, its kind, and behind it the acknowledgement of the client's.
        let len = 9 + usize::from(out[2]);
        assert_eq!((out[3], &out[len..len + 5]), (client::SETTINGS, &[0, 0, 0, 4, 1][..]));
        assert!(!client.connection.has_output());
    }
}

#[test]
fn credit_is_given_back_for_released_bytes_only() {
    let mut client = Client::new(&LocalSettings { stream_window: 64 * 1024, ..SETTINGS });
    client.post(1);
    let empty_len = client.connection.held_len();
    let data = vec![1; 16 * 1024];
    for round in 0..4 {
        let events = client.exchange(&frame(DATA, 0, 1, &data));
        let [Event::Body { stream: 1, piece }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(piece, &data);
        assert_eq!(client.connection.held_len(), empty_len + (round + 1) * data.len());
    }
    assert_eq!(client.frames_of(WINDOW_UPDATE), [], "nothing was released");
    client.connection.release(1, 64 * 1024);
    assert_eq!(client.connection.held_len(), empty_len);
    let updates = client.frames_of(WINDOW_UPDATE);
    let of_stream: Vec<u32> =
        updates.iter().filter(|update| update.stream == 1).map(|update| update.number(0)).collect();
    assert_eq!(of_stream, [64 * 1024]);
}

#[test]
fn a_response_waits_for_the_clients_windows() {
    let mut client = Client::new(&SETTINGS);
    client.exchange(&request(1, &GET, END_STREAM));
    let mut pieces = client.respond(1, &[Bytes::from(vec![7; 100_000])]);
    let data_len = |client: &mut Client| -> usize {
        client.frames_of(DATA).iter().map(|frame| frame.payload.len()).sum()
    };
    // RFC 9113 6.9.2: both windows start with 65,535 bytes.
    assert_eq!(data_len(&mut client), 65_535);
    assert_eq!(client.connection.write(1, &mut pieces), 0);
    assert_eq!(
        client.exchange(&window_update(1, 50_000)),
        [],
        "the connection's window is used up"
    );
    assert_eq!(client.exchange(&window_update(0, 10_000)), [Event::Writable { stream: 1 }]);
    assert_eq!(client.connection.write(1, &mut pieces), 10_000);
    assert_eq!(data_len(&mut client), 10_000);
    assert_eq!(client.connection.write(1, &mut pieces), 0);
    assert_eq!(client.exchange(&window_update(0, 50_000)), [Event::Writable { stream: 1 }]);
    assert_eq!(client.connection.write(1, &mut pieces), 100_000 - 75_535);
    assert!(pieces.is_empty());
    client.connection.finish(1, None);
    let frames = client.frames_of(DATA);
    assert_eq!(frames.last().unwrap().flags, END_STREAM);
    assert!(client.connection.is_idle());
}

#[test]
fn an_early_response_is_whole_and_then_the_request_is_reset_with_no_error() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    client.respond(1, &[Bytes::from_static(&[7; 3000])]);
    client.connection.finish(1, None);
    client.connection.stop_request(1);
    let frames = client.frames();
    let kinds: Vec<(u8, u8)> = frames.iter().map(|frame| (frame.kind, frame.flags)).collect();
    assert_eq!(kinds, [(HEADERS, 4), (DATA, 0), (DATA, END_STREAM), (RST_STREAM, 0)]);
    assert_eq!(frames[3].number(0), Code::NoError.value());
    // What was on its way is ignored, and takes no credit of the connection.
    let before_len = client.connection.held_len();
    assert_eq!(client.exchange(&frame(DATA, 0, 1, &[1; 5000])), []);
    assert_eq!(client.connection.held_len(), before_len);
    assert_eq!(client.frames_of(GOAWAY), []);
}

#[test]
fn a_cancelled_request_is_reset_once() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    client.respond(1, &[Bytes::from(vec![7; 60_000])]);
    let cancel = frame(RST_STREAM, 0, 1, &Code::Cancel.value().to_be_bytes());
    let before_len = client.connection.held_len();
    let events = client.exchange(&cancel);
    assert_eq!(events, [Event::Reset { stream: 1, code: Code::Cancel.value() }]);
    assert!(client.connection.held_len() + 60_000 <= before_len, "its response is dropped");
    assert!(client.connection.is_idle());
    // Actions that cross it do nothing.
    client.connection.release(1, 0);
    client.connection.finish(1, None);
    client.connection.reset(1, Code::InternalError);
    assert_eq!(client.connection.write(1, &mut VecDeque::from([Bytes::from_static(b"x")])), 0);
    assert_eq!(client.exchange(&[]), []);
}

#[test]
fn a_stream_that_we_reset_sends_the_code() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    client.respond(1, &[Bytes::from(vec![7; 60_000])]);
    client.connection.reset(1, Code::InternalError);
    let frames = client.frames();
    let resets: Vec<u32> =
        frames.iter().filter(|f| f.kind == RST_STREAM).map(|f| f.number(0)).collect();
    assert_eq!(resets, [Code::InternalError.value()]);
    assert!(client.connection.is_idle());
}

#[test]
fn interim_heads_precede_the_final_one() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    client.connection.respond(1, StatusCode::CONTINUE, Fields::new(), false);
    client.connection.respond(1, StatusCode::EARLY_HINTS, Fields::new(), false);
    client.connection.respond(1, StatusCode::NO_CONTENT, Fields::new(), true);
    client.connection.stop_request(1);
    let frames = client.frames_of(HEADERS);
    let flags: Vec<u8> = frames.iter().map(|frame| frame.flags).collect();
    assert_eq!(flags, [4, 4, 5]);
}

#[test]
fn a_drain_has_two_steps_and_ends_with_the_last_request() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    client.connection.drain();
    let frames = client.frames();
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(
        (frames[0].kind, frames[0].number(0), frames[0].number(4)),
        (GOAWAY, u32::MAX >> 1, 0)
    );
    assert_eq!(frames[1].kind, PING);
    // A request that was on its way is served.
    let events = client.exchange(&request(3, &GET, END_STREAM));
    assert!(matches!(events[..], [Event::Request { stream: 3, .. }]), "{events:?}");
    assert_eq!(client.exchange(&frame(PING, client::ACK, 0, &frames[1].payload)), []);
    let last = client.frames_of(GOAWAY);
    assert_eq!((last.len(), last[0].number(0)), (1, 3));
    assert_eq!(client.exchange(&request(5, &GET, END_STREAM)), [], "later ones are ignored");
    client.connection.respond(3, StatusCode::NO_CONTENT, Fields::new(), true);
    assert_eq!(client.exchange(&[]), []);
    client.connection.respond(1, StatusCode::NO_CONTENT, Fields::new(), true);
    client.connection.stop_request(1);
    assert_eq!(client.exchange(&[]), [Event::Closed(Closure::Ended)]);
}

#[test]
fn a_connection_that_we_close_names_our_rule() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    let error =
        ConnectionError { code: Code::EnhanceYourCalm, rule: "too many cancelled requests" };
    client.connection.close(error);
    let events = client.exchange(&[]);
    assert_eq!(events.last(), Some(&Event::Closed(Closure::Error(error))));
    let goaways = client.frames_of(GOAWAY);
    assert_eq!((goaways.len(), goaways[0].number(4)), (1, Code::EnhanceYourCalm.value()));
    assert_eq!(client.exchange(&request(3, &GET, END_STREAM)), [], "it is over");
    assert_eq!(client.connection.poll(), None);
}

#[test]
fn the_end_of_the_transport_ends_everything() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    client.connection.handle_end();
    let events = client.exchange(&[]);
    assert_eq!(events.last(), Some(&Event::Closed(Closure::Ended)), "{events:?}");
    // Within a frame, and before the preface.
    for bytes in [&[0, 0][..], &[]] {
        let mut client = Client::unready(&SETTINGS);
        client.send(&[client::PREFACE, bytes].concat()[..20 + bytes.len() * 3]);
        client.connection.handle_end();
        assert_eq!(client.exchange(&[]), [Event::Closed(Closure::Ended)]);
    }
}

#[test]
fn the_cuts_of_the_input_do_not_matter() {
    let script = [
        client::PREFACE,
        &frame(client::SETTINGS, 0, 0, &[]),
        &frame(client::SETTINGS, client::ACK, 0, &[]),
        &request(1, &POST, 0),
        &frame(DATA, 0, 1, &[1; 2000]),
        &request(3, &GET, END_STREAM),
        &frame(DATA, 0, 1, &[2; 500]),
        &request(1, &[("x-sum", "7")], END_STREAM),
        &request(5, &[GET[0], GET[1], GET[2], (":path", "/..")], END_STREAM),
        &request(7, &[GET[0], GET[1], GET[2], GET[3], ("x", " y")], END_STREAM),
        &frame(RST_STREAM, 0, 3, &8_u32.to_be_bytes()),
        &frame(PING, 0, 0, &[9; 8]),
    ]
    .concat();
    let whole = read(script.chunks(script.len()));
    let kinds = |wanted: fn(&Event) -> bool| whole.iter().filter(|event| wanted(event)).count();
    assert_eq!(kinds(|event| matches!(event, Event::Trailers { .. })), 1);
    assert_eq!(kinds(|event| matches!(event, Event::Refused { .. })), 1);
    assert_eq!(kinds(|event| matches!(event, Event::Malformed { .. })), 1);
    for len in [1, 2, 3, 7, 100, 1000] {
        // A request may be handed out before its cancellation has come, or not.
        assert_eq!(of_stream(&read(script.chunks(len)), 1), of_stream(&whole, 1), "by {len}");
        assert_eq!(of_stream(&read(script.chunks(len)), 5), of_stream(&whole, 5), "by {len}");
        assert_eq!(of_stream(&read(script.chunks(len)), 7), of_stream(&whole, 7), "by {len}");
    }
    for cut in 0..script.len() {
        let (first, second) = script.split_at(cut);
        let events = read([first, second].into_iter());
        assert_eq!(of_stream(&events, 1), of_stream(&whole, 1), "at {cut}");
    }
}

/// Returns the events of a connection that reads these pieces, adjacent pieces of bodies joined.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut client = Client::unready(&SETTINGS);
    let mut events: Vec<Event> = Vec::new();
    for piece in pieces {
        events.extend(client.exchange(piece));
    }
    events
}

/// Returns the events of one stream, with its body as one piece.
fn of_stream(events: &[Event], wanted: u32) -> (Vec<Event>, Vec<u8>) {
    let (mut others, mut body) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Body { stream, piece } if *stream == wanted => body.extend_from_slice(piece),
            Event::Request { stream, .. }
            | Event::Refused { stream, .. }
            | Event::Malformed { stream, .. }
            | Event::Trailers { stream, .. }
            | Event::End { stream }
            | Event::Reset { stream, .. }
                if *stream == wanted =>
            {
                others.push(event.clone());
            }
            _ => {}
        }
    }
    (others, body)
}

#[test]
fn a_response_to_a_stream_whose_reset_was_read_with_the_last_output_does_nothing() {
    let mut client = Client::new(&SETTINGS);
    client.exchange(&request(1, &GET, END_STREAM));
    client.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    // The reset is read here, and its event was not polled.
    client.receive();
    let connection = &mut client.connection;
    connection.respond(1, StatusCode::OK, Fields::default(), false);
    let mut pieces = VecDeque::from([Bytes::from_static(b"body")]);
    assert_eq!(connection.write(1, &mut pieces), 0);
    connection.finish(1, None);
    assert_eq!(client.events(), [Event::Reset { stream: 1, code: 8 }]);
}
