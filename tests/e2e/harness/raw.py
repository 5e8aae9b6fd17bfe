"""An HTTP/3 client that sends any bytes: aioquic's QUIC, with frames written by hand."""

import asyncio
import contextlib
import dataclasses
import ssl

import pylsqpack
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var as varint
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset,
)

from .h3 import AUTHORITY

DATA, HEADERS = 0x00, 0x01
GREASE = 0x1F * 7 + 0x21


def frame(frame_type: int, payload: bytes = b"") -> bytes:
    return varint(frame_type) + varint(len(payload)) + payload


def prefixed(first: int, bits: int, value: int) -> bytes:
    """Encodes a prefixed integer (RFC 9204 4.1.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out, value = [first | limit], value - limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + [value])


def section(lines) -> bytes:
    """Encodes a field section of literals, as they are given: names and values may hold any
    byte."""
    out = b"\0\0"
    for name, value in lines:
        out += prefixed(0x20, 3, len(name)) + name + prefixed(0, 7, len(value)) + value
    return out


def head(method=b"GET", path=b"/", authority=AUTHORITY.encode(), scheme=b"https", more=()) -> bytes:
    """Returns a HEADERS frame; `None` leaves out a pseudo-header field."""
    pseudo = [(b":method", method), (b":scheme", scheme), (b":authority", authority),
              (b":path", path)]
    return frame(HEADERS, section([line for line in pseudo if line[1] is not None] + list(more)))


@dataclasses.dataclass
class Exchange:
    """What arrived on one stream."""

    stream: int
    received: bytes = b""
    end: str = ""
    """`clean`, `reset CODE` or `closed CODE`."""
    stopped: int | None = None
    status: list[int] = dataclasses.field(default_factory=list)
    sections: list[list[tuple[bytes, bytes]]] = dataclasses.field(default_factory=list)
    """All field sections, with those of interim responses."""
    fields: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    body: bytes = b""

    def finish(self, end: str):
        if not self.end:
            self.end = end
            self._parse()

    def _parse(self):
        decoder, rest = pylsqpack.Decoder(0, 0), self.received
        while rest:
            kind, rest = take_varint(rest)
            length, rest = take_varint(rest)
            payload, rest = rest[:length], rest[length:]
            if len(payload) < length:
                assert self.end != "clean", "the response ends inside a frame"
                self.body += payload if kind == DATA else b""
                return
            if kind == DATA:
                self.body += payload
            elif kind == HEADERS:
                _, fields = decoder.feed_header(self.stream, payload)
                self.sections.append(fields)
                if fields and fields[0][0] == b":status":
                    self.status.append(int(fields[0][1]))
                    self.fields = fields[1:]
                else:
                    self.trailers = fields

    @property
    def outcome(self) -> str:
        """Returns the final status of a response that ended cleanly, else how it ended."""
        final = [status for status in self.status if status >= 200]
        return str(final[0]) if self.end == "clean" and final else self.end

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


def take_varint(data: bytes):
    length = 1 << (data[0] >> 6)
    value = int.from_bytes(data[:length], "big") & (1 << (8 * length - 2)) - 1
    return value, data[length:]


class Client(QuicConnectionProtocol):
    """One connection. Only `open_control` opens a control stream, with empty SETTINGS."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.exchanges: dict[int, Exchange] = {}
        self.closed: ConnectionTerminated | None = None
        self.stopped: dict[int, int] = {}
        self.control = b""
        """The gateway's control stream, its first unidirectional one."""
        self._moved = asyncio.Event()

    def quic_event_received(self, event):
        exchange = self.exchanges.get(getattr(event, "stream_id", None))
        if isinstance(event, StreamDataReceived) and event.stream_id == 3:
            self.control += event.data
        elif isinstance(event, StreamDataReceived) and exchange:
            exchange.received += event.data
            if event.end_stream:
                exchange.finish("clean")
        elif isinstance(event, StreamReset) and exchange:
            exchange.finish(f"reset {event.error_code:#x}")
        elif isinstance(event, StopSendingReceived):
            self.stopped[event.stream_id] = event.error_code
            if exchange:
                exchange.stopped = event.error_code
        elif isinstance(event, ConnectionTerminated):
            self.closed = event
            for exchange in self.exchanges.values():
                exchange.finish(f"closed {event.error_code:#x}")
        self._moved.set()

    def open_uni(self, data: bytes, end=False) -> int:
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self.send(stream, data, end)
        return stream

    def open_control(self, more: bytes = b"") -> int:
        return self.open_uni(b"\x00" + frame(0x04) + more)

    def send(self, stream: int, data: bytes, end=False):
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def request(self, data: bytes, end=True) -> Exchange:
        """Opens a request stream and sends these bytes."""
        stream = self._quic.get_next_available_stream_id()
        exchange = self.exchanges[stream] = Exchange(stream)
        if self.closed:
            exchange.finish(f"closed {self.closed.error_code:#x}")
        self.send(stream, data, end)
        return exchange

    def reset(self, stream: int, code: int = 0x10C):
        self._quic.reset_stream(stream, code)
        self.transmit()

    async def until(self, wanted, seconds: float = 10):
        """Waits until events have made `wanted()` true."""
        async with asyncio.timeout(seconds):
            while not wanted():
                self._moved.clear()
                await self._moved.wait()

    async def ended(self, exchange: Exchange, seconds: float = 10) -> Exchange:
        await self.until(lambda: exchange.end, seconds)
        return exchange

    async def ask(self, data: bytes, end=True) -> Exchange:
        """Sends a request and waits for the end of its stream."""
        return await self.ended(self.request(data, end))

    async def close_code(self, seconds: float = 10) -> int:
        """Returns the code with which the gateway closes the connection."""
        await self.until(lambda: self.closed, seconds)
        return self.closed.error_code


@contextlib.asynccontextmanager
async def connection(gateway, server_name: str | None = AUTHORITY, control=True, verify=True):
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=server_name,
    )
    if verify:
        configuration.load_verify_locations(str(gateway.authority))
    else:
        configuration.verify_mode = ssl.CERT_NONE
    context = connect(
        "127.0.0.1", gateway.port, configuration=configuration, create_protocol=Client
    )
    async with asyncio.timeout(20):
        client = await context.__aenter__()
    try:
        if control:
            client.open_control()
        yield client
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await context.__aexit__(None, None, None)
