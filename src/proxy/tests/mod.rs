//! Tests of the whole proxy, in memory and virtual time, against a scripted upstream.

mod broken_responses;
mod ejection;
mod failures;
mod flows;
mod random_schedules;
mod reload;
mod request_heads;
mod response_fields;
mod shares;
mod silence;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::*;
use crate::config::{
    AccessFormat, AccessLog, AccessTarget, Config, EarlyData, Endpoint, EndpointAddress, Health,
    HostPolicy, Hugepages, Limits, Listener, ListenerTls, Log, LogLevel, Protocols, ProxyFields,
    Quic, Retry, RetryOn, Route, Runtime, Tcp, Tls, Upstream,
};
use crate::message::{
    AccessRecord, Authority, Bound, Fields, Handover, Head, Incident, LoggedText, Outcome,
    Protocol, Refusal, Scheme, Sender, Target, Understood,
};

/// A response of the upstream.
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
pub(super) const HEALTH: Health =
    Health { failure_count: 3, pause: Duration::from_secs(5), pause_max: Duration::from_secs(60) };
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn sender() -> Sender {
    crate::testing::sender(([192, 0, 2, 1], 4433).into())
}

fn quic() -> Quic {
    Quic {
        retry: Retry::Adaptive,
        congestion: crate::config::Congestion::Cubic,
        max_connections: 1000,
        connections_per_address: 100,
        half_open_per_address: 100,
        idle_timeout: Duration::from_secs(30),
        max_streams: 100,
        stream_receive_window: 1 << 20,
        receive_window_max: 6 << 20,
        send_window_max: 6 << 20,
    }
}

/// Returns one listener, one upstream "app" behind `/`, endpoints 127.0.0.1:8001 and up.
pub(super) fn config(endpoint_count: u16, max_connections: u32, max_waiting: u32) -> Config {
    let endpoint = |index| Endpoint {
        address: EndpointAddress::Tcp(([127, 0, 0, 1], 8001 + index).into()),
        name: None,
        weight: 1,
    };
    Config {
        runtime: runtime(),
        admin: None,
        log: Log {
            level: LogLevel::Info,
            tls_keys: None,
            access: Some(AccessLog { target: AccessTarget::Stdout, format: AccessFormat::Json }),
        },
        listeners: vec![Listener {
            name: "edge".into(),
            addresses: vec![([0, 0, 0, 0], 443).into()],
            proxy_protocol: Vec::new(),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            proxy_fields: ProxyFields::default(),
            quic: quic(),
            protocols: Protocols::SECURE,
            tls: Some(ListenerTls::default()),
            redirect_to_https: None,
            early_data: EarlyData::Off,
            advertise: None,
            tcp: Tcp {
                max_connections: 1000,
                connections_per_address: 100,
                half_open_per_address: 100,
                idle_timeout: Duration::from_secs(60),
                max_streams: 100,
            },
        }],
        certificates: Vec::new(),
        tls: Tls::default(),
        routes: vec![Route {
            host: None,
            path_prefix: "/".into(),
            upstream: 0,
            request_timeout: None,
            needs_certificate: false,
        }],
        upstreams: vec![Upstream {
            name: "app".into(),
            host: HostPolicy::Preserve,
            max_connections,
            connections_per_address: 100,
            max_waiting,
            congestion: None,
            endpoints: (0..endpoint_count).map(endpoint).collect(),
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            retry: RetryOn::Timeout,
            health: HEALTH,
        }],
        limits: Limits {
            field_section_len_max: 65536,
            field_count_max: 100,
            request_body_len_max: 1 << 20,
            request_head_timeout: Duration::from_secs(10),
            request_body_timeout: BODY_TIMEOUT,
            requests_per_address: 1000,
            rate_min: 100,
            stream_reset_count_max: 200,
            response_head_len_max: 16384,
        },
    }
}

fn runtime() -> Runtime {
    Runtime {
        user: None,
        core_dumps: false,
        workers: None,
        pool_len: None,
        heap_len_max: None,
        token_key: None,
        hugepages: Hugepages::Try,
        drain_timeout: Duration::from_secs(30),
        stop_timeout: Duration::from_secs(8),
        lame_duck: Duration::ZERO,
    }
}

