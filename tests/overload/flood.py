"""A flood of forged Initials, beside clients that must notice little of it."""

import dataclasses
import time
from collections.abc import Callable

from attack.oracle import MIB, Process

from .clients import Flood, Load, Outcomes, Programs
from .network import Strangers, udp_counters

PATIENCE = 2
"""Seconds in which a new client must have its response."""
RAMP_SECONDS = 0.3
"""Time for connections to be established before the flood begins."""
CLOSED_PORT = 9
"""Nobody listens there: what this flood does to clients, the machine does."""
COUNTED = {
    "attempts": ("connection_attempts_total", {}),
    "accepted": ("connections_accepted_total", {}),
    "retries": ("stateless_responses_total", {"kind": "retry"}),
    "refused": ("connections_refused_total", {}),
    "dropped, half open": ("datagrams_dropped_total", {"reason": "half_open"}),
    "dropped, token used": ("datagrams_dropped_total", {"reason": "token_replayed"}),
    "dropped, first packets": ("datagrams_dropped_total", {"reason": "first_packets"}),
    "version negotiations": ("stateless_responses_total", {"kind": "version_negotiation"}),
    "undecodable": ("datagrams_dropped_total", {"reason": "undecodable"}),
    "responses dropped": ("stateless_responses_total", {"kind": "dropped"}),
    "datagrams in": ("datagrams_total", {"direction": "in"}),
    "handshakes": ("handshakes_total", {"outcome": "completed"}),
}
"""Counters of the gateway that a flood moves, by what they are called here."""


@dataclasses.dataclass
class Target:
    """The gateway under test, and how it is asked for what it counts."""

    port: int
    pid: int
    metrics: Callable
    authority: str
    path: str


@dataclasses.dataclass
class Population:
    """Legitimate clients: requests of established connections, and new clients, per second."""

    requests_rate: int = 500
    connections: int = 20
    new_rate: int = 100

    def requests(self, programs: Programs, target: Target, seconds: float) -> Load:
        return Load(programs, target.port, host=target.authority, path=target.path,
                    connections=self.connections, streams=10, rate=self.requests_rate,
                    requests=int(self.requests_rate * seconds), patience=PATIENCE)

    def newcomers(self, programs: Programs, target: Target, seconds: float) -> Load:
        """Returns clients that have no token of an earlier connection."""
        return Load(programs, target.port, host=target.authority, path=target.path,
                    connections=self.new_rate * PATIENCE * 2, streams=1, rate=self.new_rate,
                    requests=int(self.new_rate * seconds), patience=PATIENCE,
                    handshakes=True, no_tokens=True)


@dataclasses.dataclass
class Figures:
    """What was seen during one period."""

    requests: Outcomes
    newcomers: Outcomes
    flood_rate: float = 0.0
    counted: dict[str, float] = dataclasses.field(default_factory=dict)
    """How much each of `COUNTED` grew."""
    kernel_dropped: int = 0
    """Datagrams for which the socket had no room."""
    cpu_share: float = 0.0
    """Of one core, by the gateway's process."""
    growth_len: int = 0
    """Bytes by which the gateway grew at most."""
    growth_after_len: int = 0
    """Bytes that it still had once the half-open connections were gone."""

    def newcomers_share(self) -> float:
        """Returns the share of new clients that had a response in time."""
        return self.newcomers.served / (self.newcomers.served + self.newcomers.failed)

    def unaccounted(self) -> float:
        """Returns the first packets that no counter accounts for."""
        ways = ("accepted", "retries", "refused", "dropped, half open", "dropped, token used")
        return self.counted["attempts"] - sum(self.counted[way] for way in ways)


def quiet(programs: Programs, target: Target, population: Population, seconds: int) -> Figures:
    """Measures the population alone."""
    requests = population.requests(programs, target, seconds)
    newcomers = population.newcomers(programs, target, seconds)
    return Figures(requests.outcomes(), newcomers.outcomes())


def flooded(programs: Programs, target: Target, population: Population, strangers: Strangers,
            rate: int, seconds: int, kind: str = "mixed", port: int | None = None,
            settle_seconds: float = 0) -> Figures:
    """Measures the population beside a flood of `rate` datagrams a second."""
    flood = Flood(programs, strangers, port or target.port, rate=rate, seconds=seconds,
                  kind=kind, host=target.authority)
    process = Process(target.pid)
    process.begin()
    base_len, before = process.rss_len(), counters(target)
    requests = population.requests(programs, target, seconds)
    time.sleep(RAMP_SECONDS)
    dropped, cpu, began = udp_counters()["RcvbufErrors"], process.cpu_seconds(), time.monotonic()
    flood.begin()
    newcomers = population.newcomers(programs, target, seconds - 1)
    flood_rate = flood.sent_rate()
    cpu_share = (process.cpu_seconds() - cpu) / (time.monotonic() - began)
    dropped = udp_counters()["RcvbufErrors"] - dropped
    figures = Figures(requests.outcomes(), newcomers.outcomes(), flood_rate,
                      kernel_dropped=dropped, cpu_share=cpu_share)
    time.sleep(settle_seconds)
    process.faults()
    figures.growth_len = process.growth_len()
    figures.growth_after_len = process.rss_len() - base_len
    after = counters(target)
    figures.counted = {name: after[name] - before[name] for name in COUNTED}
    return figures


