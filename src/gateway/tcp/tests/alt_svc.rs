//! The offer of HTTP/3 in responses over TCP.

use std::net::SocketAddr;

use super::secure::TlsClient;
use super::*;
use crate::config::Advertise;
use crate::gateway::ProbeOutcome;
use crate::tls::ALPN_HTTP1;

/// The number of the UDP socket of [`SECURE`].
const SOCKET: u16 = 0;
const HOUR: Duration = Duration::from_secs(3600);
const OFFER: &str = "h3=\":8443\"; ma=86400";

/// A gateway with one client over TLS.
struct Offers {
    rig: Rig,
    client: TlsClient,
}

impl Offers {
    fn new() -> Self {
        let mut rig = Rig::new();
        let client = TlsClient::connect(&mut rig, ALPN_HTTP1);
        Self { rig, client }
    }

    /// Reports a probe of the socket, which is bound to this address.
    fn probe(&mut self, address: &str, outcome: ProbeOutcome) {
        let address: SocketAddr = address.parse().unwrap();
        self.rig.gateway.handle_probe(self.rig.now, SOCKET, address, outcome);
        self.rig.settle();
    }

    fn lose_probes(&mut self, count: usize) {
        (0..count).for_each(|_| self.probe("192.0.2.9:8443", ProbeOutcome::Lost));
    }

    /// Sends a request. Returns the values of `alt-svc` in the response of the upstream.
    fn values(&mut self, response: &[u8]) -> Vec<String> {
        self.client.send(&mut self.rig, GET);
        self.rig.respond(response);
        self.own_values()
    }

    /// Returns the values of `alt-svc` in the response that has come.
    fn own_values(&mut self) -> Vec<String> {
        let response = self.client.received(&mut self.rig);
        let text = String::from_utf8(response).unwrap();
        assert!(text.starts_with("HTTP/1.1 "), "{text:?}");
        let values = text.lines().filter_map(|line| line.strip_prefix("alt-svc: "));
        values.map(str::to_owned).collect()
    }

    /// Applies another configuration, in which [`SECURE`] has its UDP socket or not.
    fn reload(&mut self, change: impl FnOnce(&mut Config)) {
        let config = configuration(change);
        let socket = config.listeners[SECURE].protocols.h3.then_some(SECURE);
        let (now, tls) = (self.rig.now, self.rig.tls.clone());
        self.rig.gateway.apply(now, Arc::new(config), &tls, &[socket]).unwrap();
        self.rig.settle();
    }
}

fn without_http3(config: &mut Config) {
    config.listeners[SECURE].protocols.h3 = false;
}

#[test]
fn http3_is_offered_once_a_probe_has_returned() {
    let mut offers = Offers::new();
    assert_eq!(offers.values(OK), [""; 0]);
    offers.probe("192.0.2.9:8443", ProbeOutcome::Returned);
    assert_eq!(offers.values(OK), [OFFER]);
    offers.lose_probes(2);
    assert_eq!(offers.values(OK), [OFFER]);
    assert_eq!(offers.rig.gateway.withheld_count(), 0);
    offers.lose_probes(1);
    assert_eq!(offers.values(OK), [""; 0]);
    assert_eq!(offers.rig.gateway.withheld_count(), 1);
    offers.probe("192.0.2.9:8443", ProbeOutcome::Returned);
    assert_eq!(offers.values(OK), [OFFER]);
    let incidents = &offers.rig.incidents[..];
    let withheld = "192.0.2.9:8443".parse().unwrap();
    assert!(
        matches!(incidents, [Incident::Http3Withheld { address }, Incident::Http3Offered { .. }]
            if *address == withheld),
        "{incidents:?}"
    );
}

#[test]
fn a_client_is_offered_a_socket_of_its_own_family() {
    let mut offers = Offers::new();
    offers.probe("[2001:db8::1]:8443", ProbeOutcome::Returned);
    assert_eq!(offers.values(OK), [""; 0]);
}

