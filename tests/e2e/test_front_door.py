"""The front door over TCP, by curl and OpenSSL: HTTP/1.1 without and with TLS, and HTTP/2."""

import json
import ssl

import pytest

from harness import bodies, tcp
from harness.bodies import MIB
from harness.curl import Curl
from harness.h3 import AUTHORITY

pytestmark = pytest.mark.usefixtures("has_curl_with_http2")

DOORS = {"plain": "HTTP/1.1", "tls": "HTTP/1.1", "http2": "HTTP/2"}
"""The protocol of each door in the access log."""
VIA = {"plain": "1.1 ringway", "tls": "1.1 ringway", "http2": "2 ringway"}


class Door(Curl):
    """curl before one of the doors of a gateway."""

    def __init__(self, name: str, gateway, plain_port: int):
        super().__init__(gateway, protocol="--http2" if name == "http2" else "--http1.1")
        self.name, self.protocol = name, DOORS[name]
        if name == "plain":
            self.base = f"http://{AUTHORITY}:{plain_port}"
            self.arguments += ["--resolve", f"{AUTHORITY}:{plain_port}:127.0.0.1"]

    def text(self, path: str, *arguments: str) -> str:
        done = self.run(path, *arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def head(self, path: str, *arguments: str) -> tuple[str, dict[str, str]]:
        """Returns the status line and the fields of a response."""
        text = self.text(path, "--dump-header", "-", "--output", "/dev/null", *arguments)
        first, *lines = text.strip().split("\r\n")
        return first, dict(line.lower().split(": ", 1) for line in lines)


@pytest.fixture(params=DOORS)
def door(request, start) -> Door:
    port, extra = tcp.plain_listener()
    return Door(request.param, start(listener=tcp.LISTENER, extra=extra), port)


def test_get_and_head_have_the_same_fields(door):
    got, fields = door.head("/bytes/1000")
    assert got.split(" ")[:2] == [door.protocol, "200"]
    assert fields["content-length"] == "1000" and fields["x-origin"] == "scripted"
    offer = None if door.name == "plain" else f'h3=":{door.gateway.port}"; ma=86400'
    assert fields.get("alt-svc") == offer
    again, of_head = door.head("/bytes/1000", "--head")
    assert (again, of_head.keys()) == (got, fields.keys())
    assert door.run("/bytes/1000").stdout == bodies.body(1000)


def test_no_length_is_invented_for_a_response_without_content(door):
    """It would be that of the content which is left out (RFC 9110 8.6)."""
    for path, more in (("/chunked/1000", "--head"), ("/status/304", "--include")):
        _, fields = door.head(path, more)
        assert "content-length" not in fields, (path, fields)


def test_each_request_is_logged_as_complete_and_delivered(door):
    door.text("/chunked/70000", "--output", "/dev/null")
    door.text("/echo", "--data-binary", "12345")
    door.text("/bytes/9", "--head")
    lines = {line["path"]: line for line in door.gateway.access_lines(3)}
    assert {line["protocol"] for line in lines.values()} == {door.protocol}
    assert {line["outcome"] for line in lines.values()} == {"complete"}
    for line in lines.values():
        assert 0 < line["duration_us"] <= line["delivered_us"] < 10_000_000, line
    assert (lines["/chunked/70000"]["bytes_out"], lines["/echo"]["bytes_in"]) == (70000, 5)


def test_the_upstream_is_told_how_the_client_came(door):
    seen = json.loads(door.text("/head", "-H", "x-forwarded-proto: gopher"))
    fields = dict(map(tuple, seen["fields"]))
    assert fields["x-forwarded-proto"] == ("http" if door.name == "plain" else "https")
    assert fields["via"] == VIA[door.name]
    assert fields["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("framing", ["length", "unsized"])
@pytest.mark.parametrize("length", [0, 1, 3_000_000])
def test_an_upload_arrives_as_it_was_sent(door, tmp_path, framing, length):
    file = tmp_path / "body"
    file.write_bytes(bodies.body(length))
    source = [str(file)] if framing == "length" else ["-"]
    with file.open("rb") as body:
        done = door.run("/upload", "--upload-file", *source, "-X", "POST", stdin=body)
    seen = json.loads(done.stdout)
    assert (seen["length"], seen["sha256"]) == (length, bodies.digest(length))
    assert seen["chunked"] == (framing == "unsized") or length == 0


@pytest.mark.parametrize("kind", ["bytes", "chunked", "close"])
def test_a_big_download_is_equal_byte_by_byte(door, kind):
    length = 20 * MIB
    assert door.download(f"/{kind}/{length}") == (0, length, bodies.digest(length))


def test_a_download_that_is_cut_is_noticed(door):
    """curl reports it: 18 for a partial body, 56 for a connection and 92 for a stream reset."""
    for path in ("/die/1000000", "/die-chunked/1000000"):
        code, length, _ = door.download(path)
        assert code in (18, 56, 92) and length <= 1_000_000, (path, code)


def test_a_connection_is_kept_for_the_next_request(door):
    urls = [door.base + f"/status/{status}" for status in (200, 204, 404)]
    counts = door.text("/bytes/0", *urls, "-w", "%{num_connects},")
    assert counts == "1,0,0,0,", counts
    door.gateway.settle_count("tcp_connections_accepted_total", 1)


def test_continue_is_sent_to_a_client_that_waits_for_it(door, tmp_path):
    file = tmp_path / "body"
    file.write_bytes(bodies.body(100_000))
    done = door.run("/echo", "--data-binary", f"@{file}", "-H", "expect: 100-continue",
                    "--expect100-timeout", "60", "-v")
    assert done.stdout == bodies.body(100_000)
    if door.name != "http2":  # curl does not wait for it over HTTP/2.
        assert b"< HTTP/1.1 100 Continue" in done.stderr, done.stderr.decode()


@pytest.mark.parametrize("kind", ["bytes", "chunked"])
def test_http10_gets_a_body_that_the_end_of_the_connection_ends(door, kind):
    # With ALPN this curl would ask for http/1.0.
    text = door.run(f"/{kind}/5000", "--http1.0", "--no-alpn", "--include").stdout
    head, body = text.split(b"\r\n\r\n", 1)
    assert body == bodies.body(5000)
    assert b"transfer-encoding" not in head.lower()
    assert door.gateway.access_lines(1)[0]["protocol"] == "HTTP/1.0"


@pytest.mark.parametrize("kind", ["die", "die-chunked"])
def test_http10_notices_a_body_that_is_cut(door, kind):
    done = door.run(f"/{kind}/50000", "--http1.0", "--no-alpn")
    assert done.returncode in (18, 56), done


@pytest.fixture
def gateway(start):
    return start(listener=tcp.LISTENER)


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_a_client_of_tls12_is_served(gateway, protocol):
    curl = Curl(gateway, protocol="--http2" if protocol == "h2" else "--http1.1")
    assert curl.run("/bytes/99", "--tls-max", "1.2").stdout == bodies.body(99)
    settings = tcp.context(gateway, protocol, newest=ssl.TLSVersion.TLSv1_2)
    with tcp.Client(gateway.port, settings) as client:
        assert client.socket.version() == "TLSv1.2"
        assert client.socket.selected_alpn_protocol() == protocol


def test_a_client_without_alpn_speaks_http11(gateway):
    with tcp.Client(gateway.port, tcp.context(gateway)) as client:
        assert client.socket.selected_alpn_protocol() is None
        assert client.ask(tcp.head("GET", "/bytes/77")).body == bodies.body(77)


def test_a_client_with_another_alpn_is_refused(gateway):
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        tcp.Client(gateway.port, tcp.context(gateway, "spdy/1"))
    gateway.settle_count("tcp_connections_closed_total", 1)


def test_only_the_protocols_of_the_listener_are_offered(start):
    gateway = start(listener='protocols = ["h3", "http/1.1"]')
    with tcp.Client(gateway.port, tcp.context(gateway, "h2", "http/1.1")) as client:
        assert client.socket.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("advertise, expected", [
    ('"off"', None), ('{ port = 8443, max_age = "1h" }', 'h3=":8443"; ma=3600'),
])
@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_alt_svc_is_as_the_listener_says(start, protocol, advertise, expected):
    gateway = start(listener=f"{tcp.LISTENER}\nadvertise = {advertise}")
    done = Curl(gateway, protocol=protocol).run("/bytes/1", "--head")
    lines = done.stdout.decode().lower().split("\r\n")
    assert ("alt-svc" in done.stdout.decode().lower()) == (expected is not None)
    assert expected is None or f"alt-svc: {expected}" in lines, lines


def test_a_plain_listener_does_not_offer_http3_it_has_not(start):
    port, extra = tcp.plain_listener()
    start(extra=extra)
    with tcp.Client(port) as client:
        assert client.ask(tcp.head("GET", "/bytes/1")).values("alt-svc") == []
