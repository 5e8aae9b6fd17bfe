//! Tests of the request heads that upstreams get, and of fields that a client may not set.

use http::Method;

use super::*;
use crate::config::{ClientAuth, ClientAuthDemand, ClientFact};
use crate::message::ClientCertificate;

/// Returns the head that the upstream received for `request`.
fn head_of(config: Config, request: Request, ended: bool) -> String {
    let mut rig = Rig::new(config);
    rig.request(request, ended);
    let upstream = rig.connected();
    rig.written(upstream)
}

#[test]
fn a_minimal_request_is_forwarded_with_the_expected_head() {
    let head = head_of(config(1, 1, 0), request(Method::GET, "/a?b"), true);
    let expected = "GET /a?b HTTP/1.1\r\n\
                    host: example.com\r\n\
                    x-forwarded-for: 192.0.2.1\r\n\
                    x-forwarded-proto: https\r\n\
                    x-forwarded-host: example.com\r\n\
                    forwarded: for=192.0.2.1;host=\"example.com\";proto=https\r\n\
                    via: 3 ringway\r\n\r\n";
    assert_eq!(head, expected);
}

#[test]
fn fields_that_a_client_may_not_set_are_not_forwarded() {
    let mut from_client = request(Method::GET, "/");
    from_client.head.fields = vec![
        field("accept", "*/*"),
        field("connection", "x-mine, close"),
        field("x-mine", "1"),
        field("keep-alive", "1"),
        field("proxy-connection", "1"),
        field("transfer-encoding", "chunked"),
        field("upgrade", "h2c"),
        field("te", "trailers"),
        field("host", "other.example"),
        field("content-length", "7"),
        field("expect", "100-continue"),
        field("proxy", "http://evil"),
        field("early-data", "1"),
        field("x-forwarded-for", "10.0.0.1"),
        field("x-forwarded-proto", "http"),
        field("x-forwarded-host", "other.example"),
        field("x-forwarded-port", "80"),
        field("x-real-ip", "10.0.0.1"),
        field("forwarded", "for=10.0.0.1"),
        field("via", "1.1 evil"),
        field("cookie", "a=1"),
        field("x-last", "1"),
        field("cookie", "b=2"),
    ];
    let head = head_of(config(1, 1, 0), from_client, true);
    let expected = "GET / HTTP/1.1\r\n\
                    host: example.com\r\n\
                    accept: */*\r\n\
                    x-last: 1\r\n\
                    cookie: a=1; b=2\r\n\
                    x-forwarded-for: 192.0.2.1\r\n\
                    x-forwarded-proto: https\r\n\
                    x-forwarded-host: example.com\r\n\
                    forwarded: for=192.0.2.1;host=\"example.com\";proto=https\r\n\
                    via: 3 ringway\r\n\r\n";
    assert_eq!(head, expected);
}

/// Otherwise an origin that redirects http to https would redirect for ever, and caches would store
/// it.
#[test]
fn the_forwarded_scheme_is_https_whatever_the_client_sent() {
    let mut from_client = request(Method::GET, "/");
    from_client.head.set_scheme(Scheme::Http);
    let mut from_proxy = from_client.clone();
    let head = head_of(config(1, 1, 0), from_client, true);
    assert!(head.contains("\r\nx-forwarded-proto: https\r\n"), "{head}");
    assert!(head.contains(";proto=https\r\n"), "{head}");
    from_proxy.sender.address = "10.1.2.3:1".parse().unwrap();
    let head = head_of(config(1, 1, 0), from_proxy, true);
    assert!(head.contains("\r\nx-forwarded-proto: http\r\n"), "{head}");
}

