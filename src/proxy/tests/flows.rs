//! Tests of successful exchanges: bodies both ways, idle connections, queues, reloads.

use super::*;
use crate::limits::{REQUEST_PENDING_LEN_MAX, RESPONSE_PENDING_LEN_MAX, RESPONSE_STALL_TIMEOUT};

#[test]
fn two_requests_in_turn_use_the_same_upstream_connection() {
    let mut rig = Rig::new(config(1, 4, 0));
    let (first, upstream) = rig.active_get();
    rig.now += Duration::from_millis(5);
    rig.response(upstream, OK);
    assert_eq!(rig.status(first), 200);
    assert_eq!(rig.seen[&first].body, b"ok");
    assert!(rig.seen[&first].whole);
    let record = rig.record();
    assert_eq!((record.outcome, record.response_len), (Outcome::Complete, 2));
    assert_eq!(record.upstream.as_deref(), Some("127.0.0.1:8001"));
    assert_eq!(record.upstream_duration, Some(Duration::from_millis(5)));
    assert_eq!((record.outcome.error(), record.protocol), (None, Protocol::Http3));
    assert_eq!(rig.proxy.gauges().idle, 1);

    let second = rig.get("/second");
    assert!(rig.connects.is_empty(), "the kept connection is used");
    rig.wrote(upstream);
    rig.response(upstream, "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(rig.status(second), 404);
    assert_eq!(rig.proxy.counters().exported.upstream_reuses, 1);
    rig.assert_nothing_left();
}

#[test]
fn both_bodies_flow_at_once() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(None);
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.response(upstream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        rig.body(exchange, b"ping");
        rig.wrote(upstream);
        rig.response(upstream, "4\r\npong\r\n");
    }
    assert_eq!(rig.seen[&exchange].body, b"pongpongpong");
    let trailers = vec![field("x-sum", "7"), field("content-length", "9")];
    rig.proxy.handle_end(rig.now, exchange, Some(trailers));
    rig.run();
    rig.wrote(upstream);
    let written = rig.written(upstream);
    let body = &written[written.find("\r\n\r\n").unwrap() + 4..];
    assert_eq!(body, "4\r\nping\r\n4\r\nping\r\n4\r\nping\r\n0\r\nx-sum: 7\r\n\r\n");
    rig.response(upstream, "0\r\nx-end: 1\r\n\r\n");
    assert_eq!(rig.seen[&exchange].trailers, Some(vec![field("x-end", "1")]));
    assert_eq!((rig.record().request_len, rig.record().response_len), (12, 12));
    assert_eq!(rig.proxy.gauges().idle, 1, "both messages are complete: kept");
    rig.assert_nothing_left();
}

#[test]
fn a_body_of_its_declared_length_is_complete_once_the_client_ends_the_stream() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(Some(6));
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.body(exchange, b"bo");
    rig.wrote(upstream);
    rig.body(exchange, b"dies");
    assert!(rig.written(upstream).ends_with("\r\n\r\nbo"), "the last piece is not written");
    rig.end_of_request(exchange);
    rig.wrote(upstream);
    assert!(rig.written(upstream).ends_with("\r\n\r\nbodies"));
    rig.response(upstream, OK);
    assert!(rig.seen[&exchange].whole);
    assert_eq!(rig.proxy.gauges().idle, 1);
    rig.assert_nothing_left();
}

#[test]
fn a_client_that_sends_its_body_and_never_ends_the_stream_gets_408() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(Some(4));
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.body(exchange, b"body");
    rig.pass(BODY_TIMEOUT);
    assert_eq!(rig.status(exchange), 408);
    assert!(!rig.is_open(upstream));
    rig.assert_nothing_left();
}

#[test]
fn a_request_without_content_waits_for_the_end_of_its_stream() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(Some(0));
    assert!(rig.connects.is_empty(), "a body would make it malformed");
    rig.end_of_request(exchange);
    let upstream = rig.connected();
    rig.wrote(upstream);
    assert!(rig.written(upstream).ends_with("\r\ncontent-length: 0\r\n\r\n"));
    rig.response(upstream, OK);
    assert_eq!(rig.status(exchange), 200);

    let exchange = rig.post(Some(0));
    rig.body(exchange, b"x");
    assert_eq!(rig.status(exchange), 400);
    assert_eq!(rig.proxy.gauges().idle, 1, "nothing of it was sent");
    rig.assert_nothing_left();
}

