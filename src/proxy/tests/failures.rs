//! Tests of failures: upstreams that refuse, break HTTP, stall or close; clients that abort.

use super::*;
use crate::limits::RESPONSE_STALL_TIMEOUT;

fn put(rig: &mut Rig, body: &[u8]) -> ExchangeKey {
    let content_length = Some(body.len() as u64);
    let key = rig.request(with_length(content_length, request(Method::PUT, "/put")), false);
    rig.body(key, body);
    rig.end_of_request(key);
    key
}

#[test]
fn a_refused_connect_is_tried_once_at_the_next_endpoint() {
    let mut rig = Rig::new(config(3, 4, 0));
    let exchange = rig.post(None);
    let first = rig.connects[0];
    let addresses = |rig: &Rig, key| rig.wires[&key].address.clone();
    let refused = addresses(&rig, first);
    rig.connect_failed(TransportFault::Refused);
    assert!(!rig.is_open(first));
    assert_ne!(addresses(&rig, rig.connects[0]), refused);
    rig.connect_failed(TransportFault::Refused);
    assert_eq!(rig.status(exchange), 502);
    assert_eq!(rig.record().outcome.error(), Some("connection_refused"));
    assert!(rig.connects.is_empty());
    // The third endpoint serves while the other two are ejected.
    for _ in 0..4 {
        rig.get("/");
    }
    let awake: BTreeSet<_> = rig.wires.values().map(|wire| format!("{:?}", wire.address)).collect();
    assert_eq!(awake.len(), 1);
    rig.pass(CONNECT_TIMEOUT);
    rig.pass(CONNECT_TIMEOUT);
    rig.assert_nothing_left();
}

#[test]
fn a_connect_that_hangs_is_504_and_a_single_endpoint_is_tried_once() {
    let mut rig = Rig::new(config(1, 4, 0));
    let exchange = rig.get("/");
    let upstream = rig.connects[0];
    rig.pass(CONNECT_TIMEOUT - Duration::from_millis(1));
    assert!(rig.is_open(upstream));
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.status(exchange), 504);
    assert_eq!(rig.record().outcome.error(), Some("connection_timeout"));
    assert!(!rig.is_open(upstream));
    rig.event(upstream, UpstreamEvent::Connected);
    assert!(rig.wires.is_empty(), "an event for a dead key does nothing");
    for (fault, status, error) in [
        (TransportFault::Refused, 502, "connection_refused"),
        (TransportFault::Unreachable, 502, "destination_ip_unroutable"),
        (TransportFault::TimedOut, 504, "connection_timeout"),
        (TransportFault::Missing, 502, "destination_unavailable"),
        (TransportFault::Forbidden, 502, "destination_ip_prohibited"),
        (TransportFault::Exhausted(Resource::Memory), 503, "proxy_internal_error"),
        (TransportFault::Reset, 502, "connection_terminated"),
    ] {
        let exchange = rig.get("/");
        rig.connect_failed(fault);
        assert_eq!((rig.status(exchange), rig.record().outcome.error()), (status, Some(error)));
    }
    rig.assert_nothing_left();
}

#[test]
fn a_stale_idle_connection_causes_no_error() {
    let mut rig = Rig::new(config(1, 4, 0));
    let (_, stale) = rig.active_get();
    rig.response(stale, OK);
    let exchange = rig.get("/again");
    rig.event(stale, UpstreamEvent::WriteFailed(TransportFault::Reset));
    rig.end(stale);
    assert!(!rig.is_open(stale));
    let fresh = rig.connected();
    assert!(rig.written(fresh).starts_with("GET /again"));
    rig.wrote(fresh);
    rig.end(fresh);
    assert_eq!(rig.status(exchange), 502, "one retry, not two");
    assert_eq!(rig.record().outcome.error(), Some("connection_terminated"));
    assert_eq!(rig.proxy.counters().exported.upstream_retries, 1);
    rig.assert_nothing_left();
}

