"""What is measured: the load of each row, and the figure that comes of it."""

import concurrent.futures
import dataclasses
import os
import subprocess
import time

import meter
from loads import Load
from servers import SIZES

GB = 1e9
BULK = 10 << 20


@dataclasses.dataclass
class Row:
    """One line of the table."""

    name: str
    title: str
    unit: str
    load: Load
    count: int
    """Requests, for a server that is quick; one that is slow gets fewer."""
    cost: object
    """(CPU seconds, requests, payload bytes) -> the figure."""
    ratio_max: float
    """The share of nginx's figure that is to be reached."""
    figure_max: float | None = None
    """The figure that is to be reached."""


def per_request(scale):
    return lambda cpu, count, _: cpu / count * scale


def per_gb(cpu, _, length):
    return cpu / (length / GB)


def small(connections, streams, **more):
    return Load("/1k", connections, streams, **more)


def download(connections, **more):
    return Load("/10m", connections, response=BULK, **more)


def upload(connections, **more):
    return Load("/upload", connections, upload=BULK, **more)


ROWS = [
    Row("small10", "1 KiB GET, 10 connections x 10 streams", "us/request", small(10, 10), 300_000,
        per_request(1e6), 0.65, 8),
    Row("small100", "1 KiB GET, 10 connections x 100 streams", "us/request", small(10, 100),
        300_000, per_request(1e6), 0.5, 8.5),
    Row("down1", "10 MiB download, 1 connection", "s/GB", download(1), 400, per_gb, 0.7, 0.75),
    Row("down10", "10 MiB download, 10 connections", "s/GB", download(10), 400, per_gb, 0.7, 0.8),
    Row("up1", "10 MiB upload, 1 connection", "s/GB", upload(1), 400, per_gb, 0.4, 0.7),
    Row("up10", "10 MiB upload, 10 connections", "s/GB", upload(10), 400, per_gb, 0.4, 0.75),
    Row("handshake", "handshake + 1 request", "ms", small(8, 1, handshakes=True), 8000,
        per_request(1e3), 0.4, 0.18),
    Row("open", "1 KiB GET, 10,000 a second, open loop", "us/request", small(10, 10, rate=10_000),
        30_000, per_request(1e6), 0.65),
]


def over_tcp(mark: str, name: str, protocol: str, streams: int) -> list[Row]:
    """The rows of a protocol over TCP. Without streams it has as many more connections."""
    connections = 100 // streams
    shape = f"{connections} connections x {streams} streams" if streams > 1 else "100 connections"
    return [
        Row(f"{mark}-small", f"{name}: 1 KiB GET, {shape}", "us/request",
            small(connections, streams, protocol=protocol), 300_000, per_request(1e6), 1),
        Row(f"{mark}-down1", f"{name}: 10 MiB download, 1 connection", "s/GB",
            download(1, protocol=protocol), 400, per_gb, 1.1),
        Row(f"{mark}-down10", f"{name}: 10 MiB download, 10 connections", "s/GB",
            download(10, protocol=protocol), 400, per_gb, 1.1),
        Row(f"{mark}-up1", f"{name}: 10 MiB upload, 1 connection", "s/GB",
            upload(1, protocol=protocol), 400, per_gb, 1.1),
        Row(f"{mark}-up10", f"{name}: 10 MiB upload, 10 connections", "s/GB",
            upload(10, protocol=protocol), 400, per_gb, 1.1),
        Row(f"{mark}-handshake", f"{name}: handshake + 1 request", "ms",
            small(8, 1, handshakes=True, protocol=protocol), 8000, per_request(1e3), 1),
    ]


ROWS += over_tcp("h2", "HTTP/2", "h2", 10) + over_tcp("h1", "HTTP/1.1", "http/1.1", 1)
SLOW = {"haproxy": 0.3, "caddy": 0.1}
"""How many requests a server gets of a row's count."""

SETUP_COUNT = 100
"""From so many connections on, their handshakes are measured by themselves and taken off."""
IDLE_COUNT = 2000
IDLE_SECONDS = {"h3": 5, "h2": 10, "http/1.1": 10}
"""From when all are open, or from the start of the first: the time that they are silent."""
IDLE_SAMPLES_MAX = 240
"""Four a second: a server that leaves a client without a response is not waited for."""
CROWD_COUNT = 10_000
IDLE_KIB_MAX = {"h3": 30, "h2": 40, "http/1.1": 40}
CROWD_RATIO_MAX = 1.3
"""A request beside the crowd, against one without it."""
WORKERS_RATIO_MAX = 1.1
"""A request served by two workers, against one served by one."""
CLIENT_COUNT = 4
"""Client processes where cores are shared: each has a socket, and by that a worker."""


