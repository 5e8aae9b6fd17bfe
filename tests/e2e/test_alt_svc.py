"""The offer of HTTP/3 over TCP (Alt-Svc): curl finds HTTP/3 by it, a reload withdraws it, and it is
withheld while a firewall drops UDP."""

import pytest

from harness import tcp
from harness.curl import Curl
from harness.firewall import Firewall

def offer(gateway) -> list[str]:
    """Returns the values of `alt-svc` in a response over TLS."""
    with tcp.Client(gateway.port, tcp.context(gateway, "http/1.1")) as client:
        return client.ask(tcp.head("GET", "/bytes/1")).values("alt-svc")


@pytest.mark.usefixtures("has_curl")
def test_curl_finds_http3_by_the_offer(start, tmp_path):
    gateway = start(listener=tcp.LISTENER)
    curl = Curl(gateway, protocol="--alt-svc")
    curl.arguments.insert(curl.arguments.index("--alt-svc") + 1, str(tmp_path / "offers"))
    versions = []
    for _ in range(3):
        done = curl.run("/bytes/1", "--output", "/dev/null", "--write-out", "%{http_version}")
        assert done.returncode == 0, done.stderr.decode()
        versions.append(done.stdout.decode())
    assert versions == ["2", "3", "3"]


def test_http3_that_a_reload_takes_off_is_withdrawn(start):
    gateway = start(listener=tcp.LISTENER)
    with tcp.Client(gateway.port, tcp.context(gateway, "http/1.1")) as client:
        def values():
            return client.ask(tcp.head("GET", "/bytes/1")).values("alt-svc")

        expected = [f'h3=":{gateway.port}"; ma=86400']
        assert values() == expected
        gateway.reconfigure(2, listener='protocols = ["h2", "http/1.1"]')
        assert values() == offer(gateway) == ["clear"]
        gateway.reconfigure(3, listener=tcp.LISTENER)
        gateway.settle(lambda _: None if values() == expected else "no offer")


def test_own_responses_offer_http3_too(start):
    gateway = start(listener=tcp.LISTENER)
    expected = [f'h3=":{gateway.port}"; ma=86400']
    with tcp.Client(gateway.port, tcp.context(gateway, "http/1.1")) as client:
        for host, path, status in (("localhost", "/none", 404), ("e2e.test", "/down", 502)):
            response = client.ask(tcp.head("GET", path, host=host))
            assert (response.status, response.values("alt-svc")) == (status, expected)


def test_http3_is_not_offered_while_a_firewall_drops_udp(network, start):
    gateway = start(listener=tcp.LISTENER)
    assert offer(gateway) == [f'h3=":{gateway.port}"; ma=86400']
    firewall = Firewall(gateway.port, "drop")
    gateway.settle_count("http3_withheld", 2)  # One socket for each family.
    assert offer(gateway) == []
    assert firewall.count() >= 6
    lines = [line for line in gateway.text().splitlines() if "HTTP/3 is not offered" in line]
    assert len(lines) == 2 and all("nft list ruleset" in line for line in lines), gateway.text()
    assert gateway.metrics().sum("http3_probes_total", outcome="lost") >= 6
    firewall.remove()
    gateway.settle_count("http3_withheld", 0)
    assert offer(gateway) == [f'h3=":{gateway.port}"; ma=86400']
    assert gateway.text().count("offered to clients over TCP again") == 2