#[test]
fn a_retry_after_a_stale_connection_opens_a_new_one_even_at_the_limit() {
    let mut rig = Rig::new(config(2, 1, 0));
    rig.get("/");
    rig.get("/");
    let kept = [rig.connected(), rig.connected()];
    for upstream in kept {
        rig.wrote(upstream);
        rig.response(upstream, OK);
    }
    let exchange = rig.get("/again");
    let stale = *kept.iter().find(|key| rig.wires[key].writing).expect("one is used");
    let idle = *kept.iter().find(|key| !rig.wires[key].writing).expect("one is not");
    rig.end(stale);
    // It is the other endpoint's turn, and its only connection may be stale too.
    assert!(!rig.is_open(idle), "it is closed to make room");
    let fresh = rig.connected();
    assert!(rig.written(fresh).starts_with("GET /again"));
    rig.wrote(fresh);
    rig.response(fresh, OK);
    assert!(rig.seen[&exchange].whole);
    rig.assert_nothing_left();
}

#[test]
fn a_request_that_the_upstream_may_have_processed_is_not_retried() {
    // A POST, a PUT whose body is gone, and a GET of whose response a byte came.
    for case in 0..3 {
        let mut rig = Rig::new(config(2, 4, 0));
        let (_, upstream) = rig.active_get();
        rig.response(upstream, OK);
        rig.get("/other-endpoint");
        let sibling = rig.connected();
        rig.wrote(sibling);
        rig.response(sibling, OK);
        let exchange = match case {
            0 => rig.request(request(Method::POST, "/"), true),
            1 => put(&mut rig, b"body"),
            _ => rig.get("/"),
        };
        rig.wrote(upstream);
        if case == 1 {
            rig.wrote(upstream);
        }
        if case == 2 {
            rig.response(upstream, "H");
        }
        rig.event(upstream, UpstreamEvent::Failed(TransportFault::Reset));
        assert_eq!(rig.status(exchange), 502, "case {case}");
        assert_eq!(rig.proxy.counters().exported.upstream_retries, 0);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_request_without_a_response_is_tried_once_at_another_endpoint() {
    // Either the request is written and no response arrives, or it is not even written.
    for takes in [true, false] {
        let mut rig = Rig::new(config(3, 4, 0));
        let exchange = rig.get("/");
        let mut asked = BTreeSet::new();
        for attempt in 1..=2 {
            let upstream = rig.connected();
            assert!(rig.written(upstream).starts_with("GET /"));
            asked.insert(format!("{:?}", rig.wires[&upstream].address));
            if takes {
                rig.wrote(upstream);
            }
            rig.pass(RESPONSE_TIMEOUT - Duration::from_millis(1));
            assert!(rig.is_open(upstream));
            rig.pass(Duration::from_millis(1));
            assert!(!rig.is_open(upstream));
            assert_eq!(rig.seen.contains_key(&exchange), attempt == 2, "attempt {attempt}");
        }
        assert_eq!((rig.status(exchange), asked.len()), (504, 2), "one retry at another endpoint");
        assert_eq!(rig.proxy.counters().exported.upstream_retries, 1);
        rig.assert_nothing_left();
    }
    let mut rig = Rig::new(config(2, 4, 0));
    let (exchange, _) = rig.active_get();
    rig.pass(RESPONSE_TIMEOUT);
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.response(upstream, OK);
    assert_eq!(rig.status(exchange), 200);
    rig.assert_nothing_left();
}

#[test]
fn a_late_response_is_504_without_a_retry_where_a_retry_is_impossible_or_unsafe() {
    type Ask = fn(&mut Rig) -> (ExchangeKey, UpstreamKey);
    let asks: [(&str, u16, Ask); 4] = [
        ("no other endpoint", 1, |rig| rig.active_get()),
        ("a POST", 2, |rig| {
            let exchange = rig.request(request(Method::POST, "/"), true);
            let upstream = rig.connected();
            rig.wrote(upstream);
            (exchange, upstream)
        }),
        ("its body is no longer buffered", 2, |rig| {
            let exchange = put(rig, b"body");
            let upstream = rig.connected();
            rig.wrote(upstream);
            (exchange, upstream)
        }),
        ("a response began", 2, |rig| {
            let (exchange, upstream) = rig.active_get();
            rig.response(upstream, "HTTP/1.1 2");
            (exchange, upstream)
        }),
    ];
    for (name, endpoint_count, ask) in asks {
        let mut rig = Rig::new(config(endpoint_count, 4, 0));
        let (exchange, upstream) = ask(&mut rig);
        rig.pass(RESPONSE_TIMEOUT);
        assert_eq!((rig.status(exchange), rig.is_open(upstream)), (504, false), "{name}");
        assert_eq!(
            (rig.record().outcome.error(), rig.proxy.counters().exported.upstream_retries),
            (Some("http_response_timeout"), 0)
        );
        rig.assert_nothing_left();
    }
}

#[test]
fn a_put_is_retried_while_its_body_is_still_buffered() {
    let mut rig = Rig::new(config(2, 4, 0));
    let exchange = rig.request(with_length(Some(4), request(Method::PUT, "/put")), false);
    let first = rig.connected();
    rig.body(exchange, b"body");
    rig.end_of_request(exchange);
    rig.event(first, UpstreamEvent::Failed(TransportFault::Reset));
    let second = rig.connected();
    assert!(rig.written(second).ends_with("content-length: 4\r\n\r\nbody"));
    rig.wrote(second);
    rig.response(second, OK);
    assert_eq!(rig.status(exchange), 200);
    rig.assert_nothing_left();
}

#[test]
fn unsolicited_bytes_close_the_connection() {
    let mut rig = Rig::new(config(1, 4, 0));
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, format!("{OK}HTTP/1.1 200 OK\r\n\r\n"));
    assert!(
        rig.seen[&exchange].whole && !rig.is_open(upstream),
        "bytes left over after the response"
    );

    let (_, upstream) = rig.active_get();
    rig.response(upstream, OK);
    assert!(rig.is_open(upstream));
    rig.response(upstream, "H");
    assert!(!rig.is_open(upstream), "while idle");

    let (_, upstream) = rig.active_get();
    rig.response(upstream, OK);
    rig.end(upstream);
    assert!(!rig.is_open(upstream), "closed by the upstream while idle");
    assert_eq!(rig.proxy.counters().exported.upstream_idle_discarded, 2);

    let head = rig.request(request(Method::HEAD, "/"), true);
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.response(upstream, OK);
    assert!(rig.seen[&head].whole && rig.seen[&head].body.is_empty());
    assert_eq!(rig.seen[&head].value("content-length"), Some("2"));
    assert!(!rig.is_open(upstream), "a body after a response to HEAD");
    rig.assert_nothing_left();
}

/// The bytes of one receive may arrive in parts: extra bytes after a response close the connection
/// in a later part too.
#[test]
fn bytes_in_a_later_part_after_a_response_close_its_connection() {
    let mut rig = Rig::new(config(1, 1, 1));
    let (exchange, upstream) = rig.active_get();
    rig.part(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no");
    assert!(!rig.seen[&exchange].whole);
    let waiting = rig.get("/waits");
    rig.part(upstream, "k");
    assert!(rig.seen[&exchange].whole && !rig.is_open(upstream));
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfake");
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.part(upstream, "HTTP/1.1 200 OK\r\n");
    assert!(rig.wires[&upstream].receiving, "one receive, in two parts");
    rig.response(upstream, "content-length: 2\r\n\r\nok");
    assert_eq!(rig.seen[&waiting].body, b"ok");
    assert_eq!(rig.proxy.gauges().idle, 1, "the last part ends the response: kept");
    rig.assert_nothing_left();
}

#[test]
fn an_early_response_is_passed_on_and_its_connection_is_not_kept() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(Some(1000));
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.body(exchange, b"some");
    rig.response(upstream, "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno");
    assert_eq!(rig.status(exchange), 413);
    let seen = &rig.seen[&exchange];
    assert!(seen.whole && seen.stopped && !rig.is_open(upstream));
    rig.body(exchange, b"more of it, dropped");
    rig.end_of_request(exchange);
    rig.assert_nothing_left();
}

#[test]
fn an_early_response_is_read_although_the_write_failed() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(Some(1000));
    let upstream = rig.connected();
    rig.body(exchange, b"some");
    rig.event(upstream, UpstreamEvent::WriteFailed(TransportFault::Reset));
    assert!(rig.seen[&exchange].stopped && rig.is_open(upstream));
    rig.response(upstream, "HTTP/1.1 413 Too Large\r\n\r\nno");
    rig.end(upstream);
    assert_eq!((rig.status(exchange), rig.seen[&exchange].whole), (413, true));

    let exchange = rig.post(Some(1000));
    let upstream = rig.connected();
    rig.event(upstream, UpstreamEvent::WriteFailed(TransportFault::Reset));
    rig.end(upstream);
    assert_eq!(rig.status(exchange), 502);

    let exchange = rig.post(Some(1000));
    let upstream = rig.connected();
    rig.event(upstream, UpstreamEvent::WriteFailed(TransportFault::Reset));
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(rig.status(exchange), 504);
    rig.assert_nothing_left();
}

