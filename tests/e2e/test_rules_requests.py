"""Requests that break rules: each is refused by itself. The upstream sees exactly the valid
requests, one for each stream, whatever bytes the others contain."""

import asyncio

import pytest

from harness import h3, raw
from harness.raw import DATA, HEADERS, frame, head, section

MALFORMED = "reset 0x10e"
GET = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"e2e.test"), (b":path", b"/")]


def with_line(name: bytes, value: bytes) -> bytes:
    return head(more=[(name, value)])


def with_trailer(name: bytes, value: bytes) -> bytes:
    return head(b"POST") + frame(DATA, b"x") + frame(HEADERS, section([(name, value)]))


def bad_bytes():
    """Yields requests with each byte that some parser takes for the end of a line or a field, in
    each part of a request. TAB is allowed inside a value."""
    for text, is_tab in [*((text, False) for text in ends_of_something()), (b"\t", True)]:
        inside = b"a" + text + b"b"
        yield with_line(b"x" + text + b"y", b"v"), {MALFORMED}
        yield with_line(b":path" + text, b"/"), {MALFORMED}
        yield head(method=b"GE" + text + b"T"), {MALFORMED}
        yield head(path=b"/" + inside), {"400"}
        yield head(authority=b"e2e" + text + b".test"), {"400"}
        yield head(scheme=b"http" + text + b"s"), {"400"}
        yield with_trailer(b"x" + text + b"t", b"v"), {MALFORMED}
        if not is_tab:
            yield with_line(b"x-v", inside), {MALFORMED}
            yield with_line(b"cookie", inside), {MALFORMED}
            yield with_trailer(b"x-t", inside), {MALFORMED}


def ends_of_something() -> list[bytes]:
    bad = [b"\r", b"\n", b"\r\n", b"\0"]
    bad += [b"\r\nx: y\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n"]
    return bad + [bytes([byte]) for byte in (*range(1, 9), 11, 12, *range(14, 32), 127)]


def bad_names_and_values():
    for put in (with_line, with_trailer):
        for name in (b"", b"X-Upper", b"x y", b"x:y", b" x", b"x ", b"x\xe4", b"x(", b'x"', b":x"):
            yield put(name, b"v"), {MALFORMED}
        for value in (b" v", b"v ", b"\tv", b"v\t", b" "):
            yield put(b"x-v", value), {MALFORMED}
    for name in (b"x_forwarded_for", b"content_length", b"x-y_"):
        yield with_line(name, b"1"), {"400"}
        yield with_trailer(name, b"1"), {MALFORMED, "400"}


