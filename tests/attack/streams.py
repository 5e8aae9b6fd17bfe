"""Requests that are opened only to be given up, always within the stream credit."""

import asyncio
import contextlib
import random
import time

from . import wire
from .case import Case, Target, expect
from .client import Protocol

EXCESSIVE_LOAD, REQUEST_CANCELLED = 0x107, 0x10C
SPIN_MAX = 0.5
"""Share of a core that the gateway may use in the second after it has closed such a connection."""


async def open_and_give_up(target: Target, count: int, fields, reset: bool) -> tuple[int, int]:
    """Opens requests until the gateway closes the connection. Returns how many, and its code."""
    async with wire.connection(target, Protocol) as protocol, asyncio.timeout(60):
        quic, opened = protocol._quic, 0
        while opened < count and quic._close_event is None:
            stream = quic.get_next_available_stream_id()
            if stream >= 4 * quic._remote_max_streams_bidi:
                await asyncio.sleep(0.001)
                continue
            protocol._http.send_headers(stream, fields, end_stream=not reset)
            if reset:
                quic.reset_stream(stream, REQUEST_CANCELLED)
                quic.stop_stream(stream, REQUEST_CANCELLED)
            opened += 1
            if opened % 20 == 0:
                protocol.transmit()
                await asyncio.sleep(0.005)
        protocol.transmit()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while quic._close_event is None:
                    await asyncio.sleep(0.01)
        return opened, quic._close_event.error_code if quic._close_event else 0


def attack(target: Target, count: int, fields, reset: bool) -> str:
    opened, code = asyncio.run(open_and_give_up(target, count, fields, reset))
    expect(code == EXCESSIVE_LOAD, f"{opened} streams: code {code:#x}, not {EXCESSIVE_LOAD:#x}")
    if target.process is None:
        return f"closed after {opened} streams"
    before = target.process.cpu_seconds()
    time.sleep(1)
    share = target.process.cpu_seconds() - before
    expect(share <= SPIN_MAX, f"{share:.2f} of a core is used after the close")
    return f"closed after {opened} streams, then {share:.2f} of a core"


def request(target: Target, *more) -> list[tuple[bytes, bytes]]:
    client = target.client
    return [(b":method", b"GET"), (b":scheme", b"https"),
            (b":authority", client.authority.encode()), (b":path", client.path.encode()), *more]


def rapid_reset(target: Target, dice: random.Random) -> str:
    """D22: requests that are reset as soon as they are sent."""
    return attack(target, target.count(3000, 50_000), request(target), reset=True)


def made_you_reset(target: Target, dice: random.Random) -> str:
    """D23: requests that are malformed, so that the gateway resets them."""
    malformed = request(target, (b"connection", b"close"))
    return attack(target, target.count(3000, 50_000), malformed, reset=False)


CASES = [
    Case("D22", "requests that are reset", rapid_reset),
    Case("D23", "requests that the gateway resets", made_you_reset),
]
