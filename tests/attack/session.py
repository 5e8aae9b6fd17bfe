"""Connections whose packets are made by hand, with the keys of a real handshake by aioquic."""

import asyncio
import contextlib
import random
from collections.abc import Callable

from aioquic import tls
from aioquic.quic.crypto import CryptoError

from . import wire
from .case import Target, expect
from .wire import frames_of, varint

PING = b"\x01"
FRAMES_LEN_MAX = 1100
"""Bytes of frames in one packet."""


class Session:
    """A connection whose packets are made by hand after the handshake. It acknowledges nothing
    unless `acknowledge` is called."""

    def __init__(self, protocol):
        quic = protocol._quic
        self.keys = quic._cryptos[tls.Epoch.ONE_RTT]
        self._id, self._address = quic._peer_cid.cid, quic._network_paths[0].addr
        self.peer_sequences = [one.sequence_number for one in quic._peer_cid_available]
        """Numbers of the connection ids that the gateway has issued during the handshake."""
        self._number = quic._packet_number + 100
        self._transport = protocol._transport
        self.numbers: set[int] = set()
        """Packet numbers of the gateway that have arrived."""
        self.counts: dict[int, int] = {}
        """How many frames of each type have arrived."""
        self.handle_frame: Callable[[int, list], None] = lambda kind, fields: None
        """Called with the type and the fields of each frame that arrives."""
        self.closed: int | None = None
        """The code with which the gateway has closed the connection."""
        self.sent_count = 0
        # From here on aioquic neither sends nor receives, nor ends the connection for its silence.
        protocol.datagram_received = self._received
        protocol.transmit = lambda: None
        if protocol._timer is not None:
            protocol._timer.cancel()
            protocol._timer = None

    def send(self, *frames: bytes, keys=None, reserved_bits: int = 0):
        """Sends one packet, by default with the keys of the current phase."""
        payload = b"".join(frames)
        keys = keys or self.keys
        first = 0x43 | keys.key_phase << 2 | reserved_bits
        header = bytes([first]) + self._id + self._number.to_bytes(4, "big")
        sealed = keys.encrypt_packet(header, payload, self._number)
        self._number += 1
        self.sent_count += 1
        self._transport.sendto(sealed, self._address)

    def acknowledge(self):
        """Acknowledges all that has arrived, to its last hundred ranges."""
        if self.numbers:
            self.send(ack_frame(self.numbers))

    async def flood(self, frame, count: int, per_second: int = 3000):
        """Sends as many of the frames that `frame(number)` returns, until the gateway closes."""
        number, loop = 0, asyncio.get_running_loop()
        began, first = loop.time(), self.sent_count
        while number < count and self.closed is None:
            frames, length = [], 0
            while number < count and length < FRAMES_LEN_MAX - 40:
                frames.append(frame(number))
                length += len(frames[-1])
                number += 1
            self.send(*frames)
            due = began + (self.sent_count - first) / per_second
            await asyncio.sleep(max(0, due - loop.time()))

    async def close_code(self, seconds: float = 1.0) -> int | None:
        """Waits for the gateway's close. Returns its code, or nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.closed is None:
                    await asyncio.sleep(0.01)
        return self.closed

    async def is_alive(self) -> bool:
        """Returns whether the gateway still responds."""
        before = len(self.numbers)
        for _ in range(4):
            self.send(PING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while len(self.numbers) == before:
                    await asyncio.sleep(0.01)
        return len(self.numbers) > before and self.closed is None

    def _received(self, datagram: bytes, address):
        if datagram[0] & 0x80:
            return
        try:
            expected = max(self.numbers, default=0) + 1
            _, payload, number = self.keys.decrypt_packet(datagram, 1 + wire.ID_LEN, expected)
        except CryptoError:
            return
        self.numbers.add(number)
        for kind, fields in frames_of(payload):
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.handle_frame(kind, fields)
            if kind in (0x1C, 0x1D):
                self.closed = fields[0]


def ack_frame(numbers: set[int]) -> bytes:
    """Returns an ACK frame (RFC 9000 19.3)."""
    ranges: list[list[int]] = []
    for number in sorted(numbers, reverse=True):
        if ranges and ranges[-1][0] == number + 1:
            ranges[-1][0] = number
        elif len(ranges) < 100:
            ranges.append([number, number])
        else:
            break
    first_low, first_high = ranges[0]
    frame = b"\x02" + varint(first_high) + varint(0) + varint(len(ranges) - 1)
    frame += varint(first_high - first_low)
    above = first_low
    for low, high in ranges[1:]:
        frame += varint(above - high - 2) + varint(high - low)
        above = low
    return frame


@contextlib.asynccontextmanager
async def session(target: Target, **settings):
    """Opens a connection with a handshake that is confirmed."""
    async with wire.connection(target, **settings) as protocol:
        await protocol.ping()
        opened = Session(protocol)
        try:
            yield opened
        finally:
            opened.send(wire.CLOSE_FRAME)


def in_session(test):
    """Makes a case of an async function that has a session."""

    def run(target: Target, dice: random.Random) -> str:
        async def inside():
            async with session(target) as opened:
                return await test(target, dice, opened)

        return asyncio.run(inside())

    run.__doc__ = test.__doc__
    return run


async def code_for(target: Target, *frames: bytes) -> int | None:
    """Returns the code with which a new connection is closed that sends these frames."""
    async with session(target) as opened:
        opened.send(*frames)
        return await opened.close_code()


async def expect_code(target: Target, name: str, codes: tuple[int, ...], *frames: bytes):
    code = await code_for(target, *frames)
    wanted = " or ".join(hex(code) for code in codes)
    got = "is not closed" if code is None else f"is closed with {code:#x}"
    expect(code in codes, f"{name}: the connection {got}, not with {wanted}")
