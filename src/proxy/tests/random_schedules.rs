//! Random schedules from a seed: events of clients, upstreams and timers in any order.
//!
//! The oracles are the rig's rules for outputs, an upstream that reads requests with a parser of
//! its own and sends a body derived from the request's path, and the final accounts: every exchange
//! has one record and nothing is left.

use std::fmt::Write as _;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// One upstream connection as its peer sees it.
#[derive(Default)]
struct Peer {
    /// Number of bytes of `Wire::written` already parsed.
    read_len: usize,
    /// Response bytes still to be sent.
    to_send: Vec<u8>,
    /// Whether it has stopped reading requests.
    closing: bool,
}

struct Simulation {
    rig: Rig,
    dice: SmallRng,
    peers: BTreeMap<UpstreamKey, Peer>,
    /// Exchanges that the client has not aborted, with the request bytes still to be sent.
    clients: BTreeMap<ExchangeKey, Client>,
    paths: BTreeMap<ExchangeKey, String>,
    request_count: u32,
}

struct Client {
    to_send: usize,
    ended: bool,
}

/// Returns the body of the response to `path`: long, and different for every path.
fn body_for(path: &str) -> String {
    let count = path.bytes().map(usize::from).sum::<usize>() % 50;
    path.repeat(count)
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self {
            rig: Rig::new(config(2, 3, 4)),
            dice: SmallRng::seed_from_u64(seed),
            peers: BTreeMap::new(),
            clients: BTreeMap::new(),
            paths: BTreeMap::new(),
            request_count: 0,
        }
    }

    fn step(&mut self) {
        match self.dice.random_range(0..100) {
            0..12 => self.begin(),
            12..30 => self.send_body(),
            30..33 => self.leave(),
            33..36 => {
                let time = self.dice.random_range(0..3000);
                self.rig.pass(Duration::from_millis(time));
            }
            36..45 => self.take(),
            45 => self.rig.takes = !self.rig.takes,
            46 => self.rig.pauses = !self.rig.pauses,
            47..57 => self.connect(),
            _ => self.move_a_wire(),
        }
    }

    fn begin(&mut self) {
        self.request_count += 1;
        let path = format!("/{}", self.request_count);
        let method = [Method::GET, Method::HEAD, Method::PUT, Method::POST]
            [self.dice.random_range(0..4)]
        .clone();
        let has_body = self.dice.random_bool(0.5);
        let len = if has_body { self.dice.random_range(0..3000) } else { 0 };
        let content_length = (has_body && self.dice.random_bool(0.5)).then_some(len as u64);
        let ended = !has_body || len == 0 && self.dice.random_bool(0.5);
        let key = self.rig.request(with_length(content_length, request(method, &path)), ended);
        self.clients.insert(key, Client { to_send: len, ended });
        self.paths.insert(key, path);
    }

    fn pick<K: Copy + Ord, V>(dice: &mut SmallRng, map: &BTreeMap<K, V>) -> Option<K> {
        if map.is_empty() { None } else { map.keys().nth(dice.random_range(0..map.len())).copied() }
    }

    fn send_body(&mut self) {
        let Some(key) = Self::pick(&mut self.dice, &self.clients) else { return };
        let client = self.clients.get_mut(&key).unwrap();
        if client.ended {
            return;
        }
        if client.to_send == 0 {
            client.ended = true;
            return self.rig.end_of_request(key);
        }
        let len = self.dice.random_range(1..=client.to_send);
        if self.rig.proxy.body_room(key) >= len {
            client.to_send -= len;
            self.rig.body(key, &vec![b'b'; len]);
        }
    }

    fn leave(&mut self) {
        if let Some(key) = Self::pick(&mut self.dice, &self.clients) {
            self.clients.remove(&key);
            self.rig.abort(key);
        }
    }

    fn take(&mut self) {
        let untaken = |seen: &&Seen| seen.untaken_len > 0 && seen.reset.is_none();
        let keys: Vec<_> = self.rig.seen.iter().filter(|(_, seen)| untaken(seen)).collect();
        if keys.is_empty() {
            return;
        }
        let (key, seen) = keys[self.dice.random_range(0..keys.len())];
        let (key, len) = (*key, self.dice.random_range(1..=seen.untaken_len));
        self.rig.taken(key, len);
    }

    fn connect(&mut self) {
        if self.rig.connects.is_empty() {
            return;
        }
        if self.dice.random_bool(0.8) {
            self.rig.connected();
        } else {
            self.rig.connect_failed(TransportFault::Refused);
        }
    }

    fn move_a_wire(&mut self) {
        let Some(key) = Self::pick(&mut self.dice, &self.rig.wires) else { return };
        if self.rig.connects.contains(&key) {
            return;
        }
        let chance = self.dice.random_range(0..100);
        let wire = &self.rig.wires[&key];
        let is_quiet =
            self.peers.get(&key).is_none_or(|peer| peer.to_send.is_empty() && !peer.closing);
        match chance {
            0..2 => self.rig.event(key, UpstreamEvent::Failed(TransportFault::Reset)),
            2..4 if wire.writing => {
                self.rig.event(key, UpstreamEvent::WriteFailed(TransportFault::Reset));
            }
            4..7 if wire.receiving => self.rig.end(key),
            // Only between responses: within a body any byte would be valid.
            7..9 if wire.receiving && is_quiet => self.rig.response(key, "nonsense"),
            9..50 if wire.writing => self.rig.wrote(key),
            _ if wire.receiving => self.serve(key),
            _ => {}
        }
    }

    /// Lets the peer read the bytes written to it and send some of its pending bytes.
    fn serve(&mut self, key: UpstreamKey) {
        let wire = &self.rig.wires[&key];
        let peer = self.peers.entry(key).or_default();
        if let Some((path, to_head, len)) = parse_request(&wire.written[peer.read_len..])
            && !peer.closing
        {
            peer.read_len += len;
            peer.closing = write_response(&mut self.dice, &mut peer.to_send, &path, to_head);
        }
        if peer.to_send.is_empty() {
            if peer.closing {
                self.rig.end(key);
            }
            return;
        }
        let len = self.dice.random_range(1..=peer.to_send.len());
        let piece: Vec<u8> = peer.to_send.drain(..len).collect();
        self.rig.response(key, piece);
    }

    /// Lets time pass without new requests until everything has ended.
    fn wind_down(&mut self) {
        for _ in 0..100 {
            self.rig.pass(Duration::from_secs(5));
        }
        self.rig.assert_nothing_left();
    }

    /// Asserts that every complete response belongs to its request. Returns their number.
    fn check_responses(&self) -> usize {
        let mut whole_count = 0;
        for (key, seen) in &self.rig.seen {
            let from_upstream = seen.value("x-path").is_some();
            if from_upstream {
                assert_eq!(seen.value("x-path"), Some(self.paths[key].as_str()));
                let expected = body_for(&self.paths[key]);
                let body = std::str::from_utf8(&seen.body).unwrap();
                assert!(expected.starts_with(body), "bytes of another response");
                // Where the connection's end is the response's end, a truncation cannot be
                // detected.
                let unframed = seen.value("x-head").or(seen.value("x-until-close")).is_some();
                assert!(
                    !seen.whole || unframed || body == expected,
                    "a truncated response is reported as complete"
                );
                whole_count += usize::from(seen.whole);
            }
        }
        whole_count
    }
}

