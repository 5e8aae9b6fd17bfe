"""Rules of RFC 9114 and RFC 9204 whose violation ends the connection, each with its code on the
wire, and input that must be ignored."""

import asyncio
import contextlib
import signal
import time

import pytest

from harness import h3, raw
from harness.raw import DATA, GREASE, HEADERS, frame, head, prefixed, section, varint
from harness.relay import Relay

SETTINGS, CANCEL_PUSH, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0x04, 0x03, 0x05, 0x07, 0x0D
CONTROL, PUSH, ENCODER, DECODER = b"\x00", b"\x01", b"\x02", b"\x03"


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, b"".join(varint(key) + varint(value) for key, value in pairs))


def one_id(frame_type: int, value: int) -> bytes:
    return frame(frame_type, varint(value))


# What the client sends on its first unidirectional stream, and the expected error code.
FIRST_STREAMS = {
    "no SETTINGS": (CONTROL + one_id(GOAWAY, 0), 0x10A),
    "grease before SETTINGS": (CONTROL + frame(GREASE), 0x10A),
    "SETTINGS twice": (CONTROL + settings() + settings(), 0x105),
    "DATA": (CONTROL + settings() + frame(DATA), 0x105),
    "HEADERS": (CONTROL + settings() + frame(HEADERS), 0x105),
    "PUSH_PROMISE": (CONTROL + settings() + frame(PUSH_PROMISE), 0x105),
    "HTTP/2 PRIORITY": (CONTROL + settings() + frame(0x02), 0x105),
    "HTTP/2 PING": (CONTROL + settings() + frame(0x06), 0x105),
    "HTTP/2 WINDOW_UPDATE": (CONTROL + settings() + frame(0x08), 0x105),
    "HTTP/2 CONTINUATION": (CONTROL + settings() + frame(0x09), 0x105),
    "a setting twice": (CONTROL + settings((6, 1), (6, 1)), 0x109),
    "HTTP/2 setting": (CONTROL + settings((2, 0)), 0x109),
    "half a setting": (CONTROL + frame(SETTINGS, b"\x06"), 0x106),
    "SETTINGS of 2^62 - 1": (CONTROL + b"\x04" + b"\xff" * 8, 0x107),
    "CANCEL_PUSH": (CONTROL + settings() + one_id(CANCEL_PUSH, 0), 0x108),
    "MAX_PUSH_ID shrinks":
        (CONTROL + settings() + one_id(MAX_PUSH_ID, 5) + one_id(MAX_PUSH_ID, 4), 0x108),
    "GOAWAY rises": (CONTROL + settings() + one_id(GOAWAY, 1) + one_id(GOAWAY, 2), 0x108),
    "GOAWAY too long": (CONTROL + settings() + frame(GOAWAY, b"\0\0"), 0x106),
    "a push stream": (PUSH, 0x103),
    "capacity 1": (ENCODER + prefixed(0x20, 5, 1), 0x201),
    "capacity 2^62": (ENCODER + prefixed(0x20, 5, 1 << 61), 0x201),
    "insert with name reference": (ENCODER + b"\xc0\x01x", 0x201),
    "insert with literal name": (ENCODER + b"\x41x\x01y", 0x201),
    "duplicate": (ENCODER + b"\x00", 0x201),
    "section acknowledgment": (DECODER + b"\x80", 0x202),
    "insert count increment": (DECODER + b"\x01", 0x202),
    "insert count increment 0": (DECODER + b"\x00", 0x202),
}

