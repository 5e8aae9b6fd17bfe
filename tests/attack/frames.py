"""Frames in 1-RTT packets that no honest client sends."""

import asyncio
import copy
import random
import time

from . import wire
from .case import Case, Target, expect
from .session import FRAMES_LEN_MAX, PING, Session, expect_code, in_session, session
from .wire import varint

FLOW_CONTROL_ERROR, STREAM_LIMIT_ERROR, STREAM_STATE_ERROR = 0x03, 0x04, 0x05
FRAME_ENCODING_ERROR, CONNECTION_ID_LIMIT_ERROR, PROTOCOL_VIOLATION = 0x07, 0x09, 0x0A
INTERNAL_ERROR, CRYPTO_BUFFER_EXCEEDED, KEY_UPDATE_ERROR = 0x01, 0x0D, 0x0E

ACK, RESET_STREAM, STOP_SENDING, CRYPTO, STREAM = b"\x02", b"\x04", b"\x05", b"\x06", b"\x0e"
MAX_STREAM_DATA, STREAM_DATA_BLOCKED, STREAMS_BLOCKED = b"\x11", b"\x15", b"\x16"
NEW_CONNECTION_ID, RETIRE_CONNECTION_ID, PATH_CHALLENGE = b"\x18", b"\x19", b"\x1a"
PATH_RESPONSE_TYPE = 0x1B


@in_session
async def path_challenges(target, dice, opened) -> str:
    """D10: PATH_CHALLENGE frames, whose responses are never acknowledged."""
    count = target.count(10_000, 100_000)
    await opened.flood(lambda number: PATH_CHALLENGE + dice.randbytes(8), count)
    sent = opened.sent_count
    await asyncio.sleep(0.3)
    responses = opened.counts.get(PATH_RESPONSE_TYPE, 0)
    expect(responses <= sent, f"{responses} responses to {sent} packets")
    expect(responses > 0 or opened.closed is not None, "no PATH_CHALLENGE has a response")
    return f"{count} frames in {sent} packets, {responses} responses"


@in_session
async def connection_ids(target, dice, opened) -> str:
    """D11: NEW_CONNECTION_ID frames that each retire the ones before."""
    count = target.count(10_000, 100_000)

    def frame(number: int) -> bytes:
        sequence = varint(number + 10)
        ids = b"\x08" + dice.randbytes(8) + dice.randbytes(16)
        return NEW_CONNECTION_ID + sequence + sequence + ids

    await opened.flood(frame, count)
    code = await opened.close_code(0.5)
    expect(code in (None, CONNECTION_ID_LIMIT_ERROR, PROTOCOL_VIOLATION), f"closed with {code}")
    retired = opened.counts.get(0x19, 0)
    return f"{opened.sent_count} packets, closed with {code}, {retired} retired"


@in_session
async def retired_ids(target, dice, opened) -> str:
    """D12: each of the gateway's connection ids is retired as soon as it comes, and again."""
    count, known, retired = target.count(2000, 100_000), set(opened.peer_sequences), 0

    def handle(kind: int, fields: list):
        if kind == NEW_CONNECTION_ID[0]:
            known.add(fields[0])

    opened.handle_frame = handle
    heard_at = time.monotonic()
    while retired < count and opened.closed is None:
        heard_at = time.monotonic() if known else heard_at
        expect(time.monotonic() - heard_at < 3, f"after {retired} there were no more")
        while known:
            # Twice, as if the first had been lost.
            opened.send(*2 * [RETIRE_CONNECTION_ID + varint(known.pop())])
            retired += 1
        opened.send(PING)
        opened.acknowledge()
        await asyncio.sleep(0.002)
    expect(opened.closed is None or opened.closed == CONNECTION_ID_LIMIT_ERROR,
           f"closed with {opened.closed}")
    # The handshake's id has number 0, and no id has so large a number.
    never = RETIRE_CONNECTION_ID + varint(1 << 40)
    await expect_code(target, "an id that was never issued", (PROTOCOL_VIOLATION,), never)
    return f"{retired} ids were retired"


def key_updates(target: Target, dice: random.Random) -> str:
    """D16: many key updates; one before the last is acknowledged; packets of an old phase."""

    async def run():
        count = target.count(100, 1000)
        async with session(target) as opened:
            for number in range(count):
                expect(await opened.is_alive(), f"after {number} updates: {opened.closed}")
                old = copy.copy(opened.keys.send)
                opened.keys.update_key()
            expect(await opened.is_alive(), f"after {count} updates: {opened.closed}")
            # With the keys before the last ones, under a newer number (RFC 9001 6.4).
            opened.send(PING, keys=old)
            await asyncio.sleep(0.05)
            alive = opened.closed is None and await opened.is_alive()
            expect(alive or opened.closed == KEY_UPDATE_ERROR, f"an old phase: {opened.closed}")
        async with session(target) as opened:
            for _ in range(3):
                opened.keys.update_key()
                opened.send(PING)
            early = await opened.close_code(0.5)
            expect(early in (None, KEY_UPDATE_ERROR), f"an early update: code {early}")
        return f"{count} updates; an early one: closed with {early}"

    return asyncio.run(run())


