"""The command line of the overloads: the gateway with one worker on the first core, everything else
on the second, and for each promise whether it holds."""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
import urllib.request

from . import excess, flood
from .clients import Programs
from .network import GATEWAY, strangers

REPOSITORY = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY / "tests/e2e"), str(REPOSITORY / "benches/peers")]

import servers  # noqa: E402
from harness import certificates  # noqa: E402
from harness.metrics import Metrics  # noqa: E402

CONFIG = servers.RINGWAY_CONFIG.replace(
    'address = ["127.0.0.1:{port}"]',
    f'address = ["127.0.0.1:{{port}}", "{GATEWAY}:{{port}}"]\n[listeners.quic]\nretry = "RETRY"')
"""The configuration of the measurements, with a second address."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/overload", description="Overloads a gateway and measures who notices it.")
    parser.add_argument("which", nargs="*", choices=["flood", "requests", []], default=[])
    parser.add_argument("--seconds", type=int, default=10, help="length of each period")
    parser.add_argument("--times", type=float, default=20,
                        help="the flood's rate, in handshakes that the gateway has time for")
    parser.add_argument("--rate", type=int, help="the flood's rate in datagrams a second")
    parser.add_argument("--kind", default="mixed", help="of the flood: mixed, hello, ping, ..")
    parser.add_argument("--retry", default="adaptive", help="the gateway's listeners.quic.retry")
    parser.add_argument("--binary", type=pathlib.Path, default=servers.RINGWAY)
    return parser.parse_args()


def metrics() -> Metrics:
    with urllib.request.urlopen(f"http://127.0.0.1:{servers.ADMIN}/metrics", timeout=10) as page:
        return Metrics(page.read().decode())


def main() -> int:
    given = arguments()
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) > 1, "two cores are needed: one for the gateway, one for everything else"
    os.sched_setaffinity(0, set(cores[1:]))
    examples = REPOSITORY / "target/release/examples"
    programs = Programs(str(examples / "load"), str(examples / "flood"), cores[1])
    peer = servers.ringway("ringway", given.binary)
    peer.config = CONFIG.replace("RETRY", given.retry)
    results = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix="ringway-overload-")))
        outside = stack.enter_context(strangers())
        certificate = certificates.make(folder)
        stack.enter_context(servers.origins(folder, set(cores[1:])))
        for name in given.which or ["flood", "requests"]:
            with peer.running(folder, certificate, cores[0]) as process:
                target = flood.Target(servers.PORT, process.pid, metrics, servers.NAME, "/1k")
                if name == "flood":
                    results += flood.report(programs, target, outside, given)
                else:
                    results += excess.report(programs, target, cores[0], given.seconds)
    print()
    for text, holds in results:
        print(f"{'holds         ' if holds else 'DOES NOT HOLD '} {text}")
    return 0 if all(holds for _, holds in results) else 1


if __name__ == "__main__":
    sys.exit(main())
