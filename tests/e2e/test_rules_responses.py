"""Invalid responses from upstreams: 502 before the head has been forwarded, a reset after it. A
truncated response never ends cleanly, and the next request gets its own response."""

import asyncio
import collections
import random

import pytest

from harness import h3, raw
from harness.raw import DATA, frame, head
from harness.recorder import OK, Recorder

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
POISON = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"


def lines(*fields: bytes, status=b"200 OK", version=b"HTTP/1.1") -> bytes:
    return b"\r\n".join([version + b" " + status, *fields, b"", b""])


BAD_HEADS = {
    "folded": lines(b"x: a", b" b", b"content-length: 0"),
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "one bare LF": b"HTTP/1.1 200 OK\r\nx: a\ny: b\r\ncontent-length: 0\r\n\r\n",
    "CR in a value": lines(b"x: a\rb", b"content-length: 0"),
    "NUL in a value": lines(b"x: a\0b", b"content-length: 0"),
    "two lengths": lines(b"content-length: 2", b"content-length: 3") + b"ok!",
    "a list of lengths": lines(b"content-length: 2, 2") + b"ok",
    "length +2": lines(b"content-length: +2") + b"ok",
    "length 2^64": lines(b"content-length: 18446744073709551616"),
    "length and chunked": lines(b"content-length: 2", b"transfer-encoding: chunked") + b"0\r\n\r\n",
    "another coding": lines(b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n",
    "chunked twice": lines(b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n",
    "chunked in HTTP/1.0": lines(b"transfer-encoding: chunked", version=b"HTTP/1.0"),
    "chunked with 204": lines(b"transfer-encoding: chunked", status=b"204 No Content"),
    "space in a name": lines(b"x y: a", b"content-length: 0"),
    "two lengths, one behind a space": lines(b"content-length: 2", b"content-length : 3") + b"ok!",
    "no colon": lines(b"content-length"),
    "empty name": lines(b": x", b"content-length: 0"),
    "status 099": lines(b"content-length: 0", status=b"099 Low"),
    "status 1000": lines(b"content-length: 0", status=b"1000 High"),
    "101": lines(b"upgrade: x", status=b"101 Switching Protocols"),
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": lines(b"content-length: 0", version=b"HTTP/1.2"),
    "1 MiB of a head": lines(*[b"x: " + b"a" * 1000] * 1000),
    "1000 fields": lines(*[b"x: a"] * 1000, b"content-length: 0"),
    "10000 interim responses": lines(status=b"103 Early Hints") * 10_000 + OK,
}

BAD_BODIES = {
    "size overflow": CHUNKED + b"10000000000000000\r\n",
    "size 0x5": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "size 5 5": CHUNKED + b"5 5\r\nhello\r\n0\r\n\r\n",
    "size and 300 blanks": CHUNKED + b"5" + b" " * 300 + b"\r\nhello\r\n0\r\n\r\n",
    "size -1": CHUNKED + b"-1\r\n",
    "no size": CHUNKED + b"\r\nhello\r\n",
    "LF in an extension": CHUNKED + b"5;a=\nb\r\nhello\r\n0\r\n\r\n",
    "LF ends a size": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "chunk too long": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "trailers with bare LF": CHUNKED + b"5\r\nhello\r\n0\r\nx: y\n\r\n",
    "trailers folded": CHUNKED + b"5\r\nhello\r\n0\r\nx: y\r\n z\r\n\r\n",
    "endless extension": CHUNKED + b"5;" + b"a" * 10_000,
    "endless trailers": CHUNKED + b"0\r\n" + b"x: a\r\n" * 10_000,
}

CUT = {
    "in a body of known length": lines(b"content-length: 10") + b"hello",
    "before a body of known length": lines(b"content-length: 10"),
    "in a chunk": CHUNKED + b"9\r\nhello",
    "behind a chunk": CHUNKED + b"5\r\nhello\r\n",
    "in the last chunk": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "in the trailers": CHUNKED + b"5\r\nhello\r\n0\r\nx: y\r\n",
}


class Script:
    """What the upstream does with a request for `/bad`; all others get 200."""

    def __init__(self):
        self.steps: list = []

    def __call__(self, request):
        return self.steps if "/bad" in request.line else ["read", OK]


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def recorder(script):
    recorder = Recorder(script)
    yield recorder
    recorder.stop()


async def assert_well(client):
    """Checks that the next requests get their own responses."""
    for _ in range(2):
        response = await client.ask(head(path=b"/good"))
        assert (response.outcome, response.body) == ("200", b"ok"), response


async def assert_discarded(recorder, connection: int):
    """Checks that the upstream connection has been closed."""
    for _ in range(100):
        if connection in recorder.ended:
            break
        await asyncio.sleep(0.02)
    assert connection in recorder.ended, "the connection was kept"


@h3.run
async def test_an_invalid_response_head_is_502(start, recorder, script):
    gateway = start(origin=recorder.address, response_timeout="2s")
    async with raw.connection(gateway) as client:
        for name, response in BAD_HEADS.items():
            script.steps = ["read", response + POISON, "fin"]
            got = await client.ask(head(b"POST", b"/bad"))
            assert got.outcome == "502", (name, got)
            # At most as many interim responses as may be forwarded.
            assert len(got.status) <= 9, (name, got.status)
            assert b"poison" not in got.body
            await assert_discarded(recorder, recorder.requests[-1].connection)
            await assert_well(client)


@h3.run
async def test_odd_responses_that_cannot_be_misread_are_borne(start, recorder, script):
    """RFC 9110 15, RFC 9112 5.1 and 7.1: what some servers send, and every reader reads alike."""
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        for name, status, response in [
            ("a size padded with blanks", "200",
             CHUNKED + b"2  \r\nok\r\n0\t \r\n\r\n"),
            ("blanks before an extension", "200", CHUNKED + b"2  ;x=y\r\nok\r\n0\r\n\r\n"),
            ("status 600", "600", lines(b"content-length: 2", status=b"600 High") + b"ok"),
            ("status 999", "999", lines(b"content-length: 2", status=b"999 Denied") + b"ok"),
            ("a blank before the colon", "200",
             lines(b"x-odd : a", b"content-length\t: 2") + b"ok"),
        ]:
            for _ in range(4):
                script.steps = ["read", response]
                got = await client.ask(head(path=b"/bad"))
                assert (got.outcome, got.body) == (status, b"ok"), (name, got)
        assert got.values(b"x-odd") == [b"a"]
    assert gateway.settle_count("requests_total", 20).sum("upstream_ejections_total") == 0
    # All of them on one connection: nothing was left over.
    assert len(recorder.connections) == 1


@h3.run
async def test_a_response_that_breaks_a_rule_names_its_field_and_ejects_nobody(
    start, recorder, script
):
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        for _ in range(5):
            script.steps = ["read", lines(b"x-good: a", b"x-odd: a\0b", b"content-length: 0"), "fin"]
            got = await client.ask(head(path=b"/bad"))
            assert got.outcome == "502", got
            await assert_well(client)
    metrics = gateway.settle_count("upstream_failures_total", 5, kind="protocol")
    assert metrics.sum("upstream_ejections_total") == 0
    named = [line for line in gateway.access_lines(15) if line.get("status") == 502]
    assert [line["field"] for line in named] == ["x-odd"] * 5, named


@h3.run
async def test_an_invalid_response_body_is_a_reset(start, recorder, script):
    """Unless the response's head has not left yet, when it is found: then the client gets 502."""
    gateway = start(origin=recorder.address, response_timeout="2s")
    async with raw.connection(gateway) as client:
        for name, response in BAD_BODIES.items():
            first, rest = response.split(b"\r\n\r\n", 1)
            for steps, outcomes in (
                ([first + b"\r\n\r\n", 0.05, rest + POISON], {"reset 0x102"}),
                # A long one comes in several pieces, each with some of the body.
                ([response + POISON], {"502"} if len(response) < 2_000 else {"502", "reset 0x102"}),
            ):
                script.steps = ["read", *steps, "fin"]
                got = await client.ask(head(b"POST", b"/bad"))
                assert got.outcome in outcomes, (name, got)
                assert b"poison" not in got.body
                await assert_discarded(recorder, recorder.requests[-1].connection)
                await assert_well(client)
        failures = gateway.metrics().sum("upstream_failures_total", kind="protocol")
    assert failures == 2 * len(BAD_BODIES)


@pytest.mark.parametrize("how", ["fin", "rst"])
@h3.run
async def test_a_truncated_response_never_ends_cleanly(start, recorder, script, how):
    gateway = start(origin=recorder.address, response_timeout="2s")
    async with raw.connection(gateway) as client:
        for name, response in CUT.items():
            script.steps = ["read", response, 0.05, how]
            got = await client.ask(head(b"POST", b"/bad"))
            assert got.outcome == "reset 0x102", (name, got)
            # Cut at once, before the head has left: then there is a 502 too.
            script.steps = ["read", response, how]
            got = await client.ask(head(b"POST", b"/bad"))
            assert got.outcome in ("reset 0x102", "502"), (name, got)
            await assert_well(client)
        # Without a length, the response ends with the connection, but not with a reset of it.
        script.steps = ["read", lines() + b"hello", 0.05, how]
        got = await client.ask(head(b"POST", b"/bad"))
        assert got.outcome == {"fin": "200", "rst": "reset 0x102"}[how], got
        assert how == "rst" or got.body == b"hello"


@h3.run
async def test_bytes_after_a_response_without_a_body_are_discarded(start, recorder, script):
    """HEAD, 204 and 304: bytes after the head belong to no response, and the connection is
    closed."""
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        for method, status, length in [
            (b"HEAD", b"200 OK", b"6"), (b"GET", b"204 No Content", b"6"),
            (b"GET", b"304 Not Modified", b"6"),
        ]:
            response = lines(b"content-length: " + length, status=status)
            script.steps = ["read", response + b"poison", 0.1]
            got = await client.ask(head(method, b"/bad"))
            assert (got.outcome, got.body) == (status[:3].decode(), b""), got
            expected = [] if status.startswith(b"204") else [length]
            assert got.values(b"content-length") == expected
            connection = recorder.requests[-1].connection
            await assert_discarded(recorder, connection)
            await assert_well(client)
            # Without such bytes the connection is reused.
            script.steps = ["read", response]
            await client.ask(head(method, b"/bad"))
            connection = recorder.requests[-1].connection
            await assert_well(client)
            assert recorder.requests[-1].connection == connection


@h3.run
async def test_bytes_after_a_whole_response_are_discarded(start, recorder, script):
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        for response in (OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"):
            for steps in ([response + POISON], [response, 0.05, POISON], [response, 0.05, b"H"]):
                script.steps = ["read", *steps]
                got = await client.ask(head(path=b"/bad"))
                assert (got.outcome, got.body) == ("200", b"ok")
                connection = recorder.requests[-1].connection
                await asyncio.sleep(0.1)
                await assert_discarded(recorder, connection)
                await assert_well(client)


@h3.run
async def test_interim_responses_are_forwarded_separately(start, recorder, script):
    gateway = start(origin=recorder.address)
    hints = lines(b"link: </a.css>; rel=preload", status=b"103 Early Hints")
    async with raw.connection(gateway) as client:
        script.steps = ["read", lines(status=b"100 Continue") + hints, 0.02, hints + OK]
        got = await client.ask(head(path=b"/bad"))
        assert (got.status, got.body) == ([103, 103, 200], b"ok")
        assert b"link" not in dict(got.fields)
        await assert_well(client)
        assert len(recorder.connections) == 1, "the connection was kept"


@h3.run
async def test_connection_fields_are_not_forwarded(start, recorder, script):
    gateway = start(origin=recorder.address)
    fields = [
        b"connection: x-secret, keep-alive", b"x-secret: 1", b"keep-alive: timeout=5",
        b"proxy-connection: x", b"upgrade: h2c", b"X-Mixed-Case: v", b"transfer-encoding: chunked",
        b"trailer: x-sum",
    ]
    body = b"2\r\nok\r\n0\r\nx-sum: 1\r\ncontent-length: 9\r\nset-cookie: a=b\r\n\r\n"
    async with raw.connection(gateway) as client:
        script.steps = ["read", lines(*fields) + body]
        got = await client.ask(head(path=b"/bad"))
        assert (got.outcome, got.body) == ("200", b"ok")
        names = [name for name, _ in got.fields]
        assert names == [b"x-mixed-case", b"trailer", b"via"], names
        assert got.trailers == [(b"x-sum", b"1")]
        await assert_well(client)


@h3.run
async def test_early_responses_stop_the_upload_and_close_the_connection(start, recorder, script):
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        for status in (b"413 Too Large", b"200 OK"):
            for more in ([(b"content-length", b"1000")], []):
                script.steps = [lines(b"content-length: 2", status=status) + b"no", 0.2]
                data = head(b"POST", b"/bad", more=more) + frame(DATA, b"part of it")
                exchange = client.request(data, end=False)
                await client.ended(exchange)
                assert (exchange.outcome, exchange.body) == (status[:3].decode(), b"no")
                await client.until(lambda: exchange.stopped is not None)
                assert exchange.stopped == 0x100, "H3_NO_ERROR (RFC 9114 4.1)"
                await assert_discarded(recorder, recorder.requests[-1].connection)
                await assert_well(client)
    assert recorder.wrong == []


@h3.run
async def test_an_aborted_upload_closes_its_upstream_connection(start, recorder, script):
    gateway = start(origin=recorder.address)
    script.steps = ["read", OK]
    async with raw.connection(gateway) as client:
        for more in ([(b"content-length", b"1000")], []):
            data = head(b"POST", b"/bad", more=more) + frame(DATA, b"part of it")
            count = len(recorder.requests)
            exchange = client.request(data, end=False)
            async with asyncio.timeout(5):
                while len(recorder.requests) == count:
                    await asyncio.sleep(0.02)
            client.reset(exchange.stream)
            await client.ended(exchange)
            request = recorder.requests[-1]
            await assert_discarded(recorder, request.connection)
            assert not request.whole
            await assert_well(client)


@h3.run
async def test_requests_that_were_sent_are_retried_only_if_idempotent(start, recorder, script):
    """The upstream reads the request and closes the connection. A POST gets 502; an idempotent
    request is retried once at most."""
    gateway = start(origin=recorder.address)
    script.steps = ["read", "fin"]
    async with raw.connection(gateway) as client:
        for kept in (False, True):
            for method, tries in ((b"POST", 1), (b"GET", 2), (b"PUT", 2)):
                if kept:
                    await assert_well(client)
                before = len(recorder.requests)
                got = await client.ask(head(method, b"/bad"))
                assert got.outcome == "502"
                count = len(recorder.requests) - before
                # The only endpoint is tried again only if the connection had been idle.
                assert count == (tries if kept else 1), (method, kept, count)


@h3.run
async def test_an_idle_connection_that_is_reset_as_a_request_is_sent(start, recorder, script):
    """The upstream has closed the connection when the request arrives, and resets it. The gateway
    cannot know whether the request was seen. RFC 9110 9.2.2 allows an idempotent one to be sent
    again."""
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        body = frame(DATA, b"hello")
        for method, more, is_again in [
            (b"GET", b"", True), (b"HEAD", b"", True), (b"DELETE", b"", True),
            (b"POST", b"", False), (b"POST", body, False), (b"PATCH", body, False),
        ]:
            script.steps = ["read", OK, "leave"]
            assert (await client.ask(head(path=b"/bad"))).outcome == "200"
            kept, before = recorder.requests[-1].connection, len(recorder.requests)
            got = await client.ask(head(method, b"/good") + more)
            assert got.outcome == ("200" if is_again else "502"), (method, got)
            await assert_discarded(recorder, kept)
            # The recorder never read what came on the old connection, so it sees each request at
            # most once.
            again = recorder.requests[before:]
            assert [one.line for one in again] == [f"{method.decode()} /good HTTP/1.1"] * is_again
            assert all(one.connection != kept for one in again)
            await assert_well(client)
    assert recorder.wrong == []


@h3.run
async def test_idle_connections_that_end_as_requests_start(start, recorder, script):
    """The upstream closes idle connections after 20 ms, about when the next request is sent. An
    idempotent request always gets its response; another reaches the upstream at most once."""
    gateway = start(origin=recorder.address)
    script.steps = ["read", OK, 0.02, "fin"]
    dice = random.Random(1)
    outcomes = collections.Counter()
    async with raw.connection(gateway) as client:
        for number in range(150):
            method = (b"GET", b"POST")[number % 2]
            got = await client.ask(head(method, f"/bad/{number}".encode()))
            outcomes[method, got.outcome] += 1
            await asyncio.sleep(dice.uniform(0.017, 0.024))
    assert outcomes[b"GET", "200"] == 75, outcomes
    assert outcomes[b"POST", "200"] + outcomes[b"POST", "502"] == 75, outcomes
    posts = [request.line for request in recorder.requests if request.line.startswith("POST")]
    assert len(posts) == len(set(posts)), "a POST was sent again"
    assert len(recorder.connections) > 20, "hardly any connection ended"
    assert recorder.wrong == []
