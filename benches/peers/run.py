"""Measures ringway and its peers in turn, prints the table, and writes docs/PERFORMANCE.md.

Run by `scripts/bench`, inside its network namespace. The server has the first core to itself, the
load and the origin share the others. Rounds are interleaved (each server once a round), the figure
is the median of the rounds, a share that of the shares within each round. A sample during which
other processes used the cores does not count: it is taken again, and left out for good when that
does not help.
"""

import argparse
import collections
import contextlib
import dataclasses
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time
import typing

import report
import rows
import servers

sys.path.insert(0, str(servers.REPOSITORY / "tests/e2e"))
from harness import certificates  # noqa: E402

STRANGERS_MAX = 0.03
"""What other processes may use during a sample, of one core."""
TRIES_MAX = 3
"""How often a sample that others disturbed is taken."""
FAILURES_MAX = 2
"""After so many a server is not put to a row any more."""
NO_CROWD = {"haproxy", "caddy"}
"""Servers that are not measured beside 10,000 connections."""
NO_PLOTS = {"caddy"}
"""Servers that the plots leave out, since they would take most of the time."""
CONNECTIONS_MAX = {"haproxy": 9000}
"""What a server's configuration or its limit of open files allows."""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    names = [row.name for row in rows.ROWS] + [*report.IDLE, "crowd", "workers"]
    parser.add_argument("--rows", type=lambda text: [name for name in text.split(",") if name],
                        default=names, help=f"of {','.join(names)}")
    parser.add_argument("--peers", type=lambda text: [name for name in text.split(",") if name],
                        default=[peer.name for peer in servers.PEERS], help="nginx,haproxy,caddy")
    parser.add_argument("--binary", action="append", default=[], metavar="NAME=PATH",
                        help="another build of ringway beside this one")
    parser.add_argument("--plots", action="store_true", help="the series of the plots too")
    parser.add_argument("--write", action="store_true", help="write docs/PERFORMANCE.md")
    parser.add_argument("--strangers", type=float, default=STRANGERS_MAX, metavar="SHARE",
                        help="what others may use of a core; for a first look on a busy machine")
    wanted = parser.parse_args()
    if wanted.write and wanted.strangers > STRANGERS_MAX:
        parser.error("figures from a busy machine are not written")
    return wanted


@dataclasses.dataclass
class Step:
    """One sample: a server under a load."""

    row: str
    """A row of the table, or the name of a plot and its x."""
    peer: servers.Peer
    work: typing.Callable[[int], dict]
    """Measures the process with this id."""
    is_pinned: bool = True

    @property
    def key(self) -> tuple[str, str]:
        return self.row, self.peer.name


