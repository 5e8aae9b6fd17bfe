//! A reload that changes an upstream: its other endpoints keep connections and health.

use super::*;

fn endpoint(rig: &Rig, key: UpstreamKey) -> String {
    let address = rig.wires[&key].address.clone();
    let Some(EndpointAddress::Tcp(address)) = address else { panic!("{address:?}") };
    address.to_string()
}

/// Returns a rig with an idle connection to each of three endpoints, and the connections.
fn with_idle_ones() -> (Rig, Vec<UpstreamKey>) {
    let mut rig = Rig::new(config(3, 8, 0));
    let mut idle = Vec::new();
    for _ in 0..3 {
        rig.get("/");
    }
    for _ in 0..3 {
        let key = rig.connected();
        rig.wrote(key);
        idle.push(key);
    }
    idle.iter().for_each(|key| rig.response(*key, OK));
    idle.sort_by_key(|key| endpoint(&rig, *key));
    (rig, idle)
}

#[test]
fn only_the_connections_of_an_endpoint_that_is_removed_are_closed() {
    let (mut rig, idle) = with_idle_ones();
    let mut without = config(3, 8, 0);
    without.upstreams[0].endpoints.remove(1);
    rig.proxy.apply(rig.now, Arc::new(without));
    rig.run();
    let open: Vec<bool> = idle.iter().map(|key| rig.is_open(*key)).collect();
    assert_eq!(open, [true, false, true]);
    assert_eq!(rig.proxy.gauges().idle, 2);
    // They are used as before.
    for _ in 0..4 {
        let exchange = rig.get("/");
        assert!(rig.connects.is_empty());
        let busy = *rig.wires.iter().find(|(_, wire)| wire.writing).unwrap().0;
        assert!(busy == idle[0] || busy == idle[2]);
        rig.wrote(busy);
        rig.response(busy, OK);
        assert!(rig.seen[&exchange].whole);
    }
    rig.assert_nothing_left();
}

#[test]
fn connections_beyond_a_lower_limit_or_with_another_congestion_control_are_closed() {
    for (name, kept, change) in [
        ("limit", 1, (|upstream| upstream.max_connections = 1) as fn(&mut Upstream)),
        ("congestion", 0, |upstream| upstream.congestion = Some("reno".into())),
        ("name", 0, |upstream| upstream.name = "renamed".into()),
        ("timeout", 2, |upstream| upstream.response_timeout = Duration::from_secs(1)),
    ] {
        let mut rig = Rig::new(config(1, 8, 0));
        let (_, one) = rig.active_get();
        rig.get("/");
        let other = rig.connected();
        rig.wrote(other);
        rig.response(one, OK);
        let mut changed = config(1, 8, 0);
        change(&mut changed.upstreams[0]);
        rig.proxy.apply(rig.now, Arc::new(changed));
        rig.run();
        rig.response(other, OK);
        let open_count = [one, other].iter().filter(|key| rig.is_open(**key)).count();
        assert_eq!(open_count, kept, "{name}");
        rig.assert_nothing_left();
        assert_eq!(rig.proxy.upstreams.unused_group_count(), 1, "{name}: the old group is gone");
    }
}

#[test]
fn an_ejected_endpoint_stays_ejected() {
    let mut rig = Rig::new(config(2, 8, 0));
    let exchange = rig.get("/");
    let failed = rig.connect_failed(TransportFault::Refused);
    let ejected = rig.proxy.endpoints().iter().position(|one| one.is_ejected).unwrap();
    assert!(!rig.is_open(failed));
    let served = rig.connected();
    rig.wrote(served);
    rig.response(served, OK);
    assert!(rig.seen[&exchange].whole);
    let mut changed = config(2, 8, 0);
    changed.upstreams[0].endpoints.reverse();
    changed.upstreams[0].health.failure_count = 1;
    rig.proxy.apply(rig.now, Arc::new(changed));
    let endpoints = rig.proxy.endpoints();
    let states: Vec<bool> = endpoints.iter().map(|one| one.is_ejected).collect();
    assert_eq!((states[1 - ejected], states[ejected]), (true, false), "in the other order");
    assert_eq!(endpoints[1 - ejected].ejection_count, 1, "counters go on");
    for _ in 0..10 {
        rig.get("/");
        rig.wrote(served);
        rig.response(served, OK);
    }
    assert!(rig.connects.is_empty(), "the ejected one gets no request");
    rig.pass(HEALTH.pause);
    let tried = (0..2).any(|_| {
        rig.get("/");
        if rig.connects.is_empty() {
            rig.wrote(served);
            rig.response(served, OK);
            return false;
        }
        let trial = rig.connected();
        rig.wrote(trial);
        rig.response(trial, OK);
        true
    });
    assert!(tried, "and its trial when the pause of before is over");
    assert!(rig.proxy.endpoints().iter().all(|one| !one.is_ejected));
    rig.assert_nothing_left();
}
