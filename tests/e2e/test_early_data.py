"""Early data over TCP (RFC 8446 2.3, RFC 8470), by OpenSSL, and what a replay of it gives."""

import pathlib
import select
import socket
import threading
import time

import pytest

from harness import h3, openssl, tcp

LISTENER = f'{tcp.LISTENER}\nearly_data = "safe-methods"'
CLOSE = "connection: close"
GET = tcp.head("GET", "/a", CLOSE)
TOO_EARLY = b"HTTP/1.1 425 Too Early\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture
def early(start, recorder):
    return start(listener=LISTENER, origin=recorder.address, workers=2)


class Tap:
    """A relay to a gateway that keeps the first flight of its one client. Without a gateway it keeps
    the flight from everybody else."""

    def __init__(self, gateway=None):
        self.gateway, self.flight = gateway, b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        client, _ = self._listener.accept()
        with client:
            while select.select([client], [], [], 0.5)[0]:  # It waits for the server after it.
                self.flight += client.recv(1 << 16)
            if self.gateway:
                self._relay(client)

    def _relay(self, client):
        with socket.create_connection(("127.0.0.1", self.gateway.port)) as server:
            server.sendall(self.flight)
            peers = {client: server, server: client}
            while True:
                for readable in select.select(list(peers), [], [], 20)[0]:
                    data = readable.recv(1 << 16)
                    if not data:
                        return
                    peers[readable].sendall(data)

    def stop(self):
        self._thread.join(30)
        self._listener.close()


def session_of(gateway, folder: pathlib.Path, name: str = "session") -> pathlib.Path:
    """Returns the file of a new session."""
    file = folder / name
    visit = openssl.visit(gateway, "tls1_3", keep=file, late=GET)
    assert visit.has_response(200)
    return file


def replay(gateway, flight: bytes) -> bytes:
    """Sends a flight to a gateway, and returns what comes back within a moment."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(flight)
        return client.recv(1 << 16) if select.select([client], [], [], 5)[0] else b""


def requests(recorder) -> list[tuple[str, list[bytes]]]:
    """Returns the lines of the requests that came, each with its values of Early-Data."""
    return [(one.line, one.values("early-data")) for one in recorder.requests]


def test_a_get_is_served_and_marked_on_both_sides(early, recorder, tmp_path):
    session = session_of(early, tmp_path)
    visit = openssl.visit(early, "tls1_3", use=session, early=GET)
    assert visit.resumed and visit.early_data == "accepted" and visit.has_response(200)
    assert requests(recorder) == [("GET /a HTTP/1.1", []), ("GET /a HTTP/1.1", [b"1"])]
    lines = early.access_lines(2)
    assert [line.get("early_data") for line in lines] == [None, True]
    assert {line["outcome"] for line in lines} == {"complete"}
    metrics = early.metrics()
    assert metrics.sum("tcp_early_data_total", outcome="accepted") == 1
    assert metrics.sum("tcp_early_data_total", outcome="rejected") == 0


@pytest.mark.parametrize("request_", [
    tcp.head("POST", "/a", "content-length: 4", CLOSE) + b"body",
    tcp.head("DELETE", "/a", CLOSE),
    tcp.head("GET", "/a", "content-length: 4", CLOSE) + b"body",
], ids=["POST", "DELETE", "body"])
def test_what_is_not_safe_waits_for_the_handshake(early, recorder, tmp_path, request_):
    session = session_of(early, tmp_path)
    visit = openssl.visit(early, "tls1_3", use=session, early=request_)
    assert visit.early_data == "accepted" and visit.has_response(200)
    assert [mark for _, mark in requests(recorder)] == [[], []]
    assert "early_data" not in early.access_lines(2)[1]


def test_nobody_else_says_that_a_request_is_early(start, recorder):
    """A client's own field is dropped; that of a trusted proxy is passed on."""
    for trusted, marks in (([], []), (["127.0.0.1/32"], [b"1"])):
        gateway = start(listener=LISTENER, origin=recorder.address, trusted_proxies=trusted)
        visit = openssl.visit(
            gateway, "tls1_3", late=tcp.head("GET", "/a", "early-data: 1", CLOSE),
        )
        assert visit.has_response(200)
        assert requests(recorder)[-1] == ("GET /a HTTP/1.1", marks)


