"""The load client and the flooder as processes, and what they report."""

import dataclasses
import json
import subprocess

from .network import GATEWAY, Strangers


@dataclasses.dataclass
class Programs:
    """Where the programs are, and on which core they run."""

    load: str
    flood: str
    core: int | None = None

    def pinned(self, *words) -> list[str]:
        pin = [] if self.core is None else ["taskset", "--cpu-list", str(self.core)]
        return [*pin, *map(str, words)]


@dataclasses.dataclass
class Outcomes:
    """What became of requests, or of handshakes with one request each."""

    served: int
    seconds: float
    latency_us: dict[str, int]
    """By quantile."""
    failures: dict[str, dict[str, int]]
    """Their number and latencies, by reason."""

    @property
    def failed(self) -> int:
        return sum(failure["count"] for failure in self.failures.values())

    @property
    def rate(self) -> float:
        return self.served / self.seconds

    def milliseconds(self, quantile: str) -> float:
        return self.latency_us[quantile] / 1000

    def reasons(self) -> str:
        """Returns the failures as text."""
        told = [f"{failure['count']} {reason} (p99 {failure['0.99'] / 1000:.1f} ms)"
                for reason, failure in self.failures.items()]
        return ", ".join(told) or "none failed"


class Load:
    """A load client that runs. Its options are those of the program, with `_` for `-`."""

    def __init__(self, programs: Programs, port: int, **options):
        words = [programs.load, "--json", "--count-failures", "--connect", f"{GATEWAY}:{port}"]
        for name, value in options.items():
            name = f"--{name.replace('_', '-')}"
            words += [name] if value is True else [name, value]
        self._process = subprocess.Popen(
            programs.pinned(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def outcomes(self, timeout: float = 90) -> Outcomes:
        """Waits for its end."""
        try:
            text, errors = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"the load did not end within {timeout} s") from None
        assert self._process.returncode == 0, errors
        done = json.loads(text)
        return Outcomes(done["requests"], done["seconds"], done["latency_us"], done["failures"])


class Flood:
    """A flood from the strangers' namespace. It is prepared, begins, and ends by itself."""

    def __init__(self, programs: Programs, strangers: Strangers, port: int, **options):
        words = [programs.flood, "--wait", "--connect", f"{GATEWAY}:{port}"]
        for name, value in options.items():
            words += [f"--{name}", value]
        self._seconds = options["seconds"]
        self._process = subprocess.Popen(
            strangers.command(*programs.pinned(*words)), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._process.stdout.readline(), self._process.communicate()[1]

    def begin(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def sent_rate(self) -> float:
        """Waits for its end. Returns the datagrams that were sent per second."""
        text, errors = self._process.communicate(timeout=self._seconds + 30)
        assert self._process.returncode == 0, errors
        done = json.loads(text)
        return done["sent"] / done["seconds"]
