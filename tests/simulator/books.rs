//! Invariants of each step and of each access record, computed from the world's own accounts and
//! not from the gateway's.

use std::collections::BTreeMap;

use ringway::testing::internal::gateway::Gateway;
use ringway::testing::internal::limits::{
    CONNECTION_RESPONSES_LEN_MAX, REQUEST_PENDING_LEN_MAX, RESPONSE_PENDING_LEN_MAX, SLOT_LEN,
};
use ringway::testing::internal::message::{AccessRecord, Outcome};

use crate::client::Client;
use crate::plan::{Plan, id_of};
use crate::request::Request;
use crate::scenario::Scenario;

pub struct Books {
    records: BTreeMap<usize, AccessRecord>,
    pub sums: Sums,
    /// Index of each request: its client, and its number there.
    places: Vec<(usize, usize)>,
    response_held_max: usize,
    request_held_max: usize,
    responses_len_max: usize,
    receive_len_max: usize,
}

/// Sums over all records, by the names of the counters that have to agree with them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sums(BTreeMap<String, u64>);

impl Sums {
    fn add(&mut self, record: &AccessRecord) {
        self.put("records", 1);
        self.put(record.outcome.token(), 1);
        self.put("request bytes", record.request_len);
        self.put("response bytes", record.response_len);
        self.put("delivered", record.delivered.is_some().into());
        if let Some(status) = record.status {
            self.put(&format!("{}xx", status.as_u16() / 100), 1);
        }
        let token = record.outcome.error().unwrap_or_default();
        let is_of_upstream = UPSTREAM_ERRORS.contains(&token);
        self.put("failures of upstreams", (is_of_upstream && record.outcome != DEADLINE).into());
    }

    /// Returns the same sums as the gateway has counted.
    pub fn counted(gateway: &Gateway) -> Self {
        let mut sums = Self::default();
        let counters = gateway.counters();
        let proxy = counters.proxy(gateway.proxy());
        sums.put("records", counters.http3.streams_opened);
        for outcome in Outcome::ALL {
            sums.put(outcome.token(), counters.outcomes.of(*outcome));
        }
        sums.put("request bytes", proxy.request_body_bytes);
        sums.put("response bytes", proxy.response_body_bytes);
        sums.put("delivered", counters.delivery_duration.count());
        for (index, count) in proxy.responses.iter().enumerate() {
            sums.put(&format!("{}xx", index + 1), *count);
        }
        let failures = &proxy.upstream_failures;
        let failures = [
            failures.connect_refused,
            failures.connect_timeout,
            failures.connect_failed,
            failures.response_timeout,
            failures.terminated,
            failures.protocol,
        ];
        sums.put("failures of upstreams", failures.iter().sum());
        sums
    }

    fn put(&mut self, name: &str, count: u64) {
        if count > 0 {
            *self.0.entry(name.to_owned()).or_default() += count;
        }
    }
}

/// The error types of RFC 9209 2.3 that blame the upstream.
const UPSTREAM_ERRORS: [&str; 9] = [
    "connection_refused",
    "connection_timeout",
    "destination_ip_unroutable",
    "connection_terminated",
    "connection_write_timeout",
    "http_response_incomplete",
    "http_response_timeout",
    "http_response_header_section_size",
    "http_protocol_error",
];

/// The one outcome with such an error type that is not a failure of the upstream.
const DEADLINE: Outcome = Outcome::Deadline;

impl Books {
    pub fn new(scenario: &Scenario) -> Self {
        let clients = scenario.clients.iter().enumerate();
        let places = clients
            .flat_map(|(client, (_, asks))| (0..asks.len()).map(move |number| (client, number)));
        let quic = &scenario.config.listeners[0].quic;
        // Heads and frame headers are small compared with a slot.
        let slack = 2 * SLOT_LEN;
        Self {
            records: BTreeMap::new(),
            sums: Sums::default(),
            places: places.collect(),
            response_held_max: RESPONSE_PENDING_LEN_MAX + quic.send_window_max as usize + slack,
            request_held_max: REQUEST_PENDING_LEN_MAX + quic.stream_receive_window as usize + slack,
            responses_len_max: scenario.responses_len_max,
            receive_len_max: scenario.troubles.piece_len_max,
        }
    }

