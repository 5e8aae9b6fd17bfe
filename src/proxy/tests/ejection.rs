//! Tests of ejection: endpoints that fail are ejected, get one trial request, and are restored.

use super::*;

/// Returns the port of a connection's endpoint.
fn port_of(rig: &Rig, key: UpstreamKey) -> u16 {
    match &rig.wires[&key].address {
        Some(EndpointAddress::Tcp(address)) => address.port(),
        other => panic!("{other:?}"),
    }
}

/// Sends a GET whose connects fail at the ports in `down`, and which another endpoint serves.
/// Returns the ports that were tried.
fn get(rig: &mut Rig, down: &[u16]) -> Vec<u16> {
    let exchange = rig.get("/");
    let mut asked = Vec::new();
    loop {
        if let Some(key) = rig.connects.front().copied() {
            asked.push(port_of(rig, key));
            if down.contains(asked.last().unwrap()) {
                rig.connect_failed(TransportFault::Refused);
            } else {
                rig.connected();
            }
            continue;
        }
        let Some(key) = rig.wires.iter().find(|(_, wire)| wire.writing).map(|(key, _)| *key) else {
            break;
        };
        if asked.last() != Some(&port_of(rig, key)) {
            asked.push(port_of(rig, key));
        }
        rig.wrote(key);
        rig.response(key, OK);
        break;
    }
    assert!(rig.seen[&exchange].whole);
    asked
}

#[test]
fn an_ejected_endpoint_is_tried_by_one_request_after_each_backoff() {
    let mut rig = Rig::new(config(2, 8, 0));
    while get(&mut rig, &[8002]) != [8002, 8001] {}
    let mut pause = HEALTH.pause;
    for _ in 0..6 {
        for _ in 0..20 {
            assert_eq!(get(&mut rig, &[8002]), [8001], "it is ejected");
        }
        rig.pass(pause - Duration::from_millis(1));
        assert_eq!(get(&mut rig, &[8002]), [8001], "the backoff of {pause:?} is not over");
        rig.pass(Duration::from_millis(1));
        // Its turn comes within two requests; one tries it and is then served elsewhere.
        let tried = (0..20).filter(|_| get(&mut rig, &[8002]) == [8002, 8001]).count();
        assert_eq!(tried, 1, "one request tries it");
        pause = (pause * 2).min(HEALTH.pause_max);
    }
    let ejection_count = rig.proxy.endpoints()[1].ejection_count;
    assert_eq!(ejection_count, 7, "once, and after each of six trials");
    let is_ejection = |incident: &&Incident| matches!(incident, Incident::Ejected { .. });
    assert_eq!(rig.incidents.iter().filter(is_ejection).count(), 7, "one report of each");
    // A successful trial restores it to its share and no more.
    rig.pass(pause);
    let asked: Vec<_> = (0..20).flat_map(|_| get(&mut rig, &[])).collect();
    let share = asked.iter().filter(|port| **port == 8002).count();
    assert!((9..=11).contains(&share), "{asked:?}");
    // The backoff is reset.
    rig.proxy.close_idle(rig.now);
    rig.run();
    while get(&mut rig, &[8002]) != [8002, 8001] {}
    rig.pass(HEALTH.pause);
    assert!((0..2).any(|_| get(&mut rig, &[8002]) == [8002, 8001]));
    rig.assert_nothing_left();
}

#[test]
fn an_endpoint_gets_no_request_during_its_trial_and_a_new_trial_after_an_abort() {
    let mut rig = Rig::new(config(2, 8, 0));
    while get(&mut rig, &[8002]) != [8002, 8001] {}
    rig.pass(HEALTH.pause);
    let connecting = |rig: &Rig| rig.connects.iter().any(|key| port_of(rig, *key) == 8002);
    let mut exchanges = Vec::new();
    while !connecting(&rig) {
        exchanges.push(rig.get("/"));
    }
    let trial = *exchanges.last().unwrap();
    exchanges.extend((0..5).map(|_| rig.get("/")));
    assert_eq!(rig.connects.iter().filter(|key| port_of(&rig, **key) == 8002).count(), 1);
    rig.abort(trial);
    exchanges.extend((0..2).map(|_| rig.get("/")));
    assert!(connecting(&rig), "the next one tries");
    exchanges.iter().for_each(|exchange| rig.abort(*exchange));
    rig.assert_nothing_left();
}

#[test]
fn three_failed_responses_in_a_row_eject_an_endpoint() {
    type Fail = fn(&mut Rig, UpstreamKey);
    let failures: [(&str, Fail); 4] = [
        ("closed", |rig, key| rig.end(key)),
        ("reset", |rig, key| rig.event(key, UpstreamEvent::Failed(TransportFault::Reset))),
        ("late", |rig, _| rig.pass(RESPONSE_TIMEOUT)),
        ("not HTTP", |rig, key| rig.response(key, "SSH-2.0-x\r\n")),
    ];
    for (name, fail) in failures {
        let mut rig = Rig::new(config(2, 8, 0));
        let mut failed_count = 0;
        for _ in 0..40 {
            // A POST is not retried, so that each one tests a single endpoint.
            rig.request(request(Method::POST, "/"), true);
            while let Some(key) = rig.connects.front().copied() {
                rig.connected();
                rig.wrote(key);
                if port_of(&rig, key) == 8002 {
                    failed_count += 1;
                    fail(&mut rig, key);
                } else {
                    rig.response(key, OK);
                }
            }
            let kept = rig.wires.iter().find(|(_, wire)| wire.writing).map(|(key, _)| *key);
            if let Some(key) = kept {
                rig.wrote(key);
                rig.response(key, OK);
            }
        }
        assert_eq!(failed_count, 3, "{name}");
        rig.assert_nothing_left();
    }
}