#[test]
fn responses_of_the_gateway_offer_it_too_but_not_421() {
    let mut offers = Offers::new();
    offers.probe("192.0.2.9:8443", ProbeOutcome::Returned);
    let (mut rig, mut client) = (offers.rig, offers.client);
    client.send(&mut rig, b"GET /a HTTP/1.1\r\nhost: other.example\r\n\r\n");
    let text = String::from_utf8(client.received(&mut rig)).unwrap();
    assert!(text.starts_with("HTTP/1.1 421 ") && !text.contains("alt-svc"), "{text}");
    let mut offers = Offers { rig, client };
    offers.client.send(&mut offers.rig, b"GET /a HTTP/1.1\r\nhost: localhost\r\nbroken\r\n\r\n");
    assert_eq!(offers.own_values(), [OFFER]);
}

#[test]
fn the_upstreams_own_offer_is_left_alone() {
    let mut offers = Offers::new();
    offers.probe("192.0.2.9:8443", ProbeOutcome::Returned);
    let own = b"HTTP/1.1 200 OK\r\nalt-svc: h3=\":1\"\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(offers.values(own), ["h3=\":1\""]);
}

#[test]
fn nothing_is_offered_without_tls() {
    let mut rig = Rig::new();
    let address = "192.0.2.9:8443".parse().unwrap();
    rig.gateway.handle_probe(rig.now, SOCKET, address, ProbeOutcome::Returned);
    let plain = rig.connect(PLAIN);
    rig.send(plain, GET);
    rig.respond(OK);
    assert!(!rig.text(plain).contains("alt-svc"));
    let mistaken = rig.connect(SECURE);
    rig.send(mistaken, GET);
    let text = rig.text(mistaken);
    assert!(text.starts_with("HTTP/1.1 400 ") && !text.contains("alt-svc"), "{text}");
}

#[test]
fn a_reload_changes_the_offer_for_connections_that_are_open() {
    let mut offers = Offers::new();
    offers.probe("192.0.2.9:8443", ProbeOutcome::Returned);
    offers.reload(|config| {
        let advertise = Advertise { port: Some(444), max_age: HOUR };
        config.listeners[SECURE].advertise = Some(advertise);
    });
    assert_eq!(offers.values(OK), ["h3=\":444\"; ma=3600"]);
    offers.reload(|config| config.listeners[SECURE].advertise = None);
    assert_eq!(offers.values(OK), [""; 0], "those who know it may use it on");
}

#[test]
fn http3_that_is_taken_off_is_withdrawn_for_as_long_as_clients_remember_it() {
    let mut offers = Offers::new();
    offers.probe("192.0.2.9:8443", ProbeOutcome::Returned);
    assert_eq!(offers.values(OK), [OFFER]);
    let end = offers.rig.now + 24 * HOUR;
    offers.reload(without_http3);
    assert_eq!(offers.values(OK), ["clear"]);
    offers.rig.now += 12 * HOUR;
    offers.reload(without_http3);
    let mut again = |now: Instant| {
        let client = TlsClient::connect(&mut offers.rig, ALPN_HTTP1);
        offers.client = client;
        offers.rig.now = now;
        offers.values(OK)
    };
    assert_eq!(again(end - Duration::from_millis(1)), ["clear"]);
    assert_eq!(again(end), [""; 0]);
}

#[test]
fn an_offer_that_was_switched_off_is_withdrawn_with_http3() {
    let mut offers = Offers::new();
    offers.reload(|config| config.listeners[SECURE].advertise = None);
    offers.rig.now += HOUR;
    offers.reload(without_http3);
    assert_eq!(offers.values(OK), ["clear"]);
    offers.reload(|_| {});
    assert_eq!(offers.values(OK), [""; 0], "nothing is known of the new socket");
    offers.probe("192.0.2.9:8443", ProbeOutcome::Returned);
    assert_eq!(offers.values(OK), [OFFER]);
}

#[test]
fn a_listener_that_never_had_http3_withdraws_nothing() {
    let mut rig = Rig::with(without_http3);
    let client = TlsClient::connect(&mut rig, ALPN_HTTP1);
    let mut offers = Offers { rig, client };
    assert_eq!(offers.values(OK), [""; 0]);
}
