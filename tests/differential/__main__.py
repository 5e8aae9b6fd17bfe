"""`scripts/differential`: generated requests through a gateway to each of the foreign servers."""

import argparse
import pathlib
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from harness import certificates
from harness.gateway import Gateway, free_ports

from . import comparison, servers

COUNT_MAX = 10_000_000
"""As many distinct requests as one call may send to each server: some hours."""
ROUND_COUNT = 50_000
"""Requests to one server before the next one has its turn, with a gateway of its own."""


def arguments(names: list[str]):
    parser = argparse.ArgumentParser(prog="scripts/differential", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000,
                        help="distinct requests; each goes through all servers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    parser.add_argument("--servers", default=",".join(names), help="some of these")
    chosen = parser.parse_args()
    if not 0 < chosen.count <= COUNT_MAX:
        parser.error(f"--count is 1 to {COUNT_MAX}")
    chosen.servers = chosen.servers.split(",")
    if unknown := set(chosen.servers) - set(names):
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    return chosen


def one_round(kind, certificate, count: int, seed: int, first: int) -> comparison.Result:
    with tempfile.TemporaryDirectory(prefix="differential") as name:
        folder = pathlib.Path(name)
        server = servers.Server(kind, folder / "server", free_ports()[1])
        gateway = Gateway(folder, server.address, certificate, **comparison.SETTINGS)
        try:
            gateway.start()
            return comparison.run(server, gateway, folder, count, seed, first)
        finally:
            gateway.stop()
            server.stop()


def main() -> int:
    # So that the processes are stopped too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    kinds = {kind.name: kind for kind in servers.kinds()}
    chosen = arguments(list(kinds))
    began, sent, different = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="differential") as folder:
        certificate = certificates.make(pathlib.Path(folder))
        for start in range(0, chosen.count, ROUND_COUNT):
            count = min(ROUND_COUNT, chosen.count - start)
            first = chosen.first + start
            for name in chosen.servers:
                result = one_round(kinds[name], certificate, count, chosen.seed, first)
                sent += count
                different += len(result.differences)
                print(f"{first}..{first + count} {result}", *result.differences, sep="\n  ",
                      flush=True)
    print(f"{sent} requests in {time.monotonic() - began:.0f} s, seed {chosen.seed}: "
          f"{different} differences")
    return 1 if different else 0


sys.exit(main())