def test_too_early_is_passed_on_and_the_request_may_come_again(early, recorder, tmp_path):
    recorder.script = lambda request: ["read", TOO_EARLY if request.values("early-data") else
                                       b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
    session = session_of(early, tmp_path)
    first = tcp.head("GET", "/a")
    visit = openssl.visit(early, "tls1_3", use=session, early=first, late=GET)
    assert visit.has_response(425) and visit.has_response(200)
    assert [mark for _, mark in requests(recorder)][1:] == [[b"1"], []]


def test_a_replayed_flight_is_no_request(start, early, recorder, tmp_path):
    """D19: the same first flight to any worker, after a restart, and to another gateway."""
    session = session_of(early, tmp_path)
    tap = Tap(early)
    visit = openssl.visit(early, "tls1_3", use=session, early=GET, port=tap.port)
    tap.stop()
    assert visit.early_data == "accepted" and visit.has_response(200)
    before = requests(recorder)
    other = start(listener=LISTENER, origin=recorder.address)
    for _ in range(12):  # The kernel chooses the worker.
        assert replay(early, tap.flight), "a server's flight follows"
    assert replay(other, tap.flight)
    early.stop()
    early.start()
    assert replay(early, tap.flight)
    time.sleep(0.5)
    assert requests(recorder) == before
    assert early.metrics().sum("tcp_early_data_total") == 0


def test_a_flight_that_was_held_back_is_a_request_once(start, recorder, tmp_path):
    """Whoever holds back the first flight may send it later, as the network may: once."""
    early = start(listener=LISTENER, origin=recorder.address)
    session = session_of(early, tmp_path)
    tap = Tap()
    visit = openssl.visit(early, "tls1_3", use=session, early=GET, port=tap.port)
    tap.stop()
    assert not visit.has_response(200) and len(requests(recorder)) == 1
    for _ in range(4):
        assert replay(early, tap.flight)
    recorder.settle(lambda: len(recorder.requests) == 2)
    time.sleep(0.5)
    assert [mark for _, mark in requests(recorder)] == [[], [b"1"]]


@pytest.mark.parametrize("keys", [False, True], ids=["drawn", "shared"])
def test_it_is_off_by_default_and_no_ticket_permits_it(start, recorder, tmp_path, keys):
    file = tmp_path / "tickets.keys"
    file.write_text("07" * 32)
    file.chmod(0o600)
    extra = f'[tls]\nticket_keys = "{file}"\n' if keys else ""
    gateway = start(listener=tcp.LISTENER, origin=recorder.address, extra=extra)
    session = session_of(gateway, tmp_path)
    visit = openssl.visit(gateway, "tls1_3", use=session, early=GET, late=GET)
    assert visit.resumed and visit.early_data != "accepted" and visit.has_response(200)
    assert [mark for _, mark in requests(recorder)] == [[], []]


def test_a_session_with_early_data_is_not_for_other_gateways(start, recorder, tmp_path):
    """With a shared file too: sessions of a listener with early data are not in tickets."""
    file = tmp_path / "tickets.keys"
    file.write_text("07" * 32)
    file.chmod(0o600)
    extra = f'[tls]\nticket_keys = "{file}"\n'
    one, other = (
        start(listener=LISTENER, origin=recorder.address, extra=extra) for _ in range(2)
    )
    session = session_of(one, tmp_path)
    visit = openssl.visit(other, "tls1_3", use=session, early=GET, late=GET)
    assert not visit.resumed and visit.early_data == "rejected" and visit.has_response(200)
    assert [mark for _, mark in requests(recorder)] == [[], []]
    assert other.metrics().sum("tcp_early_data_total", outcome="rejected") == 1


def test_http2_has_it_too(early, recorder, tmp_path):
    """The frames by hand: a client's beginning, and a request for /a."""
    name = tmp_path / "session"
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    fields = ((b":method", b"GET"), (b":scheme", b"https"),
              (b":authority", h3.AUTHORITY.encode()), (b":path", b"/a"))
    section = b"".join(
        b"\0" + bytes([len(key)]) + key + bytes([len(value)]) + value for key, value in fields
    )
    ask = len(section).to_bytes(3, "big") + b"\1\5\0\0\0\1" + section
    leave = b"\0\0\10\7\0\0\0\0\0" + bytes(8)
    openssl.visit(early, "tls1_3", keep=name, late=preface + ask + leave, alpn="h2")
    visit = openssl.visit(
        early, "tls1_3", use=name, early=preface + ask, late=leave, alpn="h2",
    )
    assert visit.resumed and visit.early_data == "accepted"
    assert [mark for _, mark in requests(recorder)] == [[], [b"1"]]
    assert [line["protocol"] for line in early.access_lines(2)] == ["HTTP/2", "HTTP/2"]


@h3.run
async def test_quic_refuses_it(early, recorder, tmp_path):
    tickets = []
    async with h3.connection(early, keep_ticket=tickets.append) as client:
        assert (await client.get("/a")).status == 200
    assert tickets[0].max_early_data_size in (None, 0)
