"""Start, check, drain and stop: exit codes, and what clients see."""

import asyncio
import signal
import socket
import subprocess
import time
import tomllib

import pytest

from harness import bodies, h3
from harness.gateway import REPOSITORY, Gateway, binary


def ringway(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(binary()), *arguments], capture_output=True, text=True, timeout=20
    )


@pytest.fixture
def configuration(tmp_path, certificate):
    """A valid configuration file."""
    return Gateway(tmp_path, "127.0.0.1:1", certificate).configure()


def test_version():
    package = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]
    done = ringway("version")
    assert done.returncode == 0
    assert package["version"] in done.stdout


def test_check_of_a_good_file(configuration):
    done = ringway("check", "--config", str(configuration))
    assert done.returncode == 0, done.stderr
    assert ringway("-t", "--config", str(configuration)).returncode == 0


def test_check_names_the_key_the_line_and_the_fix(configuration):
    text = configuration.read_text()
    configuration.write_text(text.replace("drain_timeout", "drain_timeot"))
    line = text.splitlines().index('drain_timeout = "20s"') + 1
    done = ringway("check", "--config", str(configuration))
    assert done.returncode == 1
    for told in ("drain_timeot", "drain_timeout", str(line), configuration.name):
        assert told in done.stderr, done.stderr
    assert ringway("run", "--config", str(configuration)).returncode == 1


def test_check_of_a_missing_file(tmp_path):
    done = ringway("check", "--config", str(tmp_path / "absent.toml"))
    assert done.returncode == 1
    assert "absent.toml" in done.stderr


def test_check_of_a_missing_certificate(configuration):
    text = configuration.read_text()
    configuration.write_text(text.replace("edge.pem", "absent.pem"))
    done = ringway("check", "--config", str(configuration))
    assert done.returncode == 1
    assert "absent.pem" in done.stderr


@pytest.mark.parametrize("pool, is_well", [
    ("4MiB", False), ("6MiB", True), ("2176MiB", True), ("2178MiB", False), ("4GiB", False),
])
def test_check_accepts_exactly_the_pool_sizes_that_work(configuration, pool, is_well):
    """`check` accepts the sizes that a worker can divide into slots. It refuses others and names
    their line."""
    text = configuration.read_text().replace('per_worker = "32MiB"', f'per_worker = "{pool}"')
    configuration.write_text(text)
    line = next(n for n, line in enumerate(text.splitlines(), 1) if "per_worker" in line)
    done = ringway("check", "--config", str(configuration))
    assert done.returncode == (0 if is_well else 1), done.stderr
    if not is_well:
        told = [f":{line}:", "runtime.pool.per_worker", f"is {pool}", "must be 6MiB to 2176MiB"]
        assert all(part in done.stderr for part in told), done.stderr
        assert ringway("run", "--config", str(configuration)).returncode == 1


@pytest.mark.parametrize("arguments", [["run"], ["check"], ["fly"], ["run", "--confg", "x"]])
def test_wrong_usage(arguments):
    assert ringway(*arguments).returncode == 2


