//! Tests of requests that wait for a connection: which one they get, and what it says of an
//! endpoint if none can be opened.

use super::*;

/// Returns the connection that writes a request.
fn writing(rig: &Rig) -> UpstreamKey {
    *rig.wires.iter().find(|(_, wire)| wire.writing).expect("one writes").0
}

#[test]
fn a_request_whose_own_connect_hangs_takes_the_first_connection_that_is_free() {
    let mut rig = Rig::new(config(1, 8, 0));
    let (first, kept) = rig.active_get();
    let (second, third) = (rig.get("/second"), rig.get("/third"));
    let hanging: Vec<_> = rig.connects.iter().copied().collect();
    rig.response(kept, OK);
    assert_eq!(rig.status(first), 200);
    // The one that has waited longest gets it, at once.
    assert!(rig.written(kept).contains("GET /second"));
    assert!(!rig.seen.contains_key(&third) && !rig.written(kept).contains("GET /third"));
    rig.wrote(kept);
    rig.response(kept, OK);
    assert!(rig.written(kept).contains("GET /third"));
    rig.wrote(kept);
    rig.response(kept, OK);
    assert_eq!((rig.status(second), rig.status(third)), (200, 200));
    // Their own connections are opened all the same, and kept.
    for key in &hanging {
        assert!(rig.is_open(*key) && rig.written(*key).is_empty());
        rig.event(*key, UpstreamEvent::Connected);
        assert!(rig.wires[key].receiving, "it is watched");
    }
    rig.connects.clear();
    assert_eq!(rig.proxy.gauges().idle, 3);
    rig.get("/fourth");
    assert!(hanging.contains(&writing(&rig)), "the newest is used first");
    let key = writing(&rig);
    rig.wrote(key);
    rig.response(key, OK);
    assert_eq!(rig.records.last().unwrap().upstream.as_deref(), Some("127.0.0.1:8001"));
    rig.assert_nothing_left();
}

#[test]
fn a_connection_that_is_opened_for_nobody_may_fail_or_come_too_late() {
    type End = fn(&mut Rig, UpstreamKey);
    let ends: [(&str, u64, End); 4] = [
        ("refused", 1, |rig, key| {
            rig.event(key, UpstreamEvent::ConnectFailed(TransportFault::Refused));
        }),
        ("late", 0, |rig, _| rig.pass(CONNECT_TIMEOUT)),
        ("drained", 0, |rig, _| {
            rig.proxy.drain(rig.now);
            rig.run();
        }),
        ("replaced", 0, |rig, _| {
            let mut changed = config(1, 8, 0);
            changed.upstreams[0].max_waiting = 7;
            rig.proxy.apply(rig.now, Arc::new(changed));
            rig.run();
        }),
    ];
    for (name, ejection_count, end) in ends {
        let mut rig = Rig::new(config(1, 8, 0));
        let (_, kept) = rig.active_get();
        let second = rig.get("/second");
        let hanging = rig.connects[0];
        rig.response(kept, OK);
        end(&mut rig, hanging);
        assert!(!rig.is_open(hanging), "{name}");
        rig.wrote(kept);
        rig.response(kept, OK);
        assert_eq!(rig.status(second), 200, "{name}");
        let counted = rig.ejection_count();
        assert_eq!(counted, ejection_count, "{name}");
        rig.assert_nothing_left();
    }
}

#[test]
fn the_queue_is_served_before_requests_that_have_a_connection_on_the_way() {
    let mut rig = Rig::new(config(1, 2, 8));
    let (_, kept) = rig.active_get();
    rig.get("/connecting");
    rig.get("/queued");
    assert_eq!((rig.proxy.gauges().waiting, rig.connects.len()), (1, 1));
    for path in ["/queued", "/connecting"] {
        rig.response(kept, OK);
        assert!(rig.written(kept).contains(&format!("GET {path} ")), "{path}");
        rig.wrote(kept);
    }
    rig.response(kept, OK);
    rig.connected();
    assert_eq!(rig.records.len(), 3);
    rig.assert_nothing_left();
}

/// Another endpoint's connections are not its own: the shares of the endpoints are kept.
#[test]
fn a_request_waits_for_the_endpoint_that_was_chosen_for_it() {
    let mut rig = Rig::new(config(2, 8, 0));
    let (_, kept) = rig.active_get();
    let other = rig.get("/other");
    let own = rig.connects[0];
    rig.response(kept, OK);
    assert!(!rig.wires[&kept].writing && rig.is_open(own));
    rig.connected();
    rig.wrote(own);
    rig.response(own, OK);
    assert_eq!(rig.status(other), 200);
    rig.assert_nothing_left();
}

#[test]
fn a_full_accept_queue_is_not_ill_health() {
    // The endpoint responds while the connect hangs, or does not; a unix socket hangs for no other
    // reason.
    let unix = EndpointAddress::Unix("/run/app.sock".into());
    let tcp = EndpointAddress::Tcp(([127, 0, 0, 1], 8001).into());
    for (address, responds, ejections) in
        [(&tcp, false, 1), (&tcp, true, 0), (&unix, false, 0), (&unix, true, 0)]
    {
        let mut config = config(1, 8, 0);
        config.upstreams[0].endpoints[0].address = address.clone();
        let mut rig = Rig::new(config);
        let (_, busy) = rig.active_get();
        let (_, slow) = rig.active_get();
        let late = rig.get("/late");
        rig.pass(CONNECT_TIMEOUT / 2);
        if responds {
            // Its body is not over, so nobody can use the connection.
            rig.response(busy, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no");
        }
        rig.pass(CONNECT_TIMEOUT / 2);
        assert_eq!(
            (rig.status(late), rig.record().outcome.error()),
            (504, Some("connection_timeout"))
        );
        let counted = rig.ejection_count();
        assert_eq!(counted, ejections, "{address:?}, responds: {responds}");
        rig.response(busy, if responds { "k" } else { OK });
        rig.response(slow, OK);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_connection_is_closed_before_its_upstream_says_that_it_closes_it() {
    let ms = Duration::from_millis;
    for (said, kept) in [
        ("", IDLE_TIMEOUT),
        ("keep-alive: timeout=5\r\n", ms(4000)),
        ("connection: keep-alive\r\nkeep-alive: timeout=15, max=100\r\n", ms(14_000)),
        ("keep-alive: timeout=1\r\n", ms(500)),
        ("keep-alive: timeout=3600\r\n", IDLE_TIMEOUT),
        ("keep-alive: timeout=soon\r\n", IDLE_TIMEOUT),
        ("keep-alive: timeout=99999999999999999999\r\n", IDLE_TIMEOUT),
    ] {
        let mut rig = Rig::new(config(1, 8, 0));
        let (_, upstream) = rig.active_get();
        rig.response(upstream, format!("HTTP/1.1 200 OK\r\n{said}content-length: 2\r\n\r\nok"));
        rig.pass(kept - ms(1));
        assert!(rig.is_open(upstream), "{said:?}");
        rig.pass(ms(1));
        assert!(!rig.is_open(upstream), "{said:?}");
        rig.assert_nothing_left();
    }
    for said in ["timeout=0", "timeout=5, max=0"] {
        let mut rig = Rig::new(config(1, 8, 0));
        let (exchange, upstream) = rig.active_get();
        rig.response(
            upstream,
            format!("HTTP/1.1 200 OK\r\nkeep-alive: {said}\r\ncontent-length: 2\r\n\r\nok"),
        );
        assert!(rig.seen[&exchange].whole && !rig.is_open(upstream), "{said}");
        rig.assert_nothing_left();
    }
}
