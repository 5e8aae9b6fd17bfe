"""What is measured: the load of each row, and the figure that comes of it."""

import dataclasses
import json
import os
import subprocess
import time

import meter
from servers import LOAD, PORT

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
    target: float
    """The share of nginx's figure that is to be reached."""


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
    Row("small10", "1 KiB GET, 10 connections x 10 streams", "us/request", small(10), 120_000,
        per_request(1e6), 0.65),
    Row("small100", "1 KiB GET, 10 connections x 100 streams", "us/request", small(100), 120_000,
        per_request(1e6), 0.5),
    Row("down1", "10 MiB download, 1 connection", "s/GB", bulk(1, **DOWN), 150, per_gb, 0.7),
    Row("down10", "10 MiB download, 10 connections", "s/GB", bulk(10, **DOWN), 150, per_gb, 0.7),
    Row("up1", "10 MiB upload, 1 connection", "s/GB", bulk(1, **UP), 150, per_gb, 0.4),
    Row("up10", "10 MiB upload, 10 connections", "s/GB", bulk(10, **UP), 150, per_gb, 0.4),
    Row("handshake", "handshake + 1 request", "ms",
        {"path": "/1k", "connections": 8, "streams": 1, "handshakes": True}, 3000,
        per_request(1e3), 0.4),
    Row("open", "1 KiB GET, 10,000 a second, open loop", "us/request",
        small(10) | {"rate": 10_000}, 30_000, per_request(1e6), 0.65),
]
SLOW = {"haproxy": 0.5, "caddy": 0.15}
"""How many requests a server gets of a row's count."""

IDLE_COUNT = 2000
CROWD_COUNT = 10_000
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
                          timeout=300)
    assert done.returncode == 0, f"{options}: {done.stderr}"
    return json.loads(done.stdout)


def measure(row: Row, peer: str, pid: int, core: int, others: set[int]) -> dict:
    """Runs a row against the server; its figure, latencies, and what was busy."""
    core_list = ",".join(map(str, sorted(others)))
    count = max(20, int(row.count * SLOW.get(peer, 1)))
    # Pools, caches and connections of its upstream are there before it counts.
    paces = {name: value for name, value in row.load.items() if name != "rate"}
    run_load(paces | {"requests": max(20, count // 20)}, core_list)
    with meter.Span(pid, core, others) as span:
        done = run_load(row.load | {"requests": count}, core_list)
    return {
        "figure": row.cost(span.cpu, done["requests"], done["bytes"]),
        "latency_us": done["latency_us"],
        "rate": done["requests"] / done["seconds"],
        "server_busy": span.server_busy,
        "load_busy": span.load_busy,
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
        while used < 0.5 or meter.cpu_seconds(pid) - before > 0.01:
            before = meter.cpu_seconds(pid)
            time.sleep(0.5)
            used += meter.cpu_seconds(pid) - before
        return measure(ROWS[0], peer, pid, core, others)
    finally:
        process.terminate()
        process.wait()


def shared(pid: int) -> dict:
    """The first row's load while server and load share all cores: its cost a request."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    row = ROWS[0]
    options = row.load | {"connections": row.load["connections"] // 2,
                          "requests": row.count // CLIENT_COUNT}
    run_load(options, cores)
    before = meter.cpu_seconds(pid)
    running = [subprocess.Popen(load_line(options, cores), stdout=subprocess.DEVNULL)
               for _ in range(CLIENT_COUNT)]
    assert not any([process.wait() for process in running]), "the load failed"
    cpu = meter.cpu_seconds(pid) - before
    return {"figure": row.cost(cpu, options["requests"] * CLIENT_COUNT, 0)}


def idle(pid: int, others: set[int]) -> float:
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
        while process.poll() is None:
            samples.append(meter.resident_kib(pid))
            time.sleep(0.25)
    finally:
        process.wait()
    assert process.returncode == 0 and len(samples) > 8, "the load failed"
    # All are open and silent in the last seconds, and the last sample may see them go.
    return (samples[-4] - before) / IDLE_COUNT
