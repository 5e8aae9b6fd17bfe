//! The beginning, the end and the refusal of connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn_proto::{ConnectionError, Dir, TransportErrorCode};

use super::super::*;
use super::pair::{HOST, Pair, quic, server_tls, settings};
use crate::config::{Certificate, CertificateSource, HostPattern, Retry, Tls, UnknownServerName};
use crate::limits::{
    HALF_OPEN_COUNT_MAX, HALF_OPEN_RETRY_COUNT, HANDSHAKE_TIMEOUT, SLOW_HANDSHAKE_TIMEOUT,
};
use crate::metrics::{HandshakeFailure, HandshakeFailures};
use crate::testing::ClientTls;
use crate::tls::ServerTls;

#[test]
fn a_new_connection_is_reported() {
    let mut pair = Pair::new(quic());
    let client = pair.connect();
    assert!(pair.run(Duration::from_secs(5), |pair| !pair.events.is_empty()));
    let (key, event) = pair.events.pop_front().unwrap();
    let remote = pair.client_address;
    let server_name = Some(HOST.to_owned());
    assert_eq!(event, Event::Connected { server_name, socket: 0, client_certificate: None });
    assert_eq!(pair.engine.counts(), ConnectionCounts { open: 1, handshaking: 0, closing: 0 });
    assert_eq!(pair.engine.remote_address(key), Some(remote));
    assert_eq!(pair.engine.client_address(key), Some(remote));
    let local = super::super::types::Local { socket: 0, ip: Some(super::pair::SERVER_IP) };
    assert_eq!(pair.engine.local(key), Some(local));
    assert!(pair.run(Duration::from_secs(5), |pair| !pair.clients[&client].is_handshaking()));
    let rtt = pair.engine.rtt(key).unwrap();
    assert!(rtt >= 2 * pair.delay && rtt < Duration::from_millis(400), "{rtt:?}");
    assert_eq!(pair.engine.stats().handshakes_completed, 1);
}

#[test]
fn the_handshake_survives_loss_and_reordering() {
    for seed in 0..20 {
        let mut pair = Pair::new(quic());
        pair.seed(seed);
        pair.loss = 0.15;
        pair.jitter = Duration::from_millis(15);
        pair.connected();
    }
}

/// A satellite link in bad weather. Within ten seconds 52 of these would be done.
#[test]
fn nearly_all_handshakes_succeed_on_a_slow_path_that_loses_a_third() {
    let mut late = Vec::new();
    for seed in 0..60 {
        let mut pair = Pair::new(quic());
        pair.seed(seed);
        pair.loss = 0.3;
        pair.delay = Duration::from_millis(300);
        pair.connect();
        if !pair.run(Duration::from_secs(60), |pair| pair.take_connected().is_some()) {
            late.push(seed);
        }
    }
    assert!(late.len() <= 3, "seeds {late:?}");
}

/// Begins a handshake whose client falls silent after it has acknowledged something, within three
/// seconds. Its address is validated by then, or not.
fn begin_and_fall_silent(is_validated: bool) -> Pair {
    for seed in 0..1000 {
        let mut pair = Pair::new(quic());
        pair.seed(seed);
        pair.loss = 0.6;
        pair.connect();
        pair.pass(Duration::from_secs(3));
        let keys = pair.engine.table.keys();
        let connection = keys.first().and_then(|key| pair.engine.table.get(*key));
        let is_wanted = connection.is_some_and(|connection| {
            connection.proto.is_handshaking()
                && connection.proto.stats().frame_rx.acks > 0
                && connection.paths.is_proven() == is_validated
        });
        if is_wanted {
            pair.client_is_mute = true;
            return pair;
        }
    }
    panic!("no such handshake");
}

#[test]
fn a_handshake_whose_client_has_responded_ends_after_half_a_minute() {
    for is_validated in [true, false] {
        let mut pair = begin_and_fall_silent(is_validated);
        pair.pass(SLOW_HANDSHAKE_TIMEOUT - Duration::from_millis(3500));
        assert_eq!(pair.engine.counts().handshaking, 1);
        pair.pass(Duration::from_millis(1000));
        assert_eq!(pair.engine.stats().handshake_failures.timed_out, 1);
        pair.assert_empty();
    }
}

/// Whoever forges addresses can forge acknowledgements of Initial packets too.
#[test]
fn while_many_handshakes_are_in_progress_only_a_validated_address_is_given_more_time() {
    for is_validated in [true, false] {
        let mut pair = begin_and_fall_silent(is_validated);
        begin_silent(&mut pair, HALF_OPEN_RETRY_COUNT);
        pair.client_is_mute = true;
        pair.pass(HANDSHAKE_TIMEOUT - Duration::from_millis(2500));
        let left = HALF_OPEN_RETRY_COUNT + usize::from(is_validated);
        assert_eq!(pair.engine.counts().handshaking, left);
    }
}