class Bench:
    """The machine, the certificate, the folder, and what has been found."""

    def __init__(self, folder: pathlib.Path, strangers_max: float):
        self.folder, self.strangers_max = folder, strangers_max
        self.certificate = certificates.make(folder)
        cores = os.sched_getaffinity(0)
        assert len(cores) > 1, "two cores are needed: one for the server, one for the load"
        self.core, self.others = min(cores), cores - {min(cores)}
        self.found = collections.defaultdict(lambda: collections.defaultdict(list))
        """Row -> server -> its samples."""
        self.thrown_away_count = 0
        self.left_out = []
        self.failures = collections.Counter()
        self.seconds = {}
        """How long a step took last."""

    def steps(self, peers: list, names: list[str], has_plots: bool) -> list[Step]:
        """One round."""
        def measure(row, peer):
            return lambda pid: rows.measure(row, peer.name, pid, self.core, self.others)

        found = [Step(row.name, peer, measure(row, peer))
                 for row in rows.ROWS if row.name in names for peer in peers]
        found += [Step(name, peer, lambda pid, protocol=protocol: rows.idle(
            protocol, pid, self.others))
            for name, protocol in report.IDLE.items() if name in names for peer in peers]
        if "crowd" in names:
            found += [Step("crowd", peer, lambda pid, peer=peer: rows.crowd(
                peer.name, pid, self.core, self.others))
                for peer in peers if peer.name not in NO_CROWD]
        if "workers" in names:
            found += [Step(f"workers{count}", servers.ringway("ringway", servers.RINGWAY, count),
                           rows.shared, is_pinned=False) for count in (1, 2)]
        if has_plots:
            found += [Step(f"{name} {x:g}", peer, measure(rows.plot_row(name, x), peer))
                      for name, points in rows.POINTS.items() for x in points
                      for peer in peers if peer.name not in NO_PLOTS
                      and (name != "connections" or x <= CONNECTIONS_MAX.get(peer.name, x))]
        return found

    def run(self, steps: list[Step], rounds: int):
        for number in range(rounds):
            for place, step in enumerate(steps):
                if self.failures[step.key] >= FAILURES_MAX:
                    continue
                began = time.monotonic()
                try:
                    told = self.sample(number, step)
                except (AssertionError, subprocess.TimeoutExpired) as fault:
                    self.failures[step.key] += 1
                    self.left_out.append(f"{step.row} of {step.peer.name} failed")
                    told = f"failed: {str(fault)[-300:]}"
                self.seconds[step.key] = time.monotonic() - began
                left = steps[place + 1:] + steps * (rounds - 1 - number)
                print(f"[{number + 1}/{rounds}, {self.minutes(left):.0f} min left] "
                      f"{step.row:12} {step.peer.name:8} {told}", flush=True)

    def minutes(self, steps: list[Step]) -> float:
        """How long these may take; what has not been run yet takes as long as the others."""
        mean = sum(self.seconds.values()) / len(self.seconds)
        return sum(self.seconds.get(step.key, mean) for step in steps
                   if self.failures[step.key] < FAILURES_MAX) / 60

    def sample(self, number: int, step: Step) -> str:
        """Measures until nobody disturbs it, some times at most; tells what came of it."""
        for _ in range(TRIES_MAX):
            core = self.core if step.is_pinned else None
            with step.peer.running(self.folder, self.certificate, core) as process:
                seen = step.work(process.pid)
            told = f"{seen['figure']:8.3f}"
            if "server_busy" in seen:
                told += (f", {seen['rate']:.0f}/s, busy: server {seen['server_busy']:.0%}, "
                         f"load {seen['load_busy']:.0%}")
            strangers = seen.get("strangers", 0)
            if strangers <= self.strangers_max:
                self.found[step.row][step.peer.name].append(seen | {"round": number})
                return told + (f", others {strangers:.0%}" if strangers >= 0.01 else "")
            self.thrown_away_count += 1
            print(f"  {step.row} {step.peer.name}: others used {strangers:.0%} of a core, "
                  "it does not count", file=sys.stderr, flush=True)
        self.left_out.append(f"{step.row} of {step.peer.name} was disturbed")
        return "left out"

    def results(self, peers: list, rounds: int) -> dict:
        plots = {name: collections.defaultdict(list) for name in rows.POINTS}
        for name, points in rows.POINTS.items():
            for x in points:
                for peer, samples in self.found.pop(f"{name} {x:g}", {}).items():
                    plots[name][peer].append([x, report.median(samples)])
        return {
            "machine": machine(),
            "versions": {peer.name: peer.version() for peer in peers},
            "rounds": rounds,
            "has_cubic": servers.has_cubic(),
            "strangers_max": self.strangers_max,
            "thrown_away": self.thrown_away_count,
            "left_out": self.left_out,
            "rows": self.found,
            "plots": plots,
        }


def main():
    wanted = arguments()
    # So that the servers end when this one is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before the end"))
    peers = [servers.ringway("ringway", servers.RINGWAY)]
    for binary in wanted.binary:
        name, _, path = binary.partition("=")
        peers.append(servers.ringway(name, pathlib.Path(path).absolute()))
    peers += [peer for peer in servers.PEERS if peer.name in wanted.peers]
    if not servers.has_cubic():
        print(report.NO_CUBIC, file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="ringway-bench-")
        bench = Bench(pathlib.Path(stack.enter_context(folder)), wanted.strangers)
        stack.enter_context(servers.origins(bench.folder, bench.others))
        bench.run(bench.steps(peers, wanted.rows, wanted.plots), wanted.rounds)
    results = bench.results(peers, wanted.rounds)
    print()
    print(report.table(results))
    if wanted.write:
        report.write(results)
    if bench.left_out:
        sys.exit(f"not all of it was measured: {', '.join(bench.left_out)}")


def machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines
                  if line.startswith("model name")), "unknown")
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


if __name__ == "__main__":
    main()