pub(super) fn request(method: Method, path: &str) -> Request {
    let authority = Authority::parse(Bytes::from_static(b"example.com")).unwrap();
    let path = Bytes::copy_from_slice(path.as_bytes());
    let for_options = method == Method::OPTIONS;
    let target = match method {
        Method::CONNECT => Target::Connect { authority },
        _ => Target::parse(Scheme::Https, authority, path, for_options).unwrap(),
    };
    Request {
        head: Head { method, target, fields: Fields::new(), content_length: None },
        sender: sender(),
        listener: Arc::new(config(1, 1, 0).listeners[0].clone()),
        misdirected: false,
    }
}

pub(super) fn with_length(content_length: Option<u64>, mut request: Request) -> Request {
    request.head.content_length = content_length;
    request
}

pub(super) fn field(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
}

/// A client's view of one exchange.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub downstream: Option<Downstream>,
    pub status: Option<StatusCode>,
    pub source: Option<ResponseSource>,
    pub fields: Fields,
    pub interim: Vec<StatusCode>,
    pub body: Vec<u8>,
    pub untaken_len: usize,
    pub trailers: Option<Fields>,
    pub whole: bool,
    pub reset: Option<Outcome>,
    pub stopped: bool,
    pub room_told: usize,
}

impl Seen {
    pub(super) fn is(&self, status: u16) -> bool {
        self.status.is_some_and(|seen| seen.as_u16() == status)
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.to_str().unwrap())
    }
}

/// An upstream's view of one connection.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub address: Option<EndpointAddress>,
    pub written: Vec<u8>,
    pub writing: bool,
    pub receiving: bool,
}

/// The proxy with scripted clients and upstreams; checks every output against the rules.
pub(super) struct Rig {
    pub proxy: Proxy,
    pub now: Instant,
    pub seen: BTreeMap<ExchangeKey, Seen>,
    pub wires: BTreeMap<UpstreamKey, Wire>,
    pub closed: BTreeSet<UpstreamKey>,
    pub connects: VecDeque<UpstreamKey>,
    pub records: Vec<AccessRecord>,
    pub incidents: Vec<Incident>,
    /// Whether responses are taken as they arrive.
    pub takes: bool,
    /// Whether receives are paused while something waits for the client.
    pub pauses: bool,
    streams: u64,
    listener: Arc<Listener>,
}

impl Rig {
    pub(super) fn new(config: Config) -> Self {
        Self {
            listener: Arc::new(config.listeners[0].clone()),
            proxy: Proxy::new(Arc::new(config), 1),
            now: crate::testing::epoch(),
            seen: BTreeMap::new(),
            wires: BTreeMap::new(),
            closed: BTreeSet::new(),
            connects: VecDeque::new(),
            records: Vec::new(),
            incidents: Vec::new(),
            takes: true,
            pauses: false,
            streams: 0,
        }
    }

    pub(super) fn request(&mut self, mut request: Request, ended: bool) -> ExchangeKey {
        request.listener = Arc::clone(&self.listener);
        self.streams += 4;
        let downstream = Downstream { connection: 1, stream: self.streams };
        let key = self.proxy.handle_request(self.now, downstream, request, ended);
        self.run();
        key
    }

    pub(super) fn get(&mut self, path: &str) -> ExchangeKey {
        self.request(request(Method::GET, path), true)
    }

    /// Starts a POST whose body is still to be sent.
    pub(super) fn post(&mut self, content_length: Option<u64>) -> ExchangeKey {
        self.request(with_length(content_length, request(Method::POST, "/upload")), false)
    }

    /// Starts a GET and sends it on a connection.
    pub(super) fn active_get(&mut self) -> (ExchangeKey, UpstreamKey) {
        let exchange = self.get("/");
        let upstream = self.connected();
        self.wrote(upstream);
        (exchange, upstream)
    }

    pub(super) fn body(&mut self, key: ExchangeKey, piece: &[u8]) {
        self.proxy.handle_body(self.now, key, [Bytes::copy_from_slice(piece)]);
        self.run();
    }

    pub(super) fn end_of_request(&mut self, key: ExchangeKey) {
        self.proxy.handle_end(self.now, key, None);
        self.run();
    }

