"""A client that makes ten requests a second on one connection while an attack runs.

It is a process of its own, so that the attack, which may keep an interpreter busy, delays it only
by what it does to the gateway and to the machine.
"""

import asyncio
import dataclasses
import json
import pathlib
import subprocess
import sys
import threading

from .client import Client

INTERVAL = 0.1
"""Seconds between two requests."""
BASE_COUNT = 50
"""Requests before the attack, one after the other, which give the unloaded latency."""
READY_TIMEOUT = 20.0
PACKAGES = pathlib.Path(__file__).parents[1]
"""The folder of this package."""


def percentile_99(seconds: list[float]) -> float:
    """Returns what all but one in a hundred do not exceed, and at least one may."""
    ordered = sorted(seconds)
    return ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0


@dataclasses.dataclass
class Result:
    """What the probe saw."""

    base_p99: float = 0.0
    """Seconds, before the attack."""
    p99: float = 0.0
    slowest: float = 0.0
    served_count: int = 0
    sha256: str | None = None
    error: str | None = None


class Probe:
    """The probe, as the process that attacks sees it."""

    def __init__(self, client: Client):
        self._client = client
        self._process: subprocess.Popen | None = None
        self.result = Result(error="the probe does not begin")

    def start(self):
        """Returns once the unloaded latency is known, or the first response has failed."""
        client = json.dumps(dataclasses.asdict(self._client))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "attack.probe", client], cwd=PACKAGES, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        ready = self._process.stdout.readline()
        if ready:
            self.result = Result(**json.loads(ready))
            self._client.sha256 = self._client.sha256 or self.result.sha256

    def stop(self):
        try:
            text, _ = self._process.communicate(timeout=READY_TIMEOUT)
            self.result = Result(**json.loads(text))
        except (subprocess.TimeoutExpired, ValueError) as error:
            self._process.kill()
            self._process.communicate()
            self.result.error = f"the probe does not end: {error}"


async def run(client: Client, stop: threading.Event) -> Result:
    result, taken = Result(), []
    try:
        async with client.connection() as protocol:
            base = [await client.ask(protocol) for _ in range(BASE_COUNT)]
            result = Result(percentile_99(base), sha256=client.sha256)
            print(json.dumps(dataclasses.asdict(result)), flush=True)
            while not stop.is_set():
                taken.append(await client.ask(protocol))
                await asyncio.sleep(max(0, INTERVAL - taken[-1]))
    except (OSError, TimeoutError) as error:
        result.error = str(error) or type(error).__name__
        if not result.base_p99:
            print(json.dumps(dataclasses.asdict(result)), flush=True)
    result.p99, result.slowest = percentile_99(taken), max(taken, default=0.0)
    result.served_count = len(taken)
    return result


def main():
    stop = threading.Event()
    waiting = threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True)
    waiting.start()
    result = asyncio.run(run(Client(**json.loads(sys.argv[1])), stop))
    # Also after an error: the other side reads one line before it asks for the end, and one after.
    stop.wait()
    print(json.dumps(dataclasses.asdict(result)), flush=True)


if __name__ == "__main__":
    main()
