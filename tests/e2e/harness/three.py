"""Clients that send the same generated requests over HTTP/3, HTTP/2 and HTTP/1.1, one after the
other, on connections that they keep.

They share no code that reads a response: aioquic and pylsqpack, frames of our own and hpack, h11."""

import asyncio
import contextlib
import dataclasses
import time

import h11
import hpack

from . import http2, raw, tcp
from .http2 import Lines
from .messages import Case

H3_MESSAGE_ERROR = 0x10E
CLOSE_SECONDS = 0.002
"""Time for the gateway to notice that an upstream has closed: a POST that is on its way to one that
closes is not sent again."""
REQUESTS_PER_CONNECTION = 250
"""An HTTP/2 connection outlives no more than 512 streams that the gateway resets."""


@dataclasses.dataclass
class Outcome:
    """What a client received for a request."""

    interim: list[Lines]
    status: int | None
    fields: Lines
    body: bytes
    trailers: Lines
    end: str
    """`clean`; `malformed` if the request was reset for that, alone or with its connection; else
    how the response broke off."""

    @classmethod
    def of(cls, sections: list[Lines], body: bytes, end: str) -> "Outcome":
        heads = [lines for lines in sections if lines and lines[0][0] == b":status"]
        rest = [lines for lines in sections if not lines or lines[0][0] != b":status"]
        final = [lines for lines in heads if lines[0][1] >= b"200"]
        assert len(final) <= 1 and len(rest) <= 1, sections
        head = final[0] if final else [(b":status", b"0")]
        interim = [lines for lines in heads if lines[0][1] < b"200"]
        return cls(interim, int(head[0][1]) or None, head[1:], body, rest[0] if rest else [], end)


def pseudo(case: Case) -> Lines:
    lines = [(b":method", case.method), (b":scheme", b"https"), (b":path", case.path)]
    if case.method == b"CONNECT":
        lines = lines[:1]
    if case.authority is not None:
        lines.append((b":authority", case.authority))
    return lines


def over_http3(gateway, cases: list[Case]) -> list[Outcome]:
    return asyncio.run(_over_http3(gateway, cases))


async def _over_http3(gateway, cases: list[Case]) -> list[Outcome]:
    outcomes = []
    async with contextlib.AsyncExitStack() as stack:
        client = None
        for case in cases:
            if client is None or client.closed:
                client = await stack.enter_async_context(raw.connection(gateway))
            data = raw.frame(raw.HEADERS, raw.section(pseudo(case) + case.all_fields()))
            data += b"".join(raw.frame(raw.DATA, piece) for piece in case.body_pieces())
            if case.trailers:
                data += raw.frame(raw.HEADERS, raw.section(case.trailers))
            exchange = await client.ask(data)
            end = exchange.end
            if end == f"reset {H3_MESSAGE_ERROR:#x}":
                end = "malformed"
            outcomes.append(Outcome.of(exchange.sections, exchange.body, end))
            if case.closes:
                await asyncio.sleep(CLOSE_SECONDS)
        # The last response is acknowledged.
        await asyncio.sleep(0.1)
    return outcomes


def over_http2(gateway, cases: list[Case]) -> list[Outcome]:
    outcomes = []
    for first in range(0, len(cases), REQUESTS_PER_CONNECTION):
        left = cases[first:first + REQUESTS_PER_CONNECTION]
        while left:
            done = _over_one_http2_connection(gateway, left)
            outcomes += done
            left = left[len(done):]
    return outcomes