#[test]
fn a_body_beyond_the_limit_is_413() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(None);
    let upstream = rig.connected();
    let piece = vec![0; 64 * 1024];
    for _ in 0..16 {
        rig.wrote(upstream);
        rig.body(exchange, &piece);
    }
    assert!(!rig.seen.contains_key(&exchange), "exactly the limit is allowed");
    rig.body(exchange, b"x");
    assert_eq!(rig.status(exchange), 413);
    assert!(rig.seen[&exchange].stopped && !rig.is_open(upstream));
    rig.assert_nothing_left();
}

#[test]
fn every_wait_has_a_timeout() {
    // The head is not complete, however many small pieces of it come.
    let mut rig = Rig::new(config(1, 1, 0));
    let (exchange, upstream) = rig.active_get();
    for crumb in "HTTP/1.1 ".bytes() {
        rig.pass(RESPONSE_TIMEOUT / 10);
        rig.response(upstream, [crumb]);
    }
    assert!(!rig.seen.contains_key(&exchange));
    rig.pass(RESPONSE_TIMEOUT / 10);
    assert_eq!(rig.status(exchange), 504);
    assert_eq!(rig.record().outcome.error(), Some("http_response_timeout"));
    // The rest of a body does not come.
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
    rig.pass(RESPONSE_TIMEOUT - Duration::from_secs(1));
    rig.response(upstream, "x");
    rig.pass(RESPONSE_TIMEOUT - Duration::from_secs(1));
    assert_eq!(rig.seen[&exchange].reset, None, "the timeout limits each pause, not the whole");
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.seen[&exchange].reset, Some(Outcome::UpstreamTimeout));
    // The upstream does not read the request.
    let exchange = rig.get("/");
    rig.connected();
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(
        (rig.status(exchange), rig.record().outcome.error()),
        (504, Some("connection_write_timeout"))
    );
    // The client does not read the response.
    rig.takes = false;
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, OK);
    rig.pass(RESPONSE_STALL_TIMEOUT - Duration::from_secs(1));
    rig.taken(exchange, 1);
    rig.pass(RESPONSE_STALL_TIMEOUT - Duration::from_secs(1));
    assert!(rig.records.last().unwrap().outcome.error().is_some(), "not over yet");
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.record().outcome, Outcome::ResponseStalled);
    rig.assert_nothing_left();
}