    pub(super) fn abort(&mut self, key: ExchangeKey) {
        self.proxy.handle_abort(self.now, key, Outcome::ClientCancelled.into());
        self.run();
    }

    pub(super) fn event(&mut self, key: UpstreamKey, event: UpstreamEvent) {
        if let Some(wire) = self.wires.get_mut(&key) {
            match &event {
                UpstreamEvent::Wrote | UpstreamEvent::WriteFailed(_) => {
                    assert!(std::mem::take(&mut wire.writing), "no write was in flight");
                }
                UpstreamEvent::Received(_) | UpstreamEvent::End => {
                    assert!(std::mem::take(&mut wire.receiving), "no receive was in flight");
                }
                _ => {}
            }
        }
        self.proxy.handle_upstream(self.now, key, event);
        self.run();
    }

    /// Completes the oldest connect.
    pub(super) fn connected(&mut self) -> UpstreamKey {
        let key = self.connects.pop_front().expect("a connect was asked for");
        self.event(key, UpstreamEvent::Connected);
        key
    }

    pub(super) fn connect_failed(&mut self, fault: TransportFault) -> UpstreamKey {
        let key = self.connects.pop_front().expect("a connect was asked for");
        self.event(key, UpstreamEvent::ConnectFailed(fault));
        key
    }

    pub(super) fn wrote(&mut self, key: UpstreamKey) {
        self.event(key, UpstreamEvent::Wrote);
    }

    pub(super) fn response(&mut self, key: UpstreamKey, bytes: impl AsRef<[u8]>) {
        self.event(key, UpstreamEvent::Received(BytesMut::from(bytes.as_ref())));
    }

    /// Delivers a part of a receive, with more to follow.
    pub(super) fn part(&mut self, key: UpstreamKey, bytes: impl AsRef<[u8]>) {
        self.event(key, UpstreamEvent::ReceivedPart(BytesMut::from(bytes.as_ref())));
    }

    pub(super) fn end(&mut self, key: UpstreamKey) {
        self.event(key, UpstreamEvent::End);
    }

    pub(super) fn taken(&mut self, key: ExchangeKey, len: usize) {
        self.seen.get_mut(&key).unwrap().untaken_len -= len;
        self.proxy.handle_response_taken(self.now, key, len);
        self.run();
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.proxy.handle_timeout(self.now);
        self.run();
        let next = self.proxy.next_deadline();
        assert!(next.is_none_or(|next| next > self.now), "a past deadline remains");
    }

    pub(super) fn written(&self, key: UpstreamKey) -> String {
        String::from_utf8(self.wires[&key].written.clone()).unwrap()
    }

    pub(super) fn is_open(&self, key: UpstreamKey) -> bool {
        self.wires.contains_key(&key)
    }

    pub(super) fn status(&self, key: ExchangeKey) -> u16 {
        self.seen[&key].status.expect("a final head").as_u16()
    }

    /// Returns the number of ejections of all endpoints.
    pub(super) fn ejection_count(&self) -> u64 {
        self.proxy.endpoints().iter().map(|endpoint| endpoint.ejection_count).sum()
    }

    pub(super) fn record(&self) -> &AccessRecord {
        self.records.last().expect("a record was written")
    }

    /// Asserts that all exchanges are over and have left nothing behind.
    pub(super) fn assert_nothing_left(&mut self) {
        let gauges = self.proxy.gauges();
        assert_eq!((gauges.exchanges, gauges.waiting), (0, 0));
        assert_eq!(gauges.connections, gauges.idle, "only kept connections are open");
        assert_eq!(
            self.records.len() as u64,
            self.proxy.counters().exported.requests,
            "one record per exchange"
        );
        for (key, wire) in &self.wires {
            assert!(wire.receiving && !wire.writing, "{key:?} has no receive in flight");
        }
        self.proxy.close_idle(self.now);
        self.run();
        assert!(self.proxy.is_idle() && self.wires.is_empty());
        assert_eq!(self.proxy.timers.len(), 0, "no deadline is left");
        self.proxy.upstreams.unused_group_count();
    }

    fn run(&mut self) {
        while let Some(output) = self.proxy.poll(self.now) {
            self.apply(output);
        }
    }

