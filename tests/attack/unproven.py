"""Datagrams of strangers: no handshake is completed, and the source may be forged."""

import asyncio
import random
import socket
import struct
import time

from . import wire
from .case import Case, Target, expect
from .wire import CLOSE_FRAME, Hello, Pace, receive, receive_first, receive_waiting, udp_socket

AMPLIFICATION_MAX = 3
"""Bytes that may go to an unvalidated address for each received one (RFC 9000 8.1)."""
RESET_RATE_MAX = 1000
"""Stateless resets of one worker in a second, and in a burst."""
SHORT_PACKETS_RATE = 3000
RESET_LEN_MIN = 21
"""Length of the shortest stateless reset (RFC 9000 10.3)."""
INVALID_TOKEN = "close 0xb"


def hello(target: Target) -> Hello:
    return Hello(target.client.authority, target.address)


def silence(target: Target, dice: random.Random) -> str:
    """D01: a client sends one Initial, and never acknowledges anything."""
    seconds = target.count(5, 12)
    with udp_socket(target) as one:
        sent = hello(target).initial()
        one.sendto(sent, target.address)
        arrived = receive(one, seconds)
    out = sum(map(len, arrived))
    ratio = out / len(sent)
    expect(out > 0, "no response to an Initial")
    expect(ratio <= AMPLIFICATION_MAX, f"{out} bytes out for {len(sent)} bytes in: {ratio:.3f}x")
    return f"{ratio:.3f}x in {seconds} s"


def versions(target: Target, dice: random.Random) -> str:
    """D02: unknown versions, and a Version Negotiation packet toward the gateway."""
    first = hello(target)
    for length, is_answered in ((60, False), (1199, False), (1200, True)):
        unknown = bytearray(first.initial()[:length])
        unknown[1:5] = b"\x1a\x2a\x3a\x4a"
        with udp_socket(target) as one:
            one.sendto(unknown, target.address)
            arrived = receive_first(one, 1.0 if is_answered else 0.4)
        expect(len(arrived) == is_answered, f"{len(arrived)} responses to {length} bytes")
        for datagram in arrived:
            check_negotiation(datagram, first)
    negotiation = (b"\xc0\0\0\0\0\x08" + wire.ids(dice) + b"\x08" + wire.ids(dice)
                   + struct.pack(">II", 1, 0x1A2A3A4A))
    for datagram in (negotiation, negotiation.ljust(1200, b"\x0a")):
        with udp_socket(target) as one:
            one.sendto(datagram, target.address)
            expect(not receive(one, 0.3), "a response to a Version Negotiation packet")
    return "1 response to 5 datagrams"


def check_negotiation(datagram: bytes, client: Hello):
    header = wire.parse(datagram)
    expect(header is not None and header.version == 0, "the response is no version negotiation")
    expect(len(datagram) <= 1200, f"a version negotiation of {len(datagram)} bytes")
    is_echo = (header.destination_cid, header.source_cid) == (
        client.source_id, client.destination_id)
    expect(is_echo, "the version negotiation does not echo the connection ids")
    real = [version for version in header.supported_versions
            if version & 0x0F0F0F0F != 0x0A0A0A0A]
    expect(real == [1], f"versions {real} are offered")


def resets(target: Target, dice: random.Random) -> str:
    """D03: short headers whose connection is gone; resets that are sent back to the gateway. A
    gateway may drop ids that it can never have given out, so these were its own."""
    with udp_socket(target) as one:
        own_id = asyncio.run(id_of_a_past_connection(target))
        wait_for_reset(target, dice, one, own_id)
        longest = 0
        for length in (21, 22, 40, 41, 42, 43, 60, 100, 600, 1200):
            one.sendto(short_packet(dice, length, own_id), target.address)
            for reset in receive(one, 0.06):
                longest = max(longest, len(reset))
                expect(len(reset) < length, f"a reset of {len(reset)} bytes for {length} bytes")
                expect(len(reset) >= RESET_LEN_MIN, f"a reset of {len(reset)} bytes")
        count, seconds = flood_of_short_packets(target, dice, one, own_id)
        expect(count <= RESET_RATE_MAX * (seconds + 1), f"{count} resets in {seconds:.1f} s")
        bounced = bounce(target, one, short_packet(dice, 1200, own_id))
    return (f"longest {longest} bytes, {count} in {seconds:.1f} s at {SHORT_PACKETS_RATE}/s, "
            f"{bounced} when sent back")


