"""Reload without loss: what runs goes on, what is new applies, and what is wrong changes nothing."""

import asyncio
import dataclasses
import signal
import socket
import subprocess
import time
import tomllib

import pytest

from harness import bodies, h3
from harness.gateway import Gateway, binary, free_ports

LISTENER = """
[[listeners]]
name = "second"
address = "127.0.0.1:{port}"
"""


def ringway(*arguments) -> subprocess.CompletedProcess:
    command = [str(binary()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def generation(gateway: Gateway) -> int:
    return int(gateway.metrics().sum("config_generation"))


def test_each_verb_reloads_and_says_what_changed(start):
    gateway = start(workers=2)
    file = gateway.folder / "ringway.toml"
    # Nothing has changed.
    done = ringway("reload", "--config", file)
    assert (done.returncode, done.stdout) == (0, "ringway: nothing has changed\n"), done.stderr
    assert generation(gateway) == 1
    # The command line.
    gateway.settings["max_body_size"] = "2GiB"
    gateway.configure()
    done = ringway("reload", "--config", file)
    assert done.returncode == 0, done.stderr
    assert 'limits.max_body_size: "4GiB" -> "2GiB"' in done.stdout.splitlines()
    assert "generation 2 runs" in done.stdout
    # The admin endpoint.
    gateway.settings["idle_timeout"] = "20s"
    gateway.configure()
    status, report = gateway.reload()
    assert (status, report["result"], report["generation"]) == (200, "applied", 3)
    assert report["changes"] == ['listeners[edge].quic.idle_timeout: "30s" -> "20s"']
    # The signal, and the level of the process log.
    gateway.settings["log_level"] = "debug"
    gateway.configure()
    gateway.signal(signal.SIGHUP)
    gateway.settle_count("config_generation", 4)
    gateway.settle_count("worker_config_generation", 8)
    assert 'log.level: "info" -> "debug"' in gateway.text()
    metrics = gateway.metrics()
    assert metrics.sum("reloads_total", result="success") == 4
    assert metrics.sum("reloads_total", result="failure") == 0


@h3.run
async def test_what_is_wrong_is_refused_as_a_whole(start):
    gateway = start()
    file = gateway.folder / "ringway.toml"
    good = file.read_text()

    def refuses(text: str, code: int, *parts: str):
        file.write_text(text)
        done = ringway("reload", "--config", file)
        assert done.returncode == code, done.stdout + done.stderr
        assert all(part in done.stderr for part in parts), done.stderr
        assert generation(gateway) == 1

    async with h3.connection(gateway) as client:
        # All mistakes at once, with their lines, and nothing of the rest is applied.
        wrong = good.replace('body_timeout = "30s"', 'body_timeout = "soon"')
        wrong = wrong.replace("max_waiting = 2", "max_waitin = 2")
        line = wrong.splitlines().index('body_timeout = "soon"') + 1
        refuses(wrong, 1, f":{line}:", "limits.body_timeout", "max_waitin")
        refuses(good.replace("edge.pem", "absent.pem"), 1, "absent.pem")
        refuses(good.replace("workers = 1", "workers = 2").replace("32MiB", "64MiB"), 1,
                "runtime.workers: 1 -> 2", 'runtime.pool.per_worker: "32MiB" -> "64MiB"',
                "cannot change while the process runs")
        refuses(good.replace("access.log", "no-such-folder/access.log"), 3, "no-such-folder")
        assert (await client.get("/bytes/1000")).sha256 == bodies.digest(1000)
        assert gateway.metrics().sum("reloads_total", result="failure") == 4
        # A correct file is accepted afterwards.
        file.write_text(good.replace('body_timeout = "30s"', 'body_timeout = "31s"'))
        assert ringway("reload", "-c", file).returncode == 0
        assert generation(gateway) == 2
        assert (await client.get("/bytes/1000")).end == "clean"


def test_nobody_to_ask_is_code_3(tmp_path, certificate):
    file = Gateway(tmp_path, "127.0.0.1:1", certificate).configure()
    for arguments in (["reload"], ["config", "--running"]):
        done = ringway(*arguments, "--config", file)
        assert done.returncode == 3 and "admin.listen" in done.stderr, done.stderr
    file.write_text(file.read_text().replace('listen = "127.0.0.1', 'listen = "off" # '))
    done = ringway("reload", "--config", file)
    assert done.returncode == 1 and "SIGHUP" in done.stderr, done.stderr


def test_config_prints_every_key(gateway, tmp_path):
    file = gateway.folder / "ringway.toml"
    of_file, of_process = ringway("config", "-c", file), ringway("config", "-c", file, "--running")
    assert of_file.returncode == of_process.returncode == 0, of_file.stderr + of_process.stderr
    assert of_file.stdout == of_process.stdout
    found = tomllib.loads(of_file.stdout)
    assert found["limits"]["max_header_count"] == 100, "a default"
    assert found["upstreams"]["small"]["max_connections"] == 1, "of the file"
    # What is printed is a configuration file.
    again = tmp_path / "again.toml"
    again.write_text(of_file.stdout)
    assert ringway("config", "-c", again).stdout == of_file.stdout
    # The file is ahead of the process until it is reloaded.
    file.write_text(file.read_text().replace("max_waiting = 2", "max_waiting = 3"))
    of_file, of_process = ringway("config", "-c", file), ringway("config", "-c", file, "--running")
    assert of_file.stdout.replace("max_waiting = 3", "max_waiting = 2") == of_process.stdout
    assert of_file.stdout != of_process.stdout


@h3.run
async def test_routes_certificates_and_logs_change(start, renewed):
    old, new = renewed
    gateway = start(workers=2)
    gateway.authority = old.authority
    async with h3.connection(gateway) as before:
        assert (await before.get("/bytes/10")).status == 200
        first = await asyncio.to_thread(gateway.access_lines, 1)
        gateway.settings |= {"cert": new.cert, "key": new.key}
        gateway.settings["access_log"] = second_log = gateway.folder / "second.log"
        file = gateway.configure()
        file.write_text(file.read_text().replace('path_prefix = "/down"', 'path_prefix = "/bytes"'))
        status, report = gateway.reload()
        assert status == 200, report
        assert any(line.startswith("certificate read: ") for line in report["changes"]), report
        # The connection that was there keeps its certificate and gets the new route.
        assert (await before.get("/bytes/10")).status == 502
        assert (await before.get("/upload")).status is not None
        async with h3.connection(gateway) as after:
            assert (await after.get("/bytes/10")).status == 502
            served = after._quic.tls._peer_certificate
            before_served = before._quic.tls._peer_certificate
            assert served.serial_number != before_served.serial_number
    gateway.settle_count("exchanges_active", 0)
    assert gateway.access_lines(1) == first, "nothing more"
    gateway.access_log = second_log
    assert len(gateway.access_lines(3)) == 3


@h3.run
async def test_a_listener_comes_and_goes(start, origin):
    gateway = start(workers=2)
    port = free_ports()[0]
    other = dataclasses.make_dataclass("Other", ["port", "authority"])(port, gateway.authority)
    first = gateway.configure().read_text()
    file = gateway.folder / "ringway.toml"
    file.write_text(first + LISTENER.format(port=port))
    status, report = gateway.reload()
    assert (status, report["changes"]) == (200, ["listeners[second]: added"]), report
    async with h3.connection(other) as client:
        # A download runs while the listener is removed.
        exchange = client.open("GET", "/drip/60000?piece=2000&pause=0.05")
        await exchange.received(4000)
        file.write_text(first)
        status, report = gateway.reload()
        assert (status, report["changes"]) == (200, ["listeners[second]: removed"]), report
        response = await exchange.wait()
        assert (response.end, response.sha256) == ("clean", bodies.digest(60000))
        async with asyncio.timeout(20):
            while client.closed is None:
                await asyncio.sleep(0.05)
        assert client.closed.error_code == 0x100, "H3_NO_ERROR: it was told to go"
    # Nobody is there any more, and another process may have the port.
    await asyncio.to_thread(wait_until_free, port)
    with pytest.raises((ConnectionError, TimeoutError)):
        async with h3.connection(other, idle_timeout=2.0):
            pass
    # It comes back, and its old sockets are not in the way.
    file.write_text(first + LISTENER.format(port=port))
    assert gateway.reload()[0] == 200
    async with h3.connection(other) as client:
        assert (await client.get("/bytes/1000")).sha256 == bodies.digest(1000)
    # An address that cannot be bound refuses the whole reload.
    text = first.replace('body_timeout = "30s"', 'body_timeout = "7s"')
    file.write_text(text + LISTENER.format(port=port).replace("127.0.0.1", "192.0.2.1"))
    status, report = gateway.reload()
    assert (status, report["result"]) == (422, "host_refused"), report
    assert "192.0.2.1" in report["errors"][0]
    running = tomllib.loads(ringway("config", "-c", file, "--running").stdout)
    assert running["limits"]["body_timeout"] == "30s"


def wait_until_free(port: int):
    end = time.monotonic() + 15
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            try:
                return one.bind(("127.0.0.1", port))
            except OSError:
                assert time.monotonic() < end, "the port is still bound"
        time.sleep(0.1)


@h3.run
async def test_upstream_connections_stay_open(start, origin):
    gateway = start()
    async with h3.connection(gateway) as client:
        await client.get("/bytes/10")
        opened = gateway.metrics().sum("upstream_connects_total")
        for number in range(5):
            # Once another upstream changes, once a timeout of this one.
            gateway.settings["upstream_idle"] = f"{30 + number}s"
            file = gateway.configure()
            text = file.read_text().replace("max_waiting = 2", f"max_waiting = {3 + number}")
            file.write_text(text)
            assert gateway.reload()[1]["result"] == "applied"
            assert (await client.get("/bytes/10")).status == 200
        assert gateway.metrics().sum("upstream_connects_total") == opened
