"""Requests byte by byte at the front door: what is served, what is refused, and what an upstream
never sees."""

import contextlib
import time

import pytest

from harness import bodies, tcp
from harness.h3 import AUTHORITY
from harness.recorder import Recorder
from harness.tcp import head

GET = head("GET", "/x")
POST = "POST /x HTTP/1.1\r\nhost: e2e.test\r\n"

REFUSED = {
    "length and chunked": POST + "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + "content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "two lengths in one field": POST + "content-length: 5, 6\r\n\r\nhello",
    "length with a sign": POST + "content-length: +5\r\n\r\nhello",
    "length in hex": POST + "content-length: 0x5\r\n\r\nhello",
    "length of 65 bits": POST + "content-length: 18446744073709551621\r\n\r\nhello",
    "empty length": POST + "content-length: \r\n\r\n",
    "chunked twice": POST + "transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked before another": POST + "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked with a tab inside": POST + "transfer-encoding: chun\tked\r\n\r\n0\r\n\r\n",
    "chunked with a vertical tab": POST + "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in quotes": POST + 'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked with a parameter": POST + "transfer-encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0":
        POST.replace("1.1", "1.0") + "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "a tab before the colon": POST + "content-length\t: 5\r\n\r\nhello",
    "a folded line": POST + "transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded first line": "GET /x HTTP/1.1\r\n host: e2e.test\r\nhost: e2e.test\r\n\r\n",
    "a bare LF after a line": "GET /x HTTP/1.1\nhost: e2e.test\r\n\r\n",
    "bare LFs at the end": "GET /x HTTP/1.1\r\nhost: e2e.test\n\n",
    "a bare CR in a value": "GET /x HTTP/1.1\r\nhost: e2e.test\r\na: b\rc: d\r\n\r\n",
    "a NUL in a value": "GET /x HTTP/1.1\r\nhost: e2e.test\r\na: b\0\r\n\r\n",
    "no colon": "GET /x HTTP/1.1\r\nhost: e2e.test\r\nabc\r\n\r\n",
    "an empty name": "GET /x HTTP/1.1\r\nhost: e2e.test\r\n: a\r\n\r\n",
    "no host": "GET /x HTTP/1.1\r\na: b\r\n\r\n",
    "two hosts": "GET /x HTTP/1.1\r\nhost: e2e.test\r\nhost: e2e.test\r\n\r\n",
    "a host with a path": "GET /x HTTP/1.1\r\nhost: e2e.test/y\r\n\r\n",
    "a host with user information": "GET /x HTTP/1.1\r\nhost: a@e2e.test\r\n\r\n",
    "another host than the target's": "GET http://e2e.test/x HTTP/1.1\r\nhost: a.test\r\n\r\n",
    "a target without a slash": "GET x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a fragment": "GET /x#y HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "two spaces": "GET  /x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "no version": "GET /x\r\nhost: e2e.test\r\n\r\n",
    "a version in small letters": "GET /x http/1.1\r\nhost: e2e.test\r\n\r\n",
    "no method": " /x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "two equal lengths": POST + "content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "two equal lengths in one field": POST + "content-length: 5, 5\r\n\r\nhello",
    "length with a minus": POST + "content-length: -0\r\n\r\nhello",
    "length with a fraction": POST + "content-length: 5.0\r\n\r\nhello",
    "length with a space inside": POST + "content-length: 1 5\r\n\r\nhello",
    "length with an underscore": POST + "content-length: 1_0\r\n\r\nhello",
    "a folded length": POST + "content-length:\r\n 5\r\n\r\nhello",
    "a length as content_length": POST + "content_length: 5\r\n\r\nhello",
    "a coding that only ends like chunked": POST + "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": POST + "transfer-encoding: identity\r\ncontent-length: 5\r\n\r\nhello",
    "an empty coding": POST + "transfer-encoding: \r\n\r\n",
    "an empty coding and a length": POST + "transfer-encoding:\r\ncontent-length: 5\r\n\r\nhello",
    "two codings in two fields":
        POST + "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked in two fields":
        POST + "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding after a comma": POST + "transfer-encoding: , chunked\r\n\r\n0\r\n\r\n",
    "a coding as transfer_encoding": POST + "transfer_encoding: chunked\r\n\r\n0\r\n\r\n",
    "a form feed before the coding": POST + "transfer-encoding:\x0cchunked\r\n\r\n0\r\n\r\n",
    "a NUL behind the coding": POST + "transfer-encoding: chunked\0\r\n\r\n0\r\n\r\n",
    "a line of a bare CR": POST + "\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a space before a name": POST + "a: b\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "an empty host": "GET /x HTTP/1.1\r\nhost: \r\n\r\n",
    "a host with port 0": "GET /x HTTP/1.1\r\nhost: e2e.test:0\r\n\r\n",
    "a host with a port of 17 bits": "GET /x HTTP/1.1\r\nhost: e2e.test:65536\r\n\r\n",
    "a host with an empty port": "GET /x HTTP/1.1\r\nhost: e2e.test:\r\n\r\n",
    "two hosts in one field": "GET /x HTTP/1.1\r\nhost: e2e.test, a.test\r\n\r\n",
    "a host with escapes": "GET /x HTTP/1.1\r\nhost: %65\r\n\r\n",
    "a host that is not closed": "GET /x HTTP/1.1\r\nhost: [::1\r\n\r\n",
    "user information in the target":
        "GET http://a@e2e.test/x HTTP/1.1\r\nhost: a@e2e.test\r\n\r\n",
    "another scheme": "GET ftp://e2e.test/x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "an asterisk with GET": "GET * HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a dot segment": "GET /a/../x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "an escaped dot segment": "GET /a/%2e%2e/x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a dot segment behind a backslash": "GET /a\\..\\x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "an escaped NUL": "GET /%00 HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a byte above 127 in the target": "GET /\xe4 HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a space in the target": "GET /a b HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a tab behind the method": "GET\t/x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a space behind the version": "GET /x HTTP/1.1 \r\nhost: e2e.test\r\n\r\n",
    "a method in small letters": "get /x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a method that is no token": "G(T /x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "a length with CONNECT":
        "CONNECT e2e.test:1 HTTP/1.1\r\nhost: e2e.test:1\r\ncontent-length: 5\r\n\r\nhello",
    "three empty lines before": "\r\n\r\n\r\nGET /x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
} | {
    f"byte {byte:#04x} in {where}": text.replace("?", chr(byte), 1)
    for byte in (*range(9), *range(11, 13), *range(14, 32), 127)
    for where, text in {
        "the method": "G?T /x HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
        "the target": "GET /x?y HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
        "the host": "GET /x HTTP/1.1\r\nhost: e2e?.test\r\n\r\n",
        "a name": "GET /x HTTP/1.1\r\nhost: e2e.test\r\na?b: c\r\n\r\n",
        "a value": "GET /x HTTP/1.1\r\nhost: e2e.test\r\na: b?c\r\n\r\n",
        "a cookie": "GET /x HTTP/1.1\r\nhost: e2e.test\r\ncookie: b?c\r\n\r\n",
    }.items()
}
"""Heads that get 400, after which nothing of the connection is read."""

