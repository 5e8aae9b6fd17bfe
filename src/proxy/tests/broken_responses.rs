//! Responses of upstreams that break off or break a rule of HTTP.

use super::*;

#[test]
fn truncation_is_never_a_clean_end() {
    let responses = [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ];
    for response in responses {
        let mut rig = Rig::new(config(1, 1, 0));
        let (exchange, upstream) = rig.active_get();
        rig.response(upstream, response);
        rig.end(upstream);
        let seen = &rig.seen[&exchange];
        assert_eq!((seen.reset, seen.whole), (Some(Outcome::UpstreamIncomplete), false));
        rig.assert_nothing_left();
    }
    // Without framing, a close completes the response and a reset does not.
    for (clean, whole) in [(true, true), (false, false)] {
        let mut rig = Rig::new(config(1, 1, 0));
        let (exchange, upstream) = rig.active_get();
        rig.response(upstream, "HTTP/1.1 200 OK\r\n\r\nhello");
        match clean {
            true => rig.end(upstream),
            false => rig.event(upstream, UpstreamEvent::Failed(TransportFault::Reset)),
        }
        assert_eq!(rig.seen[&exchange].whole, whole);
        assert!(!rig.is_open(upstream));
        rig.assert_nothing_left();
    }
}

#[test]
fn malformed_responses_are_502_until_the_head_has_left_and_a_reset_after_it() {
    let mut rig = Rig::new(config(1, 1, 0));
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n");
    assert_eq!(rig.status(exchange), 502);
    assert_eq!(rig.record().outcome.error(), Some("http_protocol_error"));
    assert!(!rig.is_open(upstream));

    let (exchange, upstream) = rig.active_get();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    rig.response(upstream, head);
    rig.response(upstream, "nonsense\r\n");
    assert_eq!(rig.seen[&exchange].reset, Some(Outcome::UpstreamProtocol));
    let record = rig.record();
    assert_eq!((record.status, record.handover), (Some(StatusCode::OK), Handover::Reset));
    assert_eq!(record.outcome.error(), Some("http_protocol_error"));
    assert_eq!(record.rule, Some("a chunk size is missing"));
    assert_eq!(record.outcome.upstream_failure(), Some(crate::metrics::UpstreamFailure::Protocol));
    assert!(!rig.is_open(upstream));

    // Head and fault come together, so nothing of the head has left. The interim response has.
    for body in ["5\r\nhello\r\n", ""] {
        let (exchange, upstream) = rig.active_get();
        let early = "HTTP/1.1 103 Early Hints\r\n\r\n";
        rig.response(upstream, format!("{early}{head}{body}nonsense\r\n"));
        let seen = &rig.seen[&exchange];
        assert_eq!((seen.reset, seen.whole, seen.interim.len()), (None, true, 1));
        assert!(seen.body.starts_with(b"502 Bad Gateway: a chunk size"));
        assert_eq!(rig.status(exchange), 502);
        let record = rig.record();
        assert_eq!((record.outcome, record.is_own), (Outcome::UpstreamProtocol, true));
        assert_eq!(record.response_len, rig.seen[&exchange].body.len() as u64);
    }

    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, "HTTP/1.1 200 OK\r\nx: ");
    rig.response(upstream, vec![b'x'; 16384]);
    assert_eq!(rig.status(exchange), 502);
    assert_eq!(rig.record().outcome.error(), Some("http_response_header_section_size"));

    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, "HTTP/1.1 200 O");
    rig.end(upstream);
    assert_eq!(rig.status(exchange), 502);
    assert_eq!(rig.record().outcome.error(), Some("http_response_incomplete"));
    rig.assert_nothing_left();
}

#[test]
fn the_rule_that_a_message_broke_is_recorded() {
    let mut rig = Rig::new(config(1, 1, 0));
    let without_body = with_length(Some(5), request(Method::GET, "/"));
    rig.request(without_body, true);
    assert_eq!(rig.record().rule, Some("the request has a content-length and no body"));
    assert_eq!(rig.record().outcome.upstream_failure(), None);

    rig.get("/");
    let upstream = rig.connected();
    rig.written(upstream);
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n");
    let record = rig.record();
    assert_eq!(record.rule, Some("the response's content-length is not a number"));
    assert_eq!(record.outcome.upstream_failure(), Some(crate::metrics::UpstreamFailure::Protocol));
    rig.assert_nothing_left();
}
