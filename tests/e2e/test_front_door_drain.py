"""The end of a gateway with clients at its front door: what is under way is finished, and nothing
new begins."""

import concurrent.futures
import contextlib
import signal
import socket
import time

import pytest

from harness import bodies, tcp
from harness.curl import Curl
from harness.tcp import head

LENGTH = 100_000
SLOW = f"/drip/{LENGTH}?piece=2000&pause=0.04"
"""A download that takes 2 s."""


@contextlib.contextmanager
def download(curl: Curl):
    """Runs the download beside the test. The result is that of `Curl.download`."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield pool.submit(curl.download, SLOW)


@pytest.fixture
def gateway(start):
    port, extra = tcp.plain_listener()
    gateway = start(listener=tcp.LISTENER, extra=extra)
    gateway.plain = port
    return gateway


def is_served(port: int) -> bool:
    """Returns whether a new connection gets a response within a short time."""
    with contextlib.suppress(OSError), tcp.Client(port, seconds=0.5) as client:
        client.send(head("GET", "/bytes/1"))
        return client.line() != b""
    return False


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_quit_finishes_a_download(gateway, origin, protocol, has_curl_with_http2):
    with download(Curl(gateway, protocol=protocol)) as running:
        origin.settle("requests", 1)
        gateway.signal(signal.SIGQUIT)
        time.sleep(0.3)
        assert gateway.process.poll() is None, "it did not wait for the download"
        assert gateway.admin_get("/readyz")[0] == 503
        assert not is_served(gateway.plain), "a new connection is served"
    assert running.result() == (0, LENGTH, bodies.digest(LENGTH))
    assert gateway.wait(15) == 0
    assert gateway.access_lines(1)[0]["outcome"] == "complete"


def test_quit_finishes_a_plain_download_and_ends_its_connection(gateway, origin):
    with tcp.Client(gateway.plain) as client, tcp.Client(gateway.plain) as idle:
        assert idle.ask(head("GET", "/bytes/1")).status == 200
        client.send(head("GET", SLOW))
        origin.settle("requests", 2)
        gateway.signal(signal.SIGQUIT)
        assert client.response().body == bodies.body(LENGTH)
        # Both connections end, though their clients would keep them.
        assert client.rest() == b"" and idle.rest() == b""
    assert gateway.wait(15) == 0


def test_a_response_during_the_drain_says_that_it_is_the_last(gateway, origin):
    with tcp.Client(gateway.plain) as client:
        client.send(head("GET", "/slow-head?seconds=1") + head("GET", "/bytes/2"))
        origin.settle("requests", 1)
        gateway.signal(signal.SIGQUIT)
        response = client.response()
        assert (response.status, response.values("connection")) == (200, ["close"])
        assert client.rest() == b""
    assert gateway.wait(15) == 0
    assert origin.counts()["requests"] == 1


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(start):
    port, extra = tcp.plain_listener()
    gateway = start(extra=extra, drain_timeout="2s")
    with tcp.Client(port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(head("GET", "/bytes/50000000"))
        assert client.line() == b"HTTP/1.1 200 OK\r\n"
        gateway.signal(signal.SIGQUIT)
        begin = time.monotonic()
        gateway.wait(15)
        assert 1 < time.monotonic() - begin < 10
    assert gateway.access_lines(1)[0]["outcome"] != "complete"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_stop_resets_a_response_that_is_not_whole_and_ends_the_others(gateway, origin, secure):
    """To a client of HTTP/1.0 the end of the connection would be that of the response."""
    port, settings = gateway.plain, None
    if secure:
        port, settings = gateway.port, tcp.context(gateway)
    with tcp.Client(port, settings) as client, tcp.Client(port, settings) as idle:
        assert idle.ask(head("GET", "/bytes/1")).status == 200
        client.send(head("GET", f"/drip/{LENGTH}?piece=100&pause=0.05", version="1.0"))
        assert client.line() == b"HTTP/1.1 200 OK\r\n"
        gateway.signal(signal.SIGINT)
        with pytest.raises(ConnectionResetError):
            # Below TLS, for which Python reports no more than an end.
            while socket.socket.recv(client.socket, 65536):
                pass
        assert idle.rest() == b""
    assert gateway.wait(15) == 0
    assert gateway.access_lines(2)[-1]["outcome"] == "gateway_closed"