OTHERWISE_REFUSED = {
    "another coding": (501, POST + "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "another expectation": (417, POST + "expect: x\r\ncontent-length: 5\r\n\r\nhello"),
    "a tunnel": (501, "CONNECT e2e.test:1 HTTP/1.1\r\nhost: e2e.test:1\r\n\r\n"),
    "version 1.2": (505, "GET /x HTTP/1.2\r\nhost: e2e.test\r\n\r\n"),
    "version 2.0": (505, "GET /x HTTP/2.0\r\nhost: e2e.test\r\n\r\n"),
    "a target of 64 KiB": (414, f"GET /{'x' * 65536} HTTP/1.1\r\nhost: e2e.test\r\n\r\n"),
    "a field of 64 KiB": (431, f"GET /x HTTP/1.1\r\nhost: e2e.test\r\na: {'x' * 65536}\r\n\r\n"),
}
"""Heads that get another status, after which nothing is read either."""

BROKEN_CHUNKS = {
    "no size": "\r\nhello\r\n0\r\n\r\n",
    "a sign": "+5\r\nhello\r\n0\r\n\r\n",
    "0x": "0x5\r\nhello\r\n0\r\n\r\n",
    "a bare LF after the size": "5\nhello\r\n0\r\n\r\n",
    "a body longer than its size": "4\r\nhello\r\n0\r\n\r\n",
    "a size of 65 bits": "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a space after the size": "5 \r\nhello\r\n0\r\n\r\n",
    "a space before the size": " 5\r\nhello\r\n0\r\n\r\n",
    "a minus": "-5\r\nhello\r\n0\r\n\r\n",
    "an underscore": "0_5\r\nhello\r\n0\r\n\r\n",
    "a letter that is no digit": "5g\r\nhello\r\n0\r\n\r\n",
    "a bare LF within an extension": "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a bare CR within an extension": "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a bare LF behind an extension": "5;a\nhello\r\n0\r\n\r\n",
    "a NUL within an extension": "5;a\0\r\nhello\r\n0\r\n\r\n",
    "a bare LF behind the data": "5\r\nhello\n0\r\n\r\n",
    "a body shorter than its size": "6\r\nhello\r\n0\r\n\r\n",
    "a bare LF behind the last size": "5\r\nhello\r\n0\n\r\n",
    "a length in the trailers": "5\r\nhello\r\n0\r\ncontent-length: 5\r\n\r\n",
    "a coding in the trailers": "5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
    "a host in the trailers": "5\r\nhello\r\n0\r\nhost: a.test\r\n\r\n",
    "a folded line in the trailers": "5\r\nhello\r\n0\r\na: b\r\n c: d\r\n\r\n",
    "a bare LF in the trailers": "5\r\nhello\r\n0\r\na: b\nc: d\r\n\r\n",
    "a request line as trailers": "5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
}


@pytest.fixture
def door(start, recorder):
    """A gateway before a recorder, with a plain port."""
    port, extra = tcp.plain_listener()
    gateway = start(origin=recorder.address, listener=tcp.LISTENER, extra=extra)
    gateway.plain = port
    return gateway


def test_a_malformed_head_is_refused_and_no_upstream_sees_it(door, recorder):
    wrong = {}
    smuggled = "GET /smuggled HTTP/1.1\r\nhost: e2e.test\r\n\r\n"
    for name, request in REFUSED.items():
        with tcp.Client(door.plain) as client:
            client.send((request + smuggled).encode("latin-1"))
            response = client.response()
            seen = (response.status, response.values("connection"), client.rest())
            if seen != (400, ["close"], b""):
                wrong[name] = seen
    assert wrong == {}
    assert recorder.raw() == b""


def test_a_head_that_is_refused_otherwise_ends_its_connection_too(door, recorder):
    smuggled = "GET /smuggled HTTP/1.1\r\nhost: e2e.test\r\n\r\n"
    seen = {}
    for name, (_, request) in OTHERWISE_REFUSED.items():
        with tcp.Client(door.plain) as client:
            client.send((request + smuggled).encode("latin-1"))
            response = client.response()
            seen[name] = (response.status, response.values("connection"), client.rest())
    assert seen == {
        name: (status, ["close"], b"") for name, (status, _) in OTHERWISE_REFUSED.items()}
    assert recorder.raw() == b""


FRAMED = {
    "a length": "content-length: 38\r\n\r\n",
    "a chunk": "transfer-encoding: chunked\r\n\r\n26\r\n",
}
"""Ways to say that what looks like a request is a body of 38 bytes."""


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "OPTIONS", "X"])
@pytest.mark.parametrize("framing", FRAMED)
def test_a_body_that_looks_like_a_request_stays_a_body(door, recorder, method, framing):
    body = "GET /smuggled HTTP/1.1\r\nhost: a.bc\r\n\r\n"
    assert len(body) == 0x26
    end = "\r\n0\r\n\r\n" if framing == "a chunk" else ""
    with tcp.Client(door.plain) as client:
        for _ in range(3):
            data = f"{method} /x HTTP/1.1\r\nhost: e2e.test\r\n{FRAMED[framing]}{body}{end}"
            client.send(data.encode())
            assert client.response().body == b"ok"
    assert [one.line for one in recorder.requests] == [f"{method} /x HTTP/1.1"] * 3
    assert {one.body for one in recorder.requests} == {body.encode()} and recorder.wrong == []