#[test]
fn the_forwarding_fields_of_a_trusted_proxy_are_extended() {
    let mut from_proxy = request(Method::GET, "/");
    from_proxy.sender.address = "[::ffff:10.1.2.3]:1".parse().unwrap();
    from_proxy.head.fields = vec![
        field("x-forwarded-for", "198.51.100.7"),
        field("x-forwarded-for", "198.51.100.8"),
        field("x-forwarded-proto", "http"),
        field("x-forwarded-port", "80"),
        field("x-real-ip", "198.51.100.7"),
        field("forwarded", "for=198.51.100.7"),
        field("via", "2 other"),
    ];
    let head = head_of(config(1, 1, 0), from_proxy, true);
    let expected = "GET / HTTP/1.1\r\n\
                    host: example.com\r\n\
                    x-forwarded-port: 80\r\n\
                    x-forwarded-for: 198.51.100.7, 198.51.100.8, 10.1.2.3\r\n\
                    x-forwarded-proto: http\r\n\
                    x-forwarded-host: example.com\r\n\
                    x-real-ip: 198.51.100.7\r\n\
                    forwarded: for=198.51.100.7, for=10.1.2.3;host=\"example.com\";proto=https\r\n\
                    via: 2 other, 3 ringway\r\n\r\n";
    assert_eq!(head, expected);
}

/// RFC 8470 5.1: the gateway says so of its own clients, and a trusted proxy of those before it.
#[test]
fn a_request_is_marked_as_early_by_whoever_knows_it() {
    for (address, is_early, told, is_marked) in [
        ("192.0.2.1:1", false, false, false),
        ("192.0.2.1:1", false, true, false),
        ("192.0.2.1:1", true, false, true),
        ("192.0.2.1:1", true, true, true),
        ("10.0.0.1:1", false, false, false),
        ("10.0.0.1:1", false, true, true),
        ("10.0.0.1:1", true, true, true),
    ] {
        let mut early = request(Method::GET, "/");
        early.sender = Sender { address: address.parse().unwrap(), is_early, ..sender() };
        if told {
            early.head.fields = vec![field("early-data", "1"), field("early-data", "0")];
        }
        let head = head_of(config(1, 1, 0), early, true);
        assert_eq!(head.matches("early-data").count(), usize::from(is_marked), "{head}");
        assert_eq!(head.contains("early-data: 1\r\n"), is_marked);
    }
}

/// RFC 7239 7.4: whichever of the two the trusted proxy sends, both tell its chain.
#[test]
fn both_forwarding_fields_tell_the_chain_of_a_proxy_that_sends_one_of_them() {
    for said in [
        field("x-forwarded-for", "198.51.100.7, 2001:db8::9, unknown"),
        field("forwarded", "for=198.51.100.7;proto=https, for=\"[2001:db8::9]:81\", for=_hidden"),
    ] {
        let (name, value) = (said.0.to_string(), said.1.to_str().unwrap().to_owned());
        let mut from_proxy = request(Method::GET, "/");
        from_proxy.sender.address = "10.1.2.3:1".parse().unwrap();
        from_proxy.head.fields = vec![said.clone()];
        let head = head_of(config(1, 1, 0), from_proxy.clone(), true);
        let list = "\r\nx-forwarded-for: 198.51.100.7, 2001:db8::9, unknown, 10.1.2.3\r\n";
        assert!(head.contains(list), "{head}");
        let chain = match name.as_str() {
            "forwarded" => value,
            _ => "for=198.51.100.7, for=\"[2001:db8::9]\", for=unknown".to_owned(),
        };
        let own = "for=10.1.2.3;host=\"example.com\";proto=https";
        assert!(head.contains(&format!("\r\nforwarded: {chain}, {own}\r\n")), "{head}");
        // A stranger's chain is told by neither.
        from_proxy.sender.address = "192.0.2.1:1".parse().unwrap();
        let head = head_of(config(1, 1, 0), from_proxy, true);
        assert!(!head.contains("198.51.100.7"), "{head}");
    }
}