/// A byte now and then restarts every timeout of a pause: a few clients could hold all connections.
#[test]
fn a_body_that_trickles_does_not_hold_its_connection() {
    let mut rig = Rig::new(config(1, 2, 0));
    let slow = [0, 1].map(|_| {
        let exchange = rig.post(None);
        rig.body(exchange, b"x");
        let upstream = rig.connected();
        rig.wrote(upstream);
        exchange
    });
    for _ in 0..2 {
        assert!(
            slow.iter().all(|slow| rig.seen.get(slow).is_none_or(|seen| seen.status.is_none()))
        );
        rig.pass(BODY_TIMEOUT - Duration::from_secs(1));
        slow.into_iter().for_each(|slow| rig.body(slow, b"x"));
    }
    assert!(slow.iter().all(|slow| rig.status(*slow) == 408));
    // 100 bytes a second are enough.
    let steady = rig.post(None);
    rig.body(steady, b"x");
    let upstream = rig.connected();
    for _ in 0..100 {
        rig.wrote(upstream);
        rig.pass(Duration::from_secs(1));
        rig.body(steady, &[7; 100]);
    }
    assert!(rig.seen.get(&steady).is_none_or(|seen| seen.status.is_none()));
}

#[test]
fn a_response_that_is_taken_in_trickles_does_not_hold_its_connection() {
    let mut rig = Rig::new(config(1, 1, 0));
    rig.takes = false;
    let (exchange, upstream) = rig.active_get();
    rig.response(
        upstream,
        format!("HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n{}", "x".repeat(300_000)),
    );
    for _ in 0..2 {
        assert_eq!(rig.seen[&exchange].reset, None);
        rig.pass(RESPONSE_STALL_TIMEOUT - Duration::from_secs(1));
        rig.taken(exchange, 1);
    }
    assert_eq!(rig.record().outcome, Outcome::ResponseStalled);
    rig.assert_nothing_left();
}

