"""An HTTP/2 client that sends any bytes: frames and field sections are written by hand, over TLS.
Responses are decoded by the `hpack` package."""

import dataclasses
import select
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import hpack

from . import tcp
from .h3 import AUTHORITY
from .raw import prefixed

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE,
 CONTINUATION) = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
(NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED,
 FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM,
 ) = range(12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, \
    MAX_HEADER_LIST_SIZE = range(1, 7)
FRAME_LEN_MAX = 16_384
WINDOW_MAX = (1 << 31) - 1

Lines = list[tuple[bytes, bytes]]


class Frame(NamedTuple):
    """A frame of the gateway's."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of an RST_STREAM or a GOAWAY frame."""
        at = 4 if self.kind == GOAWAY else 0
        return int.from_bytes(self.payload[at:at + 4], "big")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + number(stream) + payload


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, number(increment))


def rst_stream(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, number(code))


def section(lines: Lines) -> bytes:
    """Encodes a field section of literals that are not indexed, as they are given (RFC 7541
    6.2.2)."""
    return b"".join(
        b"\0" + prefixed(0, 7, len(name)) + name + prefixed(0, 7, len(value)) + value
        for name, value in lines
    )


def pseudo(method=b"GET", path=b"/", authority=AUTHORITY.encode(), scheme=b"https") -> Lines:
    """Returns the pseudo-header fields of a request; `None` leaves one out."""
    lines = [(b":method", method), (b":scheme", scheme), (b":authority", authority),
             (b":path", path)]
    return [line for line in lines if line[1] is not None]


def headers(stream: int, block: bytes, flags: int = END_STREAM) -> bytes:
    """Returns a field section as a HEADERS frame and as many CONTINUATION frames as it takes."""
    pieces = [block[at:at + FRAME_LEN_MAX] for at in range(0, len(block), FRAME_LEN_MAX)] or [b""]
    out = b""
    for index, piece in enumerate(pieces):
        kind, more = (CONTINUATION, 0) if index else (HEADERS, flags)
        more |= END_HEADERS if index == len(pieces) - 1 else 0
        out += frame(kind, more, stream, piece)
    return out


def request(stream: int, *, flags=END_STREAM, more: Lines = (), **head: bytes | None) -> bytes:
    """Returns the frames of a request's head; the arguments are those of `pseudo`."""
    return headers(stream, section(pseudo(**head) + list(more)), flags)


@dataclasses.dataclass
class Response:
    """What arrived on one stream."""

    heads: list[Lines] = dataclasses.field(default_factory=list)
    """The field sections: interim responses, the response, trailers."""
    body: bytes = b""
    end: str = ""
    """`clean`, `reset CODE`, or `closed` with its connection."""

    @property
    def status(self) -> int | None:
        """The status of the final response."""
        found = [int(lines[0][1]) for lines in self.heads if lines and lines[0][0] == b":status"]
        return found[-1] if found and found[-1] >= 200 else None


