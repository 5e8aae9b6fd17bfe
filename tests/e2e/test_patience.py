"""Upstreams that take their time: what waits for them, and for how long."""

import asyncio
import os
import socket
import threading
import time

import pytest

from harness import h3, raw
from harness.raw import head
from harness.recorder import OK, Recorder


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
        metrics = gateway.settle_count("upstream_failures_total", 1, kind="response_timeout")
        assert metrics.sum("upstream_retries_total") == 0
    finally:
        other.stop()


@h3.run
async def test_an_upstreams_keep_alive_hint_is_believed(start, recorder):
    """The upstream says that it closes after two seconds. POSTs that come just then are not lost,
    since the gateway has closed the connection before."""
    hint = OK.replace(b"content-length", b"keep-alive: timeout=2\r\ncontent-length")
    recorder.script = lambda request: ["read", hint]
    gateway = start(origin=recorder.address, upstream_idle="30s")
    async with raw.connection(gateway) as client:
        assert (await client.ask(head(b"POST"))).outcome == "200"
        await asyncio.sleep(0.3)
        assert (await client.ask(head(b"POST"))).outcome == "200"
        assert len(recorder.connections) == 1, "it is used again in time"
        await asyncio.sleep(1.5)
        assert recorder.ended == [0], "closed before the two seconds are over"
        assert (await client.ask(head(b"POST"))).outcome == "200"
        assert len(recorder.connections) == 2


@h3.run
async def test_a_full_backlog_ejects_nobody(start, tmp_path):
    """A unix socket that accepts a connection now and then, with a backlog of one, and 40 requests
    at once. Each is served by the first connection that is free."""
    path = tmp_path / "app.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    accepted = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()
            time.sleep(0.5)

    def answer(connection):
        rest = b""
        while piece := connection.recv(65536):
            rest += piece
            while b"\r\n\r\n" in rest:
                rest = rest.split(b"\r\n\r\n", 1)[1]
                time.sleep(0.01)
                connection.sendall(OK)

    threading.Thread(target=serve, daemon=True).start()
    gateway = start(origin=f"unix:{path}")
    try:
        async with raw.connection(gateway) as client:
            exchanges = [client.request(head(path=f"/{number}".encode())) for number in range(40)]
            for exchange in exchanges:
                await client.ended(exchange)
            assert [exchange.outcome for exchange in exchanges] == ["200"] * 40
        metrics = gateway.settle_count("requests_total", 40)
        assert metrics.sum("upstream_ejections_total") == 0
        assert metrics.sum("upstream_connects_total") > 2
    finally:
        listener.close()
        for connection in accepted:
            connection.close()


@h3.run
async def test_methods_without_a_body_get_no_framing(start, recorder):
    """The FIN comes by itself, as many clients send it."""
    gateway = start(origin=recorder.address)
    async with raw.connection(gateway) as client:
        for method in (b"GET", b"PROPFIND", b"REPORT", b"SEARCH", b"QUERY", b"MOVE", b"OPTIONS"):
            exchange = client.request(head(method), end=False)
            await asyncio.sleep(0.05)
            client.send(exchange.stream, b"", end=True)
            await client.ended(exchange)
            assert exchange.outcome == "200", (method, exchange)
            got = recorder.requests[-1]
            assert got.line.startswith(method.decode())
            assert got.values("transfer-encoding") == got.values("content-length") == []


@pytest.mark.parametrize(("kind", "reason", "error"), [
    ("nothing", "missing", "destination_unavailable"),
    ("a folder", "refused", "connection_refused"),
    ("a dead socket", "refused", "connection_refused"),
    ("a socket of another user", "forbidden", "destination_ip_prohibited"),
])
@h3.run
async def test_each_reason_of_a_failed_connect_has_one_word(start, tmp_path, kind, reason, error):
    user = {}
    path = tmp_path / "app.sock"
    if kind == "a folder":
        path.mkdir()
    elif kind != "nothing":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        if kind == "a socket of another user":
            if os.geteuid() != 0:
                pytest.skip("needs root, to become another user")
            listener.listen()
            path.chmod(0o600)
            for folder in (tmp_path, *tmp_path.parents):
                if folder.stat().st_uid == 0 and folder.name.startswith("pytest"):
                    folder.chmod(folder.stat().st_mode | 0o111)
            user = {"user": "65534:65534"}
        else:
            listener.close()
    gateway = start(origin=f"unix:{path}", **user)
    async with raw.connection(gateway) as client:
        got = await client.ask(head())
        assert got.outcome == "502", got
        assert f"error={error};" in got.values(b"proxy-status")[0].decode()
    metrics = gateway.settle_count("upstream_connect_failures_total", 1, reason=reason)
    assert metrics.sum("upstream_connect_failures_total") == 1
    assert ("is no socket" in gateway.text()) == (kind == "a folder")
