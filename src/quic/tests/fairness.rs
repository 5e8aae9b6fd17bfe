//! Small responses beside large ones on one connection, whatever it is that is short.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::Dir;

use super::super::*;
use super::pair::{Pair, quic};

const MIB: usize = 1024 * 1024;
const DELAY: Duration = Duration::from_millis(50);
/// And a bit, for the place of its packets among others.
const TWO_ROUND_TRIPS: Duration = Duration::from_millis(225);
/// More than any of these tests transfers.
const LARGE: usize = 1024 * MIB;
const SMALL: usize = 1024;

/// Each byte of a body is its position, modulo this.
const PERIOD: usize = 251;
/// Bytes that are written at a time, in two pieces.
const PIECE_LENS: [usize; 2] = [300, 64 * 1024];

/// The responses of one connection. Each is written whenever the engine says that it may be.
struct Responses {
    client: usize,
    key: ConnectionKey,
    all: Vec<Response>,
    /// The beginning of each body.
    body: Bytes,
}

struct Response {
    id: StreamId,
    len: usize,
    written_len: usize,
    received_len: usize,
    end: Option<Instant>,
}

impl Responses {
    fn new(pair: &mut Pair) -> Self {
        let (client, key) = pair.connected();
        let body = (0..128 * 1024).map(|position| (position % PERIOD) as u8).collect();
        Self { client, key, all: Vec::new(), body }
    }

    /// Sends a request for `len` bytes. Returns its index.
    fn request(&mut self, pair: &mut Pair, len: usize) -> usize {
        let connection = pair.clients.get_mut(&self.client).unwrap();
        let id = connection.streams().open(Dir::Bi).unwrap();
        connection.send_stream(id).write(b"GET").unwrap();
        self.all.push(Response { id: id.into(), len, written_len: 0, received_len: 0, end: None });
        self.all.len() - 1
    }

    /// Does what there is to do on both sides.
    fn step(&mut self, pair: &mut Pair) {
        while let Some((_, event)) = pair.events.pop_front() {
            match event {
                Event::StreamOpened(id) | Event::Writable(id) => self.write(pair, id),
                Event::Closed(_) => panic!("{event:?}"),
                _ => {}
            }
            pair.events.extend(std::iter::from_fn(|| pair.engine.poll_event(pair.now)));
        }
        let mut received = Vec::new();
        for response in self.all.iter_mut().filter(|response| response.end.is_none()) {
            let ended = pair.client_read(self.client, response.id, &mut received);
            let is_right = |(at, byte): (usize, &u8)| at % PERIOD == usize::from(*byte);
            assert!((response.received_len..).zip(&received).all(is_right));
            response.received_len += received.len();
            received.clear();
            response.end = ended.then_some(pair.now);
        }
    }

    fn write(&mut self, pair: &mut Pair, id: StreamId) {
        let Some(response) = self.all.iter_mut().find(|response| response.id == id) else { return };
        while response.written_len < response.len {
            let mut start = response.written_len % PERIOD;
            let mut left = response.len - response.written_len;
            let mut pieces = PIECE_LENS.map(|len_max| {
                let len = left.min(len_max);
                left -= len;
                start += len;
                self.body.slice(start - len..start)
            });
            match pair.engine.write(self.key, id, &mut pieces) {
                Ok(written) => {
                    response.written_len += written.bytes;
                    if written.is_turn_over {
                        return;
                    }
                }
                Err(WriteError::Blocked) => return,
                Err(error) => panic!("{error:?}"),
            }
        }
        pair.engine.finish(pair.now, self.key, id).unwrap();
    }

    fn run(&mut self, pair: &mut Pair, time: Duration) {
        pair.run(time, |pair| {
            self.step(pair);
            false
        });
    }

    /// Asserts that a small response takes `longest` at most, while large ones run that began
    /// before it and with it.
    fn assert_small_is_quick(&mut self, pair: &mut Pair, longest: Duration) {
        for _ in 0..2 {
            self.request(pair, LARGE);
        }
        self.run(pair, Duration::from_secs(2));
        for round in 0..8 {
            let start = pair.now;
            let small = self.request(pair, SMALL);
            let large = self.request(pair, LARGE);
            self.run(pair, Duration::from_secs(2));
            let taken = self.all[small].end.map(|end| end - start);
            assert!(
                taken.is_some_and(|taken| taken <= longest),
                "round {round}: it takes {taken:?}"
            );
            assert!(self.all[large].received_len > 0, "round {round}");
        }
    }
}

fn pair(quic: crate::config::Quic) -> Pair {
    let mut pair = Pair::new(quic);
    pair.delay = DELAY;
    pair
}

#[test]
fn a_small_response_does_not_wait_for_large_ones_that_fill_the_send_window() {
    let mut pair = pair(crate::config::Quic { send_window_max: 128 * 1024, ..quic() });
    Responses::new(&mut pair).assert_small_is_quick(&mut pair, TWO_ROUND_TRIPS);
}

#[test]
fn a_small_response_does_not_wait_for_large_ones_that_use_up_the_clients_credit() {
    let mut pair = pair(quic());
    pair.client_receive_window = 64 * 1024;
    Responses::new(&mut pair).assert_small_is_quick(&mut pair, TWO_ROUND_TRIPS);
}

#[test]
fn a_small_response_does_not_wait_for_large_ones_that_fill_the_congestion_window() {
    let mut pair = pair(quic());
    pair.rate = Some(1_000_000);
    // The path's queue is full at times, and one of its packets may get lost.
    let longest = 2 * TWO_ROUND_TRIPS;
    Responses::new(&mut pair).assert_small_is_quick(&mut pair, longest);
}

#[test]
fn large_responses_get_equal_parts() {
    let send_window = |pair: &mut Pair| pair.client_receive_window = u32::MAX;
    let credit = |pair: &mut Pair| pair.client_receive_window = 64 * 1024;
    for (short, set) in [("window", send_window as fn(&mut Pair)), ("credit", credit)] {
        let mut pair = pair(crate::config::Quic { send_window_max: 256 * 1024, ..quic() });
        set(&mut pair);
        let mut responses = Responses::new(&mut pair);
        for _ in 0..5 {
            responses.request(&mut pair, LARGE);
        }
        responses.run(&mut pair, Duration::from_secs(20));
        let received = responses.all.iter().map(|response| response.received_len);
        let received = received.collect::<Vec<_>>();
        let mean = received.iter().sum::<usize>() / received.len();
        assert!(mean > MIB, "{short}: {received:?}");
        let is_fair = |len: &usize| *len > mean * 3 / 4 && *len < mean * 5 / 4;
        assert!(received.iter().all(is_fair), "{short}: {received:?}");
    }
}
