"""Attacks on HTTP/2 at the front door: each ends with its code or is borne, costs a bounded amount
of memory and time, and others are served meanwhile.

Each attack is bounded in count. `src/http2/tests/attacks.rs` has the same in memory, byte by byte.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness import bodies, http2, tcp
from harness.bodies import KIB, MIB
from harness.http2 import (
    CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, HEADERS,
    INITIAL_WINDOW_SIZE, PING, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM, WINDOW_MAX,
    frame, headers, number, pseudo, request, rst_stream, section, settings, window_update,
)

GROWTH_MAX = 32 * MIB
"""What a worker may grow by, as in `scripts/attack`."""
CLIENTS = 4
"""Connections that attack one after the other. A leak in each of them would show."""


class Probe(threading.Thread):
    """A client of HTTP/1.1 that makes one request after the other, with short pauses."""

    def __init__(self, gateway):
        super().__init__(daemon=True)
        self.gateway, self.over = gateway, threading.Event()
        self.slowest, self.count, self.wrong = 0.0, 0, None

    def run(self):
        try:
            with tcp.Client(self.gateway.port, tcp.context(self.gateway, "http/1.1")) as client:
                while not self.over.wait(0.02):
                    begin = time.monotonic()
                    response = client.ask(tcp.head("GET", "/bytes/1000"))
                    assert (response.status, response.body) == (200, bodies.body(1000))
                    self.slowest = max(self.slowest, time.monotonic() - begin)
                    self.count += 1
        except Exception as error:
            self.wrong = error

    def wait(self, more: int):
        """Waits for some requests."""
        wanted = self.count + more
        end = time.monotonic() + 10
        while self.count < wanted and self.wrong is None and time.monotonic() < end:
            time.sleep(0.01)
        assert self.wrong is None and self.count >= wanted, (self.count, wanted, self.wrong)


@contextlib.contextmanager
def bounds(gateway) -> Iterator[None]:
    """Checks what an attack must not change: memory, time, and how others are served."""
    warm_up(gateway)
    probe = Probe(gateway)
    probe.start()
    probe.wait(3)
    before_len = gateway.rss_len()
    yield
    probe.wait(3)
    held_len = gateway.rss_len() - before_len
    probe.over.set()
    probe.join(20)
    assert probe.slowest < 2, f"a request of another client took {probe.slowest:.1f} s"
    assert held_len < GROWTH_MAX, f"{held_len} bytes"
    gateway.settle_count("exchanges_active", 0)
    gateway.settle_count("tcp_connections_open", 0)
    # Nothing spins on.
    busy = sum(gateway.cpu_seconds())
    time.sleep(0.5)
    assert sum(gateway.cpu_seconds()) - busy < 0.25
    gateway.assert_alive()


def warm_up(gateway):
    with http2.Client(gateway) as client:
        assert client.ask(1, path=b"/bytes/1000").status == 200
    gateway.settle_count("tcp_connections_open", 0)


@pytest.fixture
def gateway(start):
    return start(listener=tcp.LISTENER)


@dataclasses.dataclass
class Attack:
    pieces: Callable[[http2.Client], Iterator[bytes]]
    code: int | None
    """The code with which the gateway closes the connection; `None` if it bears it."""


def in_one(piece: bytes, count: int, before: bytes = b"") -> Callable:
    """An attack of the same bytes again and again, in writes of about 64 KiB."""
    def pieces(client):
        yield before
        per_write = max(1, 64 * KIB // max(1, len(piece)))
        for _ in range(0, count, per_write):
            yield piece * per_write
    return pieces


def each_stream(make: Callable[[int], bytes], count: int, per_write: int = 50) -> Callable:
    """An attack with stream after stream."""
    def pieces(client):
        for first in range(0, count, per_write):
            yield b"".join(make(2 * index + 1) for index in range(first, first + per_write))
    return pieces


def rapid_reset(stream: int) -> bytes:
    return request(stream, path=b"/bytes/1000") + rst_stream(stream)


def rapid_reset_later(client) -> Iterator[bytes]:
    """Cancels each request once it is on its way to the upstream, which takes its time."""
    for index in range(2_000):
        stream = 2 * index + 1
        client.send(request(stream, path=b"/slow-head?seconds=1"))
        if client.is_alive():
            yield rst_stream(stream)


def made_to_reset(break_it: Callable[[int], bytes]) -> Callable:
    """MadeYouReset: the client breaks a rule, so that the gateway resets the stream."""
    def make(stream: int) -> bytes:
        return request(stream, method=b"POST", path=b"/echo", flags=0) + break_it(stream)
    return each_stream(make, 3_000)


def too_much_body(stream: int) -> bytes:
    head = request(stream, method=b"POST", flags=0, more=[(b"content-length", b"1")])
    return head + frame(DATA, END_STREAM, stream, b"more than that")


def malformed(stream: int) -> bytes:
    return request(stream, more=[(b"connection", b"close")])


def continuation_flood(lines: bytes, count: int) -> Callable:
    return in_one(
        frame(CONTINUATION, 0, 1, lines), count,
        frame(HEADERS, END_STREAM, 1, section(pseudo())),
    )


def hpack_bomb(stream: int) -> bytes:
    """One line of 3,000 bytes goes to the table, and each byte more repeats it (RFC 7541 6.1)."""
    line = b"\x40\x01x" + http2.prefixed(0, 7, 3000) + b"y" * 3000
    return headers(stream, section(pseudo()) + line + b"\xbe" * 2000)


def small_bomb(stream: int) -> bytes:
    """The same, just below what is read: a refusal on each stream."""
    line = b"\x40\x01x" + http2.prefixed(0, 7, 3000) + b"y" * 3000
    return headers(stream, section(pseudo()) + line + b"\xbe" * 15)


UPLOAD = request(1, method=b"POST", path=b"/echo", flags=0)

ATTACKS = {
    # CVE-2023-44487, in bursts and one by one.
    "rapid reset": Attack(each_stream(rapid_reset, 10_000), ENHANCE_YOUR_CALM),
    "rapid reset, later": Attack(rapid_reset_later, ENHANCE_YOUR_CALM),
    # CVE-2025-8671.
    "made to reset by an overflow": Attack(
        made_to_reset(lambda stream: window_update(stream, WINDOW_MAX)), ENHANCE_YOUR_CALM),
    "made to reset by no increment": Attack(
        made_to_reset(lambda stream: window_update(stream, 0)), PROTOCOL_ERROR),
    "made to reset by too much body": Attack(each_stream(too_much_body, 3_000), ENHANCE_YOUR_CALM),
    "made to reset by malformed heads": Attack(each_stream(malformed, 3_000), ENHANCE_YOUR_CALM),
    # CVE-2024-27316.
    "continuation": Attack(
        continuation_flood(section([(b"x", b"y" * 1000)]), 20_000), ENHANCE_YOUR_CALM),
    "continuation without a byte": Attack(continuation_flood(b"", 100_000), ENHANCE_YOUR_CALM),
    # CVE-2019-9518: frames without a purpose.
    "empty data": Attack(in_one(frame(DATA, 0, 1), 50_000, UPLOAD), ENHANCE_YOUR_CALM),
    "data of one byte": Attack(in_one(frame(DATA, 0, 1, b"x"), 50_000, UPLOAD), ENHANCE_YOUR_CALM),
    "open streams": Attack(
        each_stream(lambda stream: request(stream, method=b"POST", flags=0), 5_000),
        ENHANCE_YOUR_CALM),
    "window updates of a byte": Attack(in_one(window_update(0, 1), 100_000), FLOW_CONTROL_ERROR),
    "window update of nothing": Attack(in_one(window_update(0, 0), 10), PROTOCOL_ERROR),
    "priorities": Attack(
        each_stream(lambda stream: frame(PRIORITY, 0, stream, number(0) + b"\x10"), 100_000, 5_000),
        None),
    "unknown frames": Attack(in_one(frame(0xBB, 0, 1, b"v" * 100), 50_000), None),
    "resets of a closed stream": Attack(in_one(rst_stream(1), 50_000, request(1)), None),
    # CVE-2016-6581, CVE-2016-1544.
    "hpack bomb": Attack(each_stream(hpack_bomb, 100, 1), ENHANCE_YOUR_CALM),
    "hpack bombs below the limit": Attack(each_stream(small_bomb, 2_000, 10), None),
    # CVE-2019-9512 and CVE-2019-9515, by a client that reads.
    "pings": Attack(in_one(frame(PING, 0, 0, bytes(8)), 50_000), None),
    "settings": Attack(in_one(settings((INITIAL_WINDOW_SIZE, 70_000)), 50_000), None),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_ends_with_its_code_or_is_borne(gateway, attack):
    with bounds(gateway):
        for _ in range(CLIENTS):
            with http2.Client(gateway) as client:
                assert client.is_alive()
                is_open = all(client.pump(piece) for piece in attack.pieces(client))
                if attack.code is None:
                    assert is_open and client.is_alive(), client.goaway
                else:
                    assert client.close_code() == attack.code


@pytest.mark.parametrize(
    "flood", [frame(PING, 0, 0, bytes(8)), settings()], ids=["pings", "settings"]
)
def test_a_client_that_reads_no_acknowledgements_is_not_read_from(gateway, flood):
    """CVE-2019-9512 and CVE-2019-9515: what the gateway owes fills a buffer, then TCP stops it."""
    with bounds(gateway), contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(http2.Client(gateway))
            assert client.is_alive()
            client.socket.settimeout(1)
            with pytest.raises(TimeoutError):
                client.socket.sendall(flood * (16 * MIB // len(flood)))


@pytest.mark.parametrize("window", [0, 1])
def test_responses_that_nobody_takes_hold_a_bounded_amount(gateway, origin, window):
    """CVE-2019-9517 and CVE-2019-9511: many large responses to windows of nothing or a byte."""
    with bounds(gateway):
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(CLIENTS):
                client = stack.enter_context(
                    http2.Client(gateway, ((INITIAL_WINDOW_SIZE, window),)))
                clients.append(client)
                client.pump(b"".join(
                    request(2 * index + 1, path=b"/bytes/%d" % (20 * MIB)) for index in range(25)))
            for client in clients:
                client.until(lambda one=client: len(one.responses) >= 25)
            # A byte now and then does not let more in.
            for _ in range(50):
                for client in clients:
                    client.pump(b"".join(window_update(2 * index + 1, 1) for index in range(25)))
            for client in clients:
                assert client.is_alive()
                lens = [len(one.body) for one in client.responses.values()]
                assert max(lens) <= 50 + window
        # The upstream is not left with responses that nobody reads.
        origin.settle("connections_open", gateway_connections(gateway))


def gateway_connections(gateway) -> int:
    gateway.settle_count("exchanges_active", 0)
    return int(gateway.metrics().sum("upstream_connections_open"))


def test_more_open_requests_than_are_allowed_are_refused(gateway):
    """The refused ones may be sent again, and the others are served."""
    with bounds(gateway), http2.Client(gateway) as client:
        count = 150
        client.pump(b"".join(
            request(2 * index + 1, method=b"POST", path=b"/echo", flags=0)
            for index in range(count)))
        client.until(lambda: len(client.resets) == count - 100)
        assert set(client.resets.values()) == {REFUSED_STREAM}
        client.pump(b"".join(
            frame(DATA, END_STREAM, 2 * index + 1, b"x") for index in range(100)))
        for index in range(100):
            response = client.response(2 * index + 1)
            assert (response.status, response.body, response.end) == (200, b"x", "clean")
