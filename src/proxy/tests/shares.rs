//! Shares of a client address: of the requests in flight, and of an upstream's connections and
//! queue.

use super::*;

const OTHER: [u8; 4] = [192, 0, 2, 2];

/// Returns 16 connections and 16 places in the queue, of which one address has a quarter while no
/// more are free.
fn shared() -> Config {
    let mut config = config(1, 16, 16);
    config.upstreams[0].connections_per_address = 25;
    config
}

fn request_of(rig: &mut Rig, client: [u8; 4]) -> ExchangeKey {
    let client = (client, 4433).into();
    rig.request(
        Request { sender: Sender { address: client, ..sender() }, ..request(Method::GET, "/") },
        true,
    )
}

/// Returns the numbers of connections and of exchanges that wait for one.
fn counts(rig: &Rig) -> (usize, usize) {
    (rig.proxy.gauges().connections, rig.proxy.gauges().waiting)
}

#[test]
fn one_address_leaves_connections_to_others() {
    let mut rig = Rig::new(shared());
    let mine: Vec<_> = (0..16).map(|_| rig.get("/")).collect();
    assert_eq!(counts(&rig), (8, 8), "it takes as many as stay free, and waits for more");
    let other = request_of(&mut rig, OTHER);
    assert_eq!(counts(&rig), (9, 8));
    let upstreams: Vec<_> = (0..9).map(|_| rig.connected()).collect();
    rig.wrote(upstreams[8]);
    rig.response(upstreams[8], OK);
    assert_eq!(rig.status(other), 200);
    assert_eq!(counts(&rig), (9, 8), "as many are free as it holds");
    rig.wrote(upstreams[0]);
    rig.response(upstreams[0], OK);
    assert_eq!(rig.status(mine[0]), 200);
    assert_eq!(counts(&rig), (9, 7), "one of its own is free again");
    rig.pass(CONNECT_TIMEOUT);
    assert_eq!(rig.status(mine[15]), 503, "it has waited long enough");
    assert_eq!(rig.proxy.gauges().waiting, 0);
}

#[test]
fn an_address_that_waits_does_not_hold_up_another_behind_it() {
    let mut rig = Rig::new(shared());
    for (host, count) in [(1, 4), (3, 6), (4, 4), (5, 2)] {
        for _ in 0..count {
            request_of(&mut rig, [192, 0, 2, host]);
        }
    }
    assert_eq!(counts(&rig), (16, 0));
    let upstreams: Vec<_> = (0..16).map(|_| rig.connected()).collect();
    let first_in_queue = request_of(&mut rig, [192, 0, 2, 1]);
    let second_in_queue = request_of(&mut rig, OTHER);
    assert_eq!(counts(&rig), (16, 2));
    rig.wrote(upstreams[15]);
    rig.response(upstreams[15], OK);
    rig.wrote(upstreams[15]);
    rig.response(upstreams[15], OK);
    assert_eq!(rig.status(second_in_queue), 200, "the first one's address has its share");
    assert!(!rig.seen.contains_key(&first_in_queue));
}

#[test]
fn one_address_leaves_places_in_the_queue_to_others() {
    let mut rig = Rig::new(shared());
    let mine: Vec<_> = (0..18).map(|_| rig.get("/")).collect();
    assert_eq!(counts(&rig), (8, 8));
    assert_eq!((rig.status(mine[16]), rig.status(mine[17])), (503, 503));
    request_of(&mut rig, OTHER);
    request_of(&mut rig, OTHER);
    assert_eq!(counts(&rig), (10, 8));
}

#[test]
fn so_few_connections_are_not_shared_out() {
    let mut config = config(1, 2, 2);
    config.upstreams[0].connections_per_address = 1;
    let mut rig = Rig::new(config);
    for _ in 0..4 {
        let exchange = rig.get("/");
        assert!(!rig.seen.contains_key(&exchange));
    }
    assert_eq!(counts(&rig), (2, 2));
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
    for _ in 0..20 {
        request_of(&mut rig, [10, 0, 0, 1]);
    }
    assert_eq!(counts(&rig), (16, 4));
}

/// Serves `count` requests one after the other, `step` each, while `arriving` enter the queue for
/// each of them. Returns all exchanges that entered.
fn serve_slowly(rig: &mut Rig, step: Duration, count: usize, arriving: usize) -> Vec<ExchangeKey> {
    let upstream = *rig.wires.keys().next().unwrap();
    let mut entered = Vec::new();
    for _ in 0..count {
        entered.extend((0..arriving).map(|_| rig.get("/")));
        rig.pass(step);
        rig.wrote(upstream);
        rig.response(upstream, OK);
    }
    entered
}

#[test]
fn in_a_queue_that_stands_requests_wait_for_a_short_time() {
    let mut rig = Rig::new(config(1, 1, 1000));
    rig.get("/");
    rig.connected();
    let step = Duration::from_millis(5);
    let during = |rig: &Rig| rig.proxy.counters().exported.queue_sheds;
    // Twice as many as are served.
    let half_of_timeout = (CONNECT_TIMEOUT / 2).as_millis() as usize / 5;
    serve_slowly(&mut rig, step, half_of_timeout, 2);
    assert_eq!((during(&rig), rig.proxy.gauges().waiting), (0, half_of_timeout), "a burst");
    serve_slowly(&mut rig, step, half_of_timeout + 2, 2);
    assert!(rig.proxy.gauges().waiting <= 24, "50 ms of arrivals, {:?}", rig.proxy.gauges());
    let before = during(&rig);
    assert!(before > 100, "{before}");
    let entered = serve_slowly(&mut rig, step, 100, 2);
    let served = entered.iter().filter(|key| rig.seen.get(key).is_some_and(|seen| seen.is(200)));
    assert!(served.count() >= 85, "the upstream stays as busy");
    assert!((85..=115).contains(&(during(&rig) - before)));
    assert_eq!(rig.record().duration.as_millis() / 10, 5, "and each waited 50 ms");
}

#[test]
fn a_queue_that_is_empty_now_and_then_does_not_stand() {
    let mut rig = Rig::new(config(1, 1, 1000));
    rig.get("/");
    rig.connected();
    for _ in 0..10 {
        let burst: Vec<_> = (0..100).map(|_| rig.get("/")).collect();
        serve_slowly(&mut rig, Duration::from_millis(5), 101, 0);
        assert_eq!(rig.status(burst[99]), 200, "it waited for half a second");
        rig.get("/");
    }
    assert_eq!(rig.proxy.counters().exported.queue_sheds, 0);
}

/// With a slow upstream fifty milliseconds are less than it takes to serve one request.
#[test]
fn in_a_queue_that_moves_slowly_requests_wait_longer() {
    let mut rig = Rig::new(config(1, 1, 1000));
    rig.get("/");
    rig.connected();
    serve_slowly(&mut rig, Duration::from_millis(200), 10, 2);
    let entered = serve_slowly(&mut rig, Duration::from_millis(200), 20, 2);
    let served = entered.iter().filter(|key| rig.seen.get(key).is_some_and(|seen| seen.is(200)));
    assert!(served.count() >= 15, "some request waits whenever the upstream is free");
}
