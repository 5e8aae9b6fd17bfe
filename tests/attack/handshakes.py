"""Handshakes that nobody means to complete, from many addresses."""

import collections
import contextlib
import random
import time

from . import wire
from .case import Case, Target, expect
from .unproven import AMPLIFICATION_MAX, hello
from .wire import CLOSE_FRAME, Pace, receive_waiting, udp_socket

FIRST_RESPONSE_SECONDS_MAX = 1.0
"""Time in which a new client is served in the middle of an attack."""
SOCKET_COUNT = 100
"""Source ports that are open at once."""


def expect_new_client(target: Target) -> float:
    """Returns the seconds until a new client has its first response."""
    try:
        seconds = target.client.first_response_seconds()
    except (OSError, TimeoutError) as error:
        expect(False, f"a new client is not served: {error or type(error).__name__}")
    expect(seconds <= FIRST_RESPONSE_SECONDS_MAX, f"a new client waited {seconds:.2f} s")
    return seconds


def self_closing(target: Target, dice: random.Random) -> str:
    """H1: Initials whose only frame is CONNECTION_CLOSE, each from another port."""
    count, slowest = target.count(2000, 150_000), 0.0
    source_id, pace = wire.ids(dice), Pace(2000)
    for number in range(count):
        destination_id = wire.ids(dice)
        keys = wire.initial_keys(destination_id)
        with udp_socket(target) as one:
            one.sendto(wire.initial(keys, destination_id, source_id, CLOSE_FRAME), target.address)
        pace.step()
        if number % (count // 4) == count // 4 - 1:
            slowest = max(slowest, expect_new_client(target))
    return f"{count} connections, slowest new client {slowest * 1e3:.0f} ms"


def repeated(target: Target, dice: random.Random) -> str:
    """H2: one Initial, repeated from other ports. Only its first address may be responded to with
    a handshake, and one in a hundred is forgiven; the listener's Retry must not be turned off."""
    count, client, kinds = target.count(2000, 50_000), hello(target), collections.Counter()
    datagram, out = client.initial(), 0
    for _ in range(count // SOCKET_COUNT):
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(udp_socket(target)) for _ in range(SOCKET_COUNT)]
            for one in sockets:
                one.sendto(datagram, target.address)
                # Apart from the next one, so that a handshake that begins has time to respond.
                time.sleep(0.0005)
            time.sleep(0.02)
            for one in sockets:
                arrived = receive_waiting(one)
                out += sum(map(len, arrived))
                kinds[client.kind(arrived[0]) if arrived else "nothing"] += 1
    slowest = expect_new_client(target)
    ratio = out / (count * len(datagram))
    expect(ratio <= AMPLIFICATION_MAX, f"{ratio:.3f}x out")
    kinds_text = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    begun = kinds["initial"] + kinds["handshake"]
    expect(begun <= count // 100, f"{count} copies, too many handshakes: {kinds_text}")
    return f"{count} copies: {kinds_text}; new client {slowest * 1e3:.0f} ms"


CASES = [
    Case("H1", "Initials that close themselves", self_closing),
    Case("H2", "an Initial from many ports", repeated),
]