async def id_of_a_past_connection(target: Target) -> bytes:
    async with wire.connection(target) as protocol:
        await protocol.ping()
        own_id = protocol._quic._peer_cid.cid
        protocol.close()
        await asyncio.sleep(0.05)
    return own_id


def wait_for_reset(target: Target, dice: random.Random, one, own_id: bytes):
    """Waits until the connection is forgotten."""
    for _ in range(20):
        one.sendto(short_packet(dice, 100, own_id), target.address)
        if receive(one, 0.25):
            return
    expect(False, "no reset for a connection that was closed 5 s ago")


def short_packet(dice: random.Random, length: int, destination_id: bytes = b"") -> bytes:
    first = bytes([0x40 | dice.getrandbits(5)])
    return (first + destination_id + dice.randbytes(length))[:length]


def flood_of_short_packets(target, dice: random.Random, one, own_id) -> tuple[int, float]:
    """Returns how many resets came in how many seconds."""
    began, count, pace = time.monotonic(), 0, Pace(SHORT_PACKETS_RATE)
    for _ in range(target.count(9000, 60_000)):
        one.sendto(short_packet(dice, dice.randrange(43, 1200), own_id), target.address)
        pace.step()
        count += len(receive_waiting(one))
    one.settimeout(wire.RECEIVE_TIMEOUT)
    count += len(receive(one, 0.3))
    return count, time.monotonic() - began


def bounce(target: Target, one, first: bytes) -> int:
    """Sends each reset back. Returns how many came until there were no more."""
    datagrams, count = [first], 0
    while datagrams:
        expect(count < 100, "resets that are sent back are reset for ever")
        for datagram in datagrams:
            one.sendto(datagram, target.address)
        datagrams = receive_first(one, 0.2, more=0.03)
        count += len(datagrams)
    return count


def mutations(target: Target, dice: random.Random) -> str:
    """D04: Initials with changed bytes or frames, other long headers, short headers, noise."""
    count = target.count(20_000, 1_000_000)
    first = hello(target)
    base, pace = first.initial(), Pace(8000)
    with udp_socket(target) as one:
        for number in range(count):
            one.sendto(mutated(dice, first, base), target.address)
            pace.step()
            if number % 1000 == 0:
                for length in (0, 65_507):
                    one.sendto(dice.randbytes(length), target.address)
                receive(one, 0.001)
    return f"{count} datagrams, seed {target.seed}"


def mutated(dice: random.Random, first: Hello, base: bytes) -> bytes:
    match dice.randrange(8):
        case 0:
            return dice.randbytes(dice.randrange(1500))
        case 1:
            return short_packet(dice, dice.randrange(1, 1500))
        case 2:
            return changed(dice, base, 60)
        case 3:
            return changed(dice, base, len(base))
        case 4:
            return changed(dice, base, 60)[: dice.randrange(len(base))]
        case 5:
            # 0-RTT, Handshake or Retry, with ids and lengths by chance.
            kind = bytes([0xC0 | dice.randrange(1, 4) << 4 | dice.getrandbits(4)])
            return changed(dice, kind + base[1:], 40)
        case 6:
            # Frames by chance under keys that are right.
            return sealed(dice, first, dice.randbytes(dice.randrange(1, 300)))
        case _:
            return sealed(dice, first, changed(dice, first.crypto_frame, 400))


def changed(dice: random.Random, datagram: bytes, end: int) -> bytes:
    """Changes one to eight bytes before `end`."""
    out = bytearray(datagram)
    for _ in range(dice.randrange(1, 9)):
        out[dice.randrange(min(end, len(out)))] = dice.getrandbits(8)
    return bytes(out)


def sealed(dice: random.Random, first: Hello, frames: bytes) -> bytes:
    destination_id = wire.ids(dice)
    keys = wire.initial_keys(destination_id)
    return wire.initial(keys, destination_id, first.source_id, frames)


