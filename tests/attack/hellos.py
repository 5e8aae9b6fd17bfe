"""ClientHellos in odd pieces or with odd contents, and early data."""

import asyncio
import copy
import random

from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from . import wire
from .case import Case, Target, expect
from .client import Protocol
from .unproven import AMPLIFICATION_MAX, hello
from .wire import CLOSE_FRAME, Hello, crypto_frame, receive_first, udp_socket, varint

SERVER_NAME, ALPN, PADDING, TRANSPORT_PARAMETERS = 0, 16, 21, 57
CRYPTO_BUFFER_EXCEEDED, TRANSPORT_PARAMETER_ERROR = "close 0xd", "close 0x8"
DECODE_ERROR, ILLEGAL_PARAMETER = "close 0x132", "close 0x12f"
MISSING_EXTENSION, NO_APPLICATION_PROTOCOL = "close 0x16d", "close 0x178"
SERVER_HELLO = "ServerHello"
PIECE_COUNT = 10
LONG_LEN = 60_000
"""Bytes of the longest ClientHello. Its extensions may have 65,535 (RFC 8446 4.1.2)."""


def pieces(message: bytes, count: int, overlap: int = 0) -> list[bytes]:
    """Returns CRYPTO frames that hold the message, each with some bytes of the next one."""
    length = -(-len(message) // count)
    return [crypto_frame(message[at:at + length + overlap], at)
            for at in range(0, len(message), length)]


def response(target: Target, client: Hello, frames: list[bytes]) -> str:
    """Sends each of the frames in an Initial of its own. Returns the kind of the response."""
    with udp_socket(target) as one:
        for number, frame in enumerate(frames):
            one.sendto(client.initial(frame, number=number), target.address)
        arrived = receive_first(one, 0.5, more=0.03)
        one.sendto(client.initial(CLOSE_FRAME, number=len(frames)), target.address)
    out, sent = sum(map(len, arrived)), len(frames) * wire.INITIAL_LEN
    expect(out <= AMPLIFICATION_MAX * sent, f"{out} bytes out for {sent}")
    kinds = [client.kind(datagram) for datagram in arrived]
    if any(is_server_hello(client, datagram) for datagram in arrived):
        return SERVER_HELLO
    closes = [kind for kind in kinds if kind.startswith("close")]
    return (closes or kinds or ["nothing"])[0]


def is_server_hello(client: Hello, datagram: bytes) -> bool:
    if client.kind(datagram) != "initial":
        return False
    frames = wire.frames_of(client.payload(datagram))
    return any(kind == 6 and fields[1][:1] == b"\x02" for kind, fields in frames)


def in_pieces(target: Target, dice: random.Random) -> str:
    """D08: a ClientHello in ten Initials, in any order, repeated, overlapping; one of 60 KB; and
    one that never comes, of which single bytes with gaps are sent."""
    seen = {}

    def check(name: str, frames, *allowed: str, message=None):
        client = hello(target)
        client.message = message(client.message) if message else client.message
        seen[name] = response(target, client, frames(client.message))
        expect(seen[name] in allowed, f"{name}: {seen[name]}")

    check("in order", lambda whole: pieces(whole, PIECE_COUNT), SERVER_HELLO)
    check("reversed", lambda whole: pieces(whole, PIECE_COUNT)[::-1], SERVER_HELLO)
    check("shuffled", lambda whole: dice.sample(pieces(whole, 10), 10), SERVER_HELLO)
    check("twice", lambda whole: 2 * pieces(whole, PIECE_COUNT), SERVER_HELLO)
    check("overlapping", lambda whole: pieces(whole, PIECE_COUNT, overlap=30), SERVER_HELLO)
    # What contradicts itself may be refused, or either version be taken.
    check("contradicting", lambda whole: [crypto_frame(bytes(50), 100), *pieces(whole, 10)],
          SERVER_HELLO, DECODE_ERROR, ILLEGAL_PARAMETER, "nothing", "initial")
    for name, order in (("60 KB", 1), ("60 KB reversed", -1)):
        check(name, lambda whole, order=order: pieces(whole, 60)[::order], SERVER_HELLO,
              CRYPTO_BUFFER_EXCEEDED, message=longer)
    count = target.count(1000, 20_000)
    client, pace = hello(target), wire.Pace(4000)
    with udp_socket(target) as one:
        for number in range(count):
            frame = crypto_frame(b"x", 2 + 2 * (number % 4000))
            one.sendto(client.initial(frame, number=number % 60_000), target.address)
            pace.step()
    return ", ".join(f"{name}: {kind}" for name, kind in seen.items()) + f"; {count} gaps"


def longer(message: bytes) -> bytes:
    return edited(message, {PADDING: bytes(LONG_LEN - len(message))})


def parsed(message: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Returns a ClientHello up to its extensions, without its own length, and the extensions."""
    buffer = Buffer(data=message)
    buffer.pull_bytes(4 + 2 + 32)
    for length_len in (1, 2, 1):
        buffer.pull_bytes(int.from_bytes(buffer.pull_bytes(length_len), "big"))
    head = message[4:buffer.tell()]
    end, extensions = buffer.pull_uint16() + buffer.tell(), {}
    while buffer.tell() < end:
        kind = buffer.pull_uint16()
        extensions[kind] = buffer.pull_bytes(buffer.pull_uint16())
    return head, extensions


def edited(message: bytes, changes: dict[int, bytes | None]) -> bytes:
    """Returns a ClientHello with these extensions changed or added, or without them."""
    head, extensions = parsed(message)
    block = b"".join(kind.to_bytes(2, "big") + block_of(text, 2)
                     for kind, text in (extensions | changes).items() if text is not None)
    return message[:1] + block_of(head + block_of(block, 2), 3)


def block_of(text: bytes, length_len: int) -> bytes:
    return len(text).to_bytes(length_len, "big") + text


def server_name(name: bytes) -> dict[int, bytes | None]:
    return {SERVER_NAME: block_of(b"\0" + block_of(name, 2), 2)}


def protocols(*names: bytes) -> dict[int, bytes | None]:
    return {ALPN: block_of(b"".join(block_of(name, 1) for name in names), 2)}


# Extensions of the ClientHello, and the responses that are right. Which certificate a name gets,
# or whether it is refused, is the gateway's choice.
BY_POLICY = (SERVER_HELLO, "close 0x131", "close 0x170", DECODE_ERROR, ILLEGAL_PARAMETER)
HELLOS = {
    "no ALPN": ({ALPN: None}, (NO_APPLICATION_PROTOCOL,)),
    "ALPN h2": (protocols(b"h2"), (NO_APPLICATION_PROTOCOL,)),
    "ALPN h3-29": (protocols(b"h3-29"), (NO_APPLICATION_PROTOCOL,)),
    "ALPN of an empty name": (protocols(b""), (DECODE_ERROR, ILLEGAL_PARAMETER,
                                               NO_APPLICATION_PROTOCOL)),
    "ALPN among others": (protocols(b"hq-interop", b"h3"), (SERVER_HELLO,)),
    "no name": ({SERVER_NAME: None}, BY_POLICY),
    "unknown name": (server_name(b"nobody.invalid"), BY_POLICY),
    "name with NUL": (server_name(b"local\0host"), BY_POLICY),
    "name of 255 bytes": (server_name(b"a" * 255), BY_POLICY),
    "name of 0 bytes": (server_name(b""), BY_POLICY),
    "name with a line end": (server_name(b"a\r\nb"), BY_POLICY),
    "no transport parameters": ({TRANSPORT_PARAMETERS: None}, (MISSING_EXTENSION,)),
}

# Transport parameters of a client, by number, that have to be refused (RFC 9000 18.2).
MAX_UDP_PAYLOAD_SIZE, MAX_STREAMS_BIDI, ACK_DELAY_EXPONENT, MAX_ACK_DELAY = 0x03, 0x08, 0x0A, 0x0B
ACTIVE_ID_LIMIT, INITIAL_SOURCE_ID = 0x0E, 0x0F
PARAMETERS = {
    "original_destination_connection_id": {0x00: bytes(8)},
    "stateless_reset_token": {0x02: bytes(16)},
    "preferred_address": {0x0D: bytes(4 + 2 + 16 + 2) + b"\x08" + bytes(8 + 16)},
    "retry_source_connection_id": {0x10: bytes(8)},
    "max_udp_payload_size 1199": {MAX_UDP_PAYLOAD_SIZE: varint(1199)},
    "2^60 + 1 streams": {MAX_STREAMS_BIDI: varint((1 << 60) + 1)},
    "ack_delay_exponent 21": {ACK_DELAY_EXPONENT: varint(21)},
    "max_ack_delay 2^14": {MAX_ACK_DELAY: varint(1 << 14)},
    "active_connection_id_limit 1": {ACTIVE_ID_LIMIT: varint(1)},
    "a number of two lengths": {MAX_ACK_DELAY: b"\x01\x01"},
    "no initial_source_connection_id": {INITIAL_SOURCE_ID: None},
    "another initial_source_connection_id": {INITIAL_SOURCE_ID: bytes(8)},
}


def odd_contents(target: Target, dice: random.Random) -> str:
    """D09: ClientHellos without what they need, or with what they must not have."""
    seen = {}

    def check(name: str, edit, allowed):
        client = hello(target)
        client.message = edit(client.message)
        kind = seen[name] = response(target, client, [client.crypto_frame])
        expect(kind in allowed, f"{name}: {kind}, not {' or '.join(allowed)}")

    for name, (changes, allowed) in HELLOS.items():
        check(name, lambda message, changes=changes: edited(message, changes), allowed)
    refused = (TRANSPORT_PARAMETER_ERROR, "close 0xa")
    for name, changes in PARAMETERS.items():
        check(name, lambda message, changes=changes: with_parameters(message, changes), refused)
    twice = varint(INITIAL_SOURCE_ID) + b"\x01x"
    check("a parameter twice", lambda message: with_parameters(message, {}, twice), refused)
    check("cut parameters", lambda message: with_parameters(message, {}, b"\x01"), refused)
    names = ", ".join(f"{name}: {seen[name]}" for name in list(HELLOS)[5:11])
    return f"{len(seen)} ClientHellos; {names}"


def with_parameters(message: bytes, changes: dict[int, bytes | None], more=b"") -> bytes:
    _, extensions = parsed(message)
    buffer, parameters = Buffer(data=extensions[TRANSPORT_PARAMETERS]), {}
    while not buffer.eof():
        number = buffer.pull_uint_var()
        parameters[number] = buffer.pull_bytes(buffer.pull_uint_var())
    parameters |= changes
    block = b"".join(varint(number) + varint(len(value)) + value
                     for number, value in parameters.items() if value is not None)
    return edited(message, {TRANSPORT_PARAMETERS: block + more})


class Early(Protocol):
    """A client that sends its request at once, and keeps its datagrams."""

    def __init__(self, quic, target: Target):
        super().__init__(quic)
        self._target = target
        self.sent: list[bytes] = []

    def connection_made(self, transport):
        send = transport.sendto

        def record(datagram: bytes):
            self.sent.append(datagram)
            send(datagram)

        transport.sendto = record
        super().connection_made(transport)

    def connect(self, address):
        super().connect(address)
        client = self._target.client
        self.response = asyncio.ensure_future(self.get(client.authority, client.path))


def early_data(target: Target, dice: random.Random) -> str:
    """D19: a request in 0-RTT packets, although no ticket allows it, and the same again from
    another port. It could be replayed, so it must not be read before the handshake is complete."""

    async def run() -> list[bytes]:
        tickets = []
        async with wire.connection(target, Protocol, tickets.append) as protocol:
            await protocol.get(target.client.authority, target.client.path)
            protocol.close()
        expect(bool(tickets), "no session ticket")
        expect(tickets[0].max_early_data_size is None, "a ticket allows early data")
        forged = copy.copy(tickets[0])
        forged.max_early_data_size = 0xFFFF_FFFF
        async with wire.connection(
                target, lambda quic: Early(quic, target), session_ticket=forged) as protocol:
            protocol.response.cancel()
            expect(any(map(has_early_data, protocol.sent)), "the client sent no 0-RTT packet")
            expect(protocol._quic.tls.session_resumed, "the ticket was not used")
            expect(not protocol._quic.tls.early_data_accepted, "early data is accepted")
            protocol.close()
            return protocol.sent

    sent = asyncio.run(run())[:2]
    with udp_socket(target) as one:
        for datagram in sent:
            one.sendto(datagram, target.address)
        out = sum(map(len, receive_first(one, 0.5, more=0.5)))
    received = sum(map(len, sent))
    expect(out <= AMPLIFICATION_MAX * received, f"a replay gets {out} bytes for {received}")
    return "no ticket allows it, and none is accepted"


def has_early_data(datagram: bytes) -> bool:
    buffer = Buffer(data=datagram)
    while not buffer.eof():
        start = buffer.tell()
        try:
            header = pull_quic_header(buffer, wire.ID_LEN)
        except ValueError:
            return False
        if header.packet_type == QuicPacketType.ZERO_RTT:
            return True
        buffer.seek(start + header.packet_length)
    return False


CASES = [
    Case("D08", "ClientHellos in pieces", in_pieces),
    Case("D09", "odd ClientHellos", odd_contents),
    Case("D19", "early data", early_data),
]
