//! Compares what each client got with the outcomes that its request, the origin's plan and the
//! world's faults allow. In a world without faults that is a single outcome.

use ringway::testing::internal::message::{AccessRecord, Handover, Outcome};

use crate::origin::whole;
use crate::plan::{Ask, Behaviour, Framing, Malformed, Plan};
use crate::request::{Got, Request};
use crate::world::World;

/// An allowed outcome.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Status(u16),
    Reset(u64),
    Lost,
    Cancelled,
}

impl std::fmt::Debug for Allowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Status(status) => write!(f, "status {status}"),
            Reset(code) => write!(f, "reset {code:#x}"),
            Lost => f.write_str("connection lost"),
            Cancelled => f.write_str("cancelled"),
        }
    }
}

use Allowed::{Cancelled, Lost, Reset, Status};

/// RFC 9114 8.1
const INTERNAL_ERROR: u64 = 0x102;
const REQUEST_REJECTED: u64 = 0x10b;
const MESSAGE_ERROR: u64 = 0x10e;

/// Checks every request of the world.
pub fn check(world: &World) {
    for client in world.clients() {
        let harmed = client
            .requests
            .iter()
            .any(|request| request.ask.behaviour == Behaviour::Malformed(Malformed::DataFirst));
        for request in &client.requests {
            let ask = &request.ask;
            let got = request.got.as_ref().unwrap_or_else(|| panic!("no response to {ask:?}"));
            let mut allowed = allowed(world, ask);
            if client.requests.iter().any(|request| request.ask.behaviour.is_long_pause()) {
                // The unread bytes of one response fill the window of the whole connection.
                allowed.push(Reset(INTERNAL_ERROR));
            }
            let weather = world.scenario.weather;
            let unborn = matches!(got, Got::ConnectionLost { established: false, .. });
            if harmed
                || client.manner.leaves.is_some()
                || client.is_out_of_reach()
                || weather.is_harsh()
                || world.scenario.drain.is_some()
                || unborn && (weather.loses() || world.scenario.socket.refuses > 0.0)
                // A Retry token validates the address that it was sent to (RFC 9000 8.1.2).
                || unborn && !client.manner.moves.is_empty()
            {
                allowed.push(Lost);
            }
            check_one(world, ask, got, &allowed);
            if !matches!(got, Got::Whole { .. }) {
                check_cut(world, request);
            }
        }
    }
    check_tries(world);
}

fn check_one(world: &World, ask: &Ask, got: &Got, allowed: &[Allowed]) {
    let outcome = match got {
        Got::Whole { status, .. } => Status(*status),
        Got::Reset(code) => Reset(*code),
        Got::Cancelled => Cancelled,
        Got::ConnectionLost { .. } => Lost,
    };
    let record = world.books.record(ask.id);
    let ended = record.map(|record| (record.outcome, record.duration));
    assert!(allowed.contains(&outcome), "{outcome:?}, allowed {allowed:?}: {ended:?}, {ask:?}");
    match got {
        Got::Whole { status, body, trailers, interim_count } => {
            let Some(record) = record else {
                // A request whose head was never complete has no path to identify it.
                return assert_eq!(*status, 408, "no access record for {ask:?}");
            };
            assert_eq!(record.status.map(|status| status.as_u16()), Some(*status), "{ask:?}");
            assert_eq!(record.handover, Handover::Whole, "{ask:?}");
            assert_eq!(record.response_len, body.len() as u64, "{ask:?}");
            check_delivery(record);
            if record.is_own {
                let token = record.outcome.error();
                let is_explained = token.is_some_and(|token| is_explained(world, ask, token));
                assert!(is_explained, "{token:?} for {ask:?}");
            } else {
                assert!(*body == ask.response_body(), "the body differs, {}: {ask:?}", body.len());
                let framing = Framing::Chunked { trailers: true };
                let sends_trailers = ask.method != "HEAD"
                    && matches!(ask.plan, Plan::Whole { framing: sent, .. }
                        | Plan::Cut { framing: sent, .. } if sent == framing);
                assert_eq!(*trailers, sends_trailers, "{ask:?}");
                if let Plan::Whole { interim_count: sent, .. } = ask.plan {
                    assert_eq!(*interim_count, usize::from(sent), "{ask:?}");
                }
            }
        }
        Got::Reset(INTERNAL_ERROR) => {
            let record = record.unwrap_or_else(|| panic!("no access record for {ask:?}"));
            assert_eq!(record.handover, Handover::Reset, "{ask:?}: {record:?}");
            assert!(record.outcome.error().is_some(), "{ask:?}: {record:?}");
        }
        Got::Reset(MESSAGE_ERROR) => {
            let record = record.unwrap_or_else(|| panic!("no access record for {ask:?}"));
            assert_eq!(record.outcome, Outcome::RequestMalformed, "{ask:?}: {record:?}");
            assert!(record.rule.is_some(), "{ask:?}: {record:?}");
        }
        Got::Reset(_) | Got::Cancelled | Got::ConnectionLost { .. } => {}
    }
}

