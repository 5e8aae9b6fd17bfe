//! Floods and broken frames: each has a bound, and ends with a code and a rule.

use std::collections::VecDeque;

use bytes::Bytes;
use http::StatusCode;

use super::super::{Code, Event, LocalSettings};
use super::SETTINGS;
use super::client::{
    self, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, GET, HEADERS, PING, RST_STREAM,
    closure, frame, request, section, window_update,
};
use crate::limits;
use crate::message::Fields;

const CALM: Code = Code::EnhanceYourCalm;

#[test]
fn a_burst_of_requests_that_are_cancelled_at_once_is_bounded() {
    // CVE-2023-44487.
    let mut client = Client::new(&SETTINGS);
    let mut burst = Vec::new();
    for index in 0..1000 {
        burst.extend(request(2 * index + 1, &GET, END_STREAM));
        burst.extend(frame(RST_STREAM, 0, 2 * index + 1, &8_u32.to_be_bytes()));
    }
    let events = client.exchange(&burst);
    let error = closure(&events);
    assert_eq!(error.code, CALM);
    assert!(error.rule.contains("cancelled as soon as they are sent"), "{error:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Request { .. })), "none is served");
}

#[test]
fn a_request_that_is_cancelled_later_is_reported_for_the_budget_of_the_gateway() {
    let mut client = Client::new(&SETTINGS);
    for index in 0..1000 {
        let stream = 2 * index + 1;
        assert_eq!(client.exchange(&request(stream, &GET, END_STREAM)).len(), 1);
        let events = client.exchange(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        assert_eq!(events, [Event::Reset { stream, code: 8 }]);
    }
    assert_eq!(client.connection.held_len(), limits::HTTP2_CONNECTION_LEN);
}

#[test]
fn streams_that_a_client_has_us_reset_are_bounded() {
    // CVE-2025-8671: a window that overflows, on stream after stream.
    let mut client = Client::new(&SETTINGS);
    let mut reset_count = 0;
    for index in 0..10_000 {
        let stream = 2 * index + 1;
        let bytes = [request(stream, &GET, 0), window_update(stream, u32::MAX >> 1)].concat();
        let events = client.exchange(&bytes);
        if let Some(Event::Closed(_)) = events.last() {
            let error = closure(&events);
            assert_eq!(error.code, CALM);
            assert!(error.rule.contains("reset for broken frames"), "{error:?}");
            assert_eq!(reset_count, limits::HTTP2_ERROR_RESET_COUNT_MAX);
            return;
        }
        reset_count += 1;
    }
    panic!("{reset_count} streams were reset");
}

#[test]
fn continuation_frames_are_bounded() {
    // CVE-2024-27316.
    let mut client = Client::new(&SETTINGS);
    let mut sent_len = 0;
    client.send(&frame(HEADERS, END_STREAM, 1, &section(&GET)));
    for _ in 0..10_000 {
        let lines = section(&[("x", &"y".repeat(1000))]);
        sent_len += lines.len();
        let events = client.exchange(&frame(CONTINUATION, 0, 1, &lines));
        assert!(client.connection.held_len() <= limits::HTTP2_CONNECTION_LEN + 64 * 1024);
        if !events.is_empty() {
            let error = closure(&events);
            assert_eq!(error.code, CALM);
            assert!(error.rule.contains("CONTINUATION"), "{error:?}");
            assert!(sent_len < 10 * SETTINGS.fields.field_section_len_max as usize, "{sent_len}");
            return;
        }
    }
    panic!("{sent_len} bytes of a head were read");
}

#[test]
fn a_section_that_decodes_to_much_more_is_bounded() {
    let mut client = Client::new(&SETTINGS);
    // One line of 3,000 bytes goes to the table, and each byte more repeats it (RFC 7541 6.1,
    // 6.2.1).
    let mut block = section(&GET);
    block.extend([0x40, 1, b'x', 127, 0xb9, 22]);
    block.extend([b'y'; 3000]);
    block.extend([0x80 | 62; 2000]);
    let events = client.exchange(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    let error = closure(&events);
    assert_eq!(error.code, CALM);
    assert!(error.rule.contains("several times as long"), "{error:?}");
}

#[test]
fn acknowledgements_that_a_client_does_not_read_are_bounded() {
    for flood in [frame(PING, 0, 0, &[1; 8]), frame(client::SETTINGS, 0, 0, &[])] {
        let mut client = Client::new(&SETTINGS);
        let chunk = flood.repeat(100);
        let mut sent_count = 0;
        while client.connection.wants_input() {
            client.send(&chunk);
            assert_eq!(client.events(), []);
            sent_count += 100;
            assert!(sent_count < 100_000, "the client is read from for ever");
        }
        let len_max = limits::HTTP2_CONNECTION_LEN + limits::HTTP2_INPUT_LEN_MAX + chunk.len();
        assert!(client.connection.held_len() <= len_max, "{}", client.connection.held_len());
        // One that reads gets them all.
        let ack_count = client.frames().iter().filter(|frame| frame.flags == client::ACK).count();
        assert_eq!(ack_count, sent_count);
        assert!(client.connection.wants_input());
        assert_eq!(client.connection.held_len(), limits::HTTP2_CONNECTION_LEN);
    }
}

#[test]
fn window_updates_of_nothing_and_of_too_much_end_the_connection() {
    let cases = [
        (window_update(0, 0), Code::ProtocolError),
        (window_update(1, 0), Code::ProtocolError),
        (window_update(0, u32::MAX >> 1), Code::FlowControlError),
    ];
    for (bytes, code) in cases {
        let mut client = Client::new(&SETTINGS);
        client.post(1);
        let error = closure(&client.exchange(&bytes));
        assert_eq!(error.code, code);
        let goaways = client.frames_of(client::GOAWAY);
        assert_eq!(goaways[0].number(4), code.value());
    }
}

#[test]
fn empty_data_frames_are_bounded() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    let events = client.exchange(&frame(DATA, 0, 1, &[]).repeat(1000));
    let error = closure(&events);
    assert_eq!(error.code, CALM);
    assert!(error.rule.contains("DATA frames"), "{error:?}");
}

#[test]
fn small_data_frames_do_not_pin_the_buffers_they_were_read_in() {
    let mut client = Client::new(&SETTINGS);
    client.post(1);
    let (mut pieces, mut len) = (Vec::new(), 0);
    for _ in 0..200 {
        for event in client.exchange(&frame(DATA, 0, 1, &[1; 10]).repeat(200)) {
            let Event::Body { piece, .. } = event else { panic!("{event:?}") };
            len += piece.len();
            pieces.push(piece);
        }
        if len + 2000 > SETTINGS.stream_window as usize {
            break;
        }
    }
    // Each is joined with those that came with it: not one piece for ten bytes.
    assert!(pieces.len() * 500 <= len, "{} pieces for {len} bytes", pieces.len());
    assert!(pieces.iter().all(|piece| piece.is_unique()), "a buffer of its own");
}

#[test]
fn bytes_beyond_a_window_are_an_error() {
    let settings = LocalSettings { stream_window: 16 * 1024, ..SETTINGS };
    let mut client = Client::new(&settings);
    client.post(1);
    let data = frame(DATA, 0, 1, &[1; 16 * 1024]);
    assert_eq!(client.exchange(&data).len(), 1);
    let events = client.exchange(&data);
    let [Event::Malformed { stream: 1, rule, .. }] = &events[..] else { panic!("{events:?}") };
    assert!(rule.contains("window"), "{rule}");
    let resets = client.frames_of(RST_STREAM);
    assert_eq!(resets[0].number(0), Code::FlowControlError.value());
}

#[test]
fn bodies_of_all_streams_are_bounded_by_the_connections_window() {
    let settings = LocalSettings { connection_window: 128 * 1024, ..SETTINGS };
    let mut client = Client::new(&settings);
    let mut held_len = 0;
    for index in 0..20 {
        client.send(&request(2 * index + 1, &GET, 0));
        let events = client.exchange(&frame(DATA, 0, 2 * index + 1, &[1; 16 * 1024]));
        if let Some(Event::Closed(_)) = events.last() {
            assert_eq!(closure(&events).code, Code::FlowControlError);
            assert_eq!(held_len, 128 * 1024);
            return;
        }
        held_len += 16 * 1024;
    }
    panic!("{held_len} bytes were accepted");
}

#[test]
fn more_requests_than_may_be_open_are_refused() {
    let mut client = Client::new(&SETTINGS);
    let mut bytes = Vec::new();
    for index in 0..=SETTINGS.stream_count_max {
        bytes.extend(request(2 * index + 1, &GET, END_STREAM));
    }
    let events = client.exchange(&bytes);
    assert_eq!(events.len(), SETTINGS.stream_count_max as usize);
    let resets = client.frames_of(RST_STREAM);
    assert_eq!((resets.len(), resets[0].stream), (1, 2 * SETTINGS.stream_count_max + 1));
    assert_eq!(resets[0].number(0), Code::RefusedStream.value());
}

#[test]
fn responses_that_a_client_does_not_read_are_bounded_and_take_turns() {
    let mut client = Client::new(&SETTINGS);
    // Windows without end (RFC 9113 6.9.2: SETTINGS_INITIAL_WINDOW_SIZE is 4).
    let mut setting = vec![0, 4];
    setting.extend((u32::MAX >> 1).to_be_bytes());
    client.send(&frame(client::SETTINGS, 0, 0, &setting));
    client.send(&window_update(0, (u32::MAX >> 1) - 65_535));
    let body = Bytes::from(vec![7; 200 * 1024]);
    let mut left: Vec<VecDeque<Bytes>> = vec![VecDeque::from([body.clone()]); 100];
    for index in 0..100 {
        assert_eq!(client.exchange(&request(2 * index + 1, &GET, END_STREAM)).len(), 1);
    }
    let write = |client: &mut Client, left: &mut Vec<VecDeque<Bytes>>, stream: u32| {
        client.connection.write(stream, &mut left[(stream / 2) as usize]);
    };
    // Writes on where there is room, and not in a turn that it takes from others.
    let write_on = |client: &mut Client, left: &mut Vec<VecDeque<Bytes>>| {
        for event in client.events() {
            let Event::Writable { stream } = event else { panic!("{event:?}") };
            write(client, left, stream);
        }
    };
    for index in 0..100 {
        client.connection.respond(2 * index + 1, StatusCode::OK, Fields::new(), false);
        write(&mut client, &mut left, 2 * index + 1);
        write_on(&mut client, &mut left);
    }
    let len_max = limits::HTTP2_CONNECTION_LEN
        + 100 * limits::STREAM_LEN
        + limits::HTTP2_QUEUED_LEN_MAX
        + limits::HTTP2_STREAM_QUEUED_LEN_MAX;
    assert!(client.connection.held_len() <= len_max);
    // When it reads, all come to their end, and no stream gets twice what another one gets.
    let len_of = |pieces: &VecDeque<Bytes>| pieces.iter().map(Bytes::len).sum::<usize>();
    let mut turn_count = 0;
    while left.iter().any(|pieces| !pieces.is_empty()) {
        client.receive();
        write_on(&mut client, &mut left);
        assert!(client.connection.held_len() <= len_max);
        let lens: Vec<usize> = left.iter().map(len_of).collect();
        let spread = lens.iter().max().unwrap() - lens.iter().min().unwrap();
        assert!(spread <= 3 * limits::HTTP2_STREAM_QUEUED_LEN_MAX, "{spread}");
        turn_count += 1;
        assert!(turn_count < 10_000, "no progress");
    }
    let sent_len: usize = client.frames_of(DATA).iter().map(|frame| frame.payload.len()).sum();
    assert_eq!(sent_len, 100 * body.len());
}

#[test]
fn a_client_that_speaks_something_else_is_closed() {
    let mut client = Client::unready(&SETTINGS);
    let events = client.exchange(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n");
    assert_eq!(closure(&events).code, Code::ProtocolError);
    // A frame longer than is accepted, and one on a stream that was never opened.
    let cases = [
        (vec![1, 0, 0, DATA, 0, 0, 0, 0, 1], Code::FrameSizeError),
        (frame(DATA, 0, 1, b"x"), Code::ProtocolError),
        (request(2, &GET, END_STREAM), Code::ProtocolError),
    ];
    for (bytes, code) in cases {
        let mut client = Client::new(&SETTINGS);
        assert_eq!(closure(&client.exchange(&bytes)).code, code, "{bytes:?}");
    }
}

#[test]
fn an_error_of_the_client_is_reported_with_its_code() {
    let mut client = Client::new(&SETTINGS);
    let goaway = [0_u32.to_be_bytes(), 1_u32.to_be_bytes()].concat();
    let events = client.exchange(&frame(client::GOAWAY, 0, 0, &goaway));
    let closure = super::super::Closure::ByClient(1);
    assert_eq!(events, [Event::Closed(closure)]);
}