/// The fields about a client's certificate are the gateway's own: neither a client with one nor a
/// trusted proxy nor a client without can write them, in a head or in trailers.
/// Forwards a request that has these fields in its head, and again in its trailers. Returns its
/// connection, and the bytes that the upstream gets.
fn forward_with(rig: &mut Rig, mut asked: Request, said: &Fields) -> (UpstreamKey, String) {
    asked.head.fields = said.clone();
    let exchange = rig.request(asked, false);
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.proxy.handle_end(rig.now, exchange, Some(said.clone()));
    rig.run();
    let written = rig.written(upstream);
    (upstream, written)
}

#[test]
fn what_upstreams_are_told_of_a_certificate_is_from_the_handshake_only() {
    let mut config = config(1, 1, 0);
    config.listeners[0].tls.as_mut().unwrap().client_auth = Some(ClientAuth {
        demand: ClientAuthDemand::Optional,
        ca: "clients.pem".into(),
        crls: Vec::new(),
        fields: vec![
            (ClientFact::Subject, "x-subject".to_owned()),
            (ClientFact::Certificate, "client-cert".to_owned()),
        ],
    });
    config.listeners[0].proxy_fields.pass = vec!["client-cert".to_owned()];
    let said: Fields =
        ["x-subject", "client-cert", "x-other"].map(|name| field(name, "lie")).into();
    let certificate = ClientCertificate {
        subject: LoggedText::new(b"CN=a"),
        fields: vec![field("x-subject", "CN=a"), field("client-cert", ":AA==:")],
    };
    let mut other = config.listeners[0].clone();
    other.tls = Some(ListenerTls::default());
    let (guarded, other) = (Arc::new(config.listeners[0].clone()), Arc::new(other));
    for (client, listener, certificate) in [
        ("192.0.2.1:1", &guarded, None),
        ("10.1.2.3:1", &guarded, None),
        ("192.0.2.1:1", &guarded, Some(Arc::new(certificate))),
        // It has the same upstreams.
        ("192.0.2.1:1", &other, None),
    ] {
        let mut rig = Rig::new(config.clone());
        let mut asked = request(Method::POST, "/");
        asked.sender.address = client.parse().unwrap();
        asked.sender.certificate = certificate.clone();
        asked.listener = Arc::clone(listener);
        let (_, written) = forward_with(&mut rig, asked, &said);
        let told = |line: &str| written.matches(line).count();
        assert_eq!(told("x-other: lie\r\n"), 2, "{written}");
        assert_eq!((told("x-subject: lie"), told("client-cert: lie")), (0, 0), "{written}");
        let own = usize::from(certificate.is_some());
        assert_eq!(told("x-subject: CN=a\r\n"), own, "{written}");
        assert_eq!(told("client-cert: :AA==:\r\n"), own, "{written}");
        assert_eq!(rig.proxy.counters().exported.proxy_fields_dropped.identity, 4);
    }
}

#[test]
fn a_route_may_need_a_certificate() {
    let mut config = config(1, 1, 0);
    config.routes.insert(
        0,
        Route { path_prefix: "/own".into(), needs_certificate: true, ..config.routes[0].clone() },
    );
    let certificate =
        Arc::new(ClientCertificate { subject: LoggedText::new(b"CN=a"), fields: Vec::new() });
    for (path, certificate, is_served) in [
        ("/own/a", None, false),
        ("/own/a", Some(Arc::clone(&certificate)), true),
        ("/owner", None, true),
        ("/a", Some(certificate), true),
    ] {
        let mut rig = Rig::new(config.clone());
        let mut asked = request(Method::GET, path);
        asked.sender.certificate = certificate;
        let exchange = rig.request(asked, true);
        rig.run();
        match is_served {
            true => {
                let upstream = rig.connected();
                assert!(rig.written(upstream).starts_with("GET "));
            }
            false => {
                assert_eq!(rig.status(exchange), 403);
                assert_eq!(rig.record().outcome, Outcome::ClientCertificateRequired);
            }
        }
    }
}

