//! Clients over TCP: accepting them, with their addresses, on sockets of the program.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use bytes::Bytes;
use ringway::testing::internal::host::clock;
use ringway::testing::internal::host::socket::{ListenerGroup, waiting_count};
use ringway::testing::internal::limits::RECEIVE_SLOT_COUNT_MAX;
use ringway::testing::internal::ring::{
    Completion, ListenerIndex, ReceiveOutcome, RingSettings, StreamKey, Wait,
};

use crate::harness::{Bench, PATIENCE, pattern, settings};

const TAG: u64 = 0xfeed_0000_0000_0002;

/// Returns a listening socket of the program that the bench accepts on.
fn listening(bench: &mut Bench, address: &str) -> (ListenerIndex, ListenerGroup) {
    let group = ListenerGroup::bind(address.parse().unwrap(), 1).unwrap();
    let index = bench.ring.add_listener(group.sockets[0].try_clone().unwrap()).unwrap();
    bench.ring.set_accepting(index, true);
    (index, group)
}

fn connect(group: &ListenerGroup) -> TcpStream {
    let client = TcpStream::connect(group.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Returns the next client's stream and address.
fn accepted(bench: &mut Bench) -> (ListenerIndex, StreamKey, SocketAddr) {
    bench.until(|_, completion| match completion {
        Completion::Accepted { listener, stream, client } => Break((listener, stream, client)),
        other => panic!("{other:?}"),
    })
}

/// Takes what a stream receives, up to the client's end.
fn received(bench: &mut Bench, stream: StreamKey) -> Vec<u8> {
    let mut got = Vec::new();
    bench.ring.receive(stream, RECEIVE_SLOT_COUNT_MAX);
    bench.until(|ring, completion| match completion {
        Completion::Received { tag: TAG, outcome } => match outcome {
            ReceiveOutcome::Part(bytes) => {
                got.extend_from_slice(&bytes);
                Continue(())
            }
            ReceiveOutcome::Bytes(bytes) => {
                got.extend_from_slice(&bytes);
                ring.receive(stream, RECEIVE_SLOT_COUNT_MAX);
                Continue(())
            }
            ReceiveOutcome::End => Break(()),
            ReceiveOutcome::Failed(error) => panic!("{error:?}"),
        },
        other => panic!("{other:?}"),
    });
    got
}

#[test]
fn clients_are_accepted_with_their_addresses_and_served() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut bench = Bench::new(settings());
        let (index, group) = listening(&mut bench, address);
        let mut client = connect(&group);
        let (listener, stream, from) = accepted(&mut bench);
        assert_eq!((listener, from), (index, client.local_addr().unwrap()));
        bench.ring.set_tag(stream, TAG);

        client.write_all(b"a request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(received(&mut bench, stream), b"a request");
        bench.ring.write(stream, vec![Bytes::from_static(b"a response")]).unwrap();
        bench.until(|_, completion| match completion {
            Completion::Wrote { tag: TAG, len: 10, outcome: Ok(()) } => Break(()),
            other => panic!("{other:?}"),
        });
        bench.ring.close(stream);
        bench.until(|_, completion| match completion {
            Completion::Closed { tag: TAG } => Break(()),
            other => panic!("{other:?}"),
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"a response");
        assert_eq!(bench.ring.stats().accepted, 1);
        bench.end();
    }
}

/// Many more than are accepted in one turn.
#[test]
fn a_burst_of_clients_is_accepted_each_once() {
    const CLIENT_COUNT: usize = 200;
    let mut bench = Bench::new(RingSettings { streams_max: 1000, ..settings() });
    let (_, group) = listening(&mut bench, "127.0.0.1:0");
    let clients: Vec<TcpStream> = (0..CLIENT_COUNT).map(|_| connect(&group)).collect();
    let mut from: Vec<SocketAddr> = (0..CLIENT_COUNT).map(|_| accepted(&mut bench).2).collect();
    let mut expected: Vec<SocketAddr> =
        clients.iter().map(|client| client.local_addr().unwrap()).collect();
    from.sort_unstable();
    expected.sort_unstable();
    assert_eq!(from, expected);
    bench.end();
}

#[test]
fn clients_beyond_the_places_wait_in_the_kernel() {
    let mut bench = Bench::new(RingSettings { streams_max: 6, ..settings() });
    let (_, group) = listening(&mut bench, "127.0.0.1:0");
    let clients: Vec<TcpStream> = (0..5).map(|_| connect(&group)).collect();
    let streams: Vec<StreamKey> = (0..3).map(|_| accepted(&mut bench).1).collect();
    assert!(bench.linger(Duration::from_millis(20)).is_empty());
    assert_eq!(waiting_count(&group.sockets[0]).unwrap(), 2);
    // A client that leaves makes room for the next.
    bench.ring.close(streams[0]);
    let mut left = [1, 1];
    bench.until(|_, completion| {
        match completion {
            Completion::Closed { .. } => left[0] -= 1,
            Completion::Accepted { .. } => left[1] -= 1,
            other => panic!("{other:?}"),
        }
        if left == [0, 0] { Break(()) } else { Continue(()) }
    });
    assert_eq!(waiting_count(&group.sockets[0]).unwrap(), 1);
    drop(clients);
    bench.end();
}

#[test]
fn a_socket_that_no_longer_accepts_leaves_clients_to_the_kernel() {
    let mut bench = Bench::new(settings());
    let (index, group) = listening(&mut bench, "127.0.0.1:0");
    let _first = connect(&group);
    accepted(&mut bench);
    bench.ring.set_accepting(index, false);
    assert!(bench.linger(Duration::from_millis(20)).is_empty());
    assert_eq!(bench.ring.operations_in_flight(), 0, "no accept is armed");
    let second = connect(&group);
    assert!(bench.linger(Duration::from_millis(20)).is_empty());
    assert_eq!(waiting_count(&group.sockets[0]).unwrap(), 1);
    bench.ring.set_accepting(index, true);
    assert_eq!(accepted(&mut bench).2, second.local_addr().unwrap());
    bench.end();
}

/// A worker that is started again finds the clients that its predecessor had not accepted.
#[test]
fn clients_that_wait_outlive_a_ring() {
    let mut bench = Bench::new(settings());
    let (_, group) = listening(&mut bench, "127.0.0.1:0");
    bench.ring.submit_and_wait(Wait::No).unwrap();
    bench.end();
    let client = connect(&group);
    let mut bench = Bench::new(settings());
    let index = bench.ring.add_listener(group.sockets[0].try_clone().unwrap()).unwrap();
    bench.ring.set_accepting(index, true);
    assert_eq!(accepted(&mut bench).2, client.local_addr().unwrap());
    bench.end();
}

/// A ring whose caller is gone cannot tell whether a response is whole.
#[test]
fn an_accepted_client_is_reset_when_its_ring_ends() {
    let mut bench = Bench::new(settings());
    let (_, group) = listening(&mut bench, "127.0.0.1:0");
    let mut clients = [connect(&group), connect(&group)];
    for _ in 0..2 {
        let (_, stream, _) = accepted(&mut bench);
        bench.ring.set_tag(stream, TAG);
        bench.ring.receive(stream, 1);
    }
    bench.ring.submit_and_wait(Wait::No).unwrap();
    bench.end();
    for client in &mut clients {
        assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// More than the socket's buffers hold, so that a write is in flight when the reset is asked for.
#[test]
fn a_reset_drops_what_the_client_has_not_received() {
    for len in [5, 16 << 20] {
        let mut bench = Bench::new(settings());
        let (_, group) = listening(&mut bench, "127.0.0.1:0");
        let mut client = connect(&group);
        let (_, stream, _) = accepted(&mut bench);
        bench.ring.set_tag(stream, TAG);
        bench.ring.receive(stream, 1);
        bench.ring.write(stream, vec![Bytes::from(vec![7; len])]).unwrap();
        bench.linger(Duration::from_millis(20));
        bench.ring.reset(stream);
        bench.until(|_, completion| match completion {
            Completion::Closed { tag: TAG } => Break(()),
            other => panic!("{other:?}"),
        });
        let mut got = Vec::new();
        let end = client.read_to_end(&mut got);
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(len == 5 || got.len() < len, "{} of {len} bytes", got.len());
        assert_eq!(bench.ring.stats().closes_failed, 0);
        bench.end();
    }
}

/// More than the socket's buffers hold, so that the write is in flight when its end is asked for.
#[test]
fn the_end_of_our_side_follows_all_bytes() {
    const LEN: usize = 16 << 20;
    let mut bench = Bench::new(settings());
    let (_, group) = listening(&mut bench, "127.0.0.1:0");
    let mut client = connect(&group);
    let (_, stream, _) = accepted(&mut bench);
    bench.ring.set_tag(stream, TAG);
    let bytes = Bytes::from(pattern(LEN, 3));
    bench.ring.write(stream, vec![bytes.clone()]).unwrap();
    bench.ring.shut_down_stream(stream);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        (client, got)
    });
    bench.until(|_, completion| match completion {
        Completion::Wrote { tag: TAG, len: LEN, outcome: Ok(()) } => Break(()),
        other => panic!("{other:?}"),
    });
    let deadline = clock::now() + PATIENCE;
    while !reader.is_finished() {
        assert!(clock::now() < deadline, "the client gets no end");
        assert!(bench.linger(Duration::from_millis(5)).is_empty(), "an end has no completion");
    }
    let (mut client, got) = reader.join().unwrap();
    assert!(got == bytes, "{} of {LEN} bytes", got.len());
    // The other side is still open.
    client.write_all(b"thanks").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(received(&mut bench, stream), b"thanks");
    bench.end();
}

#[test]
fn a_ring_takes_no_more_listening_sockets_than_it_has_places() {
    let mut bench = Bench::new(RingSettings { listeners_max: 1, ..settings() });
    let (_, group) = listening(&mut bench, "127.0.0.1:0");
    let refusal = bench.ring.add_listener(group.sockets[0].try_clone().unwrap()).unwrap_err();
    assert!(refusal.to_string().contains("1 listening sockets"), "{refusal}");
    bench.end();
}
