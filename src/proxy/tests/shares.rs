//! Shares of a client address: of the requests in flight, and of an upstream's connections and
//! queue.

use super::*;

const OTHER: [u8; 4] = [192, 0, 2, 2];

/// Returns four connections and four places in the queue, of which one address has a quarter while
/// no more are free.
fn shared() -> Config {
    let mut config = config(1, 4, 4);
    config.upstreams[0].connections_per_address = 25;
    config
}

fn request_of(rig: &mut Rig, client: [u8; 4]) -> ExchangeKey {
    let client = (client, 4433).into();
    rig.request(Request { client, ..request(Method::GET, "/") }, true)
}

#[test]
fn one_address_leaves_connections_to_others() {
    let mut rig = Rig::new(shared());
    let mine: Vec<_> = (0..4).map(|_| rig.get("/")).collect();
    // It takes as many as stay free for others, and waits for more.
    assert_eq!((rig.proxy.gauges().connections, rig.proxy.gauges().waiting), (2, 2));
    let other = request_of(&mut rig, OTHER);
    assert_eq!((rig.proxy.gauges().connections, rig.proxy.gauges().waiting), (3, 2));
    let upstreams = [rig.connected(), rig.connected(), rig.connected()];
    rig.wrote(upstreams[2]);
    rig.response(upstreams[2], OK);
    assert_eq!(rig.status(other), 200);
    // Its connection is idle now, and goes to the address that waits, for it holds no more than are
    // free: two are.
    assert_eq!((rig.proxy.gauges().idle, rig.proxy.gauges().waiting), (1, 2));
    rig.wrote(upstreams[0]);
    rig.response(upstreams[0], OK);
    assert_eq!(rig.status(mine[0]), 200);
    assert_eq!(rig.proxy.gauges().waiting, 1, "a connection of its own is free again");
    rig.pass(CONNECT_TIMEOUT);
    assert_eq!(rig.status(mine[3]), 503, "it has waited long enough");
    assert_eq!(rig.proxy.gauges().waiting, 0);
}

#[test]
fn an_address_that_waits_does_not_hold_up_another_behind_it() {
    let mut rig = Rig::new(shared());
    let addresses = [[192, 0, 2, 1], [192, 0, 2, 1], [192, 0, 2, 3], [192, 0, 2, 4]];
    let _in_use = addresses.map(|address| request_of(&mut rig, address));
    let upstreams = addresses.map(|_| rig.connected());
    let first_in_queue = request_of(&mut rig, [192, 0, 2, 1]);
    let second_in_queue = request_of(&mut rig, OTHER);
    assert_eq!(rig.proxy.gauges().waiting, 2);
    rig.wrote(upstreams[3]);
    rig.response(upstreams[3], OK);
    rig.wrote(upstreams[3]);
    rig.response(upstreams[3], OK);
    assert_eq!(rig.status(second_in_queue), 200, "the first one's address has its share");
    assert!(!rig.seen.contains_key(&first_in_queue));
}

#[test]
fn one_address_leaves_places_in_the_queue_to_others() {
    let mut rig = Rig::new(shared());
    let mine: Vec<_> = (0..6).map(|_| rig.get("/")).collect();
    assert_eq!((rig.proxy.gauges().connections, rig.proxy.gauges().waiting), (2, 2));
    assert_eq!((rig.status(mine[4]), rig.status(mine[5])), (503, 503));
    request_of(&mut rig, OTHER);
    request_of(&mut rig, OTHER);
    assert_eq!((rig.proxy.gauges().connections, rig.proxy.gauges().waiting), (3, 3));
}

#[test]
fn the_requests_in_flight_of_one_address_are_bounded() {
    let mut config = config(1, 10, 10);
    config.limits.requests_per_address = 3;
    let mut rig = Rig::new(config);
    let _in_flight = [rig.get("/"), rig.get("/"), rig.get("/")];
    let refused = rig.get("/");
    assert_eq!(rig.status(refused), 429);
    assert_eq!(rig.seen[&refused].value("retry-after"), Some("1"));
    let other = request_of(&mut rig, OTHER);
    assert!(!rig.seen.contains_key(&other), "another address is served");
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.response(upstream, OK);
    let next = rig.get("/");
    assert!(!rig.seen.contains_key(&next), "one of the three is over");
}

#[test]
fn a_trusted_proxy_speaks_for_many_clients() {
    let mut config = shared();
    config.limits.requests_per_address = 3;
    let mut rig = Rig::new(config);
    for _ in 0..6 {
        request_of(&mut rig, [10, 0, 0, 1]);
    }
    assert_eq!((rig.proxy.gauges().connections, rig.proxy.gauges().waiting), (4, 2));
}