/// Whatever the list holds, it holds for every client that is no trusted proxy, in heads and in
/// trailers.
#[test]
fn proxy_fields_of_strangers_are_dropped_and_counted() {
    const NAMES: [&str; 10] = [
        "true-client-ip",
        "cf-connecting-ip",
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "client-cert",
        "x-forwarded-port",
        "x-forwarded-client-cert",
        "x-real-ip",
        "x-tenant",
    ];
    let mut config = config(1, 1, 0);
    config.listeners[0].proxy_fields = ProxyFields {
        add: vec!["x-tenant".to_owned()],
        pass: vec!["x-http-method-override".to_owned(), "x-forwarded-port".to_owned()],
    };
    let said: Fields = NAMES.iter().map(|name| field(name, "lie")).collect();
    for client in ["192.0.2.1:1", "10.1.2.3:1"] {
        let is_trusted = client.starts_with("10.");
        let mut rig = Rig::new(config.clone());
        let mut asked = request(Method::POST, "/");
        asked.sender.address = client.parse().unwrap();
        let (upstream, written) = forward_with(&mut rig, asked, &said);
        let (head, trailers) = written.split_once("\r\n\r\n").unwrap();
        for name in NAMES {
            let passes =
                is_trusted || ["x-http-method-override", "x-forwarded-port"].contains(&name);
            let line = format!("{name}: lie\r\n");
            assert_eq!(format!("{head}\r\n").contains(&line), passes, "{client}, {name} in {head}");
            // The gateway's own are in no trailers.
            let passes = passes && name != "x-real-ip";
            assert_eq!(trailers.contains(&line), passes, "{client}, {name} in {trailers}");
        }
        let dropped = &rig.proxy.counters().exported.proxy_fields_dropped;
        let counts = [
            dropped.address,
            dropped.target,
            dropped.method,
            dropped.identity,
            dropped.forwarding,
            dropped.added,
        ];
        let expected = if is_trusted { [0; 6] } else { [4, 4, 0, 2, 4, 2] };
        assert_eq!(counts, expected, "{client}");
        rig.wrote(upstream);
        rig.response(upstream, OK);
        rig.assert_nothing_left();
    }
}

fn options(request: &mut Request, max_forwards: &str) {
    request.head.method = Method::OPTIONS;
    request.head.fields = vec![field("max-forwards", max_forwards)];
}

/// RFC 9110 7.6.2.
#[test]
fn max_forwards_is_decremented_for_options_only() {
    let mut asked = request(Method::OPTIONS, "*");
    options(&mut asked, "7");
    let head = head_of(config(1, 1, 0), asked.clone(), true);
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n") && head.contains("\r\nmax-forwards: 6\r\n"));
    asked.head.fields = vec![field("max-forwards", "99999999999999999999")];
    let head = head_of(config(1, 1, 0), asked.clone(), true);
    assert!(head.contains("\r\nmax-forwards: 18446744073709551614\r\n"), "{head}");
    asked.head.method = Method::GET;
    asked.head.target = request(Method::GET, "/").head.target;
    asked.head.fields = vec![field("max-forwards", "0")];
    let head = head_of(config(1, 1, 0), asked, true);
    assert!(head.contains("\r\nmax-forwards: 0\r\n"), "{head}");
}

#[test]
fn host_is_the_endpoints_address_if_configured() {
    let mut by_upstream = config(1, 1, 0);
    by_upstream.upstreams[0].host = HostPolicy::Upstream;
    let mut from_client = request(Method::GET, "/");
    from_client.sender.address = "[2001:db8::1]:1".parse().unwrap();
    let head = head_of(by_upstream.clone(), from_client, true);
    assert!(head.contains("\r\nhost: 127.0.0.1:8001\r\n"), "{head}");
    assert!(head.contains("forwarded: for=\"[2001:db8::1]\";host=\"example.com\""), "{head}");
    by_upstream.upstreams[0].endpoints[0].address = EndpointAddress::Unix("/run/app.sock".into());
    let head = head_of(by_upstream, request(Method::GET, "/"), true);
    assert!(head.contains("\r\nhost: localhost\r\n"), "{head}");
}