/// RFC 9000 9 lets a server rely on a stable address until the handshake is done. A NAT may rebind
/// earlier without the client noticing: this costs no more than a lost flight.
#[test]
fn a_handshake_survives_a_new_port_at_any_moment() {
    for moved_after in (0..120).step_by(5).map(Duration::from_millis) {
        let mut pair = Pair::new(quic());
        let client = pair.connect();
        pair.pass(moved_after);
        pair.client_address.set_port(50_000);
        assert!(
            pair.run(Duration::from_secs(4), |pair| !pair.clients[&client].is_handshaking()),
            "moved after {moved_after:?}: the client's handshake hangs"
        );
        let stream = pair.clients.get_mut(&client).unwrap().streams().open(Dir::Bi).unwrap();
        pair.client_write(client, stream.into(), &mut Bytes::from_static(b"GET"));
        let arrived = |pair: &mut Pair| {
            pair.events.iter().any(|(_, event)| matches!(event, Event::StreamOpened(_)))
        };
        assert!(
            pair.run(Duration::from_secs(4), arrived),
            "moved after {moved_after:?}: nothing more arrives"
        );
        let counts = ConnectionCounts { open: 1, handshaking: 0, closing: 0 };
        assert_eq!(pair.engine.counts(), counts, "moved after {moved_after:?}");
    }
}

#[test]
fn a_silent_client_is_dropped_after_the_idle_timeout() {
    let mut pair = Pair::new(quic());
    let (_, key) = pair.connected();
    pair.pass(Duration::from_secs(1));
    pair.client_is_mute = true;
    let before = pair.now;
    assert!(pair.run(Duration::from_secs(60), |pair| !pair.events.is_empty()));
    assert_eq!(pair.events.pop_front().unwrap(), (key, Event::Closed(CloseReason::IdleTimeout)));
    let silence = pair.now - before;
    assert!(silence > Duration::from_secs(28) && silence < Duration::from_secs(32), "{silence:?}");
    pair.assert_empty();
}

#[test]
fn our_close_reaches_the_client() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    pair.engine.close(pair.now, key, 0x102, b"too much");
    assert!(!pair.engine.is_open(key));
    assert!(pair.run(Duration::from_secs(1), |pair| !pair.events.is_empty()));
    let closed = Event::Closed(CloseReason::Local { code: 0x102 });
    assert_eq!(pair.events.pop_front().unwrap(), (key, closed));
    assert_eq!(pair.engine.counts().closing, 1);
    let mut lost = None;
    pair.run(Duration::from_secs(5), |pair| {
        while let Some((index, event)) = pair.client_events.pop_front() {
            if let quinn_proto::Event::ConnectionLost { reason } = event {
                assert_eq!(index, client);
                lost = Some(reason);
            }
        }
        lost.is_some()
    });
    match lost {
        Some(ConnectionError::ApplicationClosed(close)) => {
            assert_eq!(close.error_code.into_inner(), 0x102);
            assert_eq!(&close.reason[..], b"too much");
        }
        other => panic!("{other:?}"),
    }
    pair.pass(Duration::from_secs(10));
    assert!(pair.events.is_empty(), "the close is reported once");
    pair.assert_empty();
}

#[test]
fn the_clients_close_is_reported_with_its_code() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    let now = pair.now;
    let reason = bytes::Bytes::from_static(b"bye");
    let code = quinn_proto::VarInt::from_u32(0x100);
    pair.clients.get_mut(&client).unwrap().close(now, code, reason.clone());
    assert!(pair.run(Duration::from_secs(1), |pair| !pair.events.is_empty()));
    let closed = Event::Closed(CloseReason::Peer { code: 0x100, reason });
    assert_eq!(pair.events.pop_front().unwrap(), (key, closed));
    pair.pass(Duration::from_secs(10));
    pair.assert_empty();
}

#[test]
fn close_all_ends_open_and_half_open_connections() {
    let mut pair = Pair::new(quic());
    pair.connected();
    pair.connected();
    pair.connect();
    assert!(pair.run(Duration::from_secs(1), |pair| pair.engine.counts().handshaking == 1));
    pair.engine.close_all(pair.now, 0x100, b"");
    assert_eq!(pair.engine.counts(), ConnectionCounts { open: 0, handshaking: 1, closing: 2 });
    pair.pass(Duration::from_secs(20));
    pair.assert_empty();
    assert!(pair.clients.is_empty(), "the clients have received the close");
}

