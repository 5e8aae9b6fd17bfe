"""Upstream faults: the client gets the right status or an error, never a truncated body that looks
complete."""

import asyncio
import collections
import contextlib
import json

import pytest

from harness import bodies, h3
from harness.bodies import KIB, MIB
from harness.curl import Curl

CURL_HTTP3_ERROR = 95
CURL_TRIES_MAX = 5


async def assert_serves(client):
    """Checks that the connection still serves requests."""
    response = await client.get("/bytes/1000")
    assert (response.status, response.sha256) == (200, bodies.digest(1000))


def assert_own(response, status: int, *tokens: str):
    """Checks that the gateway made this response itself and gave the reason (RFC 9209)."""
    assert (response.status, response.end) == (status, "clean")
    said = response.field("proxy-status")
    assert said and said.startswith("ringway"), response.fields
    assert not tokens or any(f"error={token}" in said for token in tokens), said
    assert response.length > 0, "no text for people"


@h3.run
async def test_no_route_is_404(gateway, host):
    async with h3.connection(gateway, host) as client:
        assert_own(await client.open("GET", "/x", authority="localhost").wait(), 404)
        # A prefix matches whole segments only.
        right = await client.open("GET", "/head/only/x", authority="localhost").wait()
        assert right.status == 200
        assert_own(await client.open("GET", "/head/onlyx", authority="localhost").wait(), 404)
        await assert_serves(client)


@h3.run
async def test_upstream_down_is_502(gateway, host):
    async with h3.connection(gateway, host) as client:
        assert_own(await client.get("/down/x"), 502, "connection_refused")
        response = await client.post("/down/x", MIB)
        assert_own(response, 502, "connection_refused")
        await assert_serves(client)


def test_upstream_down_is_502_for_curl(has_curl, gateway):
    done = Curl(gateway).run("/down/x", "--include")
    assert done.returncode == 0
    assert done.stdout.startswith(b"HTTP/3 502"), done.stdout


@h3.run
async def test_a_late_response_head_is_504(start, origin):
    gateway = start(response_timeout="1s")
    async with h3.connection(gateway) as client:
        assert_own(await client.get("/slow-head?seconds=30"), 504, "http_response_timeout")
        await assert_serves(client)
        origin.settle("responses_broken", 1)


@h3.run
async def test_a_stalled_response_body_ends_in_a_reset(start):
    gateway = start(response_timeout="1s")
    async with h3.connection(gateway) as client:
        response = await client.get("/drip/2000?piece=1000&pause=30")
        assert (response.status, response.end) == (200, "reset")
        await assert_serves(client)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("path", ["/die/{n}", "/die/{n}?after=0", "/die-chunked/{n}"])
@pytest.mark.parametrize("length", [1000, 3 * MIB])
@h3.run
async def test_origin_dies_mid_body(gateway, path, how, length):
    path = path.format(n=length)
    path += ("&" if "?" in path else "?") + f"how={how}"
    async with h3.connection(gateway) as client:
        response = await client.get(path)
        assert response.end == "reset" or response.status == 502, "a short body looks whole"
        await assert_serves(client)
    assert gateway.metrics().sum("exchanges_cut_total", side="upstream") <= 1


def test_origin_dies_mid_body_for_curl(has_curl, gateway):
    code, length, _ = Curl(gateway).download(f"/die/{MIB}")
    assert code != 0 and length < MIB


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("after", [0, MIB])
@h3.run
async def test_origin_dies_mid_upload(gateway, origin, how, after):
    async with h3.connection(gateway) as client:
        response = await client.post(f"/die-upload/{after}?how={how}", 8 * MIB)
        assert_own(response, 502, "connection_terminated")
        await assert_serves(client)
    assert origin.counts()["requests"] == 2, "an upload that had begun was sent again"


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_origin_dies_mid_upload_for_curl(has_curl, gateway, origin, how, tmp_path):
    file = tmp_path / "upload"
    file.write_bytes(bodies.body(8 * MIB))
    for count in range(1, CURL_TRIES_MAX + 1):
        upload = Curl(gateway).upload(f"/die-upload/{MIB}?how={how}", file, "--include")
        text, errors = upload.communicate(timeout=30)
        assert origin.counts()["requests"] == count, "an upload that had begun was sent again"
        # If STOP_SENDING reaches curl before its next write, that write fails. curl then gives up
        # instead of reading the response that came with it (RFC 9114 4.1).
        if upload.returncode != CURL_HTTP3_ERROR or b"send" not in errors:
            break
    assert upload.returncode == 0, errors.decode()
    assert text.startswith(b"HTTP/3 502"), text
    assert Curl(gateway).download("/bytes/1000") == (0, 1000, bodies.digest(1000))