    pub fn take(&mut self, record: AccessRecord) {
        self.sums.add(&record);
        let Some(path) = &record.request.path else { return };
        let id = id_of(std::str::from_utf8(path.as_bytes()).expect("paths are ASCII"));
        let earlier = self.records.insert(id, record);
        assert!(earlier.is_none(), "request {id} has two access records");
    }

    pub fn record(&self, id: usize) -> Option<&AccessRecord> {
        self.records.get(&id)
    }

    /// Asserts that the gateway buffers no more of each body than its budget: the bytes received on
    /// one side and not yet sent on the other. A slow client or a slow origin makes it buffer the
    /// most.
    pub fn check_held(
        &self,
        clients: &[Client],
        flows: impl Iterator<Item = ((usize, usize), (usize, usize))>,
    ) {
        for ((request_id, request_len), (response_id, given_len)) in flows {
            if let Some((client, request)) = self.live(clients, response_id) {
                let held = given_len.saturating_sub(request.received_len());
                let most = self.response_held_max + client.manner.stream_window as usize;
                assert!(held <= most, "{held} bytes of response {response_id} are held, of {most}");
            }
            if let Some((client, request)) = self.live(clients, request_id)
                && !matches!(request.ask.plan, Plan::Early { .. })
            {
                let held = request.sent_len.saturating_sub(request_len);
                let most = self.request_held_max + client.manner.send_window as usize;
                assert!(held <= most, "{held} bytes of request {request_id} are held, of {most}");
            }
        }
    }

    /// Asserts that the waiting bytes of one client's responses are within its connection's share,
    /// and those of all clients within the budget, plus one receive per response, which is always
    /// permitted. `given` is the length received of each response; `waiting_len` is the gateway's
    /// own figure.
    pub fn check_shares(
        &self,
        clients: &[Client],
        given: &BTreeMap<usize, usize>,
        waiting_len: usize,
    ) {
        let mut held = vec![(0, 0); clients.len()];
        for (id, given_len) in given {
            // Nothing waits of a response that is over.
            let Some((client, request)) = self.live(clients, *id) else { continue };
            if self.records.contains_key(id) {
                continue;
            }
            // Bytes that have left the gateway are within the credit of their stream, read or not.
            let window = client.manner.stream_window as usize;
            let (held_len, most) = &mut held[self.places[*id].0];
            *held_len += given_len.saturating_sub(request.received_len());
            *most += self.receive_len_max + window + FRAMING_LEN_MAX;
        }
        // At half of the budget one client's share equals what is left.
        let share = CONNECTION_RESPONSES_LEN_MAX.min(self.responses_len_max / 2);
        for (held_len, most) in &held {
            let most = share + most;
            assert!(
                *held_len <= most,
                "{held_len} bytes of one client's responses wait, of {most}"
            );
        }
        let sum = |part: fn(&(usize, usize)) -> usize| held.iter().map(part).sum::<usize>();
        let (held_len, most) = (sum(|one| one.0), self.responses_len_max + sum(|one| one.1));
        assert!(held_len <= most, "{held_len} bytes of all responses wait, of {most}");
        let most = self.responses_len_max + given.len() * (self.receive_len_max + FRAMING_LEN_MAX);
        assert!(waiting_len <= most, "the gateway reports {waiting_len} waiting bytes, of {most}");
    }

    fn live<'a>(&self, clients: &'a [Client], id: usize) -> Option<(&'a Client, &'a Request)> {
        let (client, number) = *self.places.get(id)?;
        let client = &clients[client];
        let request = &client.requests[number];
        (request.got.is_none() && !client.drained).then_some((client, request))
    }
}

/// Allowance for the head, chunk lines and frame headers of one response.
const FRAMING_LEN_MAX: usize = 8 * 1024;
