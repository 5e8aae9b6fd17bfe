"""Handshakes that nobody means to complete, from many addresses."""

import collections
import contextlib
import math
import multiprocessing
import random
import time

from . import wire
from .case import Case, Target, expect
from .oracle import FIRST_RESPONSE_TIMEOUT
from .process import MIB
from .unproven import AMPLIFICATION_MAX, hello
from .wire import CLOSE_FRAME, INITIAL_LEN, Pace, receive_waiting, udp_socket

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


FLOOD_GROWTH_MAX = 16 * MIB
"""Bytes for each worker by which the process may grow in a flood of handshakes."""
NEW_CLIENT_SHARE_MIN = 0.99
"""Share of new clients that must be served within two seconds during the flood."""


def flood(target: Target, dice: random.Random) -> str:
    """D05: whole ClientHellos from many addresses, each with ids of its own, which nobody goes on
    with, much faster than handshakes can be made. Retry must begin, and new clients be served."""
    rounds, count = target.count(1, 5), target.count(9000, 20_000)
    client, kinds, waits = hello(target), collections.Counter(), []
    sent = out = 0
    for _ in range(rounds):
        datagrams = [initial_of_its_own(client, dice) for _ in range(count)]
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(udp_socket(target, f"127.{n % 250}.{n // 250}.7"))
                       for n in range(1, 2 * SOCKET_COUNT)]
            # Not a thread: it would take the interpreter from the new clients.
            sending = multiprocessing.get_context("fork").Process(
                target=send_paced, args=(target, sockets, datagrams, target.count(3000, 12_000)))
            sending.start()
            while sending.is_alive():
                waits.append(new_client_seconds(target))
            sending.join()
            time.sleep(0.1)
            for one in sockets:
                for datagram in receive_waiting(one):
                    kinds[client.kind(datagram)] += 1
                    out += len(datagram)
        sent += len(datagrams) * INITIAL_LEN
    served = sum(seconds <= FIRST_RESPONSE_TIMEOUT for seconds in waits)
    text = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    expect(kinds["retry"] > 0, f"no Retry in a flood of {count}: {text}")
    expect(out <= AMPLIFICATION_MAX * sent, f"{out / sent:.3f}x out")
    expect(served >= NEW_CLIENT_SHARE_MIN * len(waits), f"{served} of {len(waits)} new clients "
           "were served in time")
    if target.process:
        growth = target.process.growth_len()
        expect(growth <= FLOOD_GROWTH_MAX * target.process.worker_count, f"memory grew by {growth / MIB:.1f} MiB")
    return (f"{rounds * count} Initials, {text}; {served} of {len(waits)} new clients served, "
            f"slowest {max(waits) * 1e3:.0f} ms")


def initial_of_its_own(client: wire.Hello, dice: random.Random) -> bytes:
    destination_id = wire.ids(dice)
    keys = wire.initial_keys(destination_id)
    return wire.initial(keys, destination_id, client.source_id, client.crypto_frame)


def send_paced(target: Target, sockets, datagrams: list[bytes], per_second: int):
    pace = Pace(per_second)
    for number, datagram in enumerate(datagrams):
        sockets[number % len(sockets)].sendto(datagram, target.address)
        pace.step()


def new_client_seconds(target: Target) -> float:
    try:
        return target.client.first_response_seconds()
    except (OSError, TimeoutError):
        return math.inf


CASES = [
    Case("D05", "ClientHellos from many addresses", flood),
    Case("H1", "Initials that close themselves", self_closing),
    Case("H2", "an Initial from many ports", repeated),
]
