"""Clients that give up: everything they held is released, the origin learns of it, and other
requests are not affected."""

import asyncio
import subprocess
import time

import pytest

from harness import bodies, h3
from harness.bodies import KIB, MIB
from harness.curl import Curl


def settled(before):
    """Returns a condition for `Gateway.settle`: gauges and pool are as they were before."""

    def wrong(now):
        if now.gauges() != before.gauges():
            return f"{now.gauges()} instead of {before.gauges()}"
        # The worker may hold one slot for its next batch of packets.
        if now.slots_out() > max(before.slots_out(), 1):
            return f"{now.slots_out()} slots are out instead of {before.slots_out()}"
        if now.slots_total() != before.slots_total():
            return f"{now.slots_total()} slots in all instead of {before.slots_total()}"
        return None

    return wrong


@h3.run
async def test_client_resets_mid_download(gateway, origin, host):
    before = gateway.metrics()
    async with h3.connection(gateway, host) as client:
        exchange = client.open("GET", f"/bytes/{100 * MIB}")
        await exchange.received(MIB)
        exchange.reset()
        origin.settle("responses_broken", 1)
        assert (await client.get("/bytes/1000")).sha256 == bodies.digest(1000)
    gateway.settle(settled(before))
    gateway.assert_alive()
    assert gateway.metrics().sum("exchanges_cut_total", side="downstream") == 1


@h3.run
async def test_client_resets_mid_upload(gateway, origin, host):
    before = gateway.metrics()
    async with h3.connection(gateway, host) as client:
        exchange = client.open("POST", "/upload", end=False)
        await exchange.send_body(5 * MIB, end=False)
        exchange.reset()
        # In another thread: the client's reset may have to wait for acknowledgements.
        await asyncio.to_thread(origin.settle, "uploads_broken", 1)
        assert (await client.get("/bytes/1000")).sha256 == bodies.digest(1000)
    assert origin.counts()["uploads_whole"] == 0
    gateway.settle(settled(before))
    gateway.assert_alive()


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@h3.run
async def test_an_aborted_upload_never_looks_complete_to_the_origin(gateway, origin, sized):
    """The client resets right after the last byte it sent. The origin must not take this for the
    end of the body."""
    async with h3.connection(gateway) as client:
        for length in (0, 10, 100 * KIB):
            broken = origin.counts()["uploads_broken"]
            fields = [("content-length", str(length + 10))] if sized else []
            exchange = client.open("POST", "/upload", fields, end=False)
            await exchange.send_body(length, end=False)
            # Give the request time to reach the origin before the reset.
            await asyncio.sleep(0.3)
            exchange.reset()
            origin.settle("uploads_broken", broken + 1)
    assert origin.counts()["uploads_whole"] == 0


@h3.run
async def test_short_body_is_a_message_error(gateway, origin):
    """RFC 9114 4.1.2: content-length differs from the length of the DATA frames."""
    async with h3.connection(gateway) as client:
        for sent in (b"", b"12345"):
            exchange = client.open("POST", "/upload", [("content-length", "10")], end=False)
            exchange.send(sent, end=True)
            response = await exchange.wait()
            assert (response.end, response.code) == ("reset", 0x10E) or response.status == 400
        assert (await client.get("/bytes/1000")).sha256 == bodies.digest(1000)
    assert origin.counts()["uploads_whole"] == 0


@h3.run
async def test_reset_before_the_response(gateway, origin):
    before = gateway.metrics()
    async with h3.connection(gateway) as client:
        exchanges = [client.open("GET", "/slow-head?seconds=20") for _ in range(10)]
        await asyncio.sleep(0.5)
        for exchange in exchanges:
            exchange.reset()
        origin.settle("responses_broken", 10)
    gateway.settle(settled(before))


@h3.run
async def test_connection_closed_with_all_streams_open(gateway, origin):
    before = gateway.metrics()
    async with h3.connection(gateway) as client:
        downloads = [client.open("GET", f"/bytes/{10 * MIB}?seed={n}") for n in range(20)]
        uploads = [client.open("POST", "/upload", end=False) for _ in range(20)]
        for upload in uploads:
            upload.send(bodies.body(10 * KIB))
        await downloads[0].received(10 * KIB)
    gateway.settle(settled(before))
    origin.settle("uploads_broken", 20)
    assert origin.counts()["uploads_whole"] == 0
    gateway.assert_alive()


@h3.run
async def test_client_vanishes(start):
    """The client sends neither a close nor a reset. The idle timeout releases everything."""
    gateway = start(idle_timeout="2s")
    before = gateway.metrics()
    async with h3.connection(gateway) as client:
        exchange = client.open("GET", f"/bytes/{100 * MIB}")
        await exchange.received(100 * KIB)
        client._transport.close()
        client._transport = Silence()
        gateway.settle(settled(before), 30)
        client._closed.set()


class Silence:
    """A transport that drops every datagram."""

    def sendto(self, *_):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("way", ["download", "upload"])
@pytest.mark.parametrize("end", ["closes", "vanishes"])
def test_curl_gives_up(has_curl, start, origin, tmp_path, way, end):
    """curl stops in the middle of a body, by its own time limit or because it is killed."""
    gateway = start(idle_timeout="3s")
    before = gateway.metrics()
    curl = Curl(gateway)
    rules = ["--limit-rate", "4M", *(["--max-time", "1"] if end == "closes" else [])]
    if way == "upload":
        file = tmp_path / "upload"
        file.write_bytes(bodies.body(32 * MIB))
        process = curl.upload("/upload", file, *rules)
    else:
        line = [*curl.arguments, *rules, f"{curl.base}/bytes/{32 * MIB}"]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if end == "vanishes":
        time.sleep(1)
        assert process.poll() is None, "it was over before it could vanish"
        process.kill()
    process.communicate(timeout=10)
    assert process.returncode == (28 if end == "closes" else -9), "curl: 28 is its time limit"
    origin.settle("uploads_broken" if way == "upload" else "responses_broken", 1)
    gateway.settle(settled(before))
    assert origin.counts()["uploads_whole"] == 0
    assert gateway.metrics().sum("exchanges_cut_total", side="downstream") == 1
    assert curl.download("/bytes/1000") == (0, 1000, bodies.digest(1000))


@h3.run
async def test_many_aborts_leave_nothing_behind(gateway, origin):
    before = gateway.metrics()
    async with h3.connection(gateway) as client:
        for round_number in range(10):
            exchanges = [client.open("GET", f"/bytes/{MIB}?seed={n}") for n in range(20)]
            uploads = [client.open("POST", "/echo", end=False) for _ in range(10)]
            for upload in uploads:
                upload.send(bodies.body(round_number * 3 * KIB + 1))
            await exchanges[round_number].received(1)
            for exchange in exchanges[::2] + uploads:
                exchange.reset()
            for number, exchange in list(enumerate(exchanges))[1::2]:
                response = await exchange.wait()
                assert response.sha256 == bodies.digest(MIB, number), "an abort hurt a neighbour"
    gateway.settle(settled(before))
    gateway.assert_alive()
