"""An HTTP/3 client on aioquic that distinguishes how a response ended."""

import asyncio
import contextlib
import dataclasses
import hashlib
import ssl

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

from . import bodies

AUTHORITY = "e2e.test"


@dataclasses.dataclass
class Response:
    """The response on one stream."""

    status: int | None = None
    fields: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    interim: list[int] = dataclasses.field(default_factory=list)
    trailers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    length: int = 0
    sha256: str = ""
    text: bytes = b""
    """The first 64 KiB of the body."""
    end: str = ""
    """`clean` (FIN), `reset` (RESET_STREAM) or `connection` (it was closed)."""
    code: int | None = None
    """The error code with `reset` and `connection`."""

    def field(self, name: str) -> str | None:
        """Returns the only value of this field."""
        values = [value for field, value in self.fields if field == name]
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


class Exchange:
    """One request and its response."""

    def __init__(self, client: "Client", stream: int):
        self.client, self.stream = client, stream
        self.response = Response()
        self.stopped: int | None = None
        self._sha = hashlib.sha256()
        self._done = asyncio.get_running_loop().create_future()
        self._moved = asyncio.Event()

    def send(self, piece: bytes, end: bool = False):
        """Queues a piece of the request's body."""
        self.client.http.send_data(self.stream, piece, end)
        self.client.transmit()

    async def send_body(self, length: int, seed: int = 0, end: bool = True):
        """Sends a body, at most 4 MiB ahead of what the peer has acknowledged."""
        left = length
        for piece in bodies.pieces(length, seed):
            left -= len(piece)
            if self._done.done() or self.stopped is not None:
                return
            self.send(piece, end and left == 0)
            while self.unsent_len() > 4 * bodies.MIB and not self._done.done():
                await asyncio.sleep(0.002)
        if length == 0 and end:
            self.send(b"", True)

    def unsent_len(self) -> int:
        """Returns the bytes of the request that the peer has not acknowledged."""
        stream = self.client._quic._streams.get(self.stream)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender._buffer_start

    def reset(self, code: int = ErrorCode.H3_REQUEST_CANCELLED):
        """Resets both directions, as a browser does when the user leaves a page."""
        quic = self.client._quic
        for give_up in (quic.stop_stream, quic.reset_stream):
            with contextlib.suppress(AssertionError, ValueError):  # that direction has ended
                give_up(self.stream, code)
        self.client.transmit()

    async def received(self, length: int, seconds: float = 30):
        """Waits until this much of the response's body has arrived."""
        async with asyncio.timeout(seconds):
            while self.response.length < length and not self._done.done():
                self._moved.clear()
                await self._moved.wait()

    async def head(self, seconds: float = 30) -> Response:
        """Waits for the response's head."""
        async with asyncio.timeout(seconds):
            while self.response.status is None and not self._done.done():
                self._moved.clear()
                await self._moved.wait()
        return self.response

    async def wait(self, seconds: float = 60) -> Response:
        """Waits for the end of the response, however it ends."""
        async with asyncio.timeout(seconds):
            return await asyncio.shield(self._done)

    def handle(self, event):
        response = self.response
        if isinstance(event, HeadersReceived):
            fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            if fields and fields[0][0] != ":status":
                response.trailers = fields
            elif fields[0][1].startswith("1"):
                response.interim.append(int(fields[0][1]))
            else:
                assert response.status is None, "two final responses on one stream"
                response.status, response.fields = int(fields[0][1]), fields[1:]
        else:
            self._sha.update(event.data)
            response.length += len(event.data)
            response.text += event.data[: 64 * bodies.KIB - len(response.text)]
        if event.stream_ended:
            self.finish("clean")
        self._moved.set()

    def finish(self, end: str, code: int | None = None):
        if not self._done.done():
            self.response.end, self.response.code = end, code
            self.response.sha256 = self._sha.hexdigest()
            self._done.set_result(self.response)
        self._moved.set()


class Framing(H3Connection):
    """aioquic's framing, without its check of content-length for responses to HEAD, which have no
    body (RFC 9110 8.6)."""

    def __init__(self, quic):
        super().__init__(quic)
        self.bodiless: set[int] = set()

    def _check_content_length(self, stream):
        if stream.stream_id not in self.bodiless:
            super()._check_content_length(stream)