def acknowledgements(target: Target, dice: random.Random) -> str:
    """D13: acknowledgements of packets that were never sent, or left out; ranges below zero."""

    async def run():
        unsent = ACK + varint(1 << 20) + varint(0) + varint(0) + varint(0)
        await expect_code(target, "ACK of an unsent packet", (PROTOCOL_VIOLATION,), unsent)
        below = ACK + varint(1) + varint(0) + varint(1) + varint(0) + varint(5) + varint(5)
        await expect_code(target, "ACK below 0", (FRAME_ENCODING_ERROR,), below)
        many = ACK + varint(1 << 20) + varint(0) + varint(500) + varint(0) + 500 * b"\0\0"
        await expect_code(target, "ACK of 500 ranges", (PROTOCOL_VIOLATION,), many)
        async with session(target) as opened:
            return await skipped(opened)

    return asyncio.run(run())


async def skipped(opened: Session) -> str:
    """Acknowledges a packet number that the gateway has left out (RFC 9000 21.4)."""
    missing = []
    for _ in range(10):
        await opened.flood(lambda number: PING.ljust(FRAMES_LEN_MAX, wire.PADDING), 60, 500)
        await asyncio.sleep(0.1)
        numbers = opened.numbers
        missing = sorted(set(range(min(numbers), max(numbers))) - numbers)
        if missing:
            break
    if not missing:
        return f"no number was left out of {len(opened.numbers)}"
    opened.send(ACK + varint(max(opened.numbers)) + varint(0) + varint(0)
                + varint(max(opened.numbers) - min(opened.numbers)))
    code = await opened.close_code()
    expect(code == PROTOCOL_VIOLATION, f"ACK of skipped packet {missing[0]}: code {code}")
    return f"packet {missing[0]} was left out and acknowledged"


def gaps(target: Target, dice: random.Random) -> str:
    """D14: single bytes with gaps, bytes that contradict each other, and bytes past the limits."""

    async def run():
        async with session(target) as opened:
            await opened.flood(lambda n: CRYPTO + varint(9 * n + 5000) + b"\x01x", 2048)
            code = await opened.close_code()
            # An endpoint that counts gaps has no code of its own for too many.
            expect(code in (INTERNAL_ERROR, CRYPTO_BUFFER_EXCEEDED),
                   f"2,048 gaps in CRYPTO: code {code}")
        async with session(target) as opened:
            count = target.count(20_000, 100_000)
            await opened.flood(lambda n: STREAM + b"\0" + varint(9 * n + 9) + b"\x01x", count)
            stream_code = await opened.close_code(0.5)
        async with session(target) as opened:
            for byte in (b"a", b"b"):
                opened.send(STREAM + b"\0" + varint(9) + varint(100) + 100 * byte)
            contradiction_code = await opened.close_code(0.5)
            expect(contradiction_code in (None, PROTOCOL_VIOLATION), "contradicting bytes: code "
                   f"{contradiction_code}")
        past = STREAM + b"\0" + varint((1 << 62) - 100) + b"\x01x"
        await expect_code(target, "a byte past flow control", (FLOW_CONTROL_ERROR,), past)
        over = STREAM + b"\0" + varint((1 << 62) - 1) + b"\x01x"
        await expect_code(target, "a byte past 2^62", (FLOW_CONTROL_ERROR, FRAME_ENCODING_ERROR),
                          over)
        return f"{count} gaps in a stream: closed with {stream_code}"

    return asyncio.run(run())


FAR = varint(4 << 40)
"""A stream of the client's, far beyond what it may open."""


def far_streams(target: Target, dice: random.Random) -> str:
    """D15: frames of a stream far beyond the limit, and of one that only the gateway sends on."""

    async def run():
        over = (STREAM_LIMIT_ERROR, STREAM_STATE_ERROR)
        grow = MAX_STREAM_DATA + FAR + varint(1)
        await expect_code(target, "MAX_STREAM_DATA", over, grow)
        reset = RESET_STREAM + FAR + varint(0) + varint(0)
        await expect_code(target, "RESET_STREAM", over, reset)
        await expect_code(target, "STREAM", over, STREAM + FAR + varint(0) + b"\x01x")
        own = RESET_STREAM + varint(3) + varint(0) + varint(0)
        await expect_code(target, "RESET_STREAM of its own", (STREAM_STATE_ERROR,), own)
        async with session(target) as opened:
            count = target.count(5000, 100_000)
            await opened.flood(lambda number: STREAMS_BLOCKED + varint(1 << 40), count)
            await opened.flood(far_stop, count)
            await opened.close_code(0.2)
        return f"4 errors, {count} STREAMS_BLOCKED, {count} STOP_SENDING"

    return asyncio.run(run())


def far_stop(number: int) -> bytes:
    return STOP_SENDING + varint((number + 1) << 40) + varint(0)


def far_streams_are_named(target: Target, dice: random.Random) -> str:
    """D15B: a frame of a stream beyond the limit is an error even where it would change nothing
    (RFC 9000 4.6)."""

    async def run():
        over = (STREAM_LIMIT_ERROR, STREAM_STATE_ERROR)
        await expect_code(target, "STOP_SENDING", over, far_stop(0))
        blocked = STREAM_DATA_BLOCKED + FAR + varint(1)
        await expect_code(target, "STREAM_DATA_BLOCKED", over, blocked)
        return "2 errors"

    return asyncio.run(run())


CASES = [
    Case("D10", "PATH_CHALLENGE", path_challenges),
    Case("D11", "NEW_CONNECTION_ID", connection_ids),
    Case("D12", "RETIRE_CONNECTION_ID", retired_ids),
    Case("D13", "acknowledgements of nothing", acknowledgements),
    Case("D14", "gaps in CRYPTO and STREAM", gaps),
    Case("D15", "streams beyond the limit", far_streams),
    Case("D15B", "the same where it changes nothing", far_streams_are_named),
    Case("D16", "key updates", key_updates),
]