def test_taken_address(configuration):
    port = int(configuration.read_text().split('address = ["127.0.0.1:')[1].split('"')[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        done = ringway("run", "--config", str(configuration))
    assert done.returncode == 3
    assert f"127.0.0.1:{port}" in done.stderr, done.stderr


def test_admin_pages(gateway):
    assert gateway.admin_get("/healthz")[0] == 200
    assert gateway.admin_get("/readyz")[0] == 200
    assert gateway.admin_get("/nothing")[0] == 404
    metrics = gateway.metrics()
    assert metrics.sum("connections_open") == 0
    assert metrics.slots_total() >= 64


@h3.run
async def test_quit_finishes_downloads(gateway, host):
    length = 100_000
    async with h3.connection(gateway, host) as client:
        exchange = client.open("GET", f"/drip/{length}?piece=2000&pause=0.05")
        await exchange.received(4000)
        gateway.signal(signal.SIGQUIT)
        await asyncio.sleep(0.3)
        assert gateway.process.poll() is None, "it did not wait for the download"
        assert gateway.admin_get("/readyz")[0] == 503
        assert gateway.admin_get("/healthz")[0] == 200
        response = await exchange.wait()
        assert (response.end, response.sha256) == ("clean", bodies.digest(length))
        # The drain ends although the client stays connected.
        assert await asyncio.to_thread(gateway.wait, 15) == 0


@h3.run
async def test_quit_finishes_uploads(gateway):
    async with h3.connection(gateway) as client:
        exchange = client.open("POST", "/upload", end=False)
        for number in range(20):
            exchange.send(b"%05d" % number)
            if number == 5:
                gateway.signal(signal.SIGQUIT)
            await asyncio.sleep(0.05)
        exchange.send(b"", end=True)
        response = await exchange.wait()
        assert (response.status, response.end) == (200, "clean")
        assert b'"length": 100' in response.text
        assert await asyncio.to_thread(gateway.wait, 15) == 0


@h3.run
async def test_quit_ends_at_the_drain_timeout(start):
    gateway = start(drain_timeout="2s")
    async with h3.connection(gateway) as client:
        exchange = client.open("GET", "/drip/100000?piece=100&pause=0.1")
        await exchange.received(100)
        began = time.monotonic()
        gateway.signal(signal.SIGQUIT)
        response = await exchange.wait()
        assert response.end in ("reset", "connection"), "a cut download looks whole"
        assert await asyncio.to_thread(gateway.wait, 10) == 0
        assert 1.5 < time.monotonic() - began < 6


def test_quit_without_clients_is_quick(gateway):
    gateway.signal(signal.SIGQUIT)
    assert gateway.wait(3) == 0


@pytest.mark.parametrize("signals, settings", [
    ([signal.SIGINT], {}),
    ([signal.SIGTERM, signal.SIGTERM], {}),
    ([signal.SIGQUIT, signal.SIGTERM], {}),
    ([signal.SIGTERM], {"stop_timeout": "0s", "lame_duck": "10s"}),
    ([signal.SIGQUIT, signal.SIGINT], {"lame_duck": "10s"}),
], ids=["int", "term-term", "quit-term", "no-stop-timeout", "lame-duck"])
@h3.run
async def test_connections_are_closed_at_once(start, signals, settings):
    gateway = start(**settings)
    async with h3.connection(gateway) as client:
        exchange = client.open("GET", "/drip/100000?piece=100&pause=0.1")
        await exchange.received(100)
        for number in signals:
            gateway.signal(number)
            await asyncio.sleep(0.1)
        assert await asyncio.to_thread(gateway.wait, 3) == 0
        response = await exchange.wait(5)
        assert response.end in ("reset", "connection"), "a cut download looks whole"


@h3.run
async def test_term_finishes_what_is_short_and_ends_the_rest(start):
    """`docker stop` sends TERM, and kills after ten seconds."""
    gateway = start(stop_timeout="2s")
    async with h3.connection(gateway) as client:
        short = client.open("GET", "/drip/10000?piece=1000&pause=0.1")
        long = client.open("GET", "/drip/100000?piece=100&pause=0.1")
        await short.received(1000)
        await long.received(100)
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        response = await short.wait()
        assert (response.end, response.sha256) == ("clean", bodies.digest(10_000))
        assert (await long.wait()).end in ("reset", "connection")
        assert await asyncio.to_thread(gateway.wait, 10) == 0
        assert 1.5 < time.monotonic() - began < 5


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
@h3.run
async def test_a_lame_duck_serves_new_clients_while_it_is_not_ready(start, number):
    gateway = start(lame_duck="2s")
    began = time.monotonic()
    gateway.signal(number)
    while gateway.admin_get("/readyz")[0] == 200:
        assert time.monotonic() < began + 1, "it stays ready"
    assert gateway.admin_get("/healthz")[0] == 200
    async with h3.connection(gateway) as client:
        assert (await client.get("/bytes/1000")).sha256 == bodies.digest(1000)
    assert time.monotonic() < began + 2, "the machine is too busy for this test"
    assert await asyncio.to_thread(gateway.wait, 10) == 0
    assert time.monotonic() - began > 1.9


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE])
@h3.run
async def test_other_signals_are_not_fatal(gateway, number):
    async with h3.connection(gateway) as client:
        gateway.signal(number)
        await asyncio.sleep(0.2)
        gateway.assert_alive()
        assert (await client.get("/bytes/1000")).sha256 == bodies.digest(1000)


@h3.run
async def test_port_can_be_bound_again_after_a_stop(start, origin, certificate):
    gateway = start()
    assert gateway.stop() == 0
    gateway.start()
    async with h3.connection(gateway) as client:
        assert (await client.get("/bytes/10")).sha256 == bodies.digest(10)
