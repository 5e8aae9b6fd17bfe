"""Clients that send or take a byte now and then, on many connections."""

import asyncio
import contextlib
import random

from e2e.harness.raw import DATA, head, varint

from .case import Case, Skipped, Target, expect
from .frames import STREAM
from .session import FRAMES_LEN_MAX, PING, Session, session

HEAD_BEGUN = b"\x01\x40\xc8\0\0"
"""A HEADERS frame of 200 bytes, and the first two of them."""
BODY_LEN = 1_000_000
TICK = 0.5
"""Seconds between two bytes."""
END_TIMEOUT = 60.0
"""Seconds in which each slow request must be refused or reset: twice the usual `body_timeout`."""
STALL_TIMEOUT = 100.0
"""Seconds in which a response that nobody takes must be reset: it has a minute."""
RESET_STREAM_TYPE = 0x04
ADDRESS_SESSIONS_MAX = 50
"""Connections from one address, where there are several."""


class Requests:
    """Requests of one session, whose streams are sent byte by byte."""

    def __init__(self, opened: Session, count: int, first: bytes):
        self.session = opened
        self._lens = dict.fromkeys(range(0, 4 * count, 4), 0)
        """Bytes sent on each stream that has not ended."""
        opened.handle_frame = self._handle
        self.send(first)

    @property
    def open_count(self) -> int:
        return len(self._lens)

    def send(self, piece: bytes):
        """Sends a piece on each stream that is open."""
        packet = b""
        for stream, length in self._lens.items():
            frame = STREAM + varint(stream) + varint(length) + varint(len(piece)) + piece
            if len(packet) + len(frame) > FRAMES_LEN_MAX:
                self.session.send(packet)
                packet = b""
            packet += frame
            self._lens[stream] += len(piece)
        if packet:
            self.session.send(packet)

    def _handle(self, kind: int, fields: list):
        is_end = kind == RESET_STREAM_TYPE or (kind & 0xF9) == 0x09
        if is_end:
            self._lens.pop(fields[0], None)


async def open_sessions(target: Target, stack, count: int, **settings) -> list[Session]:
    """Opens sessions, so many from each address that it does not exceed its share of anything."""
    sessions = []
    for number in range(count):
        address = f"127.1.0.{number // ADDRESS_SESSIONS_MAX + 1}"
        settings["address"] = address if target.host.startswith("127.") else None
        sessions.append(await stack.enter_async_context(session(target, **settings)))
    return sessions


async def until_ended(name: str, all_requests: list[Requests], seconds: float, piece: bytes):
    """Sends a piece now and then, until no stream is open."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while open_count := sum(one.open_count for one in all_requests):
        took = loop.time() - began
        expect(took < seconds, f"{name}: {open_count} streams are open after {took:.0f} s")
        tick_end = loop.time() + TICK
        for number, one in enumerate(all_requests):
            if one.session.closed is not None:
                all_requests[number] = Requests(one.session, 0, b"")
                continue
            if piece:
                one.send(piece)
            one.session.acknowledge()
            # Let others be heard, the gateway among them.
            await asyncio.sleep(0)
        await asyncio.sleep(max(0, tick_end - loop.time()))
    return loop.time() - began


def slow_senders(target: Target, dice: random.Random) -> str:
    """D33: heads that come byte by byte on all streams of many connections, then bodies."""
    client = target.client

    async def run(name: str, connections: int, streams: int, first: bytes) -> str:
        async with contextlib.AsyncExitStack() as stack:
            sessions = await open_sessions(target, stack, connections)
            requests = [Requests(one, streams, first) for one in sessions]
            took = await until_ended(name, requests, END_TIMEOUT, b"\xc1")
        return f"{connections} x {streams} {name} ended after {took:.1f} s"

    seen = [asyncio.run(run("heads", target.count(10, 1000), 100, HEAD_BEGUN))]
    if target.upload_path:
        post = head(b"POST", target.upload_path.encode(), client.authority.encode(),
                    more=[(b"content-length", b"%d" % BODY_LEN)])
        body = post + varint(DATA) + varint(BODY_LEN) + b"x"
        # Each has an upstream connection, of which a gateway may have about a thousand.
        seen.append(asyncio.run(run("bodies", target.count(10, 50), 15, body)))
    return "; ".join(seen)


def slow_readers(target: Target, dice: random.Random) -> str:
    """D34: clients whose stream windows are one byte, never extended, and clients that acknowledge
    nothing, each with a response that is larger than all buffers."""
    if not target.large_path:
        raise Skipped("--large-path is missing")
    get = head(b"GET", target.large_path.encode(), target.client.authority.encode())

    async def run() -> str:
        async with contextlib.AsyncExitStack() as stack:
            narrow = await open_sessions(
                target, stack, target.count(40, 900), max_stream_data=1)
            mute = await open_sessions(target, stack, target.count(20, 50))
            requests = [Requests(one, 1, get) for one in narrow]
            for one in mute:
                Requests(one, 1, get)
            text = f"{len(narrow)} windows of a byte, {len(mute)} clients that are mute"
            if target.full:
                took = await until_ended("responses", requests, STALL_TIMEOUT, b"")
                return f"{text}; the responses were given up after {took:.0f} s"
            for _ in range(8):
                for one in narrow:
                    one.acknowledge()
                for one in mute:
                    one.send(PING)
                await asyncio.sleep(TICK)
            begun = sum(bool(one.counts.keys() & {0x08, 0x0A, 0x0C, 0x0E}) for one in narrow)
            expect(begun == len(narrow), f"{begun} of {len(narrow)} responses have begun")
            return text

    return asyncio.run(run())


CASES = [
    Case("D33", "requests sent byte by byte", slow_senders),
    Case("D34", "responses that nobody takes", slow_readers),
]
