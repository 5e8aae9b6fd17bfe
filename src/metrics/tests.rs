//! The exposition, read back by a strict reader independent of the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use super::exposition::ProcessFacts;
use super::families::{COUNTERS, GAUGES, HISTOGRAMS, Series};
use super::*;
use crate::message::Outcome;

/// One time series: name and labels as written, and the value.
type Parsed = BTreeMap<String, f64>;

fn report(worker: u16, base: u64) -> WorkerReport {
    let mut report = WorkerReport { worker, ..WorkerReport::default() };
    report.counters.quic.datagrams_in = base + 1;
    report.counters.proxy.requests = base + 2;
    report.counters.proxy.count_response(204);
    report.counters.proxy.count_response(599);
    report.counters.proxy.count_response(99);
    report.counters.proxy.count_response(600);
    report.counters.ledger.response.payload_bytes = base + 3;
    report.counters.ledger.response.copied_bytes.gather = base + 4;
    report.gauges.connections_open = base + 5;
    report.gauges.pool_slots.in_kernel = base + 6;
    report.request_duration.record(Duration::from_millis(3));
    report
}

fn facts() -> ProcessFacts {
    ProcessFacts {
        version: "1.2.3",
        started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        workers: vec![(0, true), (1, true), (2, false)],
        draining: false,
        endpoint_names: 3,
        generation: 5,
        last_load: UNIX_EPOCH + Duration::from_secs(1_700_000_009),
        reloads_succeeded: 4,
        reloads_failed: 6,
        access_lines_written: 7,
        access_lines_dropped: 8,
        certificates: CertificateReport {
            certificates: [
                ("a.pem".to_owned(), CertificateFacts { not_after: 1000, is_refused: true }),
                ("b.pem".to_owned(), CertificateFacts { not_after: 2000, is_refused: false }),
            ]
            .into(),
            loaded_count: 5,
            refused_count: 6,
        },
    }
}

/// Reads the text format strictly, by the OpenMetrics 1.0 rules that matter to a scraper: HELP and
/// TYPE before the samples of a family, samples of a family together, no duplicate time series, `#
/// EOF` last.
fn parse(text: &str) -> (BTreeMap<String, String>, Parsed) {
    let mut types = BTreeMap::new();
    let mut samples = Parsed::new();
    let mut family = String::new();
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            family = name.to_owned();
        } else if line.starts_with("# ") {
            assert!(line.starts_with("# HELP ") || line.starts_with("# UNIT "), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(&family), "{series} stands under {family}");
            let value = value.parse().unwrap();
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
    }
    (types, samples)
}

