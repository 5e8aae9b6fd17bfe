//! Listening sockets: accepts that are armed, fail, pause and end; places for clients.

use super::*;
use crate::limits::ACCEPTS_ARMED;
use crate::ring::completion::ListenerIndex;

const LISTENER: ListenerIndex = ListenerIndex(0);

/// Returns a machine with a listening socket and places for `clients_max` clients.
fn listening(clients_max: u32) -> Bench {
    let mut bench = Bench::with_streams(2 * clients_max);
    bench.machine.add_listener(LISTENER);
    bench
}

/// Begins to accept. Returns the armed accepts.
fn accepting(bench: &mut Bench) -> Vec<u64> {
    bench.machine.set_accepting(LISTENER, true);
    armed(bench)
}

/// Runs a turn. Returns the accepts that it arms.
fn armed(bench: &mut Bench) -> Vec<u64> {
    bench.machine.replenish();
    let submitted = bench.submitted();
    assert!(submitted.iter().all(|(code, _)| *code == opcode::Accept::CODE), "{submitted:?}");
    submitted.into_iter().map(|(_, key)| key).collect()
}

/// Completes an accept for a client whose address the kernel has not written.
fn accepts(bench: &mut Bench, accept: u64, client: &str) -> StreamKey {
    let client: std::net::SocketAddr = client.parse().unwrap();
    let Some(Op::Accept(op)) = bench.machine.table.get_mut(OpKey(accept)) else {
        panic!("an accept is in flight");
    };
    op.write_client(client);
    match bench.event(accept, 0, 0) {
        Some(Completion::Accepted { listener: LISTENER, stream, client: got }) => {
            assert_eq!(got, client);
            stream
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_client_gets_a_stream_with_its_own_address() {
    let mut bench = listening(4);
    assert!(armed(&mut bench).is_empty(), "not before it is told to");
    let keys = accepting(&mut bench);
    assert_eq!(keys.len(), 4, "one for each place");
    // In another order than they were armed in.
    let (one, two) = (keys[2], keys[0]);
    let one = accepts(&mut bench, one, "192.0.2.9:4444");
    let two = accepts(&mut bench, two, "[2001:db8::7]:5555");
    assert_ne!(one, two);
    for (stream, tag) in [(one, 5), (two, 6)] {
        bench.machine.set_tag(stream, tag);
        bench.machine.receive(stream, 1);
        let receive = bench.one_submitted(opcode::Recv::CODE);
        match bench.event(receive, 0, 0) {
            Some(Completion::Received { tag: got, outcome: ReceiveOutcome::End }) => {
                assert_eq!(got, tag);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.machine.stats.accepted, 2);
    assert!(armed(&mut bench).is_empty(), "all places are taken");
    bench.close_idle(one);
    assert_eq!(armed(&mut bench).len(), 1, "a place is free again");
}

#[test]
fn clients_leave_as_many_streams_to_upstreams() {
    let mut bench = listening(2);
    let keys = accepting(&mut bench);
    assert_eq!(keys.len(), 2);
    accepts(&mut bench, keys[0], "192.0.2.9:1");
    accepts(&mut bench, keys[1], "192.0.2.9:2");
    assert!(armed(&mut bench).is_empty());
    bench.stream(7);
    let last = bench.stream(8);
    assert!(bench.machine.open_stream(9).is_err());
    // What an upstream leaves is not for clients.
    bench.close_idle(last);
    assert!(armed(&mut bench).is_empty());
}

#[test]
fn no_more_accepts_are_armed_than_a_turn_may_take() {
    let mut bench = listening(2 * ACCEPTS_ARMED as u32);
    let keys = accepting(&mut bench);
    assert_eq!(keys.len(), ACCEPTS_ARMED);
    accepts(&mut bench, keys[3], "192.0.2.9:1");
    assert_eq!(armed(&mut bench).len(), 1);
}

/// Returns the socket of an armed accept.
fn listener_of(bench: &mut Bench, accept: u64) -> ListenerIndex {
    match bench.machine.table.get_mut(OpKey(accept)) {
        Some(Op::Accept(op)) => op.listener,
        _ => panic!("no accept"),
    }
}

/// A socket without clients must not hold all places while another has clients.
#[test]
fn sockets_share_the_places_for_clients() {
    let mut bench = listening(4);
    let other = ListenerIndex(bench.machine.next_listener_place() as u16);
    bench.machine.add_listener(other);
    bench.machine.set_accepting(other, true);
    let keys = accepting(&mut bench);
    let first: Vec<u64> =
        keys.iter().copied().filter(|key| listener_of(&mut bench, *key) == LISTENER).collect();
    assert_eq!((first.len(), keys.len()), (2, 4));
    // The two places of those that fail are for the socket that has none left, and for it alone.
    for key in first {
        assert!(bench.fails(key, libc::ECONNABORTED).is_none());
    }
    assert_eq!(bench.machine.stats.accept_failures.client_gone, 2);
    let again = armed(&mut bench);
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|key| listener_of(&mut bench, *key) == LISTENER));
}

#[test]
fn a_socket_that_no_longer_accepts_cancels_and_reports_late_clients() {
    let mut bench = listening(2);
    let keys = accepting(&mut bench);
    bench.machine.set_accepting(LISTENER, false);
    let cancels = bench.submitted();
    assert_eq!(cancels, [(opcode::AsyncCancel::CODE, CANCEL); 2]);
    bench.machine.set_accepting(LISTENER, false);
    assert!(bench.submitted().is_empty(), "once is enough");
    assert!(bench.fails(keys[0], libc::ECANCELED).is_none());
    let late = accepts(&mut bench, keys[1], "192.0.2.9:1");
    assert!(armed(&mut bench).is_empty());
    // Nobody gave it a tag.
    bench.machine.close(late);
    let close = bench.one_submitted(opcode::Close::CODE);
    assert!(matches!(bench.event(close, 0, 0), Some(Completion::Closed { .. })));
    bench.assert_idle();
    assert_eq!(bench.machine.clients, 0);
    assert_eq!(accepting(&mut bench).len(), 2);
}

/// The client that could not be accepted is still the first of the queue.
#[test]
fn a_socket_pauses_where_the_host_has_no_file_or_no_memory() {
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        let mut bench = listening(2);
        let keys = accepting(&mut bench);
        assert!(bench.fails(keys[0], errno).is_none());
        let pause = bench.one_submitted(opcode::Timeout::CODE);
        assert!(bench.fails(keys[1], errno).is_none());
        assert!(armed(&mut bench).is_empty(), "nothing is armed during the one pause");
        let failures = &bench.machine.stats.accept_failures;
        assert_eq!(failures.no_file + failures.no_memory, 2);
        assert!(bench.fails(pause, libc::ETIME).is_none());
        assert_eq!(armed(&mut bench).len(), 2);
    }
}

#[test]
fn a_failure_for_good_is_reported_once_and_ends_accepting() {
    let mut bench = listening(3);
    let keys = accepting(&mut bench);
    match bench.fails(keys[0], libc::EINVAL) {
        Some(Completion::AcceptStopped { listener: LISTENER, reason }) => {
            assert_eq!(reason, std::io::ErrorKind::InvalidInput);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.submitted().len(), 2, "the others are cancelled");
    assert!(bench.fails(keys[1], libc::EINVAL).is_none());
    assert!(bench.fails(keys[2], libc::ECANCELED).is_none());
    assert!(armed(&mut bench).is_empty());
    assert_eq!(accepting(&mut bench).len(), 3);
}

#[test]
fn a_client_without_an_address_is_closed() {
    let mut bench = listening(1);
    let keys = accepting(&mut bench);
    assert!(bench.event(keys[0], 0, 0).is_none());
    let close = bench.one_submitted(opcode::Close::CODE);
    assert!(bench.event(close, 0, 0).is_some());
    assert_eq!(bench.machine.stats.accept_failures.other, 1);
}

#[test]
fn a_ring_that_ends_reports_no_clients() {
    let mut bench = listening(2);
    let keys = accepting(&mut bench);
    bench.machine.is_ending = true;
    bench.machine.cancel_each();
    assert_eq!(bench.submitted().len(), 2);
    assert!(bench.event(keys[0], 0, 0).is_none());
    assert!(bench.fails(keys[1], libc::ECANCELED).is_none());
    assert!(armed(&mut bench).is_empty());
    bench.assert_idle();
}

/// The end must not overtake bytes that were written before.
#[test]
fn the_end_of_our_side_waits_for_the_write_in_flight() {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    bench.machine.write(key, vec![Bytes::from_static(b"abc")]).unwrap();
    let write = bench.submitted_write();
    bench.machine.shut_down(key);
    assert!(bench.submitted().is_empty());
    assert!(bench.event(write, 1, 0).is_none());
    assert_eq!(bench.submitted_write(), write, "the rest is written first");
    let wrote = bench.event(write, 2, 0);
    assert!(matches!(wrote, Some(Completion::Wrote { tag: 5, len: 3, outcome: Ok(()) })));
    let end = bench.one_submitted(opcode::Shutdown::CODE);
    assert!(bench.machine.write(key, vec![Bytes::from_static(b"d")]).is_err(), "too late");
    bench.machine.close(key);
    bench.one_submitted(opcode::AsyncCancel::CODE);
    assert!(bench.fails(end, libc::ECANCELED).is_none());
    let close = bench.one_submitted(opcode::Close::CODE);
    assert!(matches!(bench.event(close, 0, 0), Some(Completion::Closed { tag: 5 })));
    bench.assert_idle();
}

#[test]
fn the_end_of_an_idle_side_has_no_completion() {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    bench.machine.shut_down(key);
    let end = bench.one_submitted(opcode::Shutdown::CODE);
    assert!(bench.event(end, 0, 0).is_none());
    bench.close_idle(key);
    bench.machine.shut_down(key);
    assert!(bench.submitted().is_empty(), "the stream is gone");
    bench.assert_idle();
}
