"""The front door behind a proxy that announces its clients by the PROXY protocol."""

import contextlib
import json
import socket
import struct

import pytest

from harness import haproxy, tcp
from harness.tcp import head

PROXY = 'proxy_protocol = ["127.0.0.1"]'
"""The setting of listeners behind a proxy on 127.0.0.1. Other addresses of the loopback network are
clients."""
CLIENT = "127.0.0.5"

LINE = b"PROXY TCP4 203.0.113.9 198.51.100.1 50000 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REFUSED = "tcp_proxy_header_failures_total"


def binary(command: int, family: int, rest: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(rest)) + rest


def announcing(client: str, port: int, *, extensions: bytes = b"") -> bytes:
    """Returns a header of version 2 that announces a client."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    address = socket.inet_pton(family, client)
    rest = 2 * address + struct.pack("!HH", port, 443) + extensions
    return binary(1, 0x21 if ":" in client else 0x11, rest)


@pytest.fixture
def doors(start):
    """A gateway behind a proxy, with a plain port."""
    port, extra = tcp.plain_listener(PROXY)
    gateway = start(listener=f"{tcp.LISTENER}\n{PROXY}", extra=extra)
    gateway.plain = port
    return gateway


def seen(response) -> dict[str, str]:
    """Returns the fields that the origin has seen."""
    assert response.status == 200
    return dict(map(tuple, json.loads(response.body)["fields"]))


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_haproxy_announces_the_client(doors, tmp_path, options, secure):
    if haproxy.command() is None:
        pytest.skip("no HAProxy")
    settings = tcp.context(doors, "http/1.1") if secure else None
    target = doors.port if secure else doors.plain
    with haproxy.haproxy(tmp_path, target, options) as port:
        with tcp.Client(port, settings, source=CLIENT) as client:
            for _ in range(2):
                fields = seen(client.ask(head("GET", "/head")))
                assert fields["x-forwarded-for"] == CLIENT
                assert f"for={CLIENT};" in fields["forwarded"]
            own_port = client.socket.getsockname()[1]
    for line in doors.access_lines(2):
        assert line["client"] == f"{CLIENT}:{own_port}", line
    assert doors.metrics().sum(REFUSED) == 0


@pytest.mark.parametrize("header, client", [
    (LINE, "203.0.113.9"),
    (b"PROXY TCP6 2001:db8::9 ::1 50000 443\r\n", "2001:db8::9"),
    (announcing("203.0.113.9", 50000), "203.0.113.9"),
    (announcing("2001:db8::9", 50000, extensions=b"\x04\0\x02ab"), "2001:db8::9"),
    (binary(0, 0), "127.0.0.1"),
    (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    (binary(1, 0), "127.0.0.1"),
    (binary(1, 0x31, bytes(216)), "127.0.0.1"),
])
@pytest.mark.parametrize("cuts", ["whole", "bytes"])
def test_a_header_announces_the_client(doors, header, client, cuts):
    with tcp.Client(doors.plain) as connection:
        data = header + head("GET", "/head")
        for piece in [data] if cuts == "whole" else [bytes([byte]) for byte in data]:
            connection.send(piece)
        assert seen(connection.response())["x-forwarded-for"] == client
    assert doors.access_lines(1)[0]["client"].rpartition(":")[0].strip("[]") == client


@pytest.mark.parametrize("first", [
    head("GET", "/head"), b"\x16\x03\x01\x02\0\x01\0", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    LINE[:-2] + b"\n" + bytes(100), binary(1, 0x41, bytes(12)), binary(1, 0x11, bytes(5000)),
])
def test_a_proxy_without_a_valid_header_is_closed(doors, first):
    for port in (doors.plain, doors.port):
        with tcp.Client(port) as client, contextlib.suppress(ConnectionError):
            client.send(first)
            assert client.rest() == b""
    doors.settle_count(REFUSED, 2, reason="malformed")
    assert "a connection of a proxy (listeners.proxy_protocol) was closed" in doors.text()


def test_a_header_that_is_cut_off_is_counted_and_a_look_at_the_port_is_not(doors):
    for sent in (b"", LINE[:20], announcing("203.0.113.9", 1)[:20]):
        with tcp.Client(doors.plain) as client:
            client.send(sent)
            client.end()
            assert client.rest() == b""
    doors.settle_count(REFUSED, 2)
    doors.settle_count(REFUSED, 2, reason="cut_off")
    doors.settle_count("tcp_connections_closed_total", 3)


def test_others_are_served_as_they_are_and_not_believed(doors):
    with tcp.Client(doors.plain, source=CLIENT) as client:
        assert seen(client.ask(head("GET", "/head")))["x-forwarded-for"] == CLIENT
    for header in (LINE, announcing("203.0.113.9", 50000)):
        with tcp.Client(doors.plain, source=CLIENT) as client:
            assert client.ask(header + head("GET", "/head")).status == 400
            assert client.rest() == b""
    settings = tcp.context(doors, "http/1.1")
    with tcp.Client(doors.port, settings, source=CLIENT) as client:
        assert client.ask(head("GET", "/bytes/3")).status == 200
    assert all(line["client"].startswith(CLIENT) for line in doors.access_lines(4))
    assert doors.metrics().sum(REFUSED) == 0


def test_shares_are_those_of_announced_clients(start):
    port, extra = tcp.plain_listener(
        f'{PROXY}\n[listeners.tcp]\nmax_connections = 100\nmax_connections_per_address = "2%"'
    )
    gateway = start(extra=extra)
    request = head("GET", "/bytes/1")
    with contextlib.ExitStack() as stack:
        def connect(client: str) -> tcp.Client:
            connection = stack.enter_context(tcp.Client(port))
            connection.send(announcing(client, 50000))
            return connection

        for client in ("203.0.113.1", "203.0.113.2", "203.0.113.3"):
            for _ in range(2):
                assert connect(client).ask(request).status == 200
            with contextlib.suppress(ConnectionError):
                third = connect(client)
                third.send(request)
                assert third.rest() == b""
        gateway.settle_count("tcp_connections_refused_total", 3)
