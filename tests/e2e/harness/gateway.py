"""The gateway as a process: its configuration, its ports, and how it stops."""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from .metrics import Metrics

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]


def binary() -> pathlib.Path:
    """Returns the program under test."""
    named = os.environ.get("RINGWAY_BIN")
    return pathlib.Path(named) if named else REPOSITORY / "target/release/ringway"


def debug_binary() -> pathlib.Path:
    """Returns the debug build, in which bugs can be planted. The Rust tests build it too."""
    named = os.environ.get("RINGWAY_DEBUG_BIN")
    return pathlib.Path(named) if named else REPOSITORY / "target/debug/ringway"


def free_ports() -> tuple[int, int]:
    """A UDP port that is free on both stacks, for TCP too, and a free TCP port. Ports below the
    range that the kernel hands out to clients, so that no client's socket takes them in
    between."""
    low = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    def is_free(kind, port):
        with contextlib.ExitStack() as stack:
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                one = stack.enter_context(socket.socket(family, kind))
                try:
                    one.bind((address, port))
                except OSError:
                    return False
        return True

    def pick(*kinds):
        candidates = range(min(20_000, low - 4_000), low)
        return next(
            port for port in random.sample(candidates, 200)
            if all(is_free(kind, port) for kind in kinds)
        )

    return pick(socket.SOCK_DGRAM, socket.SOCK_STREAM), pick(socket.SOCK_STREAM)


CONFIGURATION = """
[runtime]
workers = {workers}
drain_timeout = "{drain_timeout}"
stop_timeout = "{stop_timeout}"
lame_duck = "{lame_duck}"
user = "{user}"
core_dumps = {core_dumps}
pool = {{ per_worker = "{pool}", hugepages = "{hugepages}" }}

[admin]
listen = "127.0.0.1:{admin}"

[log]
level = "{log_level}"
tls_keys = "{tls_keys}"
access = {{ path = "{access_log}", format = "json" }}

[[listeners]]
name = "edge"
address = ["127.0.0.1:{port}", "[::1]:{port}"]
trusted_proxies = {trusted_proxies}
{listener}

  [listeners.quic]
  max_connections = {max_connections}
  idle_timeout = "{idle_timeout}"
  retry = "{retry}"

  [listeners.tcp]
  {tcp}

[[certificates]]
hosts = ["e2e.test", "small.test", "localhost"]
cert = "{cert}"
key = "{key}"

{routes}

[[routes]]
match = {{ path_prefix = "/down" }}
upstream = "down"

[[routes]]
match = {{ host = "small.test", path_prefix = "/" }}
upstream = "small"

[[routes]]
match = {{ path_prefix = "/head/only" }}
upstream = "origin"

[[routes]]
match = {{ host = "e2e.test", path_prefix = "/" }}
upstream = "origin"

[limits]
max_body_size = "{max_body_size}"
header_timeout = "{header_timeout}"
body_timeout = "{body_timeout}"
{limits}

[upstreams.origin]
endpoints = [{{ address = "{origin}" }}]
timeout = {{ connect = "2s", response = "{response_timeout}", idle = "{upstream_idle}" }}

[upstreams.small]
endpoints = [{{ address = "{origin}" }}]
max_connections = 1
max_waiting = 2
timeout = {{ connect = "5s", response = "10s", idle = "30s" }}

[upstreams.down]
endpoints = [{{ address = "127.0.0.1:{closed_port}" }}]
timeout = {{ connect = "2s", response = "5s", idle = "30s" }}

{extra}
"""