#[test]
fn retry_validates_the_address() {
    let mut pair = Pair::new(config_with(Retry::Always));
    pair.connected();
    // One for each of the two Initials that carry the ClientHello; the client follows the first.
    let stats = pair.engine.stats();
    assert_eq!((stats.retries, stats.handshakes_started, stats.handshakes_completed), (2, 1, 1));
}

#[test]
fn a_client_that_comes_again_skips_retry() {
    let mut pair = Pair::new(config_with(Retry::Always));
    pair.tokens = Arc::new(quinn_proto::TokenMemoryCache::default());
    let (_, first) = pair.connected();
    pair.pass(Duration::from_millis(200));
    assert_eq!(pair.engine.stats().retries, 2);
    pair.connected();
    pair.pass(Duration::from_millis(200));
    assert_eq!(pair.engine.stats().retries, 2);
    pair.engine.close(pair.now, first, 0, b"");
    // A token proves the host, not the port.
    pair.client_address.set_port(999);
    pair.connected();
    pair.pass(Duration::from_millis(200));
    assert_eq!(pair.engine.stats().retries, 2);
    pair.client_address = ([203, 0, 113, 1], 999).into();
    pair.connected();
    assert_eq!(pair.engine.stats().retries, 4, "another host has to prove itself");
}

#[test]
fn an_adaptive_listener_sends_retry_while_many_connections_are_half_open() {
    let mut pair = Pair::new(config_with(Retry::Adaptive));
    begin_silent(&mut pair, HALF_OPEN_RETRY_COUNT);
    assert_eq!(pair.engine.counts().handshaking, HALF_OPEN_RETRY_COUNT);
    assert_eq!(pair.engine.stats().retries, 0);
    let (_, key) = pair.connected();
    assert_eq!(pair.engine.stats().retries, 2);
    assert!(pair.engine.is_open(key));
    pair.pass(HANDSHAKE_TIMEOUT);
    assert_eq!(pair.engine.counts(), ConnectionCounts { open: 1, handshaking: 0, closing: 0 });
    assert_eq!(pair.engine.stats().handshake_failures.timed_out, HALF_OPEN_RETRY_COUNT as u64);
    pair.connected();
    assert_eq!(pair.engine.stats().retries, 2, "no further Retry is sent");
}

#[test]
fn without_retry_half_open_connections_are_bounded_and_released() {
    let mut pair = Pair::new(quic());
    begin_silent(&mut pair, HALF_OPEN_COUNT_MAX + 7);
    assert_eq!(pair.engine.counts().handshaking, HALF_OPEN_COUNT_MAX);
    assert_eq!(pair.engine.stats().initials_dropped, 2 * 7);
    pair.pass(HANDSHAKE_TIMEOUT);
    assert!(pair.events.is_empty());
    pair.assert_empty();
}

/// Begins handshakes whose clients then fall silent.
fn begin_silent(pair: &mut Pair, count: usize) {
    for _ in 0..count {
        pair.record = Some(Vec::new());
        pair.client_is_mute = true;
        pair.connect();
        pair.drive();
        let initials = pair.record.take().unwrap_or_default();
        pair.clients.clear();
        let address = pair.client_address;
        for initial in initials {
            pair.inject(address, &initial);
        }
    }
    pair.client_is_mute = false;
}

#[test]
fn a_full_listener_refuses_with_connection_refused() {
    let mut pair = Pair::new(crate::config::Quic { max_connections: 2, ..quic() });
    let (_, first) = pair.connected();
    pair.connected();
    let client = pair.connect();
    let mut refused = false;
    pair.run(Duration::from_secs(5), |pair| {
        refused |= pair.client_events.drain(..).any(|(index, event)| match event {
            quinn_proto::Event::ConnectionLost {
                reason: ConnectionError::ConnectionClosed(close),
            } => index == client && close.error_code == TransportErrorCode::CONNECTION_REFUSED,
            _ => false,
        });
        refused
    });
    assert!(refused);
    // Each of the two Initials that carry the ClientHello is refused.
    assert_eq!(pair.engine.stats().connections_refused.limit, 2);
    pair.engine.close(pair.now, first, 0, b"");
    pair.pass(Duration::from_secs(5));
    pair.connected();
}