# What the client sends on a request stream before its end, and the expected error code.
REQUESTS = {
    "DATA first": (frame(DATA, b"x"), 0x105),
    "SETTINGS": (head() + settings(), 0x105),
    "GOAWAY": (head() + one_id(GOAWAY, 0), 0x105),
    "MAX_PUSH_ID": (head() + one_id(MAX_PUSH_ID, 0), 0x105),
    "CANCEL_PUSH": (head() + one_id(CANCEL_PUSH, 0), 0x105),
    "PUSH_PROMISE": (head() + frame(PUSH_PROMISE), 0x105),
    "HTTP/2 PRIORITY": (frame(0x02, bytes(5)), 0x105),
    "DATA behind trailers":
        (head() + frame(HEADERS, section([(b"x", b"y")])) + frame(DATA), 0x105),
    "HEADERS behind trailers":
        (head() + 2 * frame(HEADERS, section([(b"x", b"y")])), 0x105),
    "cut in a frame": (head() + b"\x00\x05he", 0x106),
    "cut in a frame's type": (head() + b"\x40", 0x106),
    "dynamic index": (frame(HEADERS, b"\0\0\x80"), 0x200),
    "post-base index": (frame(HEADERS, b"\0\0\x10"), 0x200),
    "dynamic name": (frame(HEADERS, b"\0\0\x40\x01x"), 0x200),
    "required insert count": (frame(HEADERS, b"\x02\0\x80"), 0x200),
    "negative base": (frame(HEADERS, b"\0\x80\xd1"), 0x200),
    "static index 99": (frame(HEADERS, b"\0\0" + prefixed(0xC0, 6, 99)), 0x200),
    "integer over 62 bits": (frame(HEADERS, b"\0\0\x51\x7f" + b"\xff" * 10), 0x200),
    "string past the end": (frame(HEADERS, b"\0\0\x51\x05/"), 0x200),
    "Huffman padding": (frame(HEADERS, b"\0\0\x51\x81\x00"), 0x200),
    "an empty section": (frame(HEADERS), 0x200),
}


@h3.run
async def test_connection_errors_on_the_first_unidirectional_stream(gateway):
    for name, (data, code) in FIRST_STREAMS.items():
        async with raw.connection(gateway, control=False) as client:
            client.open_uni(data)
            assert await client.close_code() == code, name
    gateway.assert_alive()


@h3.run
async def test_connection_errors_on_a_request_stream(gateway):
    for name, (data, code) in REQUESTS.items():
        async with raw.connection(gateway) as client:
            client.request(data)
            assert await client.close_code() == code, name
    gateway.assert_alive()


@h3.run
async def test_closing_or_repeating_a_critical_stream_is_an_error(gateway):
    for first in (CONTROL + settings(), ENCODER, DECODER):
        for how in ("end", "reset", "second"):
            async with raw.connection(gateway, control=False) as client:
                stream = client.open_uni(first)
                # The stream is read before it ends.
                await client.ping()
                if how == "end":
                    client.send(stream, b"", end=True)
                elif how == "reset":
                    client.reset(stream, 0)
                else:
                    client.open_uni(first)
                expected = 0x103 if how == "second" else 0x104
                assert await client.close_code() == expected, (first, how)


@h3.run
async def test_stopping_our_control_stream_is_an_error(gateway):
    async with raw.connection(gateway) as client:
        await client.ask(head(path=b"/bytes/1"))
        # The first server-initiated unidirectional stream is 3, and the gateway opens no other.
        client._quic.stop_stream(3, 0)
        client.transmit()
        assert await client.close_code() == 0x104


@h3.run
async def test_reserved_frames_and_settings_are_ignored(gateway):
    async with raw.connection(gateway, control=False) as client:
        more = frame(GREASE, b"x" * 1000) + frame(GREASE + 0x1F) + one_id(MAX_PUSH_ID, 7)
        stream = client.open_uni(CONTROL + settings((GREASE, 7), (6, 65536), (1, 4096), (7, 16)))
        client.send(stream, more)
        client.open_uni(ENCODER + b"\x20\x20")
        client.open_uni(DECODER + prefixed(0x40, 6, 4) + prefixed(0x40, 6, 1 << 40))
        greased = frame(GREASE, b"y" * 5000) + head(b"POST", b"/echo") + frame(GREASE)
        greased += frame(DATA, b"he") + frame(GREASE, b"z") + frame(DATA, b"llo") + frame(GREASE)
        greased += frame(HEADERS, section([(b"x-t", b"v")])) + frame(GREASE, b"!")
        response = await client.ask(greased)
        assert (response.outcome, response.body) == ("200", b"hello")
        # A frame of 2^62 - 1 bytes never ends. Its bytes must not be kept.
        before = gateway.rss_len()
        endless = head(b"POST", b"/upload") + varint(GREASE) + b"\xff" * 8
        endless = client.request(endless, end=False)
        for _ in range(100):
            client.send(endless.stream, b"x" * 10_000)
        client.reset(endless.stream)
        assert (await client.ask(head(path=b"/bytes/10"))).outcome == "200"
        assert gateway.rss_len() - before < 8 << 20