class Gateway:
    """A running gateway. `stop` returns its exit code."""

    environment: dict[str, str] = {}  # What its own has besides ours.
    preexec = None  # A function that the child process calls before it becomes the gateway.

    def __init__(self, folder: pathlib.Path, origin: str, certificate, **settings):
        self.folder, self.certificate = folder, certificate
        self.launcher: list[str] = settings.pop("launcher", [])
        self.program: pathlib.Path = settings.pop("program", None) or binary()
        self.environment = settings.pop("environment", {})
        self.preexec = settings.pop("preexec", None)
        self.authority = certificate.authority
        self.port, self.admin = free_ports()
        self.access_log = folder / "access.log"
        self.settings = {
            "workers": 1, "pool": "32MiB", "drain_timeout": "20s", "response_timeout": "5s",
            "stop_timeout": "8s", "lame_duck": "0s",
            "max_body_size": "4GiB", "header_timeout": "10s", "body_timeout": "30s",
            "idle_timeout": "30s", "upstream_idle": "30s", "max_connections": 100_000,
            "port": self.port, "admin": self.admin, "access_log": self.access_log,
            "cert": certificate.cert, "key": certificate.key, "origin": origin,
            "closed_port": closed_port(), "retry": "adaptive", "extra": "",
            "listener": "", "tcp": "", "limits": "", "routes": "",
            "hugepages": "off", "trusted_proxies": [], "user": "", "core_dumps": "false",
            "log_level": "info",
            "tls_keys": "off",
        } | settings
        self.process: subprocess.Popen | None = None

    def configure(self) -> pathlib.Path:
        """Writes the configuration file and returns its path."""
        file = self.folder / "ringway.toml"
        file.write_text(CONFIGURATION.format(**self.settings))
        return file

    def start(self) -> "Gateway":
        self._launch([*self.launcher, str(self.program), "run", "--config", str(self.configure())])
        self._wait_ready()
        return self

    def _launch(self, command: list[str]):
        self.log = self.folder / "gateway.log"
        environment = {**os.environ, "RUST_BACKTRACE": "1", **self.environment}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                preexec_fn=self.preexec,
            )

    def _wait_ready(self, seconds: float = 15):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, (
                f"the gateway ended at start with {self.process.returncode}:\n{self.text()}"
            )
            with contextlib.suppress(OSError):
                if self.admin_get("/readyz")[0] == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"the gateway is not ready after {seconds} s:\n{self.text()}")

    def text(self) -> str:
        """Returns what it wrote to standard output and standard error."""
        return self.log.read_text(errors="replace")

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin}"

    def admin_get(self, path: str) -> tuple[int, str]:
        """Returns status and text of a page of the admin endpoint."""
        try:
            with urllib.request.urlopen(self.admin_url + path, timeout=5) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def reload(self) -> tuple[int, dict]:
        """Asks for a reload. Returns status and report."""
        request = urllib.request.Request(self.admin_url + "/reload", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.load(refusal)

    def metrics(self) -> Metrics:
        status, text = self.admin_get("/metrics")
        assert status == 200, text
        return Metrics(text)

    def rss_len(self) -> int:
        """Returns the resident memory in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def threads(self) -> dict[str, dict[str, str]]:
        """Returns the status of each thread, by name and number. They include those of the kernel
        that carry out operations of a ring."""
        found = {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # It ended meanwhile.
                lines = (task / "status").read_text().splitlines()
                fields = dict(line.split(":", 1) for line in lines)
                fields = {name: value.strip() for name, value in fields.items()}
                found[f"{fields['Name']} {task.name}"] = fields
        return found

    def cpu_seconds(self) -> tuple[float, float]:
        """Returns user and system time so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = os.sysconf("SC_CLK_TCK")
        return int(fields[11]) / ticks, int(fields[12]) / ticks

    def access_lines(self, count: int, seconds: float = 5) -> list[dict]:
        """Returns the access log once it has at least `count` lines."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.access_log.exists():
                text = self.access_log.read_text()
                lines = text.splitlines()
                if len(lines) >= count and text.endswith("\n"):
                    return [json.loads(line) for line in lines]
            time.sleep(0.05)
        raise AssertionError(f"fewer than {count} access log lines after {seconds} s")

    def settle(self, wanted, seconds: float = 20):
        """Reads the metrics until `wanted(metrics)` returns `None`. Anything else it returns says
        what is still wrong."""
        end = time.monotonic() + seconds
        while (wrong := wanted(self.metrics())) is not None:
            assert time.monotonic() < end, f"not settled after {seconds} s: {wrong}"
            time.sleep(0.1)

    def settle_count(self, name: str, count: int, **labels: str) -> Metrics:
        """Waits until the sum of a counter is this one, and returns the metrics that say so. The
        workers report now and then: what should stay 0 is looked up behind what should not."""
        def wrong(metrics: Metrics) -> str | None:
            found = metrics.sum(name, **labels)
            return None if found == count else f"{name} {labels} is {found}, not {count}"

        self.settle(wrong)
        return self.metrics()

    def settle_restart(self):
        """Waits until one worker has been replaced. While it is, it reports nothing."""
        def wrong(metrics: Metrics) -> str | None:
            found = [value for name, _, value in metrics.samples
                     if name == "ringway_worker_restarts_total"]
            return None if sum(found) == 1 else f"restarts: {found}"

        self.settle(wrong)

    def assert_alive(self):
        assert self.process.poll() is None, f"the gateway ended:\n{self.text()}"
        assert "panicked" not in self.text(), self.text()

    def reconfigure(self, generation: int, **settings):
        """Changes settings, and waits until the configuration with this number runs."""
        self.settings.update(settings)
        self.configure()
        self.signal(signal.SIGHUP)
        self.settle_count("config_generation", generation)

    def signal(self, number: int):
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Waits for its end and returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.text()}") from None

    def stop(self) -> int | None:
        """Ends it, whatever state it is in, and returns the exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        return self.process.returncode


class Origin:
    """The scripted origin in its own process."""

    def __init__(self, folder: pathlib.Path, port: int = 0):
        self.unix = folder / "origin.sock"
        script = pathlib.Path(__file__).with_name("origin.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--port", str(port), "--unix", str(self.unix)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        ports = json.loads(self.process.stdout.readline())
        self.port, self.control = ports["port"], ports["control"]
        self.address = f"127.0.0.1:{self.port}"

    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control}/", timeout=5) as page:
            return json.load(page)

    def settle(self, name: str, value: int, seconds: float = 10):
        """Waits until a count is `value`."""
        end = time.monotonic() + seconds
        while (now := self.counts()[name]) != value:
            assert time.monotonic() < end, f"{name} is {now}, not {value}, after {seconds} s"
            time.sleep(0.05)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(5)
        self.process.stdout.close()


def closed_port() -> int:
    """Returns a TCP port that nobody listens on."""
    return free_ports()[1]