/// Asserts that the record of a response that the client has, and that came from an upstream, says
/// so: acknowledged, or not because the connection ended first.
fn check_delivery(record: &AccessRecord) {
    let is_complete = record.outcome == Outcome::Complete;
    assert_eq!(is_complete, record.delivered.is_some() && !record.is_own, "{record:?}");
    assert!(record.delivered.is_none_or(|delivered| delivered >= record.duration), "{record:?}");
    let may_be_unacknowledged = [
        Outcome::Unconfirmed,
        Outcome::IdleTimeout,
        Outcome::ClientReset,
        Outcome::ConnectionError,
        Outcome::ExcessiveLoad,
        Outcome::GatewayClosed,
    ];
    let is_unacknowledged = may_be_unacknowledged.contains(&record.outcome);
    assert!(is_complete || record.is_own || is_unacknowledged, "{record:?}");
}

/// Asserts that the received part of a truncated, abandoned or lost response is a prefix of the
/// true one.
fn check_cut(world: &World, request: &Request) {
    let (ask, (status, body)) = (&request.ask, request.received());
    let Some(status) = status else {
        return assert!(body.is_empty(), "a body without a head: {ask:?}");
    };
    let record = world.books.record(ask.id);
    let given = record.and_then(|record| record.status).map_or(408, |status| status.as_u16());
    assert_eq!(status, given, "{ask:?}");
    if record.is_none_or(|record| record.is_own) {
        // The gateway's own response begins with its status.
        let own = format!("{status} ");
        let len = own.len().min(body.len());
        return assert!(own.as_bytes()[..len] == body[..len], "the response differs: {ask:?}");
    }
    assert!(
        ask.response_body().starts_with(body),
        "the first {} bytes differ: {ask:?}",
        body.len()
    );
}

/// Returns whether a fault of the world explains the gateway's own response with the error `token`
/// (RFC 9209 2.3).
fn is_explained(world: &World, ask: &Ask, token: &str) -> bool {
    let scenario = &world.scenario;
    let troubles = scenario.troubles;
    let breaks = troubles.breaks > 0.0 || matches!(ask.plan, Plan::Cut { .. });
    match token {
        "connection_refused" | "destination_ip_unroutable" | "proxy_internal_error" => {
            troubles.connect_fails > 0.0
        }
        "connection_timeout" => troubles.connect_fails > 0.0 || troubles.connect_hangs > 0.0,
        "connection_limit_reached" => scenario.has_few_connections(),
        "connection_terminated" => breaks || scenario.has_race_for_kept(),
        "http_response_incomplete" => breaks,
        "http_response_timeout" => ask.plan == Plan::Never,
        "http_protocol_error" => {
            matches!(
                ask.plan,
                Plan::Lie(_) | Plan::BadChunk { .. } | Plan::Whole { interim_count: 9.., .. }
            )
        }
        "http_request_error" => true,
        _ => false,
    }
}

/// Asserts that a request that is not idempotent is sent once, an idempotent one at most twice (RFC
/// 9110 9.2.2).
fn check_tries(world: &World) {
    for request in world.clients().iter().flat_map(|client| &client.requests) {
        let ask = &request.ask;
        let count = world.heads().get(&ask.id).copied().unwrap_or(0);
        let most = if ask.method == "POST" { 1 } else { 2 };
        assert!(count <= most, "the origin got the request {count} times: {ask:?}");
    }
}

