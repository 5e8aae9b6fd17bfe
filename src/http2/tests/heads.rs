//! Heads and trailers that are accepted, refused or malformed.

use http::StatusCode;

use super::super::{Code, Event};
use super::SETTINGS;
use super::client::{Client, END_STREAM, GET, HEADERS, POST, RST_STREAM, request};

/// The lines of a case.
type Lines<'a> = &'a [(&'a str, &'a str)];

/// Returns the events of a request with these lines after those of a GET.
fn events_with(lines: &[(&str, &str)]) -> (Client, Vec<Event>) {
    let mut client = Client::new(&SETTINGS);
    let events = client.exchange(&request(1, &[&GET[..], lines].concat(), END_STREAM));
    (client, events)
}

#[test]
fn heads_that_http_does_not_allow_are_refused_with_a_status() {
    let long = "x".repeat(SETTINGS.fields.field_section_len_max as usize);
    let many: Vec<String> = (0..21).map(|index| format!("x-{index}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let cases: [(Lines<'_>, StatusCode, &str); 6] = [
        (&[("x_y", "1")], StatusCode::BAD_REQUEST, "underscore"),
        (&[("host", "a.example"), ("host", "a.example")], StatusCode::BAD_REQUEST, "host"),
        (&[("expect", "200-ok")], StatusCode::EXPECTATION_FAILED, "expectation"),
        (&[("content-length", "0, 0")], StatusCode::BAD_REQUEST, "content-length"),
        (&[("x", &long)], StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "longer"),
        (&many, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "more fields"),
    ];
    for (lines, status, words) in cases {
        let (mut client, events) = events_with(lines);
        match &events[..] {
            [Event::Refused { stream: 1, refusal }] => {
                assert_eq!(refusal.status, status, "{refusal:?}");
                assert!(refusal.rule.contains(words), "{refusal:?}");
                assert_eq!(refusal.understood.method, Some(http::Method::GET));
                client.connection.respond(1, status, vec![], true);
                assert_eq!(client.frames_of(HEADERS).len(), 1);
            }
            // h2 reads content-length itself.
            [] if words == "content-length" => {
                assert_eq!(client.frames_of(RST_STREAM)[0].number(0), Code::ProtocolError.value());
            }
            other => panic!("{words}: {other:?}"),
        }
        assert!(client.connection.is_idle());
    }
}

#[test]
fn malformed_heads_reset_their_stream_only() {
    let cases: [(Lines<'_>, &str); 4] = [
        (&[("x", " y")], "whitespace"),
        (&[("x", "y\t")], "whitespace"),
        (&[("a\"b", "y")], "token"),
        (&[("host", "b.example")], "differ"),
    ];
    for (lines, words) in cases {
        let (mut client, events) = events_with(lines);
        let [Event::Malformed { stream: 1, rule, understood }] = &events[..] else {
            panic!("{words}: {events:?}")
        };
        assert!(rule.contains(words), "{rule}");
        assert!(understood.method.is_some());
        let events = client.exchange(&request(3, &GET, END_STREAM));
        assert!(matches!(events[..], [Event::Request { stream: 3, .. }]), "{events:?}");
    }
}

#[test]
fn a_malformed_stream_is_reset_with_protocol_error() {
    let mut client = Client::new(&SETTINGS);
    client.send(&request(1, &[&GET[..], &[("x", " y")]].concat(), END_STREAM));
    assert!(matches!(client.events()[..], [Event::Malformed { .. }]));
    let resets = client.frames_of(RST_STREAM);
    assert_eq!((resets.len(), resets[0].number(0)), (1, Code::ProtocolError.value()));
}

#[test]
fn lines_of_cookie_count_once() {
    let cookies = [("cookie", "a=1"); 40];
    let (_, events) = events_with(&cookies);
    let [Event::Request { head, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(head.fields.len(), 40);
}

#[test]
fn trailers_are_judged_too() {
    let cases = [("x-sum", None), ("te", Some("belongs to the head")), ("x_y", Some("underscore"))];
    for (name, words) in cases {
        let mut client = Client::new(&SETTINGS);
        client.exchange(&request(1, &POST, 0));
        let events = client.exchange(&request(1, &[(name, "trailers")], END_STREAM));
        match (&events[..], words) {
            ([Event::Trailers { fields, .. }, Event::End { stream: 1 }], None) => {
                assert_eq!(fields[0].0, name);
            }
            ([Event::Malformed { stream: 1, rule, .. }], Some(words)) => {
                assert!(rule.contains(words), "{rule}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_body_that_differs_from_content_length_is_malformed() {
    for body in [&b"1234"[..], b"123456"] {
        let mut client = Client::new(&SETTINGS);
        let lines = [&POST[..], &[("content-length", "5")]].concat();
        let events = client.exchange(&request(1, &lines, 0));
        let [Event::Request { head, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(head.content_length, Some(5));
        let data = super::client::frame(super::client::DATA, END_STREAM, 1, body);
        let events = client.exchange(&data);
        assert!(matches!(events[..], [Event::Malformed { stream: 1, .. }]), "{events:?}");
    }
}

/// Of `h2`'s own response to a head that is much too long nobody has a record.
#[test]
fn only_responses_to_requests_that_were_handed_out_end() {
    let long = "x".repeat(5_000);
    let (mut client, events) = events_with(&[("a", &long), ("b", &long)]);
    assert_eq!(events, []);
    let heads = client.frames_of(HEADERS);
    assert_eq!((heads[0].stream, heads[0].flags & END_STREAM), (1, END_STREAM));
    client.exchange(&request(3, &GET, END_STREAM));
    client.connection.respond(3, StatusCode::OK, Vec::new(), true);
    assert_eq!(client.connection.take_ended(), [0_u32; 0], "it has not been output");
    assert_eq!(client.frames_of(HEADERS).len(), 1);
    assert_eq!(client.connection.take_ended(), [3]);
}