#[test]
fn each_request_body_gets_the_right_framing() {
    let framing = |method, content_length, ended| {
        let mut head =
            head_of(config(1, 1, 0), with_length(content_length, request(method, "/")), ended);
        head.drain(..head.find("via: 3 ringway\r\n").unwrap() + 16);
        head
    };
    assert_eq!(framing(Method::GET, None, true), "\r\n");
    assert_eq!(framing(Method::POST, None, true), "content-length: 0\r\n\r\n");
    assert_eq!(framing(Method::GET, Some(0), true), "content-length: 0\r\n\r\n");
    assert_eq!(framing(Method::GET, Some(7), false), "content-length: 7\r\n\r\n");
    assert_eq!(framing(Method::POST, None, false), "transfer-encoding: chunked\r\n\r\n");
}

#[test]
fn a_get_without_an_end_is_held_until_it_is_known_whether_it_has_a_body() {
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.request(request(Method::GET, "/"), false);
    assert!(rig.connects.is_empty(), "held");
    rig.end_of_request(exchange);
    let upstream = rig.connected();
    assert!(!rig.written(upstream).contains("chunked"));
    rig.abort(exchange);

    // Whatever does not anticipate content, known to the gateway or not.
    for name in ["PROPFIND", "REPORT", "SEARCH", "QUERY", "MOVE", "PURGE", "OPTIONS"] {
        let method = Method::from_bytes(name.as_bytes()).unwrap();
        let exchange = rig.request(request(method, "/"), false);
        assert!(rig.connects.is_empty(), "{name} is held");
        rig.end_of_request(exchange);
        let upstream = rig.connected();
        assert!(rig.written(upstream).starts_with(&format!("{name} / HTTP/1.1")));
        assert!(rig.written(upstream).ends_with("via: 3 ringway\r\n\r\n"), "{name}");
        rig.abort(exchange);
    }

    let exchange = rig.request(request(Method::DELETE, "/"), false);
    rig.body(exchange, b"x");
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.end_of_request(exchange);
    let written = rig.written(upstream);
    assert!(written.ends_with("chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"), "{written}");
    rig.abort(exchange);

    let exchange = rig.request(request(Method::GET, "/"), false);
    rig.pass(BODY_TIMEOUT);
    assert_eq!(rig.status(exchange), 408);
    rig.assert_nothing_left();
}