#[test]
fn the_exposition_parses_back_to_the_counts() {
    const COPIED: &str = "ringway_payload_copied_bytes_total";
    const GATHERED: &str = r#"worker="0",direction="response",reason="gather""#;
    let (_, samples) = parse(&exposition(vec![report(0, 100), report(1, 200)], facts()));
    let expected = [
        (r#"ringway_datagrams_total{worker="0",direction="in"}"#, 101.0),
        (r#"ringway_datagrams_total{worker="1",direction="in"}"#, 201.0),
        (r#"ringway_requests_total{worker="1"}"#, 202.0),
        (r#"ringway_responses_total{worker="0",class="2xx"}"#, 1.0),
        (r#"ringway_responses_total{worker="0",class="5xx"}"#, 2.0),
        (r#"ringway_responses_total{worker="0",class="1xx"}"#, 0.0),
        (r#"ringway_payload_bytes_total{worker="0",direction="response"}"#, 103.0),
        (&format!("{COPIED}{{{GATHERED}}}"), 104.0),
        (r#"ringway_connections_open{worker="0"}"#, 105.0),
        (r#"ringway_pool_slots{worker="1",state="in_kernel"}"#, 206.0),
        (r#"ringway_worker_up{worker="2"}"#, 0.0),
        (r#"ringway_worker_up{worker="1"}"#, 1.0),
        (r#"ringway_build_info{version="1.2.3"}"#, 1.0),
        ("ringway_process_start_time_seconds", 1_700_000_000.0),
        (r#"ringway_access_log_lines_total{outcome="dropped"}"#, 8.0),
        ("ringway_upstream_fixed_names", 3.0),
        (r#"ringway_certificate_not_after_timestamp_seconds{certificate="a.pem"}"#, 1000.0),
        (r#"ringway_certificate_not_after_timestamp_seconds{certificate="b.pem"}"#, 2000.0),
        (r#"ringway_certificate_refused{certificate="a.pem"}"#, 1.0),
        (r#"ringway_certificate_refused{certificate="b.pem"}"#, 0.0),
        (r#"ringway_certificate_changes_total{outcome="loaded"}"#, 5.0),
        (r#"ringway_certificate_changes_total{outcome="refused"}"#, 6.0),
        (r#"ringway_request_duration_seconds_count{worker="0"}"#, 1.0),
        (r#"ringway_request_duration_seconds_sum{worker="0"}"#, 0.003),
        (r#"ringway_request_duration_seconds_bucket{le="0.0025",worker="0"}"#, 0.0),
        (r#"ringway_request_duration_seconds_bucket{le="0.005",worker="0"}"#, 1.0),
        (r#"ringway_request_duration_seconds_bucket{le="+Inf",worker="0"}"#, 1.0),
    ];
    for (series, value) in expected {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
}

/// Of the text format 0.0.4 (prometheus.io): the name of TYPE and HELP is the name of the samples,
/// the types are five, and no other line begins with `#`.
#[test]
fn the_text_format_has_the_same_samples_under_their_own_names() {
    let open_metrics = exposition(vec![report(0, 100), report(1, 200)], facts());
    let text = plain_text(&open_metrics);
    let samples = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(samples(&text), samples(&open_metrics));
    let (mut family, mut kind, mut described) = (String::new(), String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            described = rest.split_once(' ').unwrap().0.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&of), "{of}");
            assert_eq!(name, described, "HELP comes before TYPE");
            (family, kind) = (name.to_owned(), of.to_owned());
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let name = line.split(['{', ' ']).next().unwrap();
            let parts = ["_bucket", "_sum", "_count"].map(|part| format!("{family}{part}"));
            let is_part = kind == "histogram" && parts.iter().any(|part| part == name);
            assert!(name == family || is_part, "{line} is under {family} of type {kind}");
        }
    }
    assert!(text.contains("# TYPE ringway_requests_total counter\n"));
    assert!(text.contains("# TYPE ringway_build_info gauge\n"));
}

#[test]
fn every_worker_has_every_family() {
    let (types, samples) = parse(&exposition(vec![report(0, 0), report(9, 0)], facts()));
    let names = COUNTERS.iter().chain(GAUGES).map(|family| {
        format!("ringway_{}{}", family.name, if family.bytes { "_bytes" } else { "" })
    });
    let histograms = HISTOGRAMS.iter().map(|family| format!("ringway_{}_seconds", family.name));
    for name in names.chain(histograms) {
        assert!(types.contains_key(&name), "{name} has no TYPE");
        for worker in ["worker=\"0\"", "worker=\"9\""] {
            let told =
                samples.keys().any(|series| series.starts_with(&name) && series.contains(worker));
            assert!(told, "{name} for {worker}");
        }
    }
}

#[test]
fn each_series_reads_its_own_field() {
    // Every field gets a different number, so a copied line that reads its neighbour's field shows
    // the same value twice.
    let mut report = WorkerReport::default();
    let mut next = 1;
    let mut seen = BTreeSet::new();
    fill(&mut report, &mut next);
    for family in COUNTERS.iter().chain(GAUGES) {
        for Series { labels, value } in family.series {
            assert!(seen.insert(value(&report)), "{} {labels:?}", family.name);
            assert_ne!(value(&report), 0, "{} {labels:?} is not filled", family.name);
        }
    }
    let exposed = seen.len() as u64;
    assert_eq!(exposed, next - 1, "a field is counted but not exposed");
}

#[test]
fn broken_rules_are_exposed_by_rule_and_outcome() {
    let mut report = WorkerReport { worker: 3, ..WorkerReport::default() };
    let rules = &mut report.counters.broken_rules;
    rules.count(BrokenRuleOutcome::Status(400), "the authority holds a bad port");
    rules.count(BrokenRuleOutcome::Reset, "no :path");
    rules.count(BrokenRuleOutcome::Reset, "no :path");
    let text = exposition(vec![report], facts());
    for line in [
        "ringway_broken_rules_total{worker=\"3\",outcome=\"400\",\
         rule=\"the authority holds a bad port\"} 1\n",
        "ringway_broken_rules_total{worker=\"3\",outcome=\"reset\",rule=\"no :path\"} 2\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn endpoints_are_exposed_by_upstream_and_address() {
    let endpoint = |address: &str, ejection_count, is_ejected| EndpointReport {
        upstream: "api".into(),
        address: address.into(),
        ejection_count,
        restoration_count: ejection_count / 2,
        is_ejected,
    };
    let endpoints = vec![endpoint("127.0.0.1:1", 4, true), endpoint("unix:/a\"b", 0, false)];
    let report = WorkerReport { worker: 3, endpoints, ..WorkerReport::default() };
    let (_, samples) = parse(&exposition(vec![report], facts()));
    let labels = r#"{worker="3",upstream="api",endpoint="127.0.0.1:1"}"#;
    let other = r#"{worker="3",upstream="api",endpoint="unix:/a\"b"}"#;
    for (series, value) in [
        (format!("ringway_upstream_ejections_total{labels}"), 4.0),
        (format!("ringway_upstream_restorations_total{labels}"), 2.0),
        (format!("ringway_upstream_endpoint_ejected{labels}"), 1.0),
        (format!("ringway_upstream_ejections_total{other}"), 0.0),
        (format!("ringway_upstream_endpoint_ejected{other}"), 0.0),
    ] {
        assert_eq!(samples.get(&series), Some(&value), "{series}");
    }
}

#[test]
fn requests_are_exposed_by_outcome() {
    let mut report = WorkerReport { worker: 3, ..WorkerReport::default() };
    for (index, outcome) in Outcome::ALL.iter().enumerate() {
        (0..=index).for_each(|_| report.counters.outcomes.count(*outcome));
    }
    let (_, samples) = parse(&exposition(vec![report], facts()));
    for (index, outcome) in Outcome::ALL.iter().enumerate() {
        let token = outcome.token();
        let series = format!("ringway_request_outcomes_total{{worker=\"3\",outcome=\"{token}\"}}");
        assert_eq!(samples.get(series.as_str()), Some(&(index as f64 + 1.0)), "{series}");
    }
}

/// Gives each field the next number.
macro_rules! number {
    ($next:expr, $($target:expr),+ $(,)?) => {
        $({ *$target = *$next; *$next += 1; })+
    };
}

/// Gives every field a different number. The patterns here and below have no `..`, so a new field
/// does not compile until it is added.
fn fill(report: &mut WorkerReport, next: &mut u64) {
    #[rustfmt::skip]
    let Counters {
        quic, connections_closed, tcp, http3, broken_rules, proxy, outcomes, ring, pool, worker,
        ledger,
    } = &mut report.counters;
    // Both are exposed by tests of their own: their labels are not in the table.
    assert_eq!(*broken_rules, BrokenRules::default());
    assert_eq!(*outcomes, Outcomes::default());
    fill_quic(quic, next);
    fill_closed(connections_closed, next);
    fill_tcp(tcp, next);
    fill_proxy(proxy, next);
    fill_ring(ring, next);
    #[rustfmt::skip]
    let Http3Counters {
        streams_opened: a, requests_malformed: b, connection_errors: c, excessive_load: d,
        streams_cancelled: e, streams_reset: f, streams_shed, connections_evicted: g,
    } = http3;
    let StreamsShed { draining, memory, load } = streams_shed;
    number!(next, draining, memory, load);
    number!(next, a, b, c, d, e, f, g);
    let PoolCounters { low_water_events } = pool;
    number!(next, low_water_events);
    #[rustfmt::skip]
    let WorkerCounters {
        loop_turns: a, sleeps: b, commands: c, restarts: d, access_records_dropped: e,
        connect_fallbacks: f, probes_returned: g, probes_lost: h,
    } = worker;
    number!(next, a, b, c, d, e, f, g, h);
    let Ledger { request, response } = ledger;
    for flow in [request, response] {
        let Flow { payload_bytes, copied_bytes } = flow;
        let Copied { gather, small, quota, low_water, handshake, tls } = copied_bytes;
        number!(next, payload_bytes, gather, small, quota, low_water, handshake, tls);
    }
    #[rustfmt::skip]
    let Gauges {
        connections_open: a, connections_handshaking: b, exchanges_active: c,
        requests_waiting: d, upstream_connections_open: e, upstream_connections_idle: f,
        responses_waiting_bytes: g, pool_slots, ring_operations: h, socket_offload,
        tcp_connections_open: i, tcp_connections_waiting: j, http3_withheld: k,
    } = &mut report.gauges;
    number!(next, a, b, c, d, e, f, g, h, i, j, k);
    let SocketOffload { gro_on, gro_off, gso_on, gso_off, zero_copy_on, zero_copy_off } =
        socket_offload;
    number!(next, gro_on, gro_off, gso_on, gso_off, zero_copy_on, zero_copy_off);
    let PoolSlots { free, owned, provided, in_kernel } = pool_slots;
    number!(next, free, owned, provided, in_kernel);
}

fn fill_quic(quic: &mut QuicCounters, next: &mut u64) {
    #[rustfmt::skip]
    let QuicCounters {
        datagrams_in: a, bytes_in: b, datagrams_out: c, bytes_out: d, datagrams_dropped: e,
        datagrams_foreign_id: f, handshakes_started: g, handshakes_completed: h,
        handshakes_failed: i, handshake_failures, connections_refused,
        initials_dropped: l, retries: m, version_negotiations: n, resets: o,
        initial_closes: p, responses_dropped: q, probes_dropped: r, packets_lost: s,
        datagrams_from_port_0: t, tokens_replayed: u, datagrams_too_long: v,
        connection_attempts: k, first_packets_dropped: w, flow_blocked,
    } = quic;
    let ConnectionsRefused { limit, address, memory, draining } = connections_refused;
    number!(next, limit, address, memory, draining);
    let FlowBlocked { connection, stream } = flow_blocked;
    number!(next, connection, stream);
    fill_failures(handshake_failures, next);
    number!(next, a, b, c, d, e, f, g, h, i, k, l, m, n, o, p, q, r, s, t, u, v, w);
}

fn fill_failures(failures: &mut HandshakeFailures, next: &mut u64) {
    #[rustfmt::skip]
    let HandshakeFailures {
        no_shared_protocol, unknown_server_name, certificate_rejected, no_shared_parameters,
        transport_parameters, timed_out, client, other, client_certificate_missing,
        client_certificate_expired, client_certificate_revoked, client_certificate_untrusted,
        client_certificate_invalid,
    } = failures;
    number!(next, no_shared_protocol, unknown_server_name, certificate_rejected);
    number!(next, client_certificate_missing, client_certificate_expired);
    number!(next, client_certificate_revoked, client_certificate_untrusted);
    number!(next, client_certificate_invalid);
    number!(next, no_shared_parameters, transport_parameters, timed_out, client, other);
}

fn fill_tcp(tcp: &mut TcpCounters, next: &mut u64) {
    let TcpCounters {
        connections_accepted: a,
        connections_refused: b,
        connections_closed: c,
        handshakes_completed: d,
        early_data: EarlyDataCounters { accepted: e, rejected: f },
        handshake_failures,
        proxy_header_failures,
    } = tcp;
    number!(next, a, b, c, d, e, f);
    fill_failures(handshake_failures, next);
    let ProxyHeaderFailures { malformed, cut_off, timed_out } = proxy_header_failures;
    number!(next, malformed, cut_off, timed_out);
}

fn fill_closed(closed: &mut ConnectionsClosed, next: &mut u64) {
    let ConnectionsClosed { client, gateway, idle, reset, error } = closed;
    number!(next, client, gateway, idle, reset, error);
}

fn fill_proxy(proxy: &mut ProxyCounters, next: &mut u64) {
    #[rustfmt::skip]
    let ProxyCounters {
        requests: a, responses, own_responses, exchanges_aborted: b, responses_reset: c,
        upstream_connects: d, upstream_reuses: e, upstream_retries: f, upstream_idle_discarded: g,
        queue_sheds: j, upstream_failures, upstream_connect_failures, proxy_fields_dropped,
        request_body_bytes: h, response_body_bytes: i,
    } = proxy;
    number!(next, a, b, c, d, e, f, g, h, i, j);
    for class in responses {
        number!(next, class);
    }
    #[rustfmt::skip]
    let OwnResponses {
        bad_request: a, no_route: b, request_timeout: c, body_too_large: d, misdirected: e,
        fields_too_large: f, not_implemented: g, bad_gateway: h, overloaded: i,
        gateway_timeout: j, too_many_requests: k, no_client_certificate: l,
    } = own_responses;
    number!(next, a, b, c, d, e, f, g, h, i, j, k, l);
    #[rustfmt::skip]
    let UpstreamFailures {
        connect_refused: a, connect_timeout: b, connect_failed: c, response_timeout: d,
        terminated: e, protocol: f,
    } = upstream_failures;
    number!(next, a, b, c, d, e, f);
    #[rustfmt::skip]
    let ConnectFailures {
        refused, missing, forbidden, unreachable, timed_out, queue_full, reset, no_port,
        no_descriptor, no_memory, no_place, other,
    } = upstream_connect_failures;
    number!(next, refused, missing, forbidden, unreachable, timed_out, queue_full, reset);
    number!(next, no_port, no_descriptor, no_memory, no_place, other);
    let ProxyFieldsDropped { forwarding, address, target, method, identity, added } =
        proxy_fields_dropped;
    number!(next, forwarding, address, target, method, identity, added);
}

fn fill_ring(ring: &mut RingCounters, next: &mut u64) {
    #[rustfmt::skip]
    let RingCounters {
        enters: a, completions: b, rearms: c, no_buffers_datagrams: d, no_buffers_streams: e,
        cq_overflows: f, gso_fallbacks: g, send_retries: h, sends_lost, truncated: i, empty: j,
        unreadable: k, receive_failures: l, late: m, stale_keys: n, zero_copy_sends: o,
        zero_copy_copied: p, zero_copy_refused: q, no_memory: r, closes_failed: s,
        accepted: t, accept_failures,
    } = ring;
    number!(next, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t);
    let AcceptFailures { client_gone, no_file, no_memory, other } = accept_failures;
    number!(next, client_gone, no_file, no_memory, other);
    let SendsLost { too_long, unreachable, refused, no_buffers, cancelled, other } = sends_lost;
    number!(next, too_long, unreachable, refused, no_buffers, cancelled, other);
}

#[test]
fn own_responses_and_failures_are_counted_by_kind() {
    let mut own = OwnResponses::default();
    for status in [400, 403, 404, 408, 413, 421, 429, 431, 501, 502, 503, 504, 500] {
        own.count(Some(status));
    }
    own.count(None);
    #[rustfmt::skip]
    let each_once = OwnResponses {
        bad_request: 1, no_route: 1, request_timeout: 1, body_too_large: 1, misdirected: 1,
        fields_too_large: 1, not_implemented: 1, bad_gateway: 1, overloaded: 1,
        gateway_timeout: 1, too_many_requests: 1, no_client_certificate: 1,
    };
    assert_eq!(own, each_once);
    let mut failures = UpstreamFailures::default();
    for failure in [
        UpstreamFailure::ConnectRefused,
        UpstreamFailure::ConnectTimeout,
        UpstreamFailure::ConnectFailed,
        UpstreamFailure::ResponseTimeout,
        UpstreamFailure::Terminated,
        UpstreamFailure::Protocol,
    ] {
        failures.count(failure, 1);
    }
    #[rustfmt::skip]
    let each_once = UpstreamFailures {
        connect_refused: 1, connect_timeout: 1, connect_failed: 1, response_timeout: 1,
        terminated: 1, protocol: 1,
    };
    assert_eq!(failures, each_once);
}
