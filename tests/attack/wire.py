"""QUIC packets made by hand, with the keys of aioquic (RFC 9000 17, RFC 9001 5)."""

import asyncio
import contextlib
import random
import socket
import ssl
import time

from aioquic import tls
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer, encode_uint_var as varint
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoError, CryptoPair
from aioquic.quic.packet import QuicHeader, QuicPacketType, pull_quic_header

VERSION = 1
ID_LEN = 8
"""Length of our connection ids."""
INITIAL_LEN = 1200
"""Length of a datagram with an Initial packet (RFC 9000 14.1)."""
TAG_LEN = 16
RECEIVE_TIMEOUT = 0.02
PADDING = b"\0"
CLOSE_FRAME = b"\x1c\0\0\0"
"""CONNECTION_CLOSE without an error."""


def configuration(server_name: str | None, **settings) -> QuicConfiguration:
    settings = {"alpn_protocols": H3_ALPN} | settings
    return QuicConfiguration(
        is_client=True, server_name=server_name, verify_mode=ssl.CERT_NONE,
        connection_id_length=ID_LEN, **settings)


class Hello:
    """A client that sends Initials by hand. Its ClientHello is aioquic's."""

    def __init__(self, server_name: str, address: tuple[str, int]):
        quic = QuicConnection(configuration=configuration(server_name))
        quic.connect(address, now=time.time())
        self.source_id = quic.host_cid
        self.destination_id = quic.original_destination_connection_id
        self.message = bytes(quic._crypto_streams[tls.Epoch.INITIAL].sender._buffer)
        """The ClientHello."""
        self._keys: dict[bytes, CryptoPair] = {}

    @property
    def crypto_frame(self) -> bytes:
        return crypto_frame(self.message)

    def keys(self, destination_id: bytes) -> CryptoPair:
        if destination_id not in self._keys:
            self._keys[destination_id] = initial_keys(destination_id)
        return self._keys[destination_id]

    def initial(self, frames: bytes | None = None, *, token=b"", destination_id=None, number=0,
                length=INITIAL_LEN, first=0xC1) -> bytes:
        """Returns an Initial packet, padded to `length`. Without `frames`, it holds as much of the
        ClientHello as there is room for."""
        destination_id = destination_id or self.destination_id
        if frames is None:
            # Beside the header with its ids and lengths, and the frame's own type and length.
            room = length - len(token) - len(destination_id) - len(self.source_id) - TAG_LEN - 20
            frames = crypto_frame(self.message[:room])
        return initial(self.keys(destination_id), destination_id, self.source_id, frames,
                       token=token, number=number, length=length, first=first)

    def without_frames(self, number: int) -> bytes:
        """Returns an Initial packet whose payload is empty, which is 4 bytes of its number and the
        tag."""
        ids = bytes([ID_LEN]) + self.destination_id + bytes([ID_LEN]) + self.source_id
        header = b"\xc3" + VERSION.to_bytes(4, "big") + ids + b"\0" + varint(4 + TAG_LEN)
        header += number.to_bytes(4, "big")
        return self.keys(self.destination_id).encrypt_packet(header, b"", number)

    def kind(self, datagram: bytes, destination_id: bytes | None = None) -> str:
        """Returns what a response is, where `destination_id` is that of the Initial which it
        responds to."""
        header = parse(datagram)
        if header is None:
            return "malformed"
        if header.packet_type != QuicPacketType.INITIAL:
            return header.packet_type.name.lower()
        payload = self.payload(datagram, destination_id)
        if payload is None:
            return "initial of unknown keys"
        code = close_code(payload)
        return "initial" if code is None else f"close {code:#x}"

    def payload(self, datagram: bytes, destination_id: bytes | None = None) -> bytes | None:
        """Returns the frames of a response's Initial packet."""
        buffer = Buffer(data=datagram)
        header = pull_quic_header(buffer, ID_LEN)
        keys = self.keys(destination_id or self.destination_id)
        try:
            _, payload, _ = keys.decrypt_packet(
                datagram[: header.packet_length], buffer.tell(), 0)
        except CryptoError:
            return None
        return payload


def crypto_frame(message: bytes, offset: int = 0) -> bytes:
    return b"\x06" + varint(offset) + varint(len(message)) + message


def initial_keys(destination_id: bytes) -> CryptoPair:
    keys = CryptoPair()
    keys.setup_initial(destination_id, is_client=True, version=VERSION)
    return keys


def initial(keys: CryptoPair, destination_id: bytes, source_id: bytes, frames: bytes, *,
            token=b"", number=0, length=INITIAL_LEN, first=0xC1) -> bytes:
    """Returns a sealed Initial packet. Frames that do not fit are cut."""
    ids = bytes([len(destination_id)]) + destination_id + bytes([len(source_id)]) + source_id
    start = bytes([first]) + VERSION.to_bytes(4, "big") + ids + varint(len(token)) + token
    room = length - len(start) - 2 - 2 - TAG_LEN
    payload = frames[:room].ljust(room, PADDING)
    rest_len = (2 + len(payload) + TAG_LEN) | 0x4000
    header = start + rest_len.to_bytes(2, "big") + number.to_bytes(2, "big")
    return keys.encrypt_packet(header, payload, number)