@h3.run
async def test_streams_of_unknown_types_are_refused_without_a_connection_error(gateway):
    """Opens 875 of them, never more at once than allowed. The connection still serves requests."""
    async with raw.connection(gateway) as client:
        for _ in range(125):
            opened = []
            for _ in range(7):
                stream = client.open_uni(varint(GREASE) + b"x")
                opened.append(stream)
            await client.until(lambda: all(stream in client.stopped for stream in opened))
            for stream in opened:
                assert client.stopped[stream] == 0x103
                client.reset(stream, 0x103)
        assert (await client.ask(head(path=b"/bytes/10"))).outcome == "200"
    gateway.assert_alive()


@h3.run
async def test_streams_that_end_before_their_type_are_ignored(gateway):
    async with raw.connection(gateway) as client:
        client.open_uni(b"", end=True)
        client.open_uni(b"\x40", end=True)
        client.reset(client.open_uni(b"\x40"))
        assert (await client.ask(head(path=b"/bytes/10"))).outcome == "200"


@h3.run
async def test_request_streams_without_a_request_are_reset(gateway):
    async with raw.connection(gateway) as client:
        assert (await client.ask(b"")).outcome == "reset 0x10d"
        assert (await client.ask(frame(GREASE))).outcome == "reset 0x10d"
        assert (await client.ask(head(path=b"/bytes/10"))).outcome == "200"


@h3.run
async def test_sections_over_the_limit_are_431(gateway):
    """A section is refused before it is stored: by the length of its frame, by the number of its
    fields, or by its decoded size."""
    async with raw.connection(gateway) as client:
        many = head(more=[(b"x", b"")] * 1000)
        long = head(more=[(b"x-%d" % n, b"v" * 1000) for n in range(40)])
        declared = client.request(varint(HEADERS) + b"\xff" * 8 + b"x" * 100, end=False)
        assert (await client.ended(declared)).outcome == "431"
        assert declared.stopped is not None
        for data in (many, long, varint(HEADERS) + varint(1 << 20) + b"\0" * (1 << 20)):
            assert (await client.ask(data)).outcome == "431"
        # '0' takes five bits in the Huffman code: 20 KiB decode to 32 KiB.
        packed = prefixed(0x80, 7, 20 * 1024 + 1) + b"\0" * (20 * 1024) + b"\x07"
        grown = section([]) + prefixed(0x20, 3, 1) + b"x" + packed
        assert (await client.ask(frame(HEADERS, grown))).outcome == "431"
        assert (await client.ask(head(path=b"/bytes/10"))).outcome == "200"


@h3.run
async def test_a_head_that_is_refused_gets_no_body(gateway):
    """RFC 9110 9.3.2: also where its trailers are refused."""
    overlong = varint(HEADERS) + varint(1 << 20)
    async with raw.connection(gateway) as client:
        assert (await client.ask(head(path=b"/a/../b"))).body.startswith(b"400 Bad Request")
        for data, status in [(head(b"HEAD", path=b"/a/../b"), "400"),
                             (head(b"HEAD") + overlong, "431")]:
            exchange = await client.ask(data)
            assert (exchange.outcome, exchange.body) == (status, b""), data


