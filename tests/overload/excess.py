"""More requests than the gateway can serve."""

import contextlib
import os
import pathlib

from attack.oracle import MIB, Process

from .clients import Load, Outcomes, Programs
from .flood import PATIENCE, Target

CONNECTIONS = 100
"""Of all measurements: the more there are, the fewer requests share a packet."""
STREAMS_MAX = 100
"""Requests in flight of one connection, as the gateway allows them: the open loop's are not held
back by the client."""
USUAL_SHARE = 0.8
"""Of the peak, for the latency that is compared."""
TIMES = 10
"""What is offered, in times the peak."""
WARM_UP_SECONDS = 4
"""Time until the gateway's measures against the excess take effect, twice its queue timeout."""
GOODPUT_SHARE_MIN = 0.95
P99_RATIO_MAX = 2
P99_MS_FREE = 50
"""Latency of admitted requests that is never too long: the queueing time of an admission."""

COUNTED = {
    "requests": ("requests_total", {}),
    "streams": ("http3_streams_opened_total", {}),
    "shed, memory": ("http3_streams_shed_total", {"reason": "memory"}),
    "shed, load": ("http3_streams_shed_total", {"reason": "load"}),
    "shed, queue": ("upstream_queue_sheds_total", {}),
    "shed, draining": ("http3_streams_shed_total", {"reason": "draining"}),
    "429": ("responses_own_total", {"status": "429"}),
    "503": ("responses_own_total", {"status": "503"}),
    "504": ("responses_own_total", {"status": "504"}),
    "2xx": ("responses_total", {"class": "2xx"}),
    "cancelled": ("http3_streams_ended_early_total", {"by": "client"}),
    "connections refused": ("connections_refused_total", {}),
}

QUOTA_FOLDER = pathlib.Path("/sys/fs/cgroup/cpu")
"""Where cgroups of the first version have their quota."""
QUOTA_MICROS, PERIOD_MICROS = 1000, 10_000
"""The shortest quota that the kernel takes, and so the pauses of a slowed process are long."""


@contextlib.contextmanager
def slowed(pid: int):
    """Gives the process a tenth of a core, in turns of 10 ms."""
    folder = QUOTA_FOLDER / f"ringway-overload-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD_MICROS))
        (folder / "cpu.cfs_quota_us").write_text(str(QUOTA_MICROS))
        (folder / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            (QUOTA_FOLDER / "cgroup.procs").write_text(str(pid))
        folder.rmdir()


def closed_loop(programs: Programs, target: Target, count: int, streams: int) -> Outcomes:
    """Runs requests that follow each other, `streams` at once on each connection."""
    return Load(programs, target.port, host=target.authority, path=target.path,
                connections=CONNECTIONS, streams=streams, requests=count).outcomes()


def open_loop(programs: Programs, target: Target, rate: float, seconds: float) -> Outcomes:
    """Runs requests that begin by the clock. What waits for a stream waits with the client."""
    return Load(programs, target.port, host=target.authority, path=target.path,
                connections=CONNECTIONS, streams=STREAMS_MAX, rate=rate,
                requests=int(rate * (seconds + WARM_UP_SECONDS)), patience=PATIENCE,
                from_sending=True, warm_up=WARM_UP_SECONDS).outcomes(300)


def counters(target: Target) -> dict[str, float]:
    metrics = target.metrics()
    return {name: metrics.sum(family, **labels) for name, (family, labels) in COUNTED.items()}


def line(name: str, seen: Outcomes) -> str:
    return (f"{name:32} {seen.rate:7.0f}/s served, p50 {seen.milliseconds('0.5'):.2f} ms, "
            f"p99 {seen.milliseconds('0.99'):.2f} ms; {seen.reasons()}")


def report(programs: Programs, target: Target, core: int, seconds: int) -> list:
    """Measures at full speed by concurrency, and slowed by rate."""
    return (by_concurrency(programs, target, seconds)
            + by_rate(programs, target, seconds))


def by_concurrency(programs: Programs, target: Target, seconds: int) -> list:
    """Ten times the requests at once that reach the peak, over the same connections."""
    rough = closed_loop(programs, target, 50_000, streams=1).rate
    count = int(rough * seconds)
    peak = closed_loop(programs, target, count, streams=1)
    usual = open_loop(programs, target, USUAL_SHARE * peak.rate, seconds)
    excess = closed_loop(programs, target, count, streams=TIMES)
    at_once = CONNECTIONS
    print(line(f"peak, {at_once} at once", peak), flush=True)
    print(line(f"{USUAL_SHARE:.0%} of the peak, by the clock", usual), flush=True)
    print(line(f"{at_once * TIMES} at once", excess), flush=True)
    share = excess.rate / peak.rate
    return [(f"ten times the concurrency: goodput at least {GOODPUT_SHARE_MIN:.0%} of the peak: "
             f"{share:.0%}", share >= GOODPUT_SHARE_MIN)]


def by_rate(programs: Programs, target: Target, seconds: int) -> list:
    """Ten times the rate, of a gateway that has a tenth of a core."""
    process = Process(target.pid)
    with slowed(target.pid):
        rough = closed_loop(programs, target, 5_000, streams=2).rate
        peak = closed_loop(programs, target, int(rough * seconds), streams=2)
        usual = open_loop(programs, target, USUAL_SHARE * peak.rate, seconds)
        process.begin()
        before = counters(target)
        excess = open_loop(programs, target, TIMES * peak.rate, seconds)
        after = counters(target)
        faults = process.faults()
    grown = {name: after[name] - before[name] for name in COUNTED}
    print(line("a tenth of a core: peak", peak), flush=True)
    print(line(f"{USUAL_SHARE:.0%} of the peak, by the clock", usual), flush=True)
    print(line(f"{TIMES} times the peak, by the clock", excess), flush=True)
    print("gateway:", ", ".join(f"{name} {count:.0f}" for name, count in grown.items() if count),
          f"; memory +{process.growth_len() / MIB:.1f} MiB", "; ".join(faults), flush=True)
    share = excess.rate / peak.rate
    p99, p99_max = excess.milliseconds("0.99"), max(
        P99_MS_FREE, P99_RATIO_MAX * usual.milliseconds("0.99"))
    shed = sum(grown[name] for name in ("shed, memory", "shed, load", "shed, draining", "429", "503"))
    left = grown["streams"] - grown["2xx"] - grown["cancelled"] - shed
    return [
        (f"ten times the rate: goodput at least {GOODPUT_SHARE_MIN:.0%} of the peak: {share:.0%}",
         share >= GOODPUT_SHARE_MIN),
        (f"ten times the rate: p99 of what is served at most {p99_max:.0f} ms: {p99:.0f} ms",
         p99 <= p99_max),
        (f"offered is admitted and shed: {left:.0f} requests are neither", left == 0),
    ]