def tokens(target: Target, dice: random.Random) -> str:
    """D06: address validation tokens that are used, changed, too short, too long or of others."""
    seen = {"none": begin(target, hello(target), b"")}
    for name, token in (("1 byte", b"\x01"), ("1,100 bytes", dice.randbytes(1100)),
                        ("100 bytes", dice.randbytes(100))):
        seen[name] = begin(target, hello(target), token)
    first = hello(target)
    with udp_socket(target) as other, udp_socket(target) as one:
        retry = retry_for(target, first, other, one)
        if retry is None:
            seen["Retry token"] = "there is none"
        else:
            seen |= retry_tokens(target, dice, first, retry, one)
    seen |= new_tokens(target)
    return ", ".join(f"{name}: {kind}" for name, kind in seen.items())


def begin(target: Target, client: Hello, token: bytes) -> str:
    """Sends an Initial with a token from a new port. Returns the kind of the response."""
    with udp_socket(target) as one:
        return TokenUse(target, client, client.destination_id).wrong(one, token, 0.1)


def retry_for(target: Target, client: Hello, other, one):
    """Returns the header of a Retry packet to `one`, or nothing if the gateway sends none. It is
    asked for by repeating an Initial from another address."""
    for source in (other, one):
        source.sendto(client.initial(), target.address)
        arrived = receive_first(source)
        headers = [wire.parse(datagram) for datagram in arrived]
        found = [header for header in headers if header and header.packet_type.name == "RETRY"]
        if found and source is one:
            return found[0]
    return None


