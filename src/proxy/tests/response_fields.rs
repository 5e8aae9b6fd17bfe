//! Tests of the fields and trailers of a response that reach the client.

use super::*;

/// Returns the client's view of the response `wire`.
fn seen(wire: &str) -> Seen {
    let mut rig = Rig::new(config(1, 1, 0));
    let (exchange, upstream) = rig.active_get();
    rig.response(upstream, wire);
    rig.seen.remove(&exchange).expect("a response was passed on")
}

fn plain(fields: &Fields) -> Vec<(String, String)> {
    let plain = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields.iter().map(|(name, value)| (name.to_string(), plain(value))).collect()
}

#[test]
fn end_to_end_fields_pass_and_hop_by_hop_fields_do_not() {
    let seen = seen(
        "HTTP/1.1 200 OK\r\nConnection: x-secret, Keep-Alive\r\nX-Secret: 1\r\n\
         Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nProxy-Connection: x\r\nSet-Cookie: a\r\n\
         set-cookie: b\r\nx-empty:\r\nX-Tabs: \t a\tb \t\r\nx-high: \u{e9}\r\n\
         content-length: 2\r\nContent-Length: 2\r\nvia: 1.0 origin\r\n\r\nhi",
    );
    let expected = [
        ("set-cookie", "a"),
        ("set-cookie", "b"),
        ("x-empty", ""),
        ("x-tabs", "a\tb"),
        ("x-high", "\u{e9}"),
        ("content-length", "2"),
        ("via", "1.0 origin"),
        ("via", "1.1 ringway"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(plain(&seen.fields), expected);
}

#[test]
fn trailers_that_a_recipient_must_ignore_are_removed() {
    let seen = seen(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n.\r\n0\r\n\
         X-Sum: 1\r\nContent-Length: 5\r\nSet-Cookie: a\r\n\r\n",
    );
    let trailers = plain(&seen.trailers.expect("one is left"));
    assert_eq!(trailers, [("x-sum".to_owned(), "1".to_owned())]);
    assert_eq!(plain(&seen.fields), [("via".to_owned(), "1.1 ringway".to_owned())]);
}

#[test]
fn the_field_that_broke_a_rule_is_recorded() {
    let mut rig = Rig::new(config(1, 1, 0));
    for (line, field) in [("x odd: a", Some("x odd")), ("content-length: x", None)] {
        let (exchange, upstream) = rig.active_get();
        rig.response(upstream, format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n"));
        assert_eq!(rig.status(exchange), 502);
        assert_eq!(rig.record().field, field.map(|name| LoggedText::new(name.as_bytes())));
    }
    rig.assert_nothing_left();
}