def test_a_broken_chunk_ends_the_connection(door, recorder):
    """What came before it may have been passed on; nothing that follows is read as a request."""
    for body in BROKEN_CHUNKS.values():
        with tcp.Client(door.plain) as client:
            client.send((POST + "transfer-encoding: chunked\r\n\r\n" + body).encode())
            answer = b""
            with contextlib.suppress(ConnectionError):
                client.send(head("GET", "/smuggled"))
                answer = client.rest()
            assert not answer.startswith(b"HTTP/1.1 2"), (body, answer)
            assert answer.count(b"HTTP/1.1 ") <= 1, (body, answer)
    assert b"smuggled" not in recorder.raw()
    assert all(not request.whole for request in recorder.requests)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_pipelined_requests_are_served_in_order(start, secure):
    port, extra = tcp.plain_listener()
    gateway = start(listener=tcp.LISTENER, extra=extra)
    settings = tcp.context(gateway, "http/1.1") if secure else None
    lengths = [3000, 0, 1, 70_000, 12]
    with tcp.Client(gateway.port if secure else port, settings) as client:
        requests = [head("GET", f"/bytes/{length}") for length in lengths]
        post = head("POST", "/echo", "content-length: 5") + b"12345"
        client.send(b"".join(requests) + post + head("HEAD", "/bytes/7") + GET)
        for length in lengths:
            assert client.response().body == bodies.body(length)
        assert client.response("POST").body == b"12345"
        assert client.response("HEAD").values("content-length") == ["7"]
        assert client.response().status == 404