    fn apply(&mut self, output: Output) {
        match output {
            Output::Upstream(command) => self.apply_upstream(command),
            Output::Downstream { to, exchange, command } => {
                self.apply_downstream(to, exchange, command);
            }
            Output::Access { record, .. } => self.records.push(*record),
            Output::Incident { incident, .. } => self.incidents.push(*incident),
        }
    }

    fn apply_upstream(&mut self, command: UpstreamCommand) {
        match command {
            UpstreamCommand::Connect { key, address, .. } => {
                let wire = Wire { address: Some(address), ..Wire::default() };
                assert!(self.wires.insert(key, wire).is_none() && !self.closed.contains(&key));
                self.connects.push_back(key);
            }
            UpstreamCommand::Write { key, pieces } => {
                let wire = self.wires.get_mut(&key).expect("written to after its close");
                assert!(!std::mem::replace(&mut wire.writing, true), "two writes at once");
                assert!(pieces.len() <= crate::limits::UPSTREAM_WRITE_PIECES_MAX);
                assert!(!pieces.is_empty() && pieces.iter().all(|piece| !piece.is_empty()));
                wire.written.extend(pieces.concat());
            }
            UpstreamCommand::Receive { key, downstream, slot_count_max } => {
                assert_eq!(slot_count_max, 1);
                let wire = self.wires.get_mut(&key).expect("read after its close");
                let untaken = |seen: &Seen| seen.downstream == downstream && seen.untaken_len > 0;
                if self.pauses && downstream.is_some() && self.seen.values().any(untaken) {
                    return self.proxy.pause_receive(self.now, key);
                }
                assert!(!std::mem::replace(&mut wire.receiving, true), "two receives at once");
            }
            UpstreamCommand::Close { key } => {
                assert!(self.wires.remove(&key).is_some(), "closed twice");
                self.closed.insert(key);
                self.connects.retain(|connect| *connect != key);
            }
        }
    }

    fn apply_downstream(&mut self, to: Downstream, key: ExchangeKey, command: DownstreamCommand) {
        let seen = see(&mut self.seen, key);
        match command {
            DownstreamCommand::Interim { status, .. } => {
                assert!(seen.status.is_none() && status.is_informational());
                seen.interim.push(status);
            }
            DownstreamCommand::Head { status, fields, ended, source, .. } => {
                (seen.downstream, seen.source) = (Some(to), Some(source));
                assert!(seen.status.replace(status).is_none(), "two response heads");
                assert!(!status.is_informational());
                (seen.fields, seen.whole) = (fields, ended);
            }
            DownstreamCommand::Body(piece) => {
                assert!(seen.status.is_some() && !seen.whole && !piece.is_empty());
                seen.body.extend_from_slice(&piece);
                if self.takes {
                    self.proxy.handle_response_taken(self.now, key, piece.len());
                } else {
                    seen.untaken_len += piece.len();
                    self.proxy.handle_response_blocked(self.now, key);
                }
            }
            DownstreamCommand::End(trailers) => {
                assert!(seen.status.is_some() && !std::mem::replace(&mut seen.whole, true));
                assert!(trailers.as_ref().is_none_or(|trailers| !trailers.is_empty()));
                seen.trailers = trailers;
            }
            DownstreamCommand::Reset(reason) => {
                assert!(seen.status.is_some(), "only a response that has begun is reset");
                let may_follow_the_end = [Outcome::ResponseStalled, Outcome::Deadline];
                assert!(!seen.whole || may_follow_the_end.contains(&reason));
                seen.reset = Some(reason);
            }
            DownstreamCommand::StopRequest => {
                assert!(
                    !std::mem::replace(&mut seen.stopped, true),
                    "the request body was stopped twice"
                );
            }
            DownstreamCommand::BodyRoom => {
                seen.room_told += 1;
                assert!(self.proxy.body_room(key) > 0);
            }
        }
    }
}

/// Returns the client's view of `key`, before an event is added to it.
fn see(all: &mut BTreeMap<ExchangeKey, Seen>, key: ExchangeKey) -> &mut Seen {
    let seen = all.entry(key).or_default();
    assert!(seen.reset.is_none(), "an event follows a reset");
    seen
}
