"""Violations of QUIC for which RFC 9000 and RFC 9001 name the error that the peer must get."""

import asyncio
import random

from . import wire
from .case import Case, Target, expect
from .frames import (
    ACK, CRYPTO, FLOW_CONTROL_ERROR, FRAME_ENCODING_ERROR, MAX_STREAM_DATA, NEW_CONNECTION_ID,
    PROTOCOL_VIOLATION, RESET_STREAM, STOP_SENDING, STREAM, STREAM_DATA_BLOCKED,
    STREAM_LIMIT_ERROR, STREAM_STATE_ERROR, STREAMS_BLOCKED,
)
from .session import PING, expect_code, session
from .unproven import AMPLIFICATION_MAX, hello
from .wire import receive_first, udp_socket, varint

FINAL_SIZE_ERROR = 0x06
CRYPTO_UNEXPECTED_MESSAGE = 0x10A

MAX_STREAMS, NEW_TOKEN, HANDSHAKE_DONE = b"\x12", b"\x07", b"\x1e"
STREAM_WITH_END = b"\x0f"
OF_CLIENT, OF_CLIENT_UNI, OF_GATEWAY, OF_GATEWAY_UNI = varint(0), varint(2), varint(1), varint(7)
"""Streams: the client's first two, and two of the gateway's that it has not opened."""
RESERVED_BITS = 0x18


def stream(number: bytes, offset: int, text: bytes, end=False) -> bytes:
    kind = STREAM_WITH_END if end else STREAM
    return kind + number + varint(offset) + varint(len(text)) + text


def reset(number: bytes, final_len: int) -> bytes:
    return RESET_STREAM + number + varint(0) + varint(final_len)


def new_id(sequence: int, retire_prior_to: int, id_len: int) -> bytes:
    head = varint(sequence) + varint(retire_prior_to)
    return NEW_CONNECTION_ID + head + bytes([id_len]) + bytes(id_len) + bytes(16)


# What the client sends in one 1-RTT packet, and the codes that are right, with the section of
# RFC 9000 that names them.
VIOLATIONS = {
    "unknown frame (12.4)": (b"\x21", FRAME_ENCODING_ERROR),
    "unknown frame of eight bytes (12.4)": (b"\xc0" + bytes(6) + b"\x40", FRAME_ENCODING_ERROR),
    "frame cut short (12.4)": (MAX_STREAM_DATA + OF_CLIENT, FRAME_ENCODING_ERROR),
    "STREAM longer than its packet (12.4)":
        (STREAM + OF_CLIENT + varint(0) + varint(50) + b"x", FRAME_ENCODING_ERROR),
    "ACK of more ranges than it has (12.4)":
        (ACK + varint(9) + varint(0) + varint(50) + varint(0), FRAME_ENCODING_ERROR),
    "MAX_STREAMS of 2^60 + 1 (19.11)":
        (MAX_STREAMS + varint((1 << 60) + 1), FRAME_ENCODING_ERROR),
    "STREAMS_BLOCKED of 2^60 + 1 (19.14)":
        (STREAMS_BLOCKED + varint((1 << 60) + 1), FRAME_ENCODING_ERROR, STREAM_LIMIT_ERROR),
    "NEW_CONNECTION_ID of 0 bytes (19.15)": (new_id(9, 0, 0), FRAME_ENCODING_ERROR),
    "NEW_CONNECTION_ID of 21 bytes (19.15)": (new_id(9, 0, 21), FRAME_ENCODING_ERROR),
    "an id that retires itself (19.15)": (new_id(9, 10, 8), FRAME_ENCODING_ERROR),
    "NEW_TOKEN (19.7)": (NEW_TOKEN + b"\x01x", PROTOCOL_VIOLATION),
    "HANDSHAKE_DONE (19.20)": (HANDSHAKE_DONE, PROTOCOL_VIOLATION),
    "STREAM of a stream that is not open (19.8)":
        (stream(OF_GATEWAY, 0, b"x"), STREAM_STATE_ERROR),
    "STREAM toward its sender (19.8)": (stream(OF_GATEWAY_UNI, 0, b"x"), STREAM_STATE_ERROR),
    "RESET_STREAM toward its sender (19.4)": (reset(OF_GATEWAY_UNI, 0), STREAM_STATE_ERROR),
    "STOP_SENDING toward its receiver (19.5)":
        (STOP_SENDING + OF_CLIENT_UNI + varint(0), STREAM_STATE_ERROR),
    "STOP_SENDING of a stream that is not open (19.5)":
        (STOP_SENDING + OF_GATEWAY + varint(0), STREAM_STATE_ERROR),
    "MAX_STREAM_DATA toward its receiver (19.10)":
        (MAX_STREAM_DATA + OF_CLIENT_UNI + varint(9), STREAM_STATE_ERROR),
    "MAX_STREAM_DATA of a stream that is not open (19.10)":
        (MAX_STREAM_DATA + OF_GATEWAY + varint(9), STREAM_STATE_ERROR),
    "STREAM_DATA_BLOCKED toward its sender (19.13)":
        (STREAM_DATA_BLOCKED + OF_GATEWAY_UNI + varint(9), STREAM_STATE_ERROR),
    "bytes behind the end (4.5)":
        (stream(OF_CLIENT, 0, b"x", end=True) + stream(OF_CLIENT, 1, b"x"), FINAL_SIZE_ERROR),
    "two ends (4.5)":
        (stream(OF_CLIENT, 8, b"x", end=True) + stream(OF_CLIENT, 9, b"x", end=True),
         FINAL_SIZE_ERROR),
    "RESET_STREAM before bytes (4.5)":
        (stream(OF_CLIENT, 8, b"xx") + reset(OF_CLIENT, 9), FINAL_SIZE_ERROR),
    "RESET_STREAM past flow control (4.5)": (reset(OF_CLIENT, (1 << 62) - 1), FLOW_CONTROL_ERROR),
    "a TLS KeyUpdate (RFC 9001 6)":
        (CRYPTO + varint(0) + varint(5) + b"\x18\0\0\x01\0", CRYPTO_UNEXPECTED_MESSAGE),
    "a stream number past the limit (4.6)":
        (stream(varint(1 << 40), 0, b"x"), STREAM_LIMIT_ERROR),
}