def parse(datagram: bytes) -> QuicHeader | None:
    """Returns the first packet's header."""
    try:
        return pull_quic_header(Buffer(data=datagram), ID_LEN)
    except (ValueError, EOFError):
        return None


def frames_of(payload: bytes):
    """Yields the type and the fields of each frame that a server sends (RFC 9000 19). Stops at one
    that it cannot read."""
    buffer = Buffer(data=payload)
    pull = buffer.pull_uint_var
    with contextlib.suppress(ValueError, EOFError, KeyError):
        while not buffer.eof():
            kind, fields = pull(), []
            if kind in (0x02, 0x03):
                fields = [pull() for _ in range(4)]
                for _ in range(2 * fields[2] + 3 * (kind == 0x03)):
                    pull()
            elif kind == 0x06:
                fields = [pull(), buffer.pull_bytes(pull())]
            elif kind == 0x07:
                fields = [buffer.pull_bytes(pull())]
            elif 0x08 <= kind <= 0x0F:
                fields = [pull(), pull() if kind & 4 else 0]
                rest = pull() if kind & 2 else buffer.capacity - buffer.tell()
                fields.append(buffer.pull_bytes(rest))
            elif kind == 0x18:
                fields = [pull(), pull(), buffer.pull_bytes(buffer.pull_uint8())]
                fields.append(buffer.pull_bytes(16))
            elif kind in (0x1A, 0x1B):
                fields = [buffer.pull_bytes(8)]
            elif kind in (0x1C, 0x1D):
                fields = [pull()] + ([pull()] if kind == 0x1C else [])
                fields.append(buffer.pull_bytes(pull()))
            elif kind not in (0x00, 0x01, 0x1E):
                fields = [pull() for _ in range(FIELD_COUNTS[kind])]
            yield kind, fields


FIELD_COUNTS = {0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x12: 1, 0x13: 1, 0x14: 1, 0x15: 2, 0x16: 1,
                0x17: 1, 0x19: 1}
"""How many integers these frames consist of."""


def close_code(payload: bytes) -> int | None:
    return next((fields[0] for kind, fields in frames_of(payload) if kind in (0x1C, 0x1D)), None)


@contextlib.asynccontextmanager
async def connection(target, create_protocol=QuicConnectionProtocol, keep_ticket=None,
                     keep_token=None, address: str | None = None, **settings):
    """Opens a connection by aioquic, from an address of its own if there is one. At the end its
    socket is closed without a word."""
    quic = QuicConnection(configuration=configuration(target.client.authority, **settings),
                          session_ticket_handler=keep_ticket, token_handler=keep_token)
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: create_protocol(quic), remote_addr=target.address,
        local_addr=(address, 0) if address else None)
    # Connected, so that its address is left out.
    transport.sendto = lambda datagram, _, send=transport.sendto: send(datagram)
    try:
        # As the socket has it: on IPv6 it is longer than ours, and aioquic compares.
        protocol.connect(transport.get_extra_info("peername"))
        async with asyncio.timeout(5):
            await protocol.wait_connected()
        yield protocol
    finally:
        if protocol._timer is not None:
            protocol._timer.cancel()
        transport.close()


def is_loopback(target) -> bool:
    return target.host == "::1" or target.host.startswith("127.")


@contextlib.contextmanager
def udp_socket(target, address: str | None = None):
    """Opens a socket with a port of its own, on loopback also with an address of its own."""
    with socket.socket(target.family, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if is_loopback(target):
            local = "::1" if target.family == socket.AF_INET6 else address or "127.0.0.1"
            one.bind((local, 0))
        one.settimeout(RECEIVE_TIMEOUT)
        yield one


def receive(one: socket.socket, seconds: float) -> list[bytes]:
    """Returns the datagrams that arrive in this time."""
    arrived, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            arrived.append(one.recv(65535))
    return arrived


def receive_first(one: socket.socket, seconds: float = 1.0, more: float = 0.1) -> list[bytes]:
    """Returns what arrives until shortly after the first datagram, or nothing after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            return [one.recv(65535), *receive(one, more)]
    return []


def receive_waiting(one: socket.socket) -> list[bytes]:
    """Returns the datagrams that have arrived."""
    arrived = []
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        while True:
            arrived.append(one.recv(65535))
    return arrived


class Pace:
    """Spreads a flood over time, so that it tests the gateway and not the socket's buffer."""

    def __init__(self, per_second: int):
        self._per_second, self._count, self._began = per_second, 0, time.monotonic()

    def step(self, count: int = 1):
        self._count += count
        ahead = self._began + self._count / self._per_second - time.monotonic()
        if ahead > 0.002:
            time.sleep(ahead)


def ids(dice: random.Random, length: int = ID_LEN) -> bytes:
    return dice.randbytes(length)