def counters(target: Target) -> dict[str, float]:
    metrics = target.metrics()
    return {name: metrics.sum(family, **labels) for name, (family, labels) in COUNTED.items()}


def table(figures: dict[str, Figures]) -> str:
    """Returns one line for each period."""
    lines = []
    for name, seen in figures.items():
        requests, new = seen.requests, seen.newcomers
        lines.append(
            f"{name:22} flood {seen.flood_rate:7.0f}/s | requests p50 "
            f"{requests.milliseconds('0.5'):.2f} ms, p99 {requests.milliseconds('0.99'):.2f} ms, "
            f"{requests.reasons()} | new clients {new.served} of {new.served + new.failed}, p99 "
            f"{new.milliseconds('0.99'):.1f} ms, {new.reasons()} | gateway {seen.cpu_share:.0%} "
            f"of a core, memory at most +{seen.growth_len / MIB:.1f} MiB, afterwards "
            f"{seen.growth_after_len / MIB:+.1f} MiB, the socket dropped {seen.kernel_dropped}")
        if seen.counted:
            lines.append(" " * 23 + ", ".join(
                f"{what} {count:.0f}" for what, count in seen.counted.items() if count))
    return "\n".join(lines)


HANDSHAKES_COUNT = 8000
REQUEST_P99_MS_MAX = 10
REQUEST_P99_RATIO_MAX = 2
NEWCOMERS_SHARE_MIN = 0.99
GROWTH_LEN_MAX = 16 * MIB
SETTLE_SECONDS = 12
"""Time after which half-open connections are gone (10 s)."""


def capacity(programs: Programs, target: Target) -> float:
    """Returns the handshakes, each with a request, for which the gateway has time in a second of
    one core. A client needs more time for them than the gateway, so this counts CPU time."""
    process = Process(target.pid)
    used = process.cpu_seconds()
    done = Load(programs, target.port, host=target.authority, path=target.path, connections=16,
                streams=1, requests=HANDSHAKES_COUNT, handshakes=True, no_tokens=True).outcomes()
    used = process.cpu_seconds() - used
    print(f"handshakes: {done.rate:.0f}/s, {used * done.rate / done.served:.0%} of a core")
    return done.served / used


def report(programs: Programs, target: Target, strangers: Strangers, given) -> list:
    """Measures the flood, prints the figures, and returns each promise with whether it holds."""
    handshakes = capacity(programs, target)
    rate = given.rate or int(handshakes * given.times)
    print(f"capacity: {handshakes:.0f} handshakes/s; the flood: {rate} datagrams/s", flush=True)
    population, seconds = Population(), given.seconds
    seen = {"quiet": quiet(programs, target, population, seconds)}
    seen["flood, closed port"] = flooded(
        programs, target, population, strangers, rate, seconds, given.kind, CLOSED_PORT)
    seen[f"flood, {given.kind}"] = flooded(
        programs, target, population, strangers, rate, seconds, given.kind,
        settle_seconds=SETTLE_SECONDS)
    print(table(seen), flush=True)
    return promises(seen["quiet"], seen[f"flood, {given.kind}"], handshakes)


def promises(before: Figures, during: Figures, handshakes: float) -> list[tuple[str, bool]]:
    p99, p99_before = (seen.requests.milliseconds("0.99") for seen in (during, before))
    p99_max = min(REQUEST_P99_MS_MAX, REQUEST_P99_RATIO_MAX * p99_before)
    times = during.flood_rate / handshakes
    return [
        (f"the flood was at least 20 times the capacity: {times:.1f}", times >= 19.5),
        (f"p99 of established clients at most {p99_max:.2f} ms: {p99:.2f} ms", p99 <= p99_max),
        (f"no request of theirs failed: {during.requests.reasons()}",
         during.requests.failed == 0),
        (f"new clients served within {PATIENCE} s, at least {NEWCOMERS_SHARE_MIN:.0%}: "
         f"{during.newcomers_share():.2%}", during.newcomers_share() >= NEWCOMERS_SHARE_MIN),
        (f"memory grew by {GROWTH_LEN_MAX // MIB} MiB at most: "
         f"{during.growth_len / MIB:.1f} MiB", during.growth_len <= GROWTH_LEN_MAX),
        (f"every first packet is accounted for: {during.unaccounted():.0f} are not",
         during.unaccounted() == 0),
    ]