def _over_one_http2_connection(gateway, cases: list[Case]) -> list[Outcome]:
    """Stops behind a request that ends the connection."""
    outcomes = []
    with http2.Client(gateway) as client:
        encoder = hpack.Encoder()
        for index, case in enumerate(cases):
            stream = 2 * index + 1
            pieces = [piece[at:at + http2.FRAME_LEN_MAX] for piece in case.body_pieces()
                      for at in range(0, len(piece), http2.FRAME_LEN_MAX)]
            end = 0 if pieces or case.trailers else http2.END_STREAM
            data = http2.headers(stream, encoder.encode(pseudo(case) + case.all_fields()), end)
            for piece in pieces:
                is_last = piece is pieces[-1] and not case.trailers
                data += http2.frame(http2.DATA, is_last and http2.END_STREAM, stream, piece)
            if case.trailers:
                data += http2.headers(stream, encoder.encode(case.trailers))
            client.send(data)
            response = client.response(stream)
            end = response.end
            code = client.goaway.code if client.goaway else None
            if end == f"reset {http2.PROTOCOL_ERROR}" or (
                end == "closed" and code == http2.PROTOCOL_ERROR
            ):
                end = "malformed"
            outcomes.append(Outcome.of(response.heads, response.body, end))
            if case.closes:
                time.sleep(CLOSE_SECONDS)
            if client.has_ended or client.goaway:
                break
    return outcomes


def over_http11(gateway, cases: list[Case]) -> list[Outcome]:
    outcomes = []
    client = None
    for case in cases:
        if client is None:
            client = tcp.Client(gateway.port, tcp.context(gateway, "http/1.1"))
        with contextlib.suppress(ConnectionError):
            client.send(_request_of_http11(case))
        outcome, is_over = _read_http11(client, case)
        outcomes.append(outcome)
        if case.closes:
            time.sleep(CLOSE_SECONDS)
        if is_over:
            client.__exit__()
            client = None
    if client:
        client.__exit__()
    return outcomes


def _request_of_http11(case: Case) -> bytes:
    target, fields = case.path, list(case.all_fields())
    if any(name == b"host" for name, _ in fields):
        # The authority is that of the target, as `:authority` is elsewhere.
        target = b"https://" + case.authority + target
    elif case.authority is not None:
        fields.insert(0, (b"Host", case.authority))
    lines = [case.method + b" " + target + b" HTTP/1.1"]
    is_chunked = case.length is None and (case.body is not None or case.trailers)
    if is_chunked:
        fields.append((b"Transfer-Encoding", b"chunked"))
    lines += [name + b": " + value for name, value in fields]
    data = b"\r\n".join([*lines, b"", b""])
    if not is_chunked:
        return data + (case.body or b"")
    data += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in case.body_pieces())
    trailers = b"".join(name + b": " + value + b"\r\n" for name, value in case.trailers)
    return data + b"0\r\n" + trailers + b"\r\n"


def _read_http11(client: tcp.Client, case: Case) -> tuple[Outcome, bool]:
    """Reads a response. Returns whether its connection is over."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    method = b"HEAD" if case.method == b"HEAD" else b"GET"
    reader.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"x")]))
    reader.send(h11.EndOfMessage())
    sections, body, end = [], b"", ""
    while not end:
        try:
            event = reader.next_event()
        except h11.RemoteProtocolError as error:
            end = f"broken: {error}"
            break
        if event is h11.NEED_DATA:
            try:
                reader.receive_data(client.socket.recv(256 * 1024))
            except OSError as error:
                assert not isinstance(error, TimeoutError), case
                end = "broken"
        elif isinstance(event, h11.InformationalResponse | h11.Response):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            sections.append([(b":status", b"%d" % event.status_code), *fields])
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            if event.headers:
                sections.append([(bytes(name), bytes(value)) for name, value in event.headers])
            end = "clean"
        else:
            end = "broken"
    outcome = Outcome.of(sections, body, end)
    assert end != "clean" or reader.trailing_data[0] == b"", (case, reader.trailing_data)
    is_over = end != "clean" or (b"connection", b"close") in outcome.fields
    if end == "clean" and is_over:
        assert client.rest() == b"", case
    return outcome, is_over


CLIENTS = {"HTTP/3": over_http3, "HTTP/2": over_http2, "HTTP/1.1": over_http11}
