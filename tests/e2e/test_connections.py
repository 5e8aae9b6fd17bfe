"""Upstream connections are reused, and only when that is safe."""

import asyncio
import pathlib
import subprocess

from harness import bodies, h3, raw
from harness.gateway import Origin
from harness.raw import head


def sysctl(name: str) -> list[str]:
    return (pathlib.Path("/proc/sys/net/ipv4") / name).read_text().split()


@h3.run
async def test_idle_upstream_connections_are_reused(gateway, origin):
    for _ in range(2):
        async with h3.connection(gateway) as client:
            for number in range(1, 11):
                response = await client.get(f"/bytes/{number * 100}")
                assert response.sha256 == bodies.digest(number * 100)
                response = await client.post("/echo", number * 100)
                assert response.sha256 == bodies.digest(number * 100)
    counts = origin.counts()
    assert counts["requests"] == 40
    assert counts["connections_accepted"] == 1, "connections were not kept"
    assert gateway.metrics().sum("upstream_reuses_total") == 39


@h3.run
async def test_upstream_connections_use_the_configured_congestion_control(start, origin):
    systems = sysctl("tcp_congestion_control")[0]
    other = next(name for name in sysctl("tcp_allowed_congestion_control") if name != systems)
    gateway = start(extra=f"""
[[routes]]
match = {{ host = "localhost" }}
upstream = "other"
[upstreams.other]
endpoints = [{{ address = "{origin.address}" }}]
congestion = "{other}"
""")
    async with raw.connection(gateway) as client:
        for authority in (b"localhost", b"e2e.test"):
            response = await client.ask(head(path=b"/bytes/10", authority=authority))
            assert response.outcome == "200"
        listed = subprocess.run(
            ["ss", "-tinHO", "state", "established", "dst", origin.address],
            capture_output=True, text=True, check=True)
    in_use = [word for word in listed.stdout.split() if word in (systems, other)]
    assert sorted(in_use) == sorted([systems, other])


@h3.run
async def test_connections_that_end_their_response_by_closing_are_not_reused(gateway, origin):
    async with h3.connection(gateway) as client:
        for _ in range(3):
            assert (await client.get("/close/100")).sha256 == bodies.digest(100)
    assert origin.counts()["connections_accepted"] == 3


@h3.run
async def test_parallel_requests_use_separate_upstream_connections(gateway, origin):
    async with h3.connection(gateway) as client:
        exchanges = [client.open("GET", "/slow-head?seconds=1") for _ in range(10)]
        began = asyncio.get_running_loop().time()
        responses = await asyncio.gather(*(exchange.wait() for exchange in exchanges))
        assert asyncio.get_running_loop().time() - began < 5, "they waited for each other"
    assert {response.status for response in responses} == {200}
    assert origin.counts()["connections_accepted"] == 10


@h3.run
async def test_idle_upstream_connections_close_after_their_timeout(start, origin):
    gateway = start(upstream_idle="1s")
    async with h3.connection(gateway) as client:
        await client.get("/bytes/10")
        assert origin.counts()["connections_open"] == 1
        origin.settle("connections_open", 0)
        assert (await client.get("/bytes/10")).sha256 == bodies.digest(10)


@h3.run
async def test_requests_succeed_after_the_origin_has_restarted(start, tmp_path):
    """The gateway notices that idle connections were closed by the origin before a request is lost
    on one."""
    folder = tmp_path / "restarting"
    folder.mkdir()
    first = Origin(folder)
    gateway = start(origin=first.address)
    async with h3.connection(gateway) as client:
        assert (await client.post("/echo", 100)).status == 200
        first.stop()
        first.unix.unlink()
        assert (await client.get("/bytes/1")).status == 502
        second = Origin(folder, port=first.port)
        try:
            for _ in range(5):
                assert (await client.post("/echo", 100)).sha256 == bodies.digest(100)
        finally:
            second.stop()