class Client:
    """A connection whose windows are as large as they can be, unless `own_settings` say
    otherwise."""

    def __init__(self, gateway, own_settings=((INITIAL_WINDOW_SIZE, WINDOW_MAX),), *,
                 preface: bytes | None = None, seconds: float = 10):
        self._transport = tcp.Client(gateway.port, tcp.context(gateway, "h2"), seconds)
        self._seconds = seconds
        self._received, self._taken_len = b"", 0
        self._decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self._block = b""
        self.responses: dict[int, Response] = {}
        self.resets: dict[int, int] = {}
        """The code of each stream that the gateway has reset, also behind its end."""
        self.goaway: Frame | None = None
        self.has_ended = False
        if preface is None:
            preface = PREFACE + settings(*own_settings)
            preface += window_update(0, WINDOW_MAX - 65_535)
        self.send(preface)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._transport.__exit__()

    @property
    def socket(self):
        return self._transport.socket

    def send(self, data: bytes):
        """Sends bytes. A connection that the gateway has closed takes none, which the frames that
        it sent before will tell."""
        try:
            self._transport.send(data)
        except TimeoutError:
            raise
        except OSError:
            pass

    def pump(self, data: bytes, seconds: float = 10) -> bool:
        """Sends bytes and handles the frames that come meanwhile. Returns false once the connection
        has ended."""
        end = time.monotonic() + seconds
        waiting = memoryview(data)
        while waiting and not self.has_ended:
            assert time.monotonic() < end, f"{len(waiting)} bytes are not taken in {seconds} s"
            self.socket.settimeout(0)
            taken = 0
            try:
                taken = self.socket.send(waiting)
                waiting = waiting[taken:]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                pass
            except OSError:
                waiting = memoryview(b"")
            has_received = self._receive(seconds=0)
            self.socket.settimeout(seconds)
            while self._take() is not None:
                pass
            if not taken and not has_received:
                select.select([self.socket], [self.socket], [], 1)
        return not self.has_ended

    def frames(self) -> Iterator[Frame]:
        """Yields the gateway's frames until it closes the connection."""
        while (one := self._next()) is not None:
            yield one

    def _next(self) -> Frame | None:
        while (one := self._take()) is None:
            if self.has_ended:
                return None
            self._receive(self._seconds)
        return one

    def _receive(self, seconds: float) -> bool:
        """Receives bytes. Returns false if there are none yet."""
        self.socket.settimeout(seconds)
        try:
            piece = self.socket.recv(256 * 1024)
        except ssl.SSLWantReadError:
            return False
        except (ConnectionError, ssl.SSLEOFError):
            piece = b""
        if not piece:
            self._finish_all()
        self._received = self._received[self._taken_len:] + piece
        self._taken_len = 0
        return True

    def _take(self) -> Frame | None:
        """Takes the next frame of what was received."""
        begin = self._taken_len
        head = self._received[begin:begin + 9]
        length = int.from_bytes(head[:3], "big")
        if len(head) < 9 or len(self._received) < begin + 9 + length:
            return None
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        self._taken_len += 9 + length
        one = Frame(kind, flags, stream, self._received[begin + 9:begin + 9 + length])
        self._note(one)
        return one

    def _finish_all(self):
        self.has_ended = True
        for response in self.responses.values():
            response.end = response.end or "closed"

    def _note(self, one: Frame):
        response = self.responses.setdefault(one.stream, Response())
        if one.kind in (HEADERS, CONTINUATION):
            assert not one.flags & (PADDED | WITH_PRIORITY)
            self._block += one.payload
            if one.flags & END_HEADERS:
                response.heads.append(self._decoder.decode(self._block, raw=True))
                self._block = b""
        elif one.kind == DATA:
            response.body += one.payload
        elif one.kind == RST_STREAM:
            self.resets[one.stream] = one.code
            response.end = response.end or f"reset {one.code}"
        elif one.kind == GOAWAY:
            self.goaway = one
        elif one.kind == SETTINGS and not one.flags & ACK:
            self.send(frame(SETTINGS, ACK))
        if one.kind in (HEADERS, DATA) and one.flags & END_STREAM:
            assert response.end == "", "a stream ends twice"
            response.end = "clean"

    def until(self, wanted: Callable[[], bool], seconds: float = 10) -> bool:
        """Reads frames until `wanted()` is true. Returns false if the connection ends before."""
        end = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < end, f"not in {seconds} s: {self.responses}"
            if self._next() is None:
                return wanted()
        return True

    def response(self, stream: int, seconds: float = 10) -> Response:
        """Reads to the end of a response, or of the connection."""
        response = self.responses.setdefault(stream, Response())
        self.until(lambda: bool(response.end), seconds)
        return response

    def ask(self, stream: int, **head) -> Response:
        """Sends a request without a body and reads the response."""
        self.send(request(stream, **head))
        return self.response(stream)

    def is_alive(self) -> bool:
        """Returns whether the gateway responds to a PING, to which it comes after all that was sent
        before."""
        mark = struct.pack(">Q", time.monotonic_ns())
        self.send(frame(PING, 0, 0, mark))
        acknowledgement = Frame(PING, ACK, 0, mark)
        return any(one == acknowledgement for one in self.frames())

    def close_code(self) -> int | None:
        """Reads to the end of the connection. Returns the code of its GOAWAY frame."""
        for _ in self.frames():
            pass
        return self.goaway and self.goaway.code
