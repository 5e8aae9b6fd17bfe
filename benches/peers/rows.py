"""What is measured: the load of each row, and the figure that comes of it."""

import dataclasses
import json
import os
import subprocess
import time

import meter
from servers import LOAD, PORT, SIZES

GB = 1e9
BULK = 10 << 20


@dataclasses.dataclass
class Row:
    """One line of the table."""

    name: str
    title: str
    unit: str
    load: dict
    """Options of the load client."""
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


def small(streams):
    return {"path": "/1k", "connections": 10, "streams": streams}


def bulk(connections, **more):
    return {"connections": connections, "streams": 1} | more


DOWN, UP = {"path": "/10m"}, {"path": "/upload", "upload": BULK}
ROWS = [
    Row("small10", "1 KiB GET, 10 connections x 10 streams", "us/request", small(10), 300_000,
        per_request(1e6), 0.65, 8),
    Row("small100", "1 KiB GET, 10 connections x 100 streams", "us/request", small(100), 300_000,
        per_request(1e6), 0.5, 8.5),
    Row("down1", "10 MiB download, 1 connection", "s/GB", bulk(1, **DOWN), 400, per_gb, 0.7, 0.75),
    Row("down10", "10 MiB download, 10 connections", "s/GB", bulk(10, **DOWN), 400, per_gb,
        0.7, 0.8),
    Row("up1", "10 MiB upload, 1 connection", "s/GB", bulk(1, **UP), 400, per_gb, 0.4, 0.7),
    Row("up10", "10 MiB upload, 10 connections", "s/GB", bulk(10, **UP), 400, per_gb, 0.4, 0.75),
    Row("handshake", "handshake + 1 request", "ms",
        {"path": "/1k", "connections": 8, "streams": 1, "handshakes": True}, 8000,
        per_request(1e3), 0.4, 0.18),
    Row("open", "1 KiB GET, 10,000 a second, open loop", "us/request",
        small(10) | {"rate": 10_000}, 30_000, per_request(1e6), 0.65),
]
SLOW = {"haproxy": 0.3, "caddy": 0.1}
"""How many requests a server gets of a row's count."""

SETUP_COUNT = 100
"""From so many connections on, their handshakes are measured by themselves and taken off."""
IDLE_COUNT = 2000
IDLE_SAMPLES_MAX = 240
"""Four a second: a server that leaves a client without a response is not waited for."""
CROWD_COUNT = 10_000
IDLE_KIB_MAX = 30
CROWD_RATIO_MAX = 1.3
"""A request beside the crowd, against one without it."""
WORKERS_RATIO_MAX = 1.1
"""A request served by two workers, against one served by one."""
CLIENT_COUNT = 4
"""Client processes where cores are shared: each has a socket, and by that a worker."""


def load_line(options: dict, core_list: str) -> list[str]:
    line = ["taskset", "--cpu-list", core_list, str(LOAD), "--json",
            "--connect", f"127.0.0.1:{PORT}"]
    for name, value in options.items():
        line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line


def run_load(options: dict, core_list: str) -> dict:
    done = subprocess.run(load_line(options, core_list), capture_output=True, text=True,
                          timeout=90)
    assert done.returncode == 0, f"{options}: {done.stderr}"
    return json.loads(done.stdout)


def measure(row: Row, peer: str, pid: int, core: int, others: set[int]) -> dict:
    """Runs a row against the server; its figure, latencies, and what was busy."""
    core_list = ",".join(map(str, sorted(others)))
    count = max(20, int(row.count * SLOW.get(peer, 1)))
    connections = row.load["connections"]
    # Pools, caches and connections of its upstream are there before it counts.
    paces = {name: value for name, value in row.load.items() if name != "rate"}
    run_load(paces | {"requests": max(20, count // 20, connections)}, core_list)
    if connections >= SETUP_COUNT:
        with meter.Span(pid, {core}, others) as setup:
            run_load(paces | {"requests": connections}, core_list)
    with meter.Span(pid, {core}, others) as span:
        done = run_load(row.load | {"requests": count}, core_list)
    cpu, counted, strangers = span.cpu, done["requests"], span.strangers
    if connections >= SETUP_COUNT:
        cpu, counted = cpu - setup.cpu, counted - connections
        strangers = max(strangers, setup.strangers)
        assert cpu > 0, "the handshakes alone took longer"
    return {
        "figure": row.cost(cpu, counted, done["bytes"]),
        "latency_us": done["latency_us"],
        "rate": done["requests"] / done["seconds"],
        "server_busy": span.server_busy,
        "load_busy": span.load_busy,
        "strangers": strangers,
    }


def crowd(peer: str, pid: int, core: int, others: set[int]) -> dict:
    """The first row once more, beside connections that are open and silent."""
    core_list = ",".join(map(str, sorted(others)))
    options = {"path": "/1k", "streams": 1, "connections": CROWD_COUNT, "requests": CROWD_COUNT}
    process = subprocess.Popen(load_line(options | {"hold": 20}, core_list),
                               stdout=subprocess.DEVNULL)
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
    options = row.load | {"connections": row.load["connections"] // 2,
                          "requests": row.count // CLIENT_COUNT}
    run_load(options, core_list)
    with meter.Span(pid, cores, cores) as span:
        running = [subprocess.Popen(load_line(options, core_list), stdout=subprocess.DEVNULL)
                   for _ in range(CLIENT_COUNT)]
        assert not any([process.wait() for process in running]), "the load failed"
    return {"figure": row.cost(span.cpu, options["requests"] * CLIENT_COUNT, 0),
            "strangers": span.strangers}


def idle(pid: int, others: set[int]) -> dict:
    """KiB resident of an idle connection, each of which has made one request."""
    core_list = ",".join(map(str, sorted(others)))
    options = {"path": "/1k", "streams": 1}
    run_load(options | {"connections": 100, "requests": 2000}, core_list)
    before = meter.resident_kib(pid)
    line = load_line(options | {"connections": IDLE_COUNT, "requests": IDLE_COUNT, "hold": 5},
                     core_list)
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        samples = []
        while process.poll() is None and len(samples) < IDLE_SAMPLES_MAX:
            samples.append(meter.resident_kib(pid))
            time.sleep(0.25)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0 and len(samples) > 8, "the load failed"
    # All are open and silent in the last seconds, and the last sample may see them go.
    return {"figure": (samples[-4] - before) / IDLE_COUNT}


def plot_row(name: str, x: float) -> Row:
    """The load of a point of a plot."""
    if name == "connections":
        load = {"path": "/1k", "connections": x, "streams": max(1, 100 // x)}
        return Row(name, name, "us/request", load, max(60_000, 12 * x), per_request(1e6), 1)
    if name == "body":
        path = next(path for path, length in SIZES.items() if length == x)
        load = {"path": f"/{path}", "connections": 10, "streams": 4}
        return Row(name, name, "us/request", load, max(60, min(60_000, int(1e9 / x))),
                   per_request(1e6), 1)
    load = {"path": "/10m", "connections": 10, "streams": 1, "loss": x / 100}
    return Row(name, name, "s/GB", load, 60, per_gb, 1)


POINTS = {
    "connections": [1, 10, 100, 1000, 10_000],
    "body": list(SIZES.values()),
    "loss": [0, 0.1, 1, 3],
}
"""What each plot has on its x axis."""
