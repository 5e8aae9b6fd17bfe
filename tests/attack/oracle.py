"""The common oracle: a legitimate client beside the attack, and checks of the process."""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import ssl
import threading
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

MIB = 1024 * 1024

PROBE_INTERVAL = 0.1
"""Seconds between two requests of the probe."""
PROBE_TIMEOUT = 5.0
"""Seconds after which a request of the probe is an error: five lost flights in a row."""
FIRST_RESPONSE_TIMEOUT = 2.0
"""Seconds in which a new client must have its first response, right after the attack."""
RSS_GROWTH_MAX = {False: 32 * MIB, True: 64 * MIB}
"""Bytes by which the process may grow, in the short and in the long form."""


class Protocol(QuicConnectionProtocol):
    """An HTTP/3 client that only makes GET requests."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self._http = H3Connection(self._quic)
        self._waiting: dict[int, tuple[asyncio.Future, dict]] = {}

    async def get(self, authority: str, path: str) -> tuple[str, str]:
        """Returns the status and the SHA-256 of the body."""
        stream = self._quic.get_next_available_stream_id()
        done = asyncio.get_running_loop().create_future()
        self._waiting[stream] = done, {"status": "none", "body": hashlib.sha256()}
        pseudo = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        head = [(name.encode(), value.encode()) for name, value in pseudo.items()]
        self._http.send_headers(stream, head, end_stream=True)
        self.transmit()
        async with asyncio.timeout(PROBE_TIMEOUT):
            return await done

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            for done, _ in self._waiting.values():
                self._fail(done, f"connection closed with {event.error_code:#x}")
        elif isinstance(event, StreamReset) and event.stream_id in self._waiting:
            self._fail(self._waiting[event.stream_id][0], f"reset with {event.error_code:#x}")
        for part in self._http.handle_event(event):
            if isinstance(part, DataReceived | HeadersReceived) and part.stream_id in self._waiting:
                self._take(part)

    def _take(self, part):
        done, response = self._waiting[part.stream_id]
        if isinstance(part, DataReceived):
            response["body"].update(part.data)
        else:
            response["status"] = dict(part.headers).get(b":status", b"none").decode()
        if part.stream_ended:
            del self._waiting[part.stream_id]
            if not done.done():
                done.set_result((response["status"], response["body"].hexdigest()))

    @staticmethod
    def _fail(done: asyncio.Future, reason: str):
        if not done.done():
            done.set_exception(ConnectionError(reason))


@dataclasses.dataclass
class Client:
    """How a legitimate client reaches the gateway, and what it asks for. Certificates are not
    verified: the attacks are on the gateway, not on its identity."""

    host: str
    port: int
    authority: str = "localhost"
    path: str = "/"
    sha256: str | None = None
    """Digest of the right body. Without it, that of the first response is taken as right."""

    @contextlib.asynccontextmanager
    async def connection(self):
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=H3_ALPN, server_name=self.authority,
            verify_mode=ssl.CERT_NONE,
        )
        async with asyncio.timeout(PROBE_TIMEOUT):
            context = connect(
                self.host, self.port, configuration=configuration, create_protocol=Protocol)
            protocol = await context.__aenter__()
        try:
            yield protocol
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await context.__aexit__(None, None, None)

    async def ask(self, protocol: Protocol):
        """Makes one request. Raises an error if the response is not the right one."""
        status, sha256 = await protocol.get(self.authority, self.path)
        if status != "200":
            raise ConnectionError(f"status {status}")
        self.sha256 = self.sha256 or sha256
        if sha256 != self.sha256:
            raise ConnectionError("wrong body")

    def first_response_seconds(self) -> float:
        """Returns the time that a new client needs to get its first response."""

        async def measure():
            began = time.monotonic()
            async with self.connection() as protocol:
                await self.ask(protocol)
                return time.monotonic() - began

        return asyncio.run(measure())


class Probe:
    """A client on its own thread that makes ten requests a second on one connection."""

    def __init__(self, client: Client):
        self._client = client
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.served_count = 0
        self.slowest_seconds = 0.0
        self.errors: list[str] = []

    def start(self):
        """Returns once the first response has arrived, or failed to."""
        self._thread.start()
        self._ready.wait(2 * PROBE_TIMEOUT)

    def stop(self):
        self._stop.set()
        self._thread.join(3 * PROBE_TIMEOUT)
        if self._thread.is_alive():
            self.errors.append("the probe does not end")

    async def _run(self):
        try:
            async with self._client.connection() as protocol:
                while not self._stop.is_set() and not self.errors:
                    began = time.monotonic()
                    await self._client.ask(protocol)
                    took = time.monotonic() - began
                    self.served_count += 1
                    self.slowest_seconds = max(self.slowest_seconds, took)
                    self._ready.set()
                    await asyncio.sleep(max(0, PROBE_INTERVAL - took))
        except (OSError, TimeoutError) as error:
            self.errors.append(str(error) or type(error).__name__)
        self._ready.set()


class Process:
    """The gateway's process, seen through /proc."""

    def __init__(self, pid: int, full: bool = False):
        self._folder = pathlib.Path(f"/proc/{pid}")
        self._born = self._start_time()
        self._growth_max = RSS_GROWTH_MAX[full]
        self._base_len = self._peak_len = 0
        self._watching = threading.Event()

    def begin(self):
        """Takes the resident memory of now as the base, and watches it from here on."""
        if self._born is None:
            return
        self._base_len = self._peak_len = self.rss_len()
        self._watching.clear()
        threading.Thread(target=self._watch, daemon=True).start()

    def faults(self) -> list[str]:
        """Stops watching. Returns what is wrong with the process."""
        self._watching.set()
        if self._born is None or self._start_time() != self._born:
            return ["the process is not there any more"]
        self._peak_len = max(self._peak_len, self.rss_len())
        if self.growth_len() > self._growth_max:
            return [f"memory grew by {self.growth_len() / MIB:.1f} MiB, "
                    f"more than {self._growth_max // MIB} MiB"]
        return []

    def growth_len(self) -> int:
        return self._peak_len - self._base_len

    def rss_len(self) -> int:
        """Returns the resident memory in bytes."""
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def cpu_seconds(self) -> float:
        """Returns user and system time so far."""
        return sum(int(field) for field in self._stat()[11:13]) / os.sysconf("SC_CLK_TCK")

    def _start_time(self) -> str | None:
        """Returns when the process began, which tells it from a later one with its pid."""
        try:
            stat = self._stat()
        except OSError:
            return None
        return None if stat[0] == "Z" else stat[19]

    def _stat(self) -> list[str]:
        return (self._folder / "stat").read_text().rsplit(")", 1)[1].split()

    def _watch(self):
        with contextlib.suppress(OSError):
            while not self._watching.wait(0.1):
                self._peak_len = max(self._peak_len, self.rss_len())


class Oracle:
    """What must hold during every case."""

    def __init__(self, client: Client, process: Process | None):
        self._client, self._process = client, process
        self._probe = Probe(client)
        self._first_response_seconds = 0.0

    def begin(self):
        self._probe.start()
        if self._process:
            self._process.begin()

    def end(self) -> list[str]:
        """Returns what did not hold."""
        faults = []
        try:
            self._first_response_seconds = self._client.first_response_seconds()
            if self._first_response_seconds > FIRST_RESPONSE_TIMEOUT:
                faults.append(f"a new client waited {self._first_response_seconds:.1f} s")
        except (OSError, TimeoutError) as error:
            faults.append(f"a new client is not served: {error or type(error).__name__}")
        self._probe.stop()
        faults += [f"probe: {error}" for error in self._probe.errors]
        if self._process:
            faults += self._process.faults()
        return faults

    def figures(self) -> str:
        probe = self._probe
        text = (f"probe {probe.served_count} served, slowest {probe.slowest_seconds * 1e3:.0f} ms, "
                f"new client {self._first_response_seconds * 1e3:.0f} ms")
        if self._process:
            text += f", memory +{self._process.growth_len() / MIB:.1f} MiB"
        return text