def connection_fields():
    for name, value in [
        (b"connection", b"close"), (b"connection", b"x-mine"), (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"), (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"), (b"upgrade", b"websocket"), (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
    ]:
        yield with_line(name, value), {MALFORMED}
        yield head(b"POST", more=[(name, value)]) + frame(DATA, b"0\r\n\r\n"), {MALFORMED}


def bad_targets():
    for path in (b"*", b"a", b"http://e2e.test/", b"/..", b"/a/../b", b"/%2e%2e", b"/a/%2E./b",
                 b"/a%2f..%2fb", b"/a/..;x/b", b"/a\\..\\b", b"/%00", b"/a#b", b"/a b",
                 b"/\xc3\xa4"):
        yield head(path=path), {"400"}
    yield head(path=b""), {MALFORMED}
    yield head(path=b"/" + b"a" * 65536), {"431"}
    for authority in (b"user@e2e.test", b"e2e.test:0", b"e2e.test:65536", b"e2e.test:",
                      b"e2e.test:a", b"e2e.test:1:2", b"e2e.test/x", b"[::1",
                      b"e2e.test,other.test", b"%65"):
        yield head(authority=authority), {"400"}
    yield head(authority=b""), {MALFORMED}
    yield head(more=[(b"host", b"other.test")]), {MALFORMED}
    yield head(more=[(b"host", b"e2e.test"), (b"host", b"e2e.test")]), {"400"}
    yield head(authority=None), {MALFORMED}
    yield head(scheme=b"ftp"), {"400"}
    for method in (b"get", b"head", b"Post", b"connect", b"tRACE"):
        yield head(method), {"400"}
    yield head(authority=b"other.test", path=b"/head/only"), {"421"}
    yield head(authority=b"192.0.2.1", path=b"/head/only"), {"421"}
    yield frame(HEADERS, section([(b":method", b"CONNECT"), (b":authority", b"h:1")])), {"501"}


def bad_pseudo_fields():
    for missing in range(4):
        yield frame(HEADERS, section(GET[:missing] + GET[missing + 1:])), {MALFORMED}
        yield frame(HEADERS, section(GET + [GET[missing]])), {MALFORMED}
        late = GET[:missing] + [(b"x-early", b"v")] + GET[missing:]
        yield frame(HEADERS, section(late)), {MALFORMED}
    for name in (b":status", b":protocol", b":", b":Path", b":path "):
        yield with_line(name, b"200"), {MALFORMED}
        yield frame(HEADERS, section([(name, b"200")] + GET)), {MALFORMED}
    yield head() + frame(HEADERS, section([(b":path", b"/smuggled")])), {MALFORMED}


def bad_lengths():
    def post(*lengths: bytes) -> bytes:
        return head(b"POST", more=[(b"content-length", length) for length in lengths])

    five = frame(DATA, b"hello")
    yield post(b"6") + five, {MALFORMED, "400"}
    yield post(b"4") + five, {MALFORMED, "400"}
    yield post(b"5") + frame(DATA, b"hell") + frame(DATA, b"o!"), {MALFORMED, "400"}
    yield post(b"5"), {MALFORMED, "400"}
    yield post(b"5") + frame(DATA, b""), {MALFORMED, "400"}
    yield post(b"5") + frame(HEADERS, section([(b"x-t", b"v")])), {MALFORMED, "400"}
    yield post(b"5", b"6") + five, {MALFORMED}
    yield head(more=[(b"content-length", b"5")]), {MALFORMED, "400"}
    for length in (b"+5", b"5,5", b"5 5", b"0x5", b"-0", b"", b"5.0", b"18446744073709551616"):
        yield post(length) + five, {"400"}
    for length in (b" 5", b"5 "):
        yield post(length) + five, {MALFORMED}


def bad_trailers():
    for name in (b"content-length", b"host", b"transfer-encoding", b"connection", b":path", b"te"):
        yield with_trailer(name, b"1"), {MALFORMED}


@pytest.mark.parametrize("cases", [
    bad_bytes, bad_names_and_values, connection_fields, bad_targets, bad_pseudo_fields, bad_lengths,
    bad_trailers,
])
@h3.run
async def test_no_bad_request_reaches_the_upstream(start, recorder, cases):
    gateway = start(origin=recorder.address)
    sent = list(cases())
    async with raw.connection(gateway) as client:
        for number, (data, outcomes) in enumerate(sent):
            bad = await client.ask(data)
            assert bad.outcome in outcomes, (data, bad)
            # A valid request on the same connections follows. Its body looks like a request.
            good = head(b"POST", f"/good/{number}".encode(), more=[(b"content-length", b"14")])
            good = await client.ask(good + frame(DATA, b"GET / HTTP/1.1"))
            assert (good.outcome, good.body) == ("200", b"ok"), (data, good)
    whole = [request for request in recorder.requests if request.whole]
    assert [request.line for request in whole] == [
        f"POST /good/{number} HTTP/1.1" for number in range(len(sent))
    ]
    assert recorder.wrong == []
    cut = [request for request in recorder.requests if not request.whole]
    # A truncated body may have been started. Its connection was closed and carried nothing after
    # it.
    with_bodies = (bad_lengths, bad_bytes, bad_trailers, bad_names_and_values)
    assert not cut or cases in with_bodies, cut
    for request in cut:
        behind = [one for one in recorder.requests if one.connection == request.connection]
        assert behind[-1] is request and request.connection in recorder.ended
    assert b"smuggled" not in recorder.raw()


@h3.run
async def test_an_invalid_value_gets_a_400_response_that_ends_the_stream(start, recorder):
    """RFC 9114 4.1.2 allows a response before the error. The gateway does not wait for the body."""
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        for data in (head(b"POST", b"/a b"), head(b"POST", authority=b"a@e2e.test"),
                     head(b"POST", scheme=b"ftp"),
                     head(b"POST", more=[(b"host", b"e2e.test"), (b"host", b"e2e.test")]),
                     head(b"POST", more=[(b"content-length", b"five")])):
            exchange = client.request(data + frame(DATA, b"part of it"), end=False)
            await client.ended(exchange)
            assert exchange.outcome == "400" and exchange.body, exchange
            await client.until(lambda: exchange.stopped is not None)
            assert exchange.stopped == 0x100, "H3_NO_ERROR"
    assert recorder.connections == []


@h3.run
async def test_a_fin_alone_does_not_complete_a_short_body(start, recorder):
    """The FIN comes by itself, after the upstream has received part of the body."""
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        for cut in (b"", frame(DATA, b"hell"), frame(DATA, b"hell") + b"\x00"):
            # Bodies that are shorter than their content-length, one cut inside a frame.
            before = len(recorder.requests)
            data = head(b"POST", more=[(b"content-length", b"5")]) + cut
            exchange = client.request(data, end=False)
            await asyncio.sleep(0.1)
            client.send(exchange.stream, b"", end=True)
            await client.ended(exchange)
            assert exchange.outcome in (MALFORMED, "400") or "closed 0x106" in exchange.outcome
            if client.closed:
                break
            assert (await client.ask(head(path=b"/good"))).outcome == "200"
            assert len(recorder.requests) <= before + 2
    recorder.settle(lambda: len(recorder.ended) >= 2)
    posts = [request for request in recorder.requests if request.line.startswith("POST")]
    assert not any(request.whole for request in posts)
    for post in posts:
        assert [one for one in recorder.requests if one.connection == post.connection][-1] is post


@h3.run
async def test_what_looks_like_a_whole_request_waits_for_the_end_of_its_stream(start, recorder):
    """More DATA or bad trailers may follow a body of the announced length. Until then the upstream
    must not have it as a whole."""
    gateway = start(origin=recorder.address)
    five = head(b"POST", more=[(b"content-length", b"5")]) + frame(DATA, b"hello")
    none = head(b"PUT", more=[(b"content-length", b"0")])
    async with raw.connection(gateway) as client:
        for begin, rest in [
            (five, frame(DATA, b"!")), (none, frame(DATA, b"!")),
            (five, frame(HEADERS, section([(b"x-t", b"a\nb")]))),
            (none, frame(HEADERS, section([(b":path", b"/")]))),
        ]:
            exchange = client.request(begin, end=False)
            await asyncio.sleep(0.1)
            assert not exchange.end, exchange
            client.send(exchange.stream, rest, end=True)
            await client.ended(exchange)
            assert exchange.outcome == MALFORMED, (begin, rest, exchange)
        assert not any(request.whole for request in recorder.requests)
        for begin, body in ((five, b"hello"), (none, b"")):
            exchange = client.request(begin, end=False)
            await asyncio.sleep(0.1)
            assert not exchange.end
            client.send(exchange.stream, b"", end=True)
            await client.ended(exchange)
            assert (exchange.outcome, recorder.requests[-1].body) == ("200", body)
    assert recorder.wrong == []


@h3.run
async def test_requests_are_forwarded_in_one_canonical_form(start, recorder):
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        async def upstream_got(data: bytes):
            response = await client.ask(data)
            assert response.outcome == "200", response
            return recorder.requests[-1]

        for path in (b"//x", b"/a?b=../..", b"/%7euser", b"/a;b/c", b"/" + b"a" * 8000, b"/?"):
            got = await upstream_got(head(path=path))
            assert got.line.encode() == b"GET " + path + b" HTTP/1.1"
        got = await upstream_got(head(b"OPTIONS", b"*"))
        assert got.line == "OPTIONS * HTTP/1.1"
        got = await upstream_got(head(authority=b"E2E.test:443"))
        assert got.values("host") == [b"E2E.test:443"]
        got = await upstream_got(head(authority=None, more=[(b"host", b"e2e.test")]))
        assert got.values("host") == [b"e2e.test"]
        got = await upstream_got(head(more=[(b"te", b"trailers")]))
        assert got.values("te") == []
        two = [(b"content-length", b"5"), (b"content-length", b"005")]
        got = await upstream_got(head(b"POST", more=two) + frame(DATA, b"hello"))
        assert (got.values("content-length"), got.body) == ([b"5"], b"hello")
        trailers = frame(HEADERS, section([(b"x-t", b"v"), (b"authorization", b"no")]))
        got = await upstream_got(head(b"POST") + frame(DATA, b"hello") + trailers)
        assert (got.values("transfer-encoding"), got.body) == ([b"chunked"], b"hello")
        assert got.trailers == b"x-t: v\r\n"
        got = await upstream_got(head(more=[(b"x-v", b"a\tb")]))
        assert got.values("x-v") == [b"a\tb"]
        cookies = [(b"cookie", b"a=1"), (b"x", b""), (b"cookie", b"b=2")]
        got = await upstream_got(head(more=cookies))
        assert got.values("cookie") == [b"a=1; b=2"]


@h3.run
async def test_forwarding_fields_of_clients_are_replaced(start, recorder):
    gateway = start(origin=recorder.address)
    lies = [
        (b"x-forwarded-for", b"10.0.0.1"), (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"other.test"), (b"x-forwarded-port", b"1"),
        (b"forwarded", b"for=10.0.0.1"), (b"x-real-ip", b"10.0.0.1"), (b"early-data", b"1"),
        (b"proxy", b"http://10.0.0.1"), (b"via", b"1.1 liar"), (b"true-client-ip", b"10.0.0.1"),
        (b"cf-connecting-ip", b"10.0.0.1"), (b"x-original-url", b"/admin"),
        (b"x-http-method-override", b"DELETE"), (b"client-cert", b":YQ==:"),
    ]
    async with raw.connection(gateway) as client:
        for scheme in (b"https", b"http"):
            assert (await client.ask(head(scheme=scheme, more=lies))).outcome == "200"
            got = recorder.requests[-1]
            assert got.values("x-forwarded-for") == [b"127.0.0.1"]
            assert got.values("x-forwarded-proto") == [b"https"]
            assert got.values("x-forwarded-host") == [b"e2e.test"]
            assert got.values("forwarded") == [b'for=127.0.0.1;host="e2e.test";proto=https']
            assert got.values("via") == [b"3 ringway"]
            assert b"10.0.0.1" not in got.head and b"_" not in got.head
            assert got.values("early-data") == got.values("proxy") == got.values("x-real-ip") == []
            for name in ("x-original-url", "x-http-method-override", "client-cert"):
                assert got.values(name) == [], name
    for kind, count in [("forwarding", 14), ("address", 4), ("target", 2), ("method", 2),
                        ("identity", 2), ("added", 0)]:
        gateway.settle_count("proxy_fields_dropped_total", count, kind=kind)


@h3.run
async def test_the_list_of_proxy_fields_can_be_changed(start, recorder):
    changes = '{ add = ["x-tenant"], pass = ["X-HTTP-Method-Override"] }'
    gateway = start(origin=recorder.address, trusted_proxies=f"[]\nproxy_fields = {changes}")
    said = [(b"x-tenant", b"a"), (b"x-http-method-override", b"PATCH"), (b"x-rewrite-url", b"/")]
    async with raw.connection(gateway) as client:
        assert (await client.ask(head(b"POST", more=said))).outcome == "200"
    got = recorder.requests[-1]
    assert got.values("x-http-method-override") == [b"PATCH"]
    assert got.values("x-tenant") == got.values("x-rewrite-url") == []
    gateway.settle_count("proxy_fields_dropped_total", 1, kind="added")
    gateway.settle_count("proxy_fields_dropped_total", 2)


@h3.run
async def test_forwarding_fields_of_trusted_proxies_are_extended(start, recorder):
    """The proxy's fields are kept, and the gateway appends its own."""
    gateway = start(origin=recorder.address, trusted_proxies=["10.0.0.0/8", "127.0.0.1/32"])
    said = [
        (b"x-forwarded-for", b"198.51.100.7"), (b"x-forwarded-for", b"198.51.100.8"),
        (b"x-forwarded-proto", b"http"), (b"x-forwarded-host", b"shop.test"),
        (b"x-forwarded-port", b"80"), (b"forwarded", b"for=198.51.100.7;proto=http"),
        (b"x-real-ip", b"198.51.100.7"), (b"via", b"2 front"),
        (b"proxy", b"http://10.0.0.1"),
    ]
    async with raw.connection(gateway) as client:
        assert (await client.ask(head(more=said))).outcome == "200"
        got = recorder.requests[-1]
        assert got.values("x-forwarded-for") == [b"198.51.100.7, 198.51.100.8, 127.0.0.1"]
        assert got.values("x-forwarded-proto") == [b"http"]
        assert got.values("x-forwarded-host") == [b"shop.test"]
        assert got.values("x-forwarded-port") == [b"80"]
        assert got.values("x-real-ip") == [b"198.51.100.7"]
        assert got.values("forwarded") == [
            b'for=198.51.100.7;proto=http, for=127.0.0.1;host="e2e.test";proto=https'
        ]
        assert got.values("via") == [b"2 front, 3 ringway"]
        assert got.values("host") == [b"e2e.test"]
        assert b"10.0.0.1" not in got.head
        # Of a proxy that sends one of the two, both tell the chain.
        more = [(b"x-forwarded-for", b"198.51.100.7, 2001:db8::9")]
        assert (await client.ask(head(more=more))).outcome == "200"
        assert recorder.requests[-1].values("forwarded") == [
            b'for=198.51.100.7, for="[2001:db8::9]", for=127.0.0.1;host="e2e.test";proto=https'
        ]
        # Names that an upstream could confuse with these are refused, even from a trusted proxy.
        assert (await client.ask(head(more=[(b"x_forwarded_for", b"10.0.0.1")]))).outcome == "400"
        # Fields that the proxy did not send are added, with the scheme of its request.
        for scheme in (b"https", b"http"):
            assert (await client.ask(head(scheme=scheme))).outcome == "200"
            got = recorder.requests[-1]
            assert got.values("x-forwarded-for") == [b"127.0.0.1"]
            assert got.values("x-forwarded-proto") == [scheme]
            assert got.values("x-forwarded-host") == [b"e2e.test"]


@h3.run
async def test_addresses_outside_the_trusted_networks_are_not_trusted(start, recorder):
    gateway = start(origin=recorder.address, trusted_proxies=["127.0.0.2/31", "::1/128"])
    async with raw.connection(gateway) as client:
        lies = [(b"x-forwarded-for", b"198.51.100.7"), (b"x-forwarded-proto", b"http")]
        assert (await client.ask(head(more=lies))).outcome == "200"
    got = recorder.requests[-1]
    assert got.values("x-forwarded-for") == [b"127.0.0.1"]
    assert got.values("x-forwarded-proto") == [b"https"]


@h3.run
async def test_expect_100_continue_is_handled_by_the_gateway(start, recorder):
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        more = [(b"expect", b"100-continue"), (b"content-length", b"5")]
        exchange = client.request(head(b"POST", more=more), end=False)
        await client.until(lambda: exchange.received)
        client.send(exchange.stream, frame(DATA, b"hello"), end=True)
        await client.ended(exchange)
        assert exchange.status == [100, 200]
        assert recorder.requests[-1].values("expect") == []
        assert recorder.requests[-1].body == b"hello"
        assert (await client.ask(head())).outcome == "200"
    assert len(recorder.connections) == 1, "the connection was kept"


@h3.run
async def test_each_stream_becomes_exactly_one_request(start, recorder):
    """Many streams at once become as many requests, each complete and on a connection of its
    own."""
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        exchanges = [
            client.request(head(b"POST", b"/%d" % number) + frame(DATA, b"%d" % number))
            for number in range(90)
        ]
        for exchange in exchanges:
            assert (await client.ended(exchange)).outcome == "200"
    lines = sorted(request.line for request in recorder.requests)
    assert lines == sorted(f"POST /{number} HTTP/1.1" for number in range(90))
    assert all(request.line.split("/")[1].split()[0].encode() == request.body
               for request in recorder.requests)
    assert recorder.raw().count(b" HTTP/1.1\r\n") == 90