#[test]
fn a_client_may_abort_at_any_time() {
    type Reach = fn(&mut Rig) -> ExchangeKey;
    let stages: [(&str, Reach); 8] = [
        ("holding", |rig| rig.request(request(Method::GET, "/"), false)),
        ("connecting", |rig| rig.get("/")),
        ("waiting", |rig| {
            rig.active_get();
            rig.get("/")
        }),
        ("writing", |rig| {
            let exchange = rig.post(None);
            rig.connected();
            exchange
        }),
        ("head expected", |rig| rig.active_get().0),
        ("answer begun", |rig| {
            let (exchange, upstream) = rig.active_get();
            rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx");
            exchange
        }),
        ("answer not taken", |rig| {
            let (exchange, upstream) = rig.active_get();
            rig.response(upstream, OK);
            exchange
        }),
        ("second try", |rig| {
            let (exchange, upstream) = rig.active_get();
            rig.response(upstream, OK);
            rig.abort(exchange);
            let exchange = rig.get("/");
            rig.wrote(upstream);
            rig.end(upstream);
            exchange
        }),
    ];
    for (stage, reach) in stages {
        let mut rig = Rig::new(config(1, 1, 1));
        rig.takes = false;
        let exchange = reach(&mut rig);
        let record_count = rig.records.len();
        rig.abort(exchange);
        assert_eq!(rig.records.len(), record_count + 1, "{stage}");
        assert_eq!(rig.record().handover, Handover::Cut, "{stage}");
        assert_eq!(rig.record().outcome, Outcome::ClientCancelled, "{stage}");
        let seen_len = rig.seen.get(&exchange).map(|seen| seen.body.len());
        rig.pass(RESPONSE_TIMEOUT);
        rig.pass(RESPONSE_TIMEOUT);
        assert_eq!(rig.seen.get(&exchange).map(|seen| seen.body.len()), seen_len, "{stage}");
        rig.abort(exchange);
        rig.takes = true;
        rig.pass(RESPONSE_STALL_TIMEOUT);
        rig.assert_nothing_left();
    }
}

#[test]
fn an_aborted_exchange_leaves_a_clean_connection_alone() {
    let mut rig = Rig::new(config(1, 1, 0));
    rig.takes = false;
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, OK);
    rig.abort(exchange);
    assert!(rig.is_open(upstream));
    assert_eq!(rig.record().response_len, 0, "no byte of it was taken");
    rig.assert_nothing_left();
}

/// Both move a byte now and then, which no other timeout ends.
#[test]
fn an_exchange_ends_at_the_deadline_of_its_route() {
    let mut config = config(1, 2, 0);
    config.routes[0].request_timeout = Some(Duration::from_secs(60));
    config.limits.rate_min = 0;
    let mut rig = Rig::new(config);
    let upload = rig.post(Some(1_000));
    let sink = rig.connected();
    let (download, upstream) = rig.active_get();
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    for _ in 0..7 {
        assert!(rig.seen[&download].reset.is_none() && !rig.seen.contains_key(&upload));
        rig.body(upload, b"x");
        rig.wrote(sink);
        rig.response(upstream, "x");
        rig.pass(Duration::from_secs(8));
    }
    rig.body(upload, b"x");
    rig.pass(Duration::from_secs(4));
    assert_eq!(rig.status(upload), 504);
    assert_eq!(rig.seen[&download].reset, Some(Outcome::Deadline));
    assert!(!rig.is_open(sink) && !rig.is_open(upstream));
    rig.assert_nothing_left();
}