#[test]
fn a_slow_upstream_pauses_the_client() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(None);
    assert_eq!(rig.proxy.body_room(exchange), REQUEST_PENDING_LEN_MAX);
    let piece = vec![7; 64 * 1024];
    let mut sent_len = 0;
    while rig.proxy.body_room(exchange) > 0 {
        rig.body(exchange, &piece);
        sent_len += piece.len();
    }
    assert_eq!(sent_len, REQUEST_PENDING_LEN_MAX);
    let upstream = rig.connected();
    assert_eq!(rig.proxy.body_room(exchange), 0, "what is being written still counts");
    rig.pass(BODY_TIMEOUT);
    assert_eq!(rig.seen.get(&exchange).and_then(|seen| seen.status), None, "no client timeout yet");
    rig.wrote(upstream);
    assert_eq!(rig.seen[&exchange].room_told, 1);
    assert_eq!(rig.proxy.body_room(exchange), REQUEST_PENDING_LEN_MAX);
    rig.pass(BODY_TIMEOUT);
    assert_eq!(rig.status(exchange), 408, "the timeout has passed");
    rig.assert_nothing_left();
}

#[test]
fn a_request_head_and_the_body_received_so_far_are_sent_in_one_write() {
    let mut rig = Rig::new(config(1, 1, 0));
    let (_, upstream) = rig.active_get();
    rig.response(upstream, OK);
    let post = with_length(Some(4), request(Method::POST, "/upload"));
    let downstream = Downstream { connection: 1, stream: 400 };
    let exchange = rig.proxy.handle_request(rig.now, downstream, post, false);
    rig.proxy.handle_body(rig.now, exchange, ["bo", "dy"].map(Bytes::from));
    rig.proxy.handle_end(rig.now, exchange, None);
    rig.run();
    assert!(rig.wires[&upstream].writing, "this write is not complete");
    assert!(rig.written(upstream).ends_with("\r\n\r\nbody"));
    rig.wrote(upstream);
    rig.response(upstream, OK);
    rig.assert_nothing_left();
}

#[test]
fn small_body_pieces_are_bounded_by_number_and_room_is_announced() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(None);
    let mut count = 0;
    while rig.proxy.body_room(exchange) > 0 {
        rig.body(exchange, b".");
        count += 1;
    }
    assert_eq!(count, crate::limits::REQUEST_PENDING_PIECES_MAX);
    let upstream = rig.connected();
    assert_eq!(rig.seen[&exchange].room_told, 1, "the first write made room");
    rig.end_of_request(exchange);
    while rig.wires[&upstream].writing {
        rig.wrote(upstream);
    }
    let written = rig.written(upstream);
    let body = written[written.find("\r\n\r\n").unwrap() + 4..].to_owned();
    let payload: usize = body.bytes().filter(|byte| *byte == b'.').count();
    assert_eq!(payload, count);
    assert!(body.ends_with("0\r\n\r\n"));
    rig.response(upstream, OK);
    assert_eq!(rig.status(exchange), 200);
    rig.assert_nothing_left();
}

#[test]
fn a_slow_client_pauses_the_upstream() {
    let mut rig = Rig::new(config(1, 1, 0));
    rig.takes = false;
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
    let piece = vec![7; 64 * 1024];
    let mut given_len = 0;
    while rig.wires[&upstream].receiving {
        rig.response(upstream, &piece);
        given_len += piece.len();
    }
    assert_eq!(given_len, RESPONSE_PENDING_LEN_MAX);
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(rig.seen[&exchange].reset, None, "no upstream timeout");
    rig.taken(exchange, 1);
    assert!(rig.wires[&upstream].receiving, "there is room again");
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(rig.seen[&exchange].reset, Some(Outcome::UpstreamTimeout), "the timeout has passed");
    rig.assert_nothing_left();
}

#[test]
fn when_memory_is_low_a_response_is_read_on_only_after_it_was_taken() {
    let mut rig = Rig::new(config(1, 1, 0));
    rig.takes = false;
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
    assert!(rig.wires[&upstream].receiving, "memory is available");
    rig.proxy.set_memory_low(true);
    rig.response(upstream, "def");
    assert!(!rig.wires[&upstream].receiving);
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(rig.seen[&exchange].reset, None, "no upstream timeout");
    rig.taken(exchange, 5);
    assert!(!rig.wires[&upstream].receiving, "one byte still waits");
    rig.taken(exchange, 1);
    assert!(rig.wires[&upstream].receiving, "it continues even when memory is low");
    rig.response(upstream, "ghi");
    rig.taken(exchange, 3);
    assert_eq!(rig.record().outcome, Outcome::Complete);
    rig.assert_nothing_left();
}