#[test]
fn requests_that_are_not_forwarded_get_a_response_from_the_gateway() {
    let mut narrow = config(1, 1, 0);
    narrow.routes[0].path_prefix = "/api".into();
    let mut rig = Rig::new(narrow);
    let with = |path: &str, change: &dyn Fn(&mut Request)| {
        let mut request = request(Method::GET, path);
        change(&mut request);
        request
    };
    let cases = [
        (with("/apix", &|_| ()), 404, "destination_not_found"),
        (with("/api", &|r| r.head.method = Method::CONNECT), 501, "http_request_error"),
        (with("/api", &|r| r.head.method = Method::TRACE), 501, "http_request_error"),
        (with("/api", &|r| options(r, "0")), 501, "http_request_error"),
        (with("/api", &|r| options(r, "x")), 400, "http_request_error"),
        (with("/api", &|r| options(r, "-1")), 400, "http_request_error"),
        (with("/api", &|r| r.misdirected = true), 421, "http_request_error"),
        (with("/api", &|r| r.head.content_length = Some(5)), 400, "http_request_error"),
    ];
    for (request, status, error) in cases {
        let path = Bytes::copy_from_slice(request.head.path());
        let exchange = rig.request(request, true);
        assert_eq!(rig.status(exchange), status, "{path:?}");
        assert_eq!(rig.seen[&exchange].source, Some(ResponseSource::Gateway));
        let seen = &rig.seen[&exchange];
        assert!(seen.whole && !seen.stopped);
        let proxy_status = seen.value("proxy-status").unwrap();
        assert!(proxy_status.starts_with(&format!("ringway; error={error}; details=\"")));
        assert_eq!(seen.value("content-length"), Some(seen.body.len().to_string().as_str()));
        let record = rig.record();
        assert_eq!(
            (record.status.unwrap().as_u16(), record.outcome.error()),
            (status, Some(error))
        );
        assert_eq!(
            (&record.request.path, record.handover),
            (&Some(LoggedText::new(&path)), Handover::Whole)
        );
        assert_eq!(record.response_len as usize, rig.seen[&exchange].body.len());
    }
    let exchange = rig.request(request(Method::HEAD, "/nowhere"), true);
    assert_eq!(rig.status(exchange), 404);
    assert!(rig.seen[&exchange].whole && rig.seen[&exchange].body.is_empty());
    let mut too_long = request(Method::POST, "/api");
    too_long.head.content_length = Some((1 << 20) + 1);
    let exchange = rig.request(too_long, false);
    assert_eq!(rig.status(exchange), 413);
    assert!(rig.seen[&exchange].stopped, "the rest of the body is not wanted");
    assert!(rig.wires.is_empty(), "no upstream connection was opened");
    rig.assert_nothing_left();
}

#[test]
fn requests_refused_before_their_head_is_accepted_get_a_response_and_are_logged() {
    let mut rig = Rig::new(config(1, 1, 0));
    let path = b"/a/../b";
    let refusal = Refusal {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        rule: "too many fields",
        bound: Some(Bound { key: "limits.max_header_count", max: 100 }),
        understood: Understood::new(Some(Method::HEAD), None, Some(path)),
    };
    let sender = Sender { server_name: Some("example.com".into()), ..sender() };
    let key =
        rig.proxy.reject(rig.now, Downstream { connection: 1, stream: 7 }, sender, refusal, false);
    rig.run();
    assert_eq!(rig.status(key), 431);
    assert!(rig.seen[&key].stopped && rig.seen[&key].whole && rig.seen[&key].body.is_empty());
    assert_eq!(rig.record().server_name.as_deref(), Some("example.com"));
    let understood = &rig.record().request;
    assert_eq!(understood.method, Some(Method::HEAD));
    assert_eq!(understood.path, Some(LoggedText::new(path)));
    assert_eq!(rig.record().outcome, Outcome::FieldsTooLarge);
    assert_eq!(rig.record().rule, Some("too many fields"));
    assert_eq!(rig.record().bound.map(|bound| bound.key), Some("limits.max_header_count"));
    rig.assert_nothing_left();
}

/// Records may wait for the writer of the access log.
#[test]
fn a_record_does_not_keep_the_memory_of_the_heads_that_it_logs() {
    let mut rig = Rig::new(config(1, 1, 0));
    let head = Bytes::from([b"example.com/", &[b'a'; 50_000][..]].concat());
    let mut sent = request(Method::from_bytes(&[b'M'; 50_000]).unwrap(), "/");
    let authority = Authority::parse(head.slice(..11)).unwrap();
    sent.head.target = Target::parse(Scheme::Https, authority, head.slice(11..), false).unwrap();
    sent.misdirected = true;
    let exchange = rig.request(sent, true);
    assert_eq!(rig.status(exchange), 421);
    assert!(head.is_unique(), "the record holds copies");
    let Understood { method, authority, path, provenance: None } = rig.record().request.clone()
    else {
        panic!("the log has no place for other fields")
    };
    let (method, authority, path) = (method.unwrap(), authority.unwrap(), path.unwrap());
    assert_eq!((authority.as_bytes(), authority.cut_len()), (&b"example.com"[..], 0));
    assert_eq!(path.as_bytes().len() + path.cut_len(), 50_001);
    assert!(path.as_bytes().len() + method.as_str().len() < 5_000);
    rig.assert_nothing_left();
}

