//! Tests of silent upstreams under the default configuration: how long one may be silent, and that
//! a silent request is not sent a second time.

use super::*;

/// Returns the default configuration, with two endpoints.
fn by_default() -> Config {
    let mut config = crate::config::testing::minimal(([127, 0, 0, 1], 8001).into());
    let address = EndpointAddress::Tcp(([127, 0, 0, 1], 8002).into());
    config.upstreams[0].endpoints.push(Endpoint { name: None, address, weight: 1 });
    config
}

/// Returns a proxy as [`by_default`], with the path of the request that it has sent.
fn asked(retry: Option<RetryOn>) -> (Rig, ExchangeKey, UpstreamKey) {
    let mut config = by_default();
    config.upstreams[0].retry = retry.unwrap_or(config.upstreams[0].retry);
    let mut rig = Rig::new(config);
    let (exchange, upstream) = rig.active_get();
    (rig, exchange, upstream)
}

#[test]
fn an_event_stream_with_a_heartbeat_every_30_seconds_lives() {
    let (mut rig, exchange, upstream) = asked(None);
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: begin\n\n");
    for _ in 0..100 {
        rig.pass(Duration::from_secs(30));
        rig.response(upstream, ": heartbeat\n\n");
    }
    assert_eq!(rig.seen[&exchange].body.len(), 9 + 100 * 13);
    assert_eq!(rig.seen[&exchange].reset, None);
    rig.abort(exchange);
    rig.assert_nothing_left();
}

#[test]
fn a_long_poll_of_55_seconds_is_answered_by_the_endpoint_that_was_asked() {
    let (mut rig, exchange, upstream) = asked(None);
    rig.pass(Duration::from_secs(55));
    rig.response(upstream, OK);
    assert_eq!(rig.status(exchange), 200);
    assert_eq!(rig.proxy.counters().exported.upstream_retries, 0);
    rig.assert_nothing_left();
}

#[test]
fn a_request_without_a_response_is_sent_again_only_if_the_operator_says_so() {
    for (retry, statuses) in [
        (None, [504, 502]),
        (Some(RetryOn::Connect), [504, 502]),
        (Some(RetryOn::Broken), [504, 200]),
        (Some(RetryOn::Timeout), [200, 200]),
    ] {
        for (is_broken, status) in [false, true].into_iter().zip(statuses) {
            let (mut rig, exchange, upstream) = asked(retry);
            if is_broken {
                rig.end(upstream);
            } else {
                rig.pass(Duration::from_secs(60));
            }
            if status == 200 {
                let second = rig.connected();
                rig.wrote(second);
                rig.response(second, OK);
            }
            assert_eq!(rig.status(exchange), status, "{retry:?}, broken: {is_broken}");
            assert!(rig.connects.is_empty(), "nothing more is tried");
            rig.assert_nothing_left();
        }
    }
}

/// Nothing of the request was sent, or the upstream had closed the connection before it came.
#[test]
fn a_request_that_reached_no_upstream_is_always_sent_again() {
    for fault in [TransportFault::Refused, TransportFault::TimedOut] {
        let mut rig = Rig::new(by_default());
        let exchange = rig.get("/");
        rig.connect_failed(fault);
        let second = rig.connected();
        rig.wrote(second);
        rig.response(second, OK);
        assert_eq!(rig.status(exchange), 200, "{fault:?}");
        rig.assert_nothing_left();
    }
    let (mut rig, _, kept) = asked(None);
    rig.response(kept, OK);
    // Its turn comes again with the next request but one.
    let exchange = [rig.get("/"), rig.get("/")];
    let other = rig.connected();
    rig.wrote(other);
    rig.response(other, OK);
    rig.end(kept);
    let fresh = rig.connected();
    rig.wrote(fresh);
    rig.response(fresh, OK);
    assert!(exchange.iter().all(|exchange| rig.status(*exchange) == 200));
    rig.assert_nothing_left();
}

/// RFC 9110 9.2.2: safe methods are idempotent, the registered ones of other RFCs too.
#[test]
fn a_kept_connection_that_turns_out_closed_is_replaced_for_idempotent_methods() {
    for (name, is_replaced) in [
        ("GET", true),
        ("PROPFIND", true),
        ("REPORT", true),
        ("SEARCH", true),
        ("QUERY", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("MOVE", false),
        ("UNKNOWN", false),
    ] {
        let mut rig = Rig::new(config(1, 8, 0));
        let (_, kept) = rig.active_get();
        rig.response(kept, OK);
        let method = Method::from_bytes(name.as_bytes()).unwrap();
        let exchange = rig.request(request(method, "/again"), true);
        rig.wrote(kept);
        rig.end(kept);
        if is_replaced {
            let fresh = rig.connected();
            assert!(rig.written(fresh).starts_with(&format!("{name} /again ")));
            rig.wrote(fresh);
            rig.response(fresh, OK);
        }
        assert_eq!(rig.status(exchange), if is_replaced { 200 } else { 502 }, "{name}");
        rig.assert_nothing_left();
    }
}