#[test]
fn one_address_leaves_connections_to_others() {
    let quic = crate::config::Quic { max_connections: 20, connections_per_address: 10, ..quic() };
    let mut pair = Pair::new(quic);
    pair.connected();
    pair.connected();
    pair.connect();
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.engine.counts().open, 2, "a tenth of them");
    assert!(pair.engine.stats().connections_refused.address > 0);
    pair.client_address = ([198, 51, 100, 8], 40_000).into();
    pair.connected();
}

#[test]
fn the_key_of_a_closed_connection_is_harmless() {
    let mut pair = Pair::new(quic());
    let (_, old) = pair.connected();
    pair.engine.close(pair.now, old, 0, b"");
    pair.pass(Duration::from_secs(5));
    let (_, new) = pair.connected();
    assert_eq!(old.index(), new.index(), "the index is reused");
    assert_ne!(old, new);
    let stream = StreamId::from(0);
    let engine = &mut pair.engine;
    assert_eq!(engine.read(old, stream, 10, drop), Err(ReadError::Gone));
    assert_eq!(engine.write(old, stream, &mut [b"x"[..].into()]), Err(WriteError::Gone));
    assert_eq!(engine.finish(crate::testing::epoch(), old, stream), Err(WriteError::Gone));
    assert_eq!(engine.reset(old, stream, 1), Err(Gone));
    assert_eq!(engine.stop_sending(old, stream, 1), Err(Gone));
    assert_eq!(engine.open_uni(old), None);
    assert_eq!(engine.remote_address(old), None);
    assert_eq!(engine.rtt(old), None);
    engine.close(pair.now, old, 0, b"");
    assert!(pair.engine.is_open(new));
}

#[test]
fn streams_we_may_not_use_are_reported_as_gone() {
    let mut pair = Pair::new(quic());
    let (_, key) = pair.connected();
    let engine = &mut pair.engine;
    let (client_uni, server_uni) = (StreamId::from(2), StreamId::from(3));
    assert_eq!(engine.write(key, client_uni, &mut [b"x"[..].into()]), Err(WriteError::Gone));
    assert_eq!(engine.reset(key, client_uni, 1), Err(Gone));
    assert_eq!(engine.read(key, server_uni, 10, drop), Err(ReadError::Gone));
    assert_eq!(engine.stop_sending(key, server_uni, 1), Err(Gone));
    for id in [4_000, u64::MAX] {
        assert_eq!(engine.read(key, StreamId::from(id), 10, drop), Err(ReadError::Gone));
        assert_eq!(
            engine.finish(crate::testing::epoch(), key, StreamId::from(id)),
            Err(WriteError::Gone)
        );
    }
    assert!(engine.is_open(key));
}

/// Connections of a listener that continues count against it under its new index, and those of one
/// that is removed against none.
#[test]
fn listeners_are_added_moved_and_removed() {
    let mut pair = Pair::new(quic());
    let (_, old) = pair.connected();
    let tls = server_tls();
    let change = |pair: &mut Pair, continued: Vec<Option<usize>>, sockets| {
        let settings = || ListenerSettings { quic: quic(), tls: tls.config() };
        let listeners = continued.iter().map(|_| settings()).collect();
        let change = EngineChange { listeners, continued, sockets };
        pair.engine.apply(change).unwrap();
        pair.engine.listeners.iter().map(|one| one.connections.total()).collect::<Vec<_>>()
    };
    let both = vec![Some(1), Some(0)];
    assert_eq!(change(&mut pair, vec![None, Some(0)], both), [0, 1], "another comes first");
    assert_eq!(change(&mut pair, vec![Some(0)], vec![None, Some(0)]), [0], "it is removed");
    assert!(pair.engine.is_open(old) && pair.engine.uses_socket(0));
    // A new connection to its socket is refused.
    let refused = pair.engine.stats().connections_refused.draining;
    let client = pair.connect();
    pair.run(Duration::from_secs(5), |pair| !pair.clients.contains_key(&client));
    assert!(pair.engine.stats().connections_refused.draining > refused);
    let now = pair.now;
    pair.engine.close_on_socket(now, 1, 0);
    assert!(pair.engine.is_open(old), "that is another socket");
    pair.engine.close_on_socket(now, 0, 0);
    pair.run(Duration::from_secs(20), |pair| !pair.engine.uses_socket(0));
    assert!(!pair.engine.uses_socket(0) && !pair.engine.is_open(old));
}

#[test]
fn new_tls_settings_apply_to_new_connections_only() {
    let mut pair = Pair::new(quic());
    let (_, old) = pair.connected();
    let next = server_tls();
    pair.set_tls(next.config()).unwrap();
    // The client trusts the old certificate only.
    let client = pair.connect();
    pair.run(Duration::from_secs(5), |pair| !pair.clients.contains_key(&client));
    assert!(pair.engine.is_open(old));
    assert_eq!(pair.engine.counts().open, 1);
    assert_failed_once(&mut pair, HandshakeFailure::CertificateRejected);
}