/// Returns the path, whether it is HEAD, and the length of the complete request at the front of
/// `bytes`.
fn parse_request(bytes: &[u8]) -> Option<(String, bool, usize)> {
    let mut lines = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(head_len) = request.parse(bytes).expect("a good request") else {
        return None;
    };
    let value = |name: &str| {
        let found = request.headers.iter().find(|line| line.name == name)?;
        std::str::from_utf8(found.value).ok()
    };
    let mut rest = &bytes[head_len..];
    if let Some(len) = value("content-length") {
        assert_eq!(value("transfer-encoding"), None);
        rest = rest.get(len.parse().unwrap()..)?;
    } else if value("transfer-encoding").is_some() {
        loop {
            let parsed = httparse::parse_chunk_size(rest).expect("a good chunk size");
            let httparse::Status::Complete((start, len)) = parsed else { return None };
            rest = rest.get(start + usize::try_from(len).unwrap()..)?;
            rest = rest.get(2..).inspect(|_| assert!(rest.starts_with(b"\r\n")))?;
            if len == 0 {
                break;
            }
        }
    }
    let path = request.path.unwrap().to_owned();
    Some((path, request.method == Some("HEAD"), bytes.len() - rest.len()))
}

/// Appends a response to `path`. Returns true when the connection ends with it.
fn write_response(dice: &mut SmallRng, out: &mut Vec<u8>, path: &str, to_head: bool) -> bool {
    let body = body_for(path);
    let mut text = String::new();
    if dice.random_bool(0.2) {
        text.push_str("HTTP/1.1 103 Early Hints\r\n\r\n");
    }
    let mark = if to_head { "x-head: 1\r\n" } else { "" };
    write!(text, "HTTP/1.1 200 OK\r\nx-path: {path}\r\n{mark}").unwrap();
    let framing = dice.random_range(0..3);
    let mut closes = dice.random_bool(0.2);
    match framing {
        0 => write!(text, "content-length: {}\r\n", body.len()).unwrap(),
        1 => text.push_str("transfer-encoding: chunked\r\n"),
        _ => {
            text.push_str("x-until-close: 1\r\n");
            closes |= !to_head;
        }
    }
    text.push_str(if closes { "connection: close\r\n\r\n" } else { "\r\n" });
    if !to_head && framing == 1 {
        for chunk in body.as_bytes().chunks(dice.random_range(1..200)) {
            let chunk = std::str::from_utf8(chunk).unwrap();
            write!(text, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
        }
        text.push_str("0\r\n\r\n");
    } else if !to_head {
        text.push_str(&body);
    }
    out.extend_from_slice(text.as_bytes());
    closes
}

#[test]
fn random_schedules_keep_every_invariant() {
    let mut whole_count = 0;
    let mut total = crate::metrics::ProxyCounters::default();
    for seed in 0..90 {
        let mut simulation = Simulation::new(seed);
        for _ in 0..1500 {
            simulation.step();
        }
        simulation.wind_down();
        whole_count += simulation.check_responses();
        let seen = &simulation.rig.proxy.counters().exported;
        total.upstream_reuses += seen.upstream_reuses;
        total.upstream_retries += seen.upstream_retries;
        total.upstream_idle_discarded += seen.upstream_idle_discarded;
        total.queue_sheds += seen.queue_sheds;
    }
    // The schedules must cover these cases often enough.
    assert!(whole_count > 1000, "{whole_count}");
    assert!(total.upstream_reuses > 500 && total.upstream_retries > 50, "{total:?}");
    assert!(total.upstream_idle_discarded > 20 && total.queue_sheds > 20, "{total:?}");
}