/// Returns the allowed outcomes of a request, apart from the loss of its connection.
fn allowed(world: &World, ask: &Ask) -> Vec<Allowed> {
    let scenario = &world.scenario;
    let limits = &scenario.config.limits;
    let mut allowed = vec![proper(ask)];
    if let Plan::Early { status, .. } = ask.plan {
        allowed.push(Status(status));
    }
    if matches!(ask.plan, Plan::Cut { .. } | Plan::BadChunk { .. })
        && allowed.contains(&Reset(INTERNAL_ERROR))
    {
        // The fault comes before the head has left.
        allowed.push(Status(502));
    }
    match ask.behaviour {
        Behaviour::CancelAfter(_) | Behaviour::AbortAt(_) => allowed.push(Cancelled),
        Behaviour::StallAt(_) => {
            allowed = vec![Status(408)];
            if let Plan::Early { status, .. } = ask.plan {
                allowed.push(Status(status));
            }
        }
        // Either error may be detected first: the malformed head or the premature end.
        Behaviour::Malformed(Malformed::UpperCase) => allowed = vec![Reset(MESSAGE_ERROR)],
        Behaviour::Malformed(Malformed::DataFirst) => allowed = vec![Lost],
        Behaviour::Plain | Behaviour::PauseReading(..) | Behaviour::PauseSending(..) => {}
    }
    if ask.declared.is_some_and(|declared| declared != ask.body_len) {
        // RFC 9114 4.1.2. An overlong body may end after its response.
        if ask.declared > Some(ask.body_len) && !matches!(ask.plan, Plan::Early { .. }) {
            allowed.clear();
        }
        allowed.push(Reset(MESSAGE_ERROR));
    }
    if ask.declared.unwrap_or(ask.body_len) as u64 > limits.request_body_len_max {
        allowed.push(Status(413));
        let may_be =
            |one: &Allowed| matches!(one, Status(413) | Cancelled | Lost | Reset(MESSAGE_ERROR));
        allowed.retain(|one| ask.declared.is_none() || may_be(one));
    }
    if scenario.drain.is_some() {
        allowed.push(Reset(REQUEST_REJECTED));
    }
    if scenario.weather.is_harsh() {
        allowed.extend([Status(408), Reset(INTERNAL_ERROR)]);
    }
    let troubles = scenario.troubles;
    if troubles.connect_fails > 0.0 {
        allowed.extend([502, 503, 504].map(Status));
    }
    if troubles.connect_hangs > 0.0 {
        allowed.push(Status(504));
    }
    if troubles.breaks > 0.0 {
        allowed.extend([Status(502), Reset(INTERNAL_ERROR)]);
    }
    if scenario.has_few_connections() {
        allowed.push(Status(503));
    }
    if scenario.has_race_for_kept() && (ask.method == "POST" || ask.body_len > 0) {
        allowed.push(Status(502));
    }
    allowed
}

/// Returns the outcome that the plan alone leads to.
fn proper(ask: &Ask) -> Allowed {
    match ask.plan {
        Plan::Whole { interim_count: 9.., .. } | Plan::Lie(_) => Status(502),
        Plan::Whole { .. }
        | Plan::Echo
        | Plan::Drip { .. }
        | Plan::Overlong { .. }
        | Plan::Leaves { .. } => Status(200),
        Plan::Bare(status) | Plan::Early { status, .. } => Status(status),
        Plan::Never => Status(504),
        Plan::Stall { .. } | Plan::BadChunk { .. } => Reset(INTERNAL_ERROR),
        Plan::Cut { framing, len, permille, .. } => {
            let bytes = whole(ask, framing, len);
            let cut = bytes.len() * permille / 1000;
            let head_len = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let is_whole = cut == bytes.len() && framing != Framing::UntilClose;
            match cut {
                _ if is_whole => Status(200),
                _ if cut < head_len => Status(502),
                _ => Reset(INTERNAL_ERROR),
            }
        }
    }
}