def test_requests_in_single_bytes_are_served(door, recorder):
    request = head("POST", "/slow", "transfer-encoding: chunked")
    request += b"3;a=b\r\nabc\r\n0\r\nt: u\r\n\r\n"
    with tcp.Client(door.plain) as client:
        for byte in request + b"\r\n" + GET:
            client.send(bytes([byte]))
        assert [client.response().body for _ in range(2)] == [b"ok", b"ok"]
    assert [one.line for one in recorder.requests] == ["POST /slow HTTP/1.1", "GET /x HTTP/1.1"]
    assert recorder.requests[0].body == b"abc" and recorder.wrong == []


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_half_closed_client_gets_its_response(start, secure):
    port, extra = tcp.plain_listener()
    gateway = start(listener=tcp.LISTENER, extra=extra)
    settings = tcp.context(gateway) if secure else None
    with tcp.Client(gateway.port if secure else port, settings) as client:
        client.send(head("GET", "/slow-head?seconds=0.3") + head("GET", "/bytes/300000"))
        client.end()
        assert client.response().status == 200
        assert client.response().body == bodies.body(300_000)
        assert client.rest() == b""


def test_connection_close_is_respected(door):
    with tcp.Client(door.plain) as client:
        response = client.ask(head("GET", "/x", "connection: close") + GET)
        assert (response.body, response.values("connection")) == (b"ok", ["close"])
        assert client.rest() == b""