def retry_tokens(target: Target, dice: random.Random, client: Hello, retry, one) -> dict[str, str]:
    """Uses a Retry token in the ways that are wrong, once in the right one, and again."""
    use = TokenUse(target, client, retry.source_cid)
    token, flipped = retry.token, bytearray(retry.token)
    seen = {}
    for number in range(5):
        bit = dice.randrange(8 * len(token))
        flipped[bit // 8] ^= 1 << bit % 8
        seen["flipped"] = use.wrong(one, bytes(flipped), SILENCE if number == 0 else 0.1)
    with udp_socket(target) as stranger:
        seen["other port"] = use.wrong(stranger, token)
    kind, _ = use.once(one, token, 0.1)
    expect(kind == "initial", f"a valid token leads to: {kind}")
    seen |= {"right": kind, "replayed": use.wrong(one, token)}
    if target.full:
        time.sleep(16)
        seen["expired"] = use.wrong(one, token)
    return seen


def new_tokens(target: Target) -> dict[str, str]:
    """Uses the token of a NEW_TOKEN frame from another address, then from its own, and again."""

    async def tokens_of_a_connection() -> list[bytes]:
        tokens = []
        async with wire.connection(target, keep_token=tokens.append) as protocol:
            await protocol.ping()
            protocol.close()
        return tokens

    tokens = asyncio.run(tokens_of_a_connection())
    if not tokens:
        return {"NEW_TOKEN": "there is none"}
    seen, client = {}, hello(target)
    use = TokenUse(target, client, client.destination_id)
    if wire.is_loopback(target) and target.family == socket.AF_INET:
        with udp_socket(target, OTHER_ADDRESS) as stranger:
            seen["NEW_TOKEN elsewhere"] = use.wrong(stranger, tokens[0])
    for name in ("NEW_TOKEN", "replayed NEW_TOKEN"):
        client = hello(target)
        use = TokenUse(target, client, client.destination_id)
        with udp_socket(target) as one:
            if name == "NEW_TOKEN":
                seen[name], _ = use.once(one, tokens[0], 0.1)
                expect(seen[name] == "initial", f"a NEW_TOKEN leads to: {seen[name]}")
            else:
                seen[name] = use.wrong(one, tokens[0])
    return seen


OTHER_ADDRESS = "127.0.0.66"
SILENCE = 2.5
"""Seconds in which a gateway that believes an address sends more than three times what it got: its
first flight, and two probes of it."""


class TokenUse:
    """Handshakes that begin with a token, and end before the next one."""

    def __init__(self, target: Target, client: Hello, destination_id: bytes):
        self._target, self._client, self._id = target, client, destination_id
        self._number = 0

    def wrong(self, one, token: bytes, seconds: float = SILENCE) -> str:
        """A token that is not valid counts as none, or is INVALID_TOKEN (RFC 9000 8.1.3)."""
        kind, ratio = self.once(one, token, seconds)
        expect(kind in ("nothing", "retry", INVALID_TOKEN, "initial"), f"response: {kind}")
        expect(ratio <= AMPLIFICATION_MAX, f"an invalid token is believed: {ratio:.3f}x out")
        return kind

    def once(self, one, token: bytes, seconds: float) -> tuple[str, float]:
        """Returns the response's kind, and how many times the bytes of the Initial came back."""
        datagram = self._initial(None, token)
        one.sendto(datagram, self._target.address)
        arrived = receive_first(one, 0.3)
        kind = self._client.kind(arrived[0], self._id) if arrived else "nothing"
        if kind == "initial":
            arrived += receive(one, seconds)
            one.sendto(self._initial(CLOSE_FRAME, token), self._target.address)
            receive(one, 0.1)
        return kind, sum(map(len, arrived)) / len(datagram)

    def _initial(self, frames: bytes | None, token: bytes) -> bytes:
        self._number += 1
        return self._client.initial(
            frames, token=token, destination_id=self._id, number=self._number)


def coalesced(target: Target, dice: random.Random) -> str:
    """D07: a valid Initial, followed in its datagram by what does not belong to it."""
    count, answered = target.count(200, 5000), dict.fromkeys(JUNK, 0)
    for name, junk in JUNK.items():
        for number in range(count // len(JUNK)):
            client = hello(target)
            datagram = client.initial(length=700) + junk(dice, client)
            with udp_socket(target) as one:
                one.sendto(datagram, target.address)
                if number >= 3:
                    continue
                arrived = receive_first(one, 0.3, more=0.02)
            out = sum(map(len, arrived))
            expect(out <= AMPLIFICATION_MAX * len(datagram),
                   f"{name}: {out} bytes out for {len(datagram)} in")
            answered[name] += bool(arrived)
    return "responses to 3 each: " + ", ".join(f"{name} {n}" for name, n in answered.items())


def packet(first: int, version: int, destination_id: bytes, length: int, claimed: int) -> bytes:
    """Returns a long header that claims a length, with noise behind it."""
    start = (bytes([first]) + version.to_bytes(4, "big") + bytes([len(destination_id)])
             + destination_id + b"\x08" + bytes(8))
    return (start + wire.varint(claimed)).ljust(length, b"\x5a")


JUNK = {
    "other id": lambda dice, client: packet(0xE1, 1, wire.ids(dice), 600, 500),
    "other Initial": lambda dice, client: hello_again(dice, client),
    "other version": lambda dice, client: packet(0xE1, 0x1A2A3A4A, client.destination_id, 600, 500),
    "length past the end": lambda dice, client: packet(0xE1, 1, client.destination_id, 600, 9000),
    "length 2^60": lambda dice, client: packet(0xE1, 1, client.destination_id, 600, 1 << 60),
    "length 0": lambda dice, client: packet(0xE1, 1, client.destination_id, 600, 0),
    "id of 255 bytes": lambda dice, client: packet(0xE1, 1, dice.randbytes(255), 600, 300),
    "short header": lambda dice, client: short_packet(dice, 600),
    "many pieces": lambda dice, client: 20 * packet(0xE1, 1, client.destination_id, 30, 4),
}


def hello_again(dice: random.Random, client: Hello) -> bytes:
    destination_id = wire.ids(dice)
    keys = wire.initial_keys(destination_id)
    return wire.initial(keys, destination_id, client.source_id, client.crypto_frame, length=600)


CASES = [
    Case("D01", "one Initial, then silence", silence),
    Case("D02", "unknown versions", versions),
    Case("D03", "stateless resets", resets),
    Case("D04", "mutated datagrams", mutations),
    Case("D06", "tokens that are not valid", tokens),
    Case("D07", "junk behind an Initial", coalesced),
]
