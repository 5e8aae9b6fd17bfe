"""Upstreams that take their time: what waits for them, and for how long."""

import asyncio

import pytest

from harness import h3, raw
from harness.raw import head
from harness.recorder import OK, Recorder


@pytest.fixture
def recorder():
    recorder = Recorder()
    yield recorder
    recorder.stop()


@h3.run
async def test_a_client_that_sends_no_ping_gets_a_response_after_several_idle_timeouts(
    start, recorder
):
    """aioquic sends nothing while it waits, as ngtcp2, quic-go and quiche do. The gateway keeps the
    connection alive while a request runs on it, and no longer."""
    recorder.script = lambda request: ["read", 3.5, OK]
    gateway = start(origin=recorder.address, idle_timeout="1s", response_timeout="10s")
    async with raw.connection(gateway) as client:
        got = await client.ask(head())
        assert (got.outcome, got.body) == ("200", b"ok"), got
        start_of_silence = asyncio.get_running_loop().time()
        await client.until(lambda: client.closed is not None)
        silence = asyncio.get_running_loop().time() - start_of_silence
        assert 0.5 < silence < 4, f"an idle connection ended after {silence:.1f} s"
    assert len(recorder.requests) == 1


@h3.run
async def test_a_silent_request_is_not_sent_to_a_second_endpoint(start, recorder):
    other = Recorder()
    try:
        recorder.script = other.script = lambda request: ["read", 3, OK]
        gateway = start(origin=f'{recorder.address}" }}, {{ address = "{other.address}',
                        response_timeout="1s")
        async with raw.connection(gateway) as client:
            got = await client.ask(head())
            assert got.outcome == "504", got
        assert len(recorder.requests) + len(other.requests) == 1
        metrics = gateway.metrics()
        assert metrics.sum("upstream_retries_total") == 0
        assert metrics.sum("upstream_failures_total", kind="response_timeout") == 1
    finally:
        other.stop()