/// A page that breaks a rule says nothing about the other pages of its endpoint.
#[test]
fn a_response_that_was_understood_ejects_nobody() {
    for response in [
        "HTTP/1.1 700 Odd\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx-odd : a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx odd: a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\nbare",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n",
        &format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(20_000)),
    ] {
        let mut rig = Rig::new(config(1, 8, 0));
        for _ in 0..10 {
            rig.get("/");
            let key = match rig.connects.is_empty() {
                true => *rig.wires.iter().find(|(_, wire)| wire.writing).unwrap().0,
                false => rig.connected(),
            };
            rig.wrote(key);
            rig.response(key, response);
        }
        assert_eq!(rig.ejection_count(), 0, "{response:?}");
        rig.assert_nothing_left();
    }
}

#[test]
fn a_stale_idle_connection_does_not_count_against_its_endpoint() {
    let mut rig = Rig::new(config(2, 8, 0));
    let exchanges: Vec<_> = (0..8).map(|_| rig.get("/")).collect();
    while !rig.connects.is_empty() {
        let key = rig.connected();
        rig.wrote(key);
    }
    let all: Vec<_> = rig.wires.keys().copied().collect();
    all.iter().for_each(|key| rig.response(*key, OK));
    assert!(exchanges.iter().all(|exchange| rig.seen[exchange].whole));
    // All four kept connections to 8002 turn out to be closed, one after the other.
    let mut stale_count = 0;
    for _ in 0..8 {
        rig.request(request(Method::POST, "/"), true);
        let key = *rig.wires.iter().find(|(_, wire)| wire.writing).unwrap().0;
        if port_of(&rig, key) == 8002 {
            stale_count += 1;
            rig.end(key);
        } else {
            rig.wrote(key);
            rig.response(key, OK);
        }
    }
    assert_eq!(stale_count, 4, "8002 gets its share as before");
    rig.assert_nothing_left();
}

#[test]
fn a_request_waits_for_a_full_endpoint_rather_than_use_an_ejected_one() {
    let mut rig = Rig::new(config(2, 1, 1));
    while get(&mut rig, &[8002]) != [8002, 8001] {}
    let busy = rig.get("/");
    let waiting = rig.get("/");
    assert!(rig.connects.is_empty(), "8002 is ejected, so the second one waits for 8001");
    assert_eq!(rig.proxy.gauges().waiting, 1);
    let key = *rig.wires.iter().find(|(_, wire)| wire.writing).unwrap().0;
    for exchange in [busy, waiting] {
        rig.wrote(key);
        rig.response(key, OK);
        assert!(rig.seen[&exchange].whole);
    }
    rig.assert_nothing_left();
}

#[test]
fn when_all_endpoints_are_ejected_all_are_used() {
    let mut rig = Rig::new(config(2, 8, 0));
    for _ in 0..6 {
        let exchange = rig.get("/");
        rig.connect_failed(TransportFault::Refused);
        rig.connect_failed(TransportFault::Refused);
        assert_eq!(rig.status(exchange), 502);
    }
    assert_eq!(get(&mut rig, &[]).len(), 1, "the first endpoint to recover serves at once");
    rig.assert_nothing_left();
}

/// Each report names the endpoint, the cause, the request and the pause.
#[test]
fn ejections_and_restorations_are_reported() {
    let ejected = |rig: &Rig| match &rig.incidents[..] {
        [Incident::Ejected { endpoint, cause, request, pause }] => {
            let request = request.clone().expect("the request that caused it");
            let path = request.path.unwrap().as_bytes().to_vec();
            assert_eq!(request.method, Some(Method::GET));
            (endpoint.clone(), *cause, String::from_utf8(path).unwrap(), *pause)
        }
        other => panic!("{other:?}"),
    };
    // A connection that is refused, with another endpoint to go to.
    let mut rig = Rig::new(config(2, 1, 0));
    rig.get("/one");
    let port = port_of(&rig, *rig.connects.front().unwrap());
    rig.connect_failed(TransportFault::Refused);
    let address = format!("127.0.0.1:{port}");
    let (endpoint, cause, path, pause) = ejected(&rig);
    assert_eq!((&*endpoint.address, &*path), (&*address, "/one"));
    assert_eq!(&*endpoint.upstream, rig.proxy.config.upstreams[0].name);
    assert_eq!((cause.outcome, pause), (Outcome::ConnectRefused, HEALTH.pause));
    let reports = rig.proxy.endpoints();
    assert_eq!(reports.iter().filter(|report| report.is_ejected).count(), 1);

    // A response that is no HTTP, on the only endpoint; then a trial that it passes.
    let mut broken = config(1, 1, 0);
    broken.upstreams[0].health = Health { failure_count: 1, ..HEALTH };
    let mut rig = Rig::new(broken);
    let (_, upstream) = rig.active_get();
    rig.response(upstream, "SSH-2.0-OpenSSH_9.2\r\n");
    let (_, cause, path, _) = ejected(&rig);
    assert_eq!((cause.outcome, &*path), (Outcome::UpstreamProtocol, "/"));
    assert_eq!(cause.rule, Some("the upstream does not answer in HTTP/1.x"));
    rig.incidents.clear();
    rig.pass(HEALTH.pause);
    let (_, upstream) = rig.active_get();
    rig.response(upstream, OK);
    assert!(matches!(rig.incidents[..], [Incident::Restored { .. }]), "{:?}", rig.incidents);
    rig.get("/");
    rig.wrote(upstream);
    rig.response(upstream, OK);
    let [report] = &rig.proxy.endpoints()[..] else { panic!("one endpoint") };
    assert_eq!((report.ejection_count, report.restoration_count), (1, 1));
    assert_eq!((rig.incidents.len(), report.is_ejected), (1, false), "restored once");
}