@pytest.mark.parametrize("how", ["reset", "stop", "malformed", "early reset"])
@h3.run
async def test_too_many_cancelled_or_broken_requests_end_the_connection(gateway, how):
    """CVE-2023-44487, CVE-2025-8671: the connection ends when its reset budget is used up."""
    before = gateway.metrics()
    async with raw.connection(gateway) as client:
        count = 0
        while not client.closed and count < 5000:
            for _ in range(20):
                if how == "malformed":
                    exchange = client.request(head(more=[(b"connection", b"close")]))
                else:
                    path = b"/slow-head?seconds=5"
                    exchange = client.request(head(path=path) if how != "early reset" else b"\x01",
                                              end=how == "stop")
                    if how == "stop":
                        client._quic.stop_stream(exchange.stream, 0x10C)
                    else:
                        client.reset(exchange.stream)
                count += 1
            with contextlib.suppress(ConnectionError):
                await client.ping()
        assert client.closed.error_code == 0x107, "H3_EXCESSIVE_LOAD"
        assert 200 < count <= 260, "neither sooner nor much later than the budget of 200"
    text = await asyncio.to_thread(logged_line, gateway, "excessive_load")
    assert "limits.max_stream_resets" in text and "127.0.0.1" in text
    after = gateway.metrics()
    name = "http3_connection_errors_total"
    assert after.sum(name, reason="excessive_load") == before.sum(name, reason="excessive_load") + 1
    assert after.sum(name, reason="rule") == before.sum(name, reason="rule")
    gateway.settle(lambda now: None if now.gauges() == before.gauges() else now.gauges())
    # A client that also completes requests is never cut off.
    async with raw.connection(gateway) as client:
        for _ in range(150):
            exchanges = [client.request(head(path=b"/slow-head"), end=False) for _ in range(3)]
            for exchange in exchanges:
                client.reset(exchange.stream)
            for _ in range(3):
                assert (await client.ask(head(path=b"/bytes/1"))).outcome == "200"


@h3.run
async def test_a_violation_of_quic_has_its_line_in_the_process_log(gateway):
    """RFC 9000 4.6: a stream over the limit ends the connection, before HTTP/3 sees anything."""
    async with raw.connection(gateway) as client:
        assert (await client.ask(head(path=b"/bytes/1"))).outcome == "200"
        client._quic._remote_max_streams_bidi = 1 << 32
        client._quic.send_stream_data(4 << 20, b"x")
        client.transmit()
        with contextlib.suppress(ConnectionError):
            await client.ping()
        assert client.closed.error_code == 0x04, "STREAM_LIMIT_ERROR"
        port = client._transport.get_extra_info("sockname")[1]
    line = await asyncio.to_thread(logged_line, gateway, "STREAM_LIMIT_ERROR")
    assert " WARN " in line and "connection_error: STREAM_LIMIT_ERROR (0x4)" in line, line
    assert "client=127.0.0.1" in line.replace("::ffff:", "") and f":{port}" in line, line


def logged_line(gateway, part: str) -> str:
    """Returns the line of the process log that has this part, once it is there."""
    for _ in range(100):
        for line in gateway.text().splitlines():
            if part in line:
                return line
        time.sleep(0.05)
    raise AssertionError(f"no line with {part!r} in:\n{gateway.text()}")


@h3.run
async def test_requests_that_are_cancelled_after_their_response_has_begun_cost_less(gateway):
    """A person who pans a map cancels most of the tiles on their way: 290 in ten seconds."""
    async with raw.connection(gateway) as client:
        for _ in range(29):
            tiles = [client.request(head(path=b"/drip/100000?piece=1000&pause=0.05"))
                     for _ in range(10)]
            await client.until(lambda: all(len(tile.received) > 100 for tile in tiles))
            for tile in tiles:
                client._quic.stop_stream(tile.stream, 0x10C)
                client.transmit()
        assert (await client.ask(head(path=b"/bytes/1"))).outcome == "200"
        assert client.closed is None
    assert "excessive_load" not in gateway.text()


@h3.run
async def test_goaway_lets_running_requests_finish_and_rejects_later_ones(gateway):
    async with raw.connection(gateway) as client:
        await client.until(lambda: len(client.control) >= 2)
        assert client.control[:2] == CONTROL + b"\x04", "SETTINGS come first (RFC 9114 6.2.1)"
        begun = [client.request(head(path=b"/slow-head?seconds=2")) for _ in range(3)]
        assert (await client.ask(head(path=b"/bytes/1"))).outcome == "200"
        before = len(client.control)
        gateway.signal(signal.SIGQUIT)
        await client.until(lambda: len(client.control) > before)
        first = one_id(GOAWAY, 2**62 - 4)
        assert client.control[before:] == first, "it refuses nothing yet"
        on_its_way = client.request(head(path=b"/slow-head?seconds=1"))
        begun.append(on_its_way)
        await client.until(lambda: len(client.control) > before + len(first))
        # Streams 0, 4, 8, 12 and 16 were seen; 20 is the first that was not.
        assert client.control[before:] == first + one_id(GOAWAY, 20)
        late = [client.request(head(path=b"/bytes/1")) for _ in range(2)]
        for exchange in late:
            assert (await client.ended(exchange)).outcome == "reset 0x10b", "safe to send again"
        for exchange in begun:
            assert (await client.ended(exchange)).outcome == "200"
        assert await client.close_code() == 0x100
    assert gateway.wait(10) == 0


