"""HTTP/3: field sections without measure, unidirectional streams and frames without number."""

import asyncio
import contextlib
import random

from e2e.harness.raw import GREASE, HEADERS, Client, frame, prefixed, section

from . import wire
from .case import Case, Target, expect
from .wire import varint

EXCESSIVE_LOAD, STREAM_CREATION_ERROR = 0x107, 0x103
REFUSED = ("431", "400", "reset 0x10e", "reset 0x107", f"closed {EXCESSIVE_LOAD:#x}")
"""How a section that is too large may end."""
KIB, MIB = 1024, 1024 * 1024
UNI_STREAMS_AT_ONCE = 5
"""Beside the control stream, and within the credit of any server (RFC 9114 6.2)."""
CONTROL_STREAM = 2
"""The client's first unidirectional stream."""
HEAD_LEN = 16 * KIB
"""Bytes of a head that is begun and never ended."""


def fields_of(target: Target) -> list[tuple[bytes, bytes]]:
    client = target.client
    return [(b":method", b"GET"), (b":scheme", b"https"),
            (b":authority", client.authority.encode()), (b":path", client.path.encode())]


def sections(target: Target) -> dict[str, bytes]:
    """Returns HEADERS frames, each too large in a way of its own."""
    # '0' takes five bits in the Huffman code, so 640 KiB are a MiB when they are decoded.
    packed_len = 640 * KIB
    packed = prefixed(0x20, 3, 1) + b"x" + prefixed(0x80, 7, packed_len) + bytes(packed_len)
    whole = fields_of(target)
    return {
        "10,000 fields": frame(HEADERS, section(whole + [(b"x", b"y")] * 10_000)),
        "one field of 1 MiB": frame(HEADERS, section(whole + [(b"x", b"v" * MIB)])),
        "1 MiB of static indices": frame(HEADERS, b"\0\0" + b"\xd1" * MIB),
        "Huffman code of 1 MiB": frame(HEADERS, section(whole) + packed),
        "a length of 2^62 - 1": varint(HEADERS) + b"\xff" * 8 + bytes(100 * KIB),
    }


@contextlib.asynccontextmanager
async def connection(target: Target):
    async with wire.connection(target, Client) as client:
        client.open_control()
        yield client
        client.close()
        await asyncio.sleep(0.05)


def large_sections(target: Target, dice: random.Random) -> str:
    """D24: field sections far beyond every limit, and heads that are begun and never ended."""

    async def run() -> str:
        seen = {}
        for name, data in sections(target).items():
            async with connection(target) as client:
                exchanges = [client.request(data, end=False) for _ in range(target.count(3, 30))]
                for exchange in exchanges:
                    await client.ended(exchange)
                    expect(exchange.outcome in REFUSED, f"{name}: {exchange.outcome}")
                    seen[name] = exchange.outcome
        begun = varint(HEADERS) + varint(2 * HEAD_LEN) + b"\0\0" + bytes(HEAD_LEN)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connection(target))
                       for _ in range(target.count(3, 20))]
            for client in clients:
                for _ in range(50):
                    client.request(begun, end=False)
            await asyncio.sleep(1)
        outcomes = ", ".join(f"{name}: {outcome}" for name, outcome in seen.items())
        return f"{outcomes}; {len(clients) * 50} heads that never end"

    return asyncio.run(run())


def streams_without_number(target: Target, dice: random.Random) -> str:
    """D25: unidirectional streams of reserved types, always within the credit; frames of reserved
    types, one of 2^62 - 1 bytes among them, on the control stream and on a request."""

    async def run() -> str:
        count, piece = target.count(500, 10_000), bytes(50 * KIB)
        async with connection(target) as client:
            for number in range(count // UNI_STREAMS_AT_ONCE):
                opened = [client.open_uni(varint(GREASE + 0x1F * number) + dice.randbytes(50))
                          for _ in range(UNI_STREAMS_AT_ONCE)]
                await client.until(lambda: client.closed or all(
                    stream in client.stopped for stream in opened))
                if client.closed:
                    break
                for stream in opened:
                    client.reset(stream, STREAM_CREATION_ERROR)
            closed = client.closed and client.closed.error_code
            expect(closed in (None, EXCESSIVE_LOAD), f"unidirectional streams: code {closed}")
        async with connection(target) as client:
            endless = varint(GREASE) + b"\xff" * 8
            request = client.request(frame(HEADERS, section(fields_of(target))) + endless,
                                     end=False)
            client.send(CONTROL_STREAM, frame(GREASE, dice.randbytes(100)) + endless)
            for _ in range(target.count(100, 1000)):
                for stream in (CONTROL_STREAM, request.stream):
                    client.send(stream, piece)
                async with asyncio.timeout(20):
                    while unsent_len(client) > MIB and not client.closed:
                        await asyncio.sleep(0.005)
            closed = client.closed and client.closed.error_code
            expect(closed in (None, EXCESSIVE_LOAD), f"frames of 2^62 - 1 bytes: code {closed}")
            client.reset(request.stream)
        async with connection(target) as client:
            grease = b"".join(frame(GREASE + 0x1F * n, dice.randbytes(n % 50)) for n in range(500))
            data = grease + frame(HEADERS, section(fields_of(target))) + grease
            response = await client.ask(data)
            expect(response.outcome == "200", f"grease around a request: {response.outcome}")
        return f"{count} streams, {2 * target.count(100, 1000) * 50 // 1024} MiB of one frame"

    return asyncio.run(run())


def unsent_len(client: Client) -> int:
    """Returns the bytes that the gateway has not acknowledged."""
    senders = [stream.sender for stream in client._quic._streams.values()]
    return sum(sender._buffer_stop - sender._buffer_start for sender in senders)


CASES = [
    Case("D24", "field sections without measure", large_sections),
    Case("D25", "streams and frames without number", streams_without_number),
]