class FixedWindow:
    """The credit of a connection (MAX_DATA) in the place of aioquic's, which doubles it again and
    again: this one is always ahead of what has arrived by half of its length to all of it."""

    def __init__(self, limit):
        self.frame_type, self.name, self.sent = limit.frame_type, limit.name, limit.sent
        self._length, self._value, self._used = limit.value, limit.value, limit.used

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, doubled: int):
        pass

    @property
    def used(self) -> int:
        return self._used

    @used.setter
    def used(self, used: int):
        self._used = used
        if self._value - used < self._length // 2:
            self._value = used + self._length


class Client(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = Framing(self._quic)
        self.exchanges: dict[int, Exchange] = {}
        self.closed: ConnectionTerminated | None = None

    def fix_window(self):
        """Keeps the connection's window at the length that it has."""
        self._quic._local_max_data = FixedWindow(self._quic._local_max_data)

    def quic_event_received(self, event):
        if isinstance(event, StreamReset) and event.stream_id in self.exchanges:
            self.exchanges[event.stream_id].finish("reset", event.error_code)
        elif isinstance(event, StopSendingReceived) and event.stream_id in self.exchanges:
            self.exchanges[event.stream_id].stopped = event.error_code
        elif isinstance(event, ConnectionTerminated):
            self.closed = event
            for exchange in self.exchanges.values():
                exchange.finish("connection", event.error_code)
        for http_event in self.http.handle_event(event):
            if isinstance(http_event, DataReceived | HeadersReceived):
                self.exchanges[http_event.stream_id].handle(http_event)

    def open(self, method: str, path: str, fields=(), end=True, authority=AUTHORITY) -> Exchange:
        """Starts a request; with `end` it has no body."""
        stream = self._quic.get_next_available_stream_id()
        exchange = self.exchanges[stream] = Exchange(self, stream)
        if method == "HEAD":
            self.http.bodiless.add(stream)
        pseudo = [(":method", method), (":scheme", "https"), (":authority", authority)]
        head = [*pseudo, (":path", path), *fields]
        head = [(name.encode(), value.encode("latin-1")) for name, value in head]
        self.http.send_headers(stream, head, end)
        self.transmit()
        return exchange

    async def get(self, path: str, fields=(), seconds: float = 60) -> Response:
        """Sends a request without a body and waits for the response."""
        return await self.open("GET", path, fields).wait(seconds)

    async def post(self, path: str, length: int, seed=0, sized=True, seconds=60.0) -> Response:
        """Sends a request with a body and waits for the response; `sized` sends a
        content-length."""
        fields = [("content-length", str(length))] if sized else []
        exchange = self.open("POST", path, fields, end=False)
        sending = asyncio.ensure_future(exchange.send_body(length, seed))
        try:
            return await exchange.wait(seconds)
        finally:
            sending.cancel()


@contextlib.asynccontextmanager
async def connection(gateway, host: str = "127.0.0.1", *, keep_ticket=None, **settings):
    """Opens a connection to the gateway that trusts only the tests' certificate authority.
    `keep_ticket` is called with each session ticket; `session_ticket` resumes with one."""
    settings = {"max_data": 16 * bodies.MIB, "max_stream_data": 8 * bodies.MIB, **settings}
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=AUTHORITY, **settings,
    )
    if gateway.authority is None:
        configuration.verify_mode = ssl.CERT_NONE
    else:
        configuration.load_verify_locations(str(gateway.authority))
    async with asyncio.timeout(20):
        context = connect(
            host, gateway.port, configuration=configuration, create_protocol=Client,
            session_ticket_handler=keep_ticket,
        )
        client = await context.__aenter__()
    try:
        yield client
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await context.__aexit__(None, None, None)


def run(test):
    """Decorator that runs an async test: `@h3.run` above `async def test_..`."""
    import functools

    @functools.wraps(test)
    def wrapper(*arguments, **named):
        return asyncio.run(test(*arguments, **named))

    return wrapper