@h3.run
async def test_a_request_in_flight_when_a_drain_begins_is_served(gateway):
    """The request arrives a quarter of a second after the drain has begun, on a connection that has
    no other request."""
    with Relay(gateway, delay=250) as relay:
        async with raw.connection(relay) as client:
            assert (await client.ask(head(path=b"/bytes/1"))).outcome == "200"
            await asyncio.sleep(1)
            gateway.signal(signal.SIGQUIT)
            exchange = client.request(head(path=b"/bytes/1"))
            assert (await client.ended(exchange)).outcome == "200"
            assert one_id(GOAWAY, 2**62 - 4) in client.control
            assert await client.close_code() == 0x100
            assert client.control.endswith(one_id(GOAWAY, 8))
    assert gateway.wait(10) == 0


@h3.run
async def test_a_drain_with_idle_connections_is_quick(gateway):
    async with raw.connection(gateway) as one, raw.connection(gateway) as other:
        assert (await one.ask(head(path=b"/bytes/1"))).outcome == "200"
        began = time.monotonic()
        gateway.signal(signal.SIGQUIT)
        assert await one.close_code() == await other.close_code() == 0x100
        assert await asyncio.to_thread(gateway.wait, 10) == 0
        assert time.monotonic() - began < 3


@h3.run
async def test_misdirected_requests_are_421(gateway):
    """`/head/only` is routed for every host, but the certificate does not cover every host."""
    async with raw.connection(gateway) as client:
        for authority in (b"other.test", b"sub.e2e.test", b"192.0.2.1", b"[2001:db8::1]:443"):
            response = await client.ask(head(path=b"/head/only", authority=authority))
            assert response.outcome == "421", authority
        for authority in (b"small.test", b"LOCALHOST:443", b"e2e.test."):
            response = await client.ask(head(path=b"/head/only", authority=authority))
            assert response.outcome == "200", authority
    # A client that asked for that name in the handshake would fare no better on another connection.
    async with raw.connection(gateway, server_name="other.test", verify=False) as client:
        response = await client.ask(head(path=b"/head/only", authority=b"other.test"))
        assert response.outcome == "200"
        response = await client.ask(head(path=b"/head/only", authority=b"third.test"))
        assert response.outcome == "421"


@h3.run
async def test_unknown_server_names_are_refused_when_configured(start):
    gateway = start(extra='\n[tls]\nunknown_server_name = "refuse"\n')
    async with raw.connection(gateway) as client:
        assert (await client.ask(head(path=b"/bytes/10"))).outcome == "200"
    with pytest.raises(ConnectionError):
        async with raw.connection(gateway, server_name="other.test", verify=False):
            pass
    gateway.assert_alive()


@h3.run
async def test_an_endpoint_that_is_down_fails_no_request(start, origin):
    extra = f"""
[[routes]]
match = {{ host = "localhost" }}
upstream = "pair"
[upstreams.pair]
endpoints = [{{ address = "127.0.0.1:1" }}, {{ address = "{origin.address}" }}]
health = {{ pause = "300ms", max_pause = "1h" }}
"""
    gateway = start(extra=extra)
    async with raw.connection(gateway) as client:
        for _ in range(40):
            response = await client.ask(head(path=b"/bytes/10", authority=b"localhost"))
            assert response.outcome == "200"
        tried = gateway.metrics().sum("upstream_retries_total")
        assert 1 <= tried <= 3, "ejected after the first refusal"