def test_a_response_is_delivered_though_its_end_comes_late(start):
    """The end of the connection ends the body, for the upstream and for a client of HTTP/1.0."""
    recorder = Recorder(lambda request: [b"HTTP/1.1 200 OK\r\n\r\nhello", 0.3, "fin"])
    port, extra = tcp.plain_listener()
    gateway = start(origin=recorder.address, extra=extra)
    with tcp.Client(port) as client:
        client.send(head("GET", "/x", version="1.0"))
        assert client.rest().endswith(b"\r\n\r\nhello")
        line = gateway.access_lines(1, seconds=1)[0]
    recorder.stop()
    assert (line["outcome"], line["protocol"]) == ("complete", "HTTP/1.0")
    assert 300_000 <= line["duration_us"] <= line["delivered_us"]


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket"])
def test_a_websocket_is_not_implemented(door, recorder, upgrade):
    with tcp.Client(door.plain) as client:
        response = client.ask(head(
            "GET", "/x", "connection: upgrade", f"upgrade: {upgrade}", "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        ))
        assert response.status == 501
    assert recorder.raw() == b""


def test_other_upgrades_are_ignored(door, recorder):
    with tcp.Client(door.plain) as client:
        fields = ("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk")
        assert client.ask(head("GET", "/x", *fields)).body == b"ok"
    assert b"h2c" not in recorder.raw() and b"http2-settings" not in recorder.raw().lower()


@pytest.mark.parametrize(
    "first", [GET, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ids=["http1", "http2"]
)
def test_plain_http_at_the_tls_port_is_told_so_in_plain_text(door, recorder, first):
    with tcp.Client(door.port) as client:
        response = client.ask(first)
        assert (response.status, response.values("connection")) == (400, ["close"])
        assert b"https" in response.body
        assert client.rest() == b""
    assert recorder.raw() == b""


def test_other_bytes_at_the_tls_port_get_an_alert(door):
    with tcp.Client(door.port) as client:
        client.send(b"SSH-2.0-OpenSSH_9.2\r\n")
        assert client.rest()[:1] == b"\x15"


@pytest.mark.parametrize("first", ["https://e2e.test/x", "http://e2e.test/x"])
def test_a_plain_client_is_never_reported_as_a_secure_one(door, recorder, first):
    """A target that names https does not make the connection a secure one."""
    with tcp.Client(door.plain) as client:
        assert client.ask(head("GET", first)).status == 200
    assert [one.values("x-forwarded-proto") for one in recorder.requests] == [[b"http"]]


def test_a_head_that_does_not_come_in_time_gets_408(start):
    port, extra = tcp.plain_listener()
    gateway = start(listener=tcp.LISTENER, extra=extra, header_timeout="1s")
    for number, settings in ((port, None), (gateway.port, tcp.context(gateway, "http/1.1"))):
        with tcp.Client(number, settings) as client:
            begin = time.monotonic()
            client.send(GET[:-2])
            response = client.response()
            assert (response.status, response.values("connection")) == (408, ["close"])
            assert 0.9 < time.monotonic() - begin < 4
            assert client.rest() == b""


def test_a_head_that_comes_in_drops_gets_408_too(start):
    port, extra = tcp.plain_listener()
    start(extra=extra, header_timeout="1s")
    begin = time.monotonic()
    with tcp.Client(port) as client:
        client.send(GET[:-2])
        client.socket.settimeout(0.2)
        for _ in range(30):
            with contextlib.suppress(TimeoutError):
                assert client.socket.recv(12) == b"HTTP/1.1 408"
                break
            client.send(b"a: b\r\n")
        assert 0.9 < time.monotonic() - begin < 4


def test_an_idle_connection_is_closed(start):
    port, extra = tcp.plain_listener('[listeners.tcp]\nidle_timeout = "1s"')
    gateway = start(listener=tcp.LISTENER, tcp='idle_timeout = "1s"', extra=extra)
    for number, settings in ((port, None), (gateway.port, tcp.context(gateway, "http/1.1"))):
        for request in (b"", head("GET", "/bytes/10")):
            with tcp.Client(number, settings) as client:
                if request:
                    assert client.ask(request).status == 200
                begin = time.monotonic()
                assert client.rest() == b""
                assert 0.9 < time.monotonic() - begin < 4


def test_an_address_has_only_its_part_of_the_connections(start):
    port, extra = tcp.plain_listener(
        '[listeners.tcp]\nmax_connections = 100\nmax_connections_per_address = "5%"'
    )
    gateway = start(extra=extra)
    request = head("GET", "/bytes/1")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(tcp.Client(port)) for _ in range(5)]
        assert [client.ask(request).status for client in clients] == [200] * 5
        with pytest.raises(OSError), tcp.Client(port) as one:
            one.send(request)
            assert one.line() == b""
            raise ConnectionError("it was closed")
        clients[0].end()
        assert clients[0].rest() == b""
        gateway.settle_count("tcp_connections_closed_total", 1)
        with tcp.Client(port) as one:
            assert one.ask(request).status == 200


@pytest.mark.parametrize("setting, port_text", [("true", ""), ("8443", ":8443")])
@pytest.mark.parametrize("target, rest", [
    ("/", "/"), ("/a/b?c=d&e=%2F", "/a/b?c=d&e=%2F"), ("/a?", "/a?"), ("/%7Ea//b", "/%7Ea//b"),
])
def test_plain_requests_are_redirected(start, recorder, setting, port_text, target, rest):
    port, extra = tcp.plain_listener(f"redirect_to_https = {setting}")
    start(origin=recorder.address, extra=extra)
    with tcp.Client(port) as client:
        for host in (AUTHORITY, f"{AUTHORITY}:{port}"):
            response = client.ask(head("GET", target, host=host))
            assert response.status == 308
            assert response.values("location") == [f"https://{AUTHORITY}{port_text}{rest}"]
        response = client.ask(head("POST", target, "content-length: 3") + b"abc", "POST")
        assert response.status == 308
    assert recorder.raw() == b""