# The same, where the gateway does nothing, although it should close.
UNNOTICED = {
    "an end before bytes (4.5)":
        (stream(OF_CLIENT, 8, b"xx") + stream(OF_CLIENT, 8, b"x", end=True), FINAL_SIZE_ERROR),
}


def violations(target: Target, dice: random.Random) -> str:
    """D20: one violation on each connection."""

    async def run():
        for name, (frames, *codes) in VIOLATIONS.items():
            await expect_code(target, name, tuple(codes), frames)
        async with session(target) as opened:
            opened.send(PING, reserved_bits=RESERVED_BITS)
            code = await opened.close_code()
            expect(code == PROTOCOL_VIOLATION, f"reserved bits (17.3): code {code}")
        return f"{len(VIOLATIONS) + 1} errors"

    return asyncio.run(run())


def unnoticed(target: Target, dice: random.Random) -> str:
    """D20B: violations that change nothing."""

    async def run():
        for name, (frames, *codes) in UNNOTICED.items():
            await expect_code(target, name, tuple(codes), frames)
        return f"{len(UNNOTICED)} errors"

    return asyncio.run(run())


# Frames of an Initial packet, and the code.
IN_INITIAL = {
    "PATH_CHALLENGE (12.4)": (b"\x1a" + bytes(8), PROTOCOL_VIOLATION),
    "STREAM (12.4)": (stream(OF_CLIENT, 0, b"x"), PROTOCOL_VIOLATION),
    "HANDSHAKE_DONE (12.4)": (HANDSHAKE_DONE, PROTOCOL_VIOLATION),
    "NEW_CONNECTION_ID (12.4)": (new_id(9, 0, 8), PROTOCOL_VIOLATION),
    "unknown frame (12.4)": (b"\x21", FRAME_ENCODING_ERROR),
    "ACK of an unsent packet (13.1)":
        (ACK + varint(9) + varint(0) + varint(0) + varint(0), PROTOCOL_VIOLATION),
}


def initial_violations(target: Target, dice: random.Random) -> str:
    """D20I: the same in Initial packets, behind a ClientHello that is right."""
    for name, (frames, code) in IN_INITIAL.items():
        client = hello(target)
        expect_close(target, name, code, client, client.initial(client.crypto_frame + frames))
    client = hello(target)
    begun = client.initial(wire.crypto_frame(client.message[:99]))
    expect_close(target, "reserved bits (17.2)", PROTOCOL_VIOLATION, client, begun,
                 client.initial(number=1, first=0xCD))
    return f"{len(IN_INITIAL) + 1} errors"


def expect_close(target: Target, name: str, code: int, client: wire.Hello, *datagrams: bytes):
    with udp_socket(target) as one:
        for datagram in datagrams:
            one.sendto(datagram, target.address)
        kinds = [client.kind(datagram) for datagram in receive_first(one, 0.5)]
    expect(f"close {code:#x}" in kinds, f"{name}: {' '.join(kinds) or 'nothing'}, not {code:#x}")


def packets_without_frames(target: Target, dice: random.Random) -> str:
    """D20E: packets that contain no frame, not even padding (RFC 9000 12.4): from a client, and
    from a stranger, whose packet may be dropped."""

    async def run():
        async with session(target) as opened:
            opened.send(b"")
            code = await opened.close_code()
            expect(code == PROTOCOL_VIOLATION, f"a packet without frames: code {code}")

    client = hello(target)
    with udp_socket(target) as one:
        for first in range(3):
            packets = [client.initial(length=400, number=number) for number in range(first)]
            packets.append(client.without_frames(number=first))
            datagram = b"".join(packets).ljust(wire.INITIAL_LEN, b"\x5a")
            one.sendto(datagram, target.address)
            out = sum(map(len, receive_first(one, 0.3)))
            expect(out <= AMPLIFICATION_MAX * len(datagram), f"{out} bytes out")
    asyncio.run(run())
    return "1 error"


CASES = [
    Case("D20", "violations that have a code", violations),
    Case("D20B", "violations that change nothing", unnoticed),
    Case("D20E", "packets without frames", packets_without_frames),
    Case("D20I", "violations in Initial packets", initial_violations),
]
