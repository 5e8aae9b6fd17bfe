"""Measures ringway and its peers in turn, prints the table, and writes docs/PERFORMANCE.md.

Run by `scripts/bench`, inside its network namespace. The server has the first core to itself, the
load and the origin share the others. Rounds are interleaved (each server once a round), the figure
is the median of the rounds.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import platform
import statistics
import sys
import tempfile

import report
import rows
import servers

sys.path.insert(0, str(servers.REPOSITORY / "tests/e2e"))
from harness import certificates  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    names = [row.name for row in rows.ROWS] + ["idle", "crowd", "workers"]
    parser.add_argument("--rows", type=lambda text: text.split(","), default=names,
                        help=f"of {','.join(names)}")
    parser.add_argument("--peers", type=lambda text: [name for name in text.split(",") if name],
                        default=[peer.name for peer in servers.PEERS], help="nginx,haproxy,caddy")
    parser.add_argument("--binary", action="append", default=[], metavar="NAME=PATH",
                        help="another build of ringway beside this one")
    parser.add_argument("--plots", action="store_true", help="the series of the plots too")
    parser.add_argument("--write", action="store_true", help="write docs/PERFORMANCE.md")
    return parser.parse_args()


class Bench:
    """The machine, the certificate, the folder: what each run needs."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.certificate = certificates.make(folder)
        cores = os.sched_getaffinity(0)
        assert len(cores) > 1, "two cores are needed: one for the server, one for the load"
        self.core, self.others = min(cores), cores - {min(cores)}

    def each(self, peers, work, is_pinned=True):
        """Calls `work` with each server running; a server that fails is told and left out."""
        core = self.core if is_pinned else None
        for peer in peers:
            try:
                with peer.running(self.folder, self.certificate, core) as process:
                    work(peer, process.pid)
            except AssertionError as fault:
                print(f"  {peer.name}: {str(fault)[-300:]}", file=sys.stderr)


def measure_rows(bench, peers, names, rounds) -> dict:
    """Row -> server -> its rounds."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for number in range(rounds):
        for row in (row for row in rows.ROWS if row.name in names):
            def one(peer, pid, row=row):
                seen = rows.measure(row, peer.name, pid, bench.core, bench.others)
                found[row.name][peer.name].append(seen)
                print(f"  round {number + 1} {row.name:10} {peer.name:10} "
                      f"{seen['figure']:8.3f} {row.unit}, {seen['rate']:.0f}/s, busy: server "
                      f"{seen['server_busy']:.0%}, load {seen['load_busy']:.0%}", flush=True)
            bench.each(peers, one)
        if "idle" in names:
            def one_idle(peer, pid):
                figure = rows.idle(pid, bench.others)
                found["idle"][peer.name].append({"figure": figure})
                print(f"  round {number + 1} idle {peer.name:10} {figure:.1f} KiB", flush=True)
            bench.each(peers, one_idle)
        if "crowd" in names:
            def one_crowd(peer, pid):
                seen = rows.crowd(peer.name, pid, bench.core, bench.others)
                found["crowd"][peer.name].append(seen)
                print(f"  round {number + 1} crowd {peer.name:10} {seen['figure']:.3f} us/request",
                      flush=True)
            bench.each(peers[:2], one_crowd)
        for count in (1, 2) if "workers" in names else ():
            def one_shared(peer, pid, count=count):
                seen = rows.shared(pid)
                found[f"workers{count}"]["ringway"].append(seen)
                print(f"  round {number + 1} workers{count} {seen['figure']:.3f} us/request",
                      flush=True)
            peer = servers.ringway("shared", servers.RINGWAY, workers=count)
            bench.each([peer], one_shared, is_pinned=False)
    return found


def series(bench, peers, name, points, options) -> dict:
    """Server -> [x, CPU cost]; `options(x)` is the load, its count and the cost."""
    found = collections.defaultdict(list)
    for point in points:
        load, count, cost = options(point)
        row = rows.Row(name, name, "", load, count, cost, 1.0)

        def one(peer, pid, point=point, row=row):
            seen = [rows.measure(row, peer.name, pid, bench.core, bench.others)["figure"]
                    for _ in range(3)]
            found[peer.name].append([point, statistics.median(seen)])
            print(f"  {name} {point} {peer.name}: {found[peer.name][-1][1]:.3f}", flush=True)
        bench.each(peers, one)
    return found


def measure_plots(bench, peers) -> dict:
    def connections(count):
        return ({"path": "/1k", "connections": count, "streams": max(1, 100 // count)},
                60_000, rows.per_request(1e6))

    def body(length):
        name = next(name for name, size in servers.SIZES.items() if size == length)
        count = max(60, min(60_000, int(1e9 / length)))
        return ({"path": f"/{name}", "connections": 10, "streams": 4}, count,
                rows.per_request(1e6))

    def loss(percent):
        return ({"path": "/10m", "connections": 10, "streams": 1, "loss": percent / 100}, 60,
                rows.per_gb)

    return {
        "connections": series(bench, peers, "connections", [1, 10, 100, 1000, 10_000], connections),
        "body": series(bench, peers, "body", list(servers.SIZES.values()), body),
        "loss": series(bench, peers, "loss", [0, 0.1, 1, 3], loss),
    }


def main():
    wanted = arguments()
    peers = [servers.ringway("ringway", servers.RINGWAY)]
    for binary in wanted.binary:
        name, _, path = binary.partition("=")
        peers.append(servers.ringway(name, pathlib.Path(path).absolute()))
    peers += [peer for peer in servers.PEERS if peer.name in wanted.peers]
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="ringway-bench-")
        bench = Bench(pathlib.Path(stack.enter_context(folder)))
        stack.enter_context(servers.origins(bench.folder, bench.others))
        results = {
            "machine": machine(),
            "versions": {peer.name: peer.version() for peer in peers},
            "rounds": wanted.rounds,
            "rows": measure_rows(bench, peers, wanted.rows, wanted.rounds),
            "plots": measure_plots(bench, peers[:2]) if wanted.plots else {},
        }
    print()
    print(report.table(results))
    if wanted.write:
        report.write(results)


def machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines
                  if line.startswith("model name")), "unknown")
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


if __name__ == "__main__":
    main()
