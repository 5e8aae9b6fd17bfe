//! Clients that hold as much as they can, each kind by itself: the heap that the gateway really
//! takes for them is compared with what it charges to their accounts.

mod edge;

use std::time::Duration;

use edge::{Edge, Upstreams};

/// The bytes that a kind of client makes the gateway take, and those that it charges.
struct Bill {
    taken: i64,
    charged: i64,
}

/// Runs `attack` on a gateway that has warmed up, and measures what it leaves behind.
fn bill(upstreams: Upstreams, attack: impl FnOnce(&mut Edge)) -> Bill {
    let mut edge = Edge::new(upstreams);
    // Tables and queues have their first sizes after this.
    for _ in 0..4 {
        let client = edge.connect();
        edge.get(client, 1_000);
        edge.pass(Duration::from_millis(50));
    }
    let before = (edge.taken(), edge.charged());
    attack(&mut edge);
    Bill { taken: edge.taken() - before.0, charged: edge.charged() - before.1 }
}

/// Asserts that the accounts say what the heap says, to a tenth.
fn assert_fair(kind: &str, Bill { taken, charged }: Bill) {
    eprintln!("{kind:>24}: {taken:>10} bytes taken, {charged:>10} charged");
    assert!(taken > 1_000_000, "{kind}: too little to tell, {taken} bytes");
    assert!((taken - charged).abs() * 10 <= taken, "{kind}: {taken} taken, {charged} charged");
}

const CLIENTS: usize = 100;

#[test]
fn idle_connections_are_charged() {
    let bill = bill(Upstreams::Answer, |edge| {
        for _ in 0..CLIENTS {
            edge.connect();
        }
        edge.pass(Duration::from_secs(2));
    });
    assert_fair("idle connections", bill);
}

#[test]
fn handshakes_that_never_end_are_charged() {
    let bill = bill(Upstreams::Answer, |edge| {
        for _ in 0..CLIENTS {
            edge.begin_handshake();
        }
        // One begins in each turn.
        edge.pass(Duration::from_millis(100));
    });
    assert_fair("half-open handshakes", bill);
}

#[test]
fn responses_that_are_not_acknowledged_are_charged() {
    let bill = bill(Upstreams::Answer, |edge| {
        for _ in 0..CLIENTS {
            let client = edge.connect();
            edge.get_and_fall_silent(client, 120_000);
        }
    });
    assert_fair("mute readers", bill);
}

#[test]
fn bodies_that_no_upstream_takes_are_charged() {
    let bill = bill(Upstreams::Stall, |edge| {
        for _ in 0..CLIENTS / 10 {
            let client = edge.connect();
            edge.post(client, 2_000_000);
        }
        edge.pass(Duration::from_secs(5));
    });
    assert_fair("stalled bodies", bill);
}

#[test]
fn bodies_with_a_gap_are_charged() {
    let bill = bill(Upstreams::Answer, |edge| {
        for _ in 0..CLIENTS / 10 {
            let client = edge.connect();
            edge.post_with_a_gap(client, 400_000);
        }
    });
    assert_fair("bodies with a gap", bill);
}

#[test]
fn heads_that_never_end_are_charged() {
    let bill = bill(Upstreams::Answer, |edge| {
        for _ in 0..CLIENTS / 10 {
            let client = edge.connect();
            edge.begin_heads(client, 50, 20_000);
        }
        edge.pass(Duration::from_secs(1));
    });
    assert_fair("heads without an end", bill);
}

#[test]
fn responses_that_wait_are_charged() {
    let bill = bill(Upstreams::Answer, |edge| {
        for _ in 0..CLIENTS / 4 {
            let client = edge.connect_reading_little();
            edge.get(client, 200_000);
        }
        edge.pass(Duration::from_secs(1));
    });
    assert_fair("slow readers", bill);
}

/// The clients of one address hold everything; another address keeps what it has.
#[test]
fn the_greediest_address_is_closed_when_the_heap_is_used_up() {
    let mut edge = Edge::new(Upstreams::Answer);
    let modest = edge.connect_from(9);
    let greedy: Vec<_> = (0..10).map(|_| edge.connect_from(1)).collect();
    for client in &greedy {
        edge.get_and_fall_silent(*client, 100_000);
    }
    edge.set_heap(80);
    let late = edge.connect_from(5);
    assert!(!edge.is_open(late), "nothing new is admitted");
    edge.get(modest, 1_000);
    edge.pass(Duration::from_secs(1));
    assert_eq!(edge.rejected_count(modest), 1, "and no request, which the client may repeat");
    assert_eq!(edge.open_count(), 11, "what has begun goes on");
    edge.set_heap(100);
    edge.pass(Duration::from_millis(10));
    assert_eq!(edge.evicted_count(), 1, "a tenth of all is freed by one of ten");
    assert!(edge.is_open(modest));
    edge.set_heap(50);
    edge.get(modest, 1_000);
    edge.pass(Duration::from_secs(1));
    assert_eq!(edge.response_count(modest), 1);
}

/// A client that sends packets and acknowledges nothing keeps nothing for long.
#[test]
fn a_client_that_acknowledges_nothing_is_closed() {
    let mut edge = Edge::new(Upstreams::Answer);
    let client = edge.connect();
    edge.get_and_fall_silent(client, 100_000);
    for _ in 0..6 {
        edge.pass(Duration::from_secs(9));
        edge.ping_without_acknowledging(client);
        assert_eq!(edge.open_count(), 1);
    }
    edge.pass(Duration::from_secs(9));
    edge.ping_without_acknowledging(client);
    assert_eq!(edge.open_count(), 0, "after a minute");
}

/// An upstream that answers byte by byte must not fill the connection with pieces.
#[test]
fn a_response_in_crumbs_gathers() {
    let mut edge = Edge::new(Upstreams::Crumbs);
    let client = edge.connect();
    edge.get(client, 20_000);
    edge.pass(Duration::from_secs(2));
    assert_eq!(edge.response_count(client), 1);
}
