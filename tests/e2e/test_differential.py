"""Translation without desync: foreign HTTP/1.1 servers behind the gateway parse generated requests
exactly as they were sent, and none that is malformed reaches them.

`scripts/differential` sends more of them, with other seeds.
"""

import json
import socket
import sys
import threading

import pytest

from harness.gateway import REPOSITORY, free_ports

sys.path.insert(0, str(REPOSITORY / "tests"))

from differential import comparison, servers

KINDS = {kind.name: kind for kind in servers.kinds()}
COUNT = 20_000
"""The same requests for each server, so six times as many in all."""
FEW = 300


@pytest.fixture
def serve(tmp_path):
    """Returns a function that starts a server."""
    running = []

    def serve(name: str) -> servers.Server:
        running.append(servers.Server(KINDS[name], tmp_path / name, free_ports()[1]))
        return running[-1]

    yield serve
    for server in running:
        server.stop()


@pytest.fixture
def compare(start, tmp_path):
    """Returns a function that sends requests through a gateway to a server and compares."""

    def compare(server, count=FEW, address=None, **settings) -> comparison.Result:
        gateway = start(origin=address or server.address, **comparison.SETTINGS, **settings)
        result = comparison.run(server, gateway, tmp_path, count, seed=1, timeout=150)
        result.gateway = gateway
        return result

    return compare


@pytest.mark.parametrize("name", KINDS)
def test_a_foreign_server_parses_each_request_as_it_was_sent(serve, compare, name):
    result = compare(serve(name), COUNT)
    assert result.differences == [], result
    seen = result.client
    # The requests are worth something: most are forwarded, over connections that are kept.
    assert seen["parsed"] > COUNT / 2 and seen["reset"] > COUNT / 20
    assert set(seen["refused"]) == {"400", "421", "431", "501"}
    assert seen["connections"] < seen["parsed"] / 5
    assert result.dropped < COUNT / 20


class Meddler:
    """A relay to a server that changes what the gateway sends."""

    def __init__(self, server, change):
        self.server, self.change = server, change
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.server.port))
            for ends in ((near, far, self.change), (far, near, lambda data: data)):
                threading.Thread(target=self._relay, args=ends, daemon=True).start()

    def _relay(self, source, sink, change):
        try:
            while data := source.recv(1 << 20):
                sink.sendall(change(data))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()

    def stop(self):
        self._listener.close()


def smuggle(data: bytes) -> bytes:
    """Puts a request before each GET."""
    extra = b"GET /smuggled HTTP/1.1\r\nhost: e2e.test\r\n\r\n"
    return extra + data if data.startswith(b"GET ") else data


@pytest.mark.parametrize("change", [
    lambda data: data.replace(b"x-forwarded-proto: https", b"x-forwarded-proto: http"),
    lambda data: data.replace(b"x-request: 1", b"x-request: 2"),
    lambda data: data.replace(b" //", b" /"),
    lambda data: data.replace(b"cookie: a=1; ", b"cookie: a=1\r\ncookie: "),
    smuggle,
], ids=["field", "request", "slashes", "cookies", "smuggled"])
def test_a_change_on_the_way_is_noticed(serve, compare, change):
    server = serve("h11")
    meddler = Meddler(server, change)
    result = compare(server, address=meddler.address)
    meddler.stop()
    assert result.differences, result
    if change is smuggle:
        assert any("h11 read" in one for one in result.differences), result.differences


def test_a_gateway_that_trusts_its_clients_is_noticed(serve, compare):
    """It passes their forwarding fields on, as they are told not to."""
    result = compare(serve("h11"), trusted_proxies=["127.0.0.0/8"])
    assert any("parsed otherwise" in one for one in result.differences)


def test_a_line_of_the_access_log_that_differs_is_noticed(serve, compare, tmp_path):
    result = compare(serve("h11"))
    assert result.differences == []
    responses = tmp_path / "responses.log"
    lines = responses.read_text().splitlines()
    for at in range(6):
        changed = json.loads(lines[0])
        changed[at] = "other"
        responses.write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
        differences = comparison.compare_log(result.gateway, responses, result.client, timeout=0)
        assert len(differences) == 2, (at, differences)