def measure(row: Row, peer: str, pid: int, core: int, others: set[int]) -> dict:
    """Runs a row against the server; its figure, latencies, and what was busy."""
    core_list = ",".join(map(str, sorted(others)))
    count = max(20, int(row.count * SLOW.get(peer, 1)))
    connections = row.load.connections
    # Pools, caches and connections of its upstream are there before it counts.
    closed = dataclasses.replace(row.load, rate=0)
    closed.run(max(20, count // 20, connections), core_list)
    if connections >= SETUP_COUNT:
        with meter.Span(pid, {core}, others) as setup:
            closed.run(connections, core_list)
    with meter.Span(pid, {core}, others) as span:
        done = row.load.run(count, core_list)
    cpu, counted, strangers = span.cpu, done["requests"], span.strangers
    if connections >= SETUP_COUNT:
        cpu, counted = cpu - setup.cpu, counted - connections
        strangers = max(strangers, setup.strangers)
        assert cpu > 0, "the handshakes alone took longer"
    return {
        "figure": row.cost(cpu, counted, done["bytes"]),
        "rate": done["requests"] / done["seconds"],
        "server_busy": span.server_busy,
        "load_busy": span.load_busy,
        "strangers": strangers,
    } | {key: done[key] for key in ["latency_us"] if key in done}


def crowd(peer: str, pid: int, core: int, others: set[int]) -> dict:
    """The first row once more, beside connections that are open and silent."""
    core_list = ",".join(map(str, sorted(others)))
    process = small(CROWD_COUNT, 1).hold(20, core_list, stdout=subprocess.DEVNULL)
    try:
        # They are all there once the server has nothing to do any more.
        used, before = 0.0, meter.cpu_seconds(pid)
        while used < CROWD_COUNT * 50e-6 or meter.cpu_seconds(pid) - before > 0.01:
            assert process.poll() is None, "the crowd did not stay"
            before = meter.cpu_seconds(pid)
            time.sleep(0.5)
            used += meter.cpu_seconds(pid) - before
        seen = measure(ROWS[0], peer, pid, core, others)
        assert process.poll() is None, "the crowd left before the end"
        return seen
    finally:
        process.terminate()
        process.wait()


def shared(pid: int) -> dict:
    """The first row's load while server and load share all cores: its cost a request."""
    cores = os.sched_getaffinity(0)
    core_list = ",".join(map(str, sorted(cores)))
    row = ROWS[0]
    load = dataclasses.replace(row.load, connections=row.load.connections // 2)
    count = row.count // CLIENT_COUNT
    load.run(count, core_list)
    with meter.Span(pid, cores, cores) as span:
        with concurrent.futures.ThreadPoolExecutor(CLIENT_COUNT) as clients:
            list(clients.map(lambda _: load.run(count, core_list), range(CLIENT_COUNT)))
    return {"figure": row.cost(span.cpu, count * CLIENT_COUNT, 0), "strangers": span.strangers}


def idle(protocol: str, pid: int, others: set[int]) -> dict:
    """KiB resident of an idle connection, each of which has made one request."""
    core_list = ",".join(map(str, sorted(others)))
    load = small(100, 1, protocol=protocol)
    load.run(2000, core_list)
    before = meter.resident_kib(pid)
    load = dataclasses.replace(load, connections=IDLE_COUNT)
    process = load.hold(IDLE_SECONDS[protocol], core_list, stdout=subprocess.DEVNULL)
    try:
        samples = []
        while process.poll() is None and len(samples) < IDLE_SAMPLES_MAX:
            samples.append(meter.resident_kib(pid))
            time.sleep(0.25)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0 and len(samples) > 8, "the load failed"
    # All are open and silent in the last seconds, and the last samples may see them go.
    return {"figure": (samples[-8] - before) / IDLE_COUNT}


def plot_row(name: str, x: float) -> Row:
    """The load of a point of a plot."""
    if name == "connections":
        load = small(x, max(1, 100 // x))
        return Row(name, name, "us/request", load, max(60_000, 12 * x), per_request(1e6), 1)
    if name == "body":
        path = next(path for path, length in SIZES.items() if length == x)
        return Row(name, name, "us/request", Load(f"/{path}", 10, 4),
                   max(60, min(60_000, int(1e9 / x))), per_request(1e6), 1)
    return Row(name, name, "s/GB", download(10, loss=x / 100), 60, per_gb, 1)


POINTS = {
    "connections": [1, 10, 100, 1000, 10_000],
    "body": list(SIZES.values()),
    "loss": [0, 0.1, 1, 3],
}
"""What each plot has on its x axis."""