#[test]
fn a_client_without_our_alpn_protocol_is_refused_with_its_alert() {
    let mut pair = Pair::new(quic());
    pair.client_tls.alpn_protocols = vec![b"smtp".to_vec()];
    pair.connect();
    let mut code = None;
    pair.run(Duration::from_secs(5), |pair| {
        for (_, event) in pair.client_events.drain(..) {
            if let quinn_proto::Event::ConnectionLost {
                reason: ConnectionError::ConnectionClosed(close),
            } = event
            {
                code = Some(u64::from(close.error_code));
            }
        }
        code.is_some()
    });
    // RFC 9001 8.1: no_application_protocol (120) as a CRYPTO_ERROR.
    assert_eq!(code, Some(0x178));
    assert_failed_once(&mut pair, HandshakeFailure::NoSharedProtocol);
    pair.pass(Duration::from_secs(20));
    assert!(pair.events.is_empty(), "no event reaches the application");
    pair.assert_empty();
}

/// Asserts that one handshake has failed, and that it is counted and reported with this reason.
fn assert_failed_once(pair: &mut Pair, reason: HandshakeFailure) {
    let mut expected = HandshakeFailures::default();
    expected.count(reason, 1);
    assert_eq!(pair.engine.stats().handshake_failures, expected);
    assert_eq!(pair.engine.stats().handshakes_failed, 1);
    let client = pair.client_address;
    let failed = pair.engine.poll_failed_handshake();
    assert_eq!(failed, Some(FailedHandshake { client, reason }));
    assert_eq!(pair.engine.poll_failed_handshake(), None);
}

/// Connects a client that fails.
fn fail(pair: &mut Pair) {
    let client = pair.connect();
    let is_over = |pair: &mut Pair| !pair.clients.contains_key(&client);
    assert!(pair.run(Duration::from_secs(30), is_over));
    pair.assert_empty();
}

#[test]
fn a_client_that_trusts_nobody_rejects_the_certificate() {
    let mut pair = Pair::new(quic());
    pair.client_tls = ClientTls::trusting_nobody().tls13();
    fail(&mut pair);
    assert_failed_once(&mut pair, HandshakeFailure::CertificateRejected);
}

#[test]
fn a_client_without_a_group_of_ours_shares_no_parameters() {
    let tls = server_tls();
    let mut pair = Pair::with(settings(quic(), &tls), &tls);
    let mut provider = crate::tls::provider();
    provider.kx_groups.truncate(1);
    pair.use_provider(&tls, provider);
    let groups = &pair.client_tls.crypto_provider().kx_groups;
    let mut provider = crate::tls::provider();
    provider.kx_groups.retain(|group| group.name() != groups[0].name());
    let resolver = Arc::clone(&tls.config().cert_resolver);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = tls.config().alpn_protocols.clone();
    pair.set_tls(Arc::new(config)).unwrap();
    fail(&mut pair);
    assert_failed_once(&mut pair, HandshakeFailure::NoSharedParameters);
}

#[test]
fn a_client_that_asks_for_an_unknown_name_is_told_so() {
    let hosts = vec![HostPattern::Exact("other.test".to_owned())];
    let source = CertificateSource::SelfSigned;
    let certificate = Certificate { hosts, addresses: Vec::new(), source };
    let refuse = Tls { unknown_server_name: UnknownServerName::Refuse, ..Tls::default() };
    let tls = ServerTls::load(&[certificate], refuse).unwrap();
    let mut pair = Pair::new(quic());
    pair.set_tls(tls.config()).unwrap();
    fail(&mut pair);
    assert_failed_once(&mut pair, HandshakeFailure::UnknownServerName);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let tls = server_tls();
    let with = |change: fn(&mut EngineSettings)| {
        let mut settings = settings(quic(), &tls);
        change(&mut settings);
        Engine::new(settings).err()
    };
    assert_eq!(with(|settings| settings.worker = 128), Some(EngineError::WorkerIndex(128)));
    assert_eq!(
        with(|settings| settings.sockets.push(1)),
        Some(EngineError::UnknownListener { socket: 2, listener: 1 })
    );
    assert_eq!(
        with(|settings| settings.listeners[0].quic.idle_timeout = Duration::MAX),
        Some(EngineError::IdleTimeout)
    );
}

fn config_with(retry: Retry) -> crate::config::Quic {
    crate::config::Quic { retry, ..quic() }
}