/// A response paused for lack of memory is read on when the client takes some of it, not when
/// memory is available again: a write that completes in between starts no timeout.
#[test]
fn the_response_timeout_does_not_run_while_low_memory_pauses_reading() {
    let mut rig = Rig::new(config(1, 1, 0));
    rig.takes = false;
    let exchange = rig.get("/");
    let upstream = rig.connected();
    rig.proxy.set_memory_low(true);
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
    rig.proxy.set_memory_low(false);
    rig.wrote(upstream);
    assert!(!rig.wires[&upstream].receiving);
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(rig.seen[&exchange].reset, None, "no upstream timeout");
    rig.taken(exchange, 1);
    assert!(rig.wires[&upstream].receiving);
    rig.response(upstream, "defghi");
    rig.taken(exchange, 8);
    assert_eq!(rig.record().outcome, Outcome::Complete);
    rig.assert_nothing_left();
}

/// The gateway pauses a receive because too much waits for one client or for all of them.
#[test]
fn the_response_timeout_does_not_run_while_a_receive_is_paused() {
    let mut config = config(1, 1, 0);
    config.limits.rate_min = 0;
    let mut rig = Rig::new(config);
    (rig.takes, rig.pauses) = (false, true);
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
    assert!(rig.wires[&upstream].receiving, "nothing waits");
    rig.response(upstream, "abc");
    assert!(!rig.wires[&upstream].receiving);
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(rig.seen[&exchange].reset, None, "no upstream timeout");
    rig.taken(exchange, 1);
    assert!(!rig.wires[&upstream].receiving, "resumed, then paused again");
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(rig.seen[&exchange].reset, None);
    rig.taken(exchange, 2);
    assert!(rig.wires[&upstream].receiving, "nothing waits now");
    rig.pass(RESPONSE_TIMEOUT);
    assert_eq!(rig.seen[&exchange].reset, Some(Outcome::UpstreamTimeout), "the timeout has passed");
    rig.assert_nothing_left();
}

#[test]
fn a_paused_response_ends_when_the_client_aborts_or_stalls() {
    for leaves in [false, true] {
        let mut rig = Rig::new(config(1, 1, 0));
        (rig.takes, rig.pauses) = (false, true);
        let (exchange, upstream) = rig.active_get();
        rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
        let ended = if leaves {
            rig.abort(exchange);
            Outcome::ClientCancelled
        } else {
            rig.pass(RESPONSE_STALL_TIMEOUT);
            Outcome::ResponseStalled
        };
        assert_eq!(rig.record().outcome, ended);
        assert!(!rig.is_open(upstream));
        rig.proxy.handle_response_taken(rig.now, exchange, 3);
        rig.proxy.pause_receive(rig.now, upstream);
        assert!(rig.proxy.poll(rig.now).is_none(), "both keys are dead");
        rig.assert_nothing_left();
    }
}

#[test]
fn the_exchange_lasts_until_its_response_is_taken() {
    let mut rig = Rig::new(config(1, 1, 0));
    rig.takes = false;
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, OK);
    assert!(rig.seen[&exchange].whole && rig.records.is_empty());
    assert_eq!(rig.proxy.gauges().idle, 1, "the connection does not wait for the client");
    rig.taken(exchange, 1);
    assert!(rig.records.is_empty());
    rig.taken(exchange, 1);
    assert_eq!(rig.record().outcome, Outcome::Complete);
    rig.assert_nothing_left();
}

#[test]
fn a_response_before_the_last_write_is_reported_leaves_a_reusable_connection() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.get("/");
    let upstream = rig.connected();
    rig.response(upstream, OK);
    assert_eq!(rig.status(exchange), 200);
    assert_eq!(rig.proxy.gauges().idle, 0);
    rig.wrote(upstream);
    assert_eq!(rig.proxy.gauges().idle, 1);
    rig.assert_nothing_left();
}

#[test]
fn kept_connections_are_used_last_in_first_out_and_expire() {
    let mut rig = Rig::new(config(1, 4, 0));
    let exchanges = [rig.get("/1"), rig.get("/2")];
    let upstreams = [rig.connected(), rig.connected()];
    for upstream in upstreams {
        rig.wrote(upstream);
        rig.response(upstream, OK);
        rig.now += Duration::from_secs(1);
    }
    assert!(exchanges.iter().all(|exchange| rig.seen[exchange].whole));
    rig.get("/3");
    assert!(rig.written(upstreams[1]).contains("GET /3"));
    rig.wrote(upstreams[1]);
    rig.response(upstreams[1], OK);
    rig.pass(IDLE_TIMEOUT - Duration::from_secs(2));
    assert!(!rig.is_open(upstreams[0]), "its idle timeout has passed");
    assert!(rig.is_open(upstreams[1]), "used more recently");
    rig.pass(Duration::from_secs(3));
    assert!(rig.proxy.is_idle());
    rig.assert_nothing_left();
}