/// Without an access log nothing of a request is copied for it.
#[test]
fn a_record_without_a_log_keeps_no_text() {
    let mut config = config(1, 1, 0);
    config.log.access = None;
    let mut rig = Rig::new(config);
    let mut sent = request(Method::GET, "/");
    sent.misdirected = true;
    let exchange = rig.request(sent, true);
    assert_eq!(rig.status(exchange), 421);
    assert_eq!(rig.record().request, Understood::default());
}

/// RFC 9110 9.3.2: a response to HEAD has no content.
#[test]
fn a_refusal_has_content_unless_the_request_is_a_head() {
    for (method, has_content) in
        [(Some(Method::GET), true), (Some(Method::HEAD), false), (None, true)]
    {
        let mut rig = Rig::new(config(1, 1, 0));
        let mut refusal = Refusal::new(StatusCode::REQUEST_TIMEOUT, "too late");
        refusal.understood.method = method.clone();
        let downstream = Downstream { connection: 1, stream: 7 };
        let key = rig.proxy.reject(rig.now, downstream, sender(), refusal, true);
        rig.run();
        let seen = &rig.seen[&key];
        assert_eq!((rig.status(key), seen.whole), (408, true));
        assert_eq!(!seen.body.is_empty(), has_content, "{method:?}");
        if method != Some(Method::HEAD) {
            assert_eq!(seen.value("content-length"), Some(&*seen.body.len().to_string()));
        }
        assert!(seen.value("proxy-status").unwrap().contains("too late"));
        rig.assert_nothing_left();
    }
}

#[test]
fn expect_100_continue_is_answered_by_the_gateway() {
    let mut rig = Rig::new(config(1, 1, 0));
    let mut expecting = request(Method::POST, "/");
    expecting.head.fields = vec![field("expect", "100-Continue")];
    let exchange = rig.request(expecting, false);
    assert_eq!(rig.seen[&exchange].interim, [StatusCode::CONTINUE]);
    let upstream = rig.connected();
    assert!(!rig.written(upstream).contains("expect"));
    rig.response(upstream, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(rig.seen[&exchange].interim, [StatusCode::CONTINUE, StatusCode::EARLY_HINTS]);
    rig.abort(exchange);
    rig.assert_nothing_left();
}

#[test]
fn a_body_that_contradicts_its_length_never_becomes_the_next_upstream_request() {
    for (sent, status) in [(&b"hello!"[..], 400), (&b"hell"[..], 400), (&b""[..], 400)] {
        let mut rig = Rig::new(config(1, 1, 0));
        let exchange = rig.post(Some(5));
        let upstream = rig.connected();
        rig.wrote(upstream);
        rig.body(exchange, sent);
        rig.end_of_request(exchange);
        assert_eq!(rig.status(exchange), status);
        assert!(!rig.is_open(upstream), "the incomplete request's connection is closed");
        rig.assert_nothing_left();
    }
    // The rest comes after what looked like a whole body.
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(Some(5));
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.body(exchange, b"hello");
    assert!(rig.written(upstream).ends_with("\r\ncontent-length: 5\r\n\r\n"));
    rig.body(exchange, b"!");
    assert_eq!(rig.status(exchange), 400);
    assert!(!rig.is_open(upstream));
    rig.assert_nothing_left();
    // After the response head only a reset is possible.
    let mut rig = Rig::new(config(1, 1, 0));
    let exchange = rig.post(Some(5));
    let upstream = rig.connected();
    rig.wrote(upstream);
    rig.response(upstream, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe");
    rig.end_of_request(exchange);
    assert_eq!(rig.seen[&exchange].reset, Some(Outcome::RequestMalformed));
    assert_eq!(rig.record().outcome, Outcome::RequestMalformed);
    rig.assert_nothing_left();
}