@h3.run
async def test_an_origin_that_hangs_up_without_a_response_is_502(gateway, origin):
    async with h3.connection(gateway) as client:
        before = origin.counts()["requests"]
        assert_own(await client.post("/hang-up", 10), 502, "connection_terminated")
        assert origin.counts()["requests"] == before + 1, "a POST was tried again"
        assert_own(await client.get("/hang-up"), 502, "connection_terminated")
        assert origin.counts()["requests"] <= before + 3, "tried again more than once"
        await assert_serves(client)


@h3.run
async def test_early_response_stops_the_upload(gateway):
    async with h3.connection(gateway) as client:
        exchange = client.open("POST", "/refuse", end=False)
        sending = asyncio.ensure_future(exchange.send_body(200 * MIB))
        response = await exchange.wait()
        assert (response.status, response.text, response.end) == (413, b"no\n", "clean")
        async with asyncio.timeout(10):
            await sending
        assert exchange.stopped is not None, "the client was never told to stop"
        await assert_serves(client)


@h3.run
async def test_body_over_the_limit_is_413(start, origin):
    gateway = start(max_body_size="100KiB")
    async with h3.connection(gateway) as client:
        assert (await client.post("/upload", 100 * KIB)).status == 200
        assert_own(await client.post("/upload", 100 * KIB + 1), 413)
        whole = origin.counts()["uploads_whole"]
        response = await client.post("/upload", MIB, sized=False)
        assert response.status == 413 or response.end == "reset"
        assert origin.counts()["uploads_whole"] == whole, "the origin took a cut body for whole"
        await assert_serves(client)


@h3.run
async def test_requests_beyond_the_queue_are_503(gateway):
    # One connection upstream and a queue of two.
    async with h3.connection(gateway) as client:
        path = "/slow-head?seconds=1"
        exchanges = [client.open("GET", path, authority="small.test") for _ in range(6)]
        responses = await asyncio.gather(*(exchange.wait() for exchange in exchanges))
        statuses = sorted(response.status for response in responses)
        assert statuses == [200, 200, 200, 503, 503, 503]
        for response in responses:
            if response.status == 503:
                assert_own(response, 503, "connection_limit_reached")
        await assert_serves(client)


@pytest.mark.parametrize("path", ["/a/../b", "/a/%2e%2e/b", "/./a"])
@h3.run
async def test_dot_segments_are_400(gateway, origin, path):
    async with h3.connection(gateway) as client:
        before = origin.counts()["requests"]
        assert_own(await client.get(path), 400)
        assert origin.counts()["requests"] == before
        await assert_serves(client)


@h3.run
async def test_fields_over_the_limit_are_431(gateway):
    async with h3.connection(gateway) as client:
        response = await client.get("/bytes/1", [("x-large", "x" * 40 * KIB)])
        assert_own(response, 431)
        await assert_serves(client)


@h3.run
async def test_origin_responses_are_not_mixed_up_after_faults(gateway):
    """After each fault, the next response belongs to its own request."""
    async with h3.connection(gateway) as client:
        for number in range(30):
            fault = ["/die/5000", "/hang-up", "/close/100", "/status/204", "/die-chunked/9000"]
            await client.get(fault[number % len(fault)])
            length = 10_000 + number
            response = await client.post("/echo", length, seed=number)
            assert response.sha256 == bodies.digest(length, number)


@h3.run
async def test_uploads_to_a_slow_origin_are_throttled(gateway):
    """The client is slowed down to the origin's pace, and no byte is lost."""
    async with h3.connection(gateway) as client:
        response = await client.post("/upload?pause=0.02", 20 * MIB)
        assert json.loads(response.text)["sha256"] == bodies.digest(20 * MIB)


@h3.run
async def test_requests_beyond_the_file_descriptors_are_503(start, origin):
    """Each request in flight has a connection upstream. The process may have 256 descriptors, fewer
    than what the clients ask for. It must not spin, and it must recover. Clients over TCP would have
    their part of the descriptors."""
    gateway = start(launcher=["prlimit", "--nofile=256:256"], listener='protocols = ["h3"]')
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(h3.connection(gateway)) for _ in range(4)]
        before = sum(gateway.cpu_seconds())
        exchanges = [client.open("GET", "/slow-head?seconds=3")
                     for client in clients for _ in range(90)]
        await asyncio.sleep(2)
        assert sum(gateway.cpu_seconds()) - before < 1, "it spins"
        responses = [await exchange.wait() for exchange in exchanges]
        statuses = collections.Counter(response.status for response in responses)
        assert set(statuses) == {200, 503}, statuses
        assert statuses[200] > 100, statuses
        for client in clients:
            await assert_serves(client)
    gateway.assert_alive()
