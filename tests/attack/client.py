"""A legitimate HTTP/3 client: what the attacks must not disturb."""

import asyncio
import contextlib
import dataclasses
import hashlib
import ssl
import time

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StreamReset

RESPONSE_TIMEOUT = 5.0
"""Seconds after which a request is an error: five lost flights in a row."""
SOURCE = "127.0.0.2"
"""Address of legitimate clients, if the gateway is on loopback over IPv4."""


class Protocol(QuicConnectionProtocol):
    """An HTTP/3 client that only makes GET requests."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self._http = H3Connection(self._quic)
        self._waiting: dict[int, tuple[asyncio.Future, dict]] = {}

    async def get(self, authority: str, path: str, seconds=RESPONSE_TIMEOUT) -> tuple[str, str]:
        """Returns the status and the SHA-256 of the body."""
        stream = self._quic.get_next_available_stream_id()
        done = asyncio.get_running_loop().create_future()
        self._waiting[stream] = done, {"status": "none", "body": hashlib.sha256()}
        pseudo = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        head = [(name.encode(), value.encode()) for name, value in pseudo.items()]
        self._http.send_headers(stream, head, end_stream=True)
        self.transmit()
        async with asyncio.timeout(seconds):
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

    @property
    def source(self) -> tuple[str, int] | None:
        """Returns an address of its own, where there are several: a gateway may bound what one
        address holds, and the attacks come from others."""
        return (SOURCE, 0) if self.host.startswith("127.") else None

    @contextlib.asynccontextmanager
    async def connection(self):
        quic = QuicConnection(configuration=QuicConfiguration(
            is_client=True, alpn_protocols=H3_ALPN, server_name=self.authority,
            verify_mode=ssl.CERT_NONE,
        ))
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Protocol(quic), local_addr=self.source, remote_addr=(self.host, self.port))
        # Connected, so that its address is left out.
        transport.sendto = lambda datagram, _, send=transport.sendto: send(datagram)
        try:
            # As the socket has it: on IPv6 it is longer than ours, and aioquic compares.
            protocol.connect(transport.get_extra_info("peername"))
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                await protocol.wait_connected()
            yield protocol
        finally:
            protocol.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await protocol.wait_closed()
            transport.close()

    async def ask(self, protocol: Protocol) -> float:
        """Makes one request and returns its seconds. Raises an error if the response is not the
        right one."""
        began = time.monotonic()
        status, sha256 = await protocol.get(self.authority, self.path)
        if status != "200":
            raise ConnectionError(f"status {status}")
        self.sha256 = self.sha256 or sha256
        if sha256 != self.sha256:
            raise ConnectionError("wrong body")
        return time.monotonic() - began

    def first_response_seconds(self) -> float:
        """Returns the time that a new client needs to get its first response."""

        async def measure():
            began = time.monotonic()
            async with self.connection() as protocol:
                await self.ask(protocol)
                return time.monotonic() - began

        return asyncio.run(measure())