#[test]
fn requests_are_distributed_by_weight() {
    let mut weighted = config(2, 100, 0);
    weighted.upstreams[0].endpoints[0].weight = 3;
    let mut rig = Rig::new(weighted);
    for _ in 0..8 {
        rig.get("/");
    }
    let first = EndpointAddress::Tcp(([127, 0, 0, 1], 8001).into());
    let share = rig.wires.values().filter(|wire| wire.address.as_ref() == Some(&first)).count();
    assert_eq!((share, rig.wires.len()), (6, 8));
}

#[test]
fn requests_wait_in_order_and_the_queue_is_bounded() {
    let mut rig = Rig::new(config(1, 1, 2));
    let (first, upstream) = rig.active_get();
    let waiting = [rig.get("/1"), rig.get("/2")];
    let refused = rig.get("/3");
    assert_eq!(rig.status(refused), 503);
    assert_eq!(rig.seen[&refused].value("retry-after"), Some("1"));
    assert_eq!(rig.record().outcome.error(), Some("connection_limit_reached"));
    assert_eq!(rig.proxy.gauges().waiting, 2);

    rig.response(upstream, OK);
    assert!(rig.seen[&first].whole);
    assert!(rig.written(upstream).contains("GET /1"), "first in, first out");
    rig.abort(waiting[0]);
    assert!(!rig.is_open(upstream));
    let upstream = rig.connected();
    assert!(rig.written(upstream).contains("GET /2"), "a new connection in the closed one's place");
    rig.wrote(upstream);
    rig.response(upstream, OK);
    assert!(rig.seen[&waiting[1]].whole);

    let (_, _) = (rig.get("/4"), rig.get("/5"));
    rig.pass(CONNECT_TIMEOUT);
    assert_eq!(rig.record().status, Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(rig.proxy.gauges().waiting, 0);
    rig.pass(RESPONSE_TIMEOUT);
    rig.assert_nothing_left();
}

#[test]
fn workers_divide_the_limits_of_the_process() {
    let mut rig = Rig::new(config(1, 1, 0));
    rig.proxy = Proxy::new(Arc::new(config(1, 5, 3)), 4);
    let keys: Vec<_> = (0..4).map(|_| rig.get("/")).collect();
    assert_eq!(rig.connects.len(), 2, "5 over 4 workers, rounded up");
    assert_eq!(rig.proxy.gauges().waiting, 1, "3 over 4 workers, rounded up");
    assert_eq!(rig.status(keys[3]), 503);
}

#[test]
fn a_reload_keeps_connections_and_requests_end_under_the_configuration_before() {
    let mut both = config(1, 2, 2);
    both.upstreams.push(Upstream { name: "other".into(), ..both.upstreams[0].clone() });
    both.routes
        .insert(0, Route { path_prefix: "/other".into(), upstream: 1, ..both.routes[0].clone() });
    let mut rig = Rig::new(both.clone());
    let (_, kept) = rig.active_get();
    rig.response(kept, OK);
    let other = rig.get("/other");
    let changed = rig.connected();
    rig.wrote(changed);
    let idle = rig.get("/other");
    let idle_upstream = rig.connected();
    rig.wrote(idle_upstream);
    rig.response(idle_upstream, OK);
    assert!(rig.seen[&idle].whole);

    both.upstreams[1].response_timeout = Duration::from_secs(1);
    rig.proxy.apply(rig.now, Arc::new(both));
    rig.run();
    assert!(rig.is_open(kept), "its upstream did not change");
    assert!(rig.is_open(idle_upstream), "its endpoint did not change");
    rig.pass(Duration::from_secs(2));
    assert!(!rig.seen.contains_key(&other), "it keeps the configuration it began with");
    rig.response(changed, OK);
    assert!(rig.seen[&other].whole && rig.is_open(changed), "kept when it is released");
    let fresh = rig.get("/other");
    assert!(rig.connects.is_empty() && rig.written(changed).contains("/other"), "and used");
    rig.wrote(changed);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.status(fresh), 504, "the new timeout");
    rig.assert_nothing_left();
    assert_eq!(rig.proxy.upstreams.unused_group_count(), 2, "the old group is gone");
}

#[test]
fn a_drained_proxy_keeps_no_connection() {
    let mut rig = Rig::new(config(1, 2, 0));
    let (_, idle) = rig.active_get();
    let running = rig.get("/");
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.response(idle, OK);
    rig.proxy.drain(rig.now);
    rig.run();
    assert!(!rig.is_open(idle) && !rig.proxy.is_idle());
    rig.response(upstream, OK);
    assert!(rig.seen[&running].whole && rig.proxy.is_idle());
    rig.assert_nothing_left();
}
