"""Packets of a client that come from where it is not."""

import asyncio
import contextlib
import random
import time

from . import wire
from .case import Case, Target, expect
from .client import Protocol
from .unproven import AMPLIFICATION_MAX
from .wire import is_loopback, receive_waiting, udp_socket

VICTIM = "127.0.0.66"
"""Address of the victim, where the gateway is on loopback. Elsewhere it is another port of ours."""
EVERY = 20
"""One in so many of the client's datagrams is stolen."""
PROBE_TIMEOUTS = 3
FREE_LEN, FREE_COUNT, FREE_PER_SECOND = 1472, 8, 4
"""Datagrams that a connection may send to addresses which have not earned them, so that a client
behind a NAT is asked whether it has moved (docs/decisions/amplification-credit.md). RFC 9000 8.1
allows none of them."""


class Stolen(Protocol):
    """A client on whose way an attacker takes datagrams, and sends them from a victim's address
    before they arrive from the client's own."""

    def __init__(self, quic, target: Target, victim):
        super().__init__(quic)
        self._target, self._victim = target, victim
        self.is_stealing = False
        self.sent_count = self.sent_len = self.stolen_count = self.stolen_len = 0

    def connection_made(self, transport):
        send = transport.sendto

        def send_or_steal(datagram: bytes):
            self.sent_count += 1
            self.sent_len += len(datagram)
            if self.is_stealing and self.sent_count % EVERY == 0:
                self._victim.sendto(datagram, self._target.address)
                self.stolen_count += 1
                self.stolen_len += len(datagram)
                # Then from where it belongs, a moment too late.
                asyncio.get_running_loop().call_later(0.002, send, datagram)
            else:
                send(datagram)

        transport.sendto = send_or_steal
        super().connection_made(transport)


async def download(target: Target, victim, figures: dict):
    """Makes requests while datagrams are stolen. Afterwards counts what the victim got, and how
    long the client waits for a response."""
    async with wire.connection(target, lambda quic: Stolen(quic, target, victim)) as protocol:
        await target.client.ask(protocol)
        protocol.is_stealing = True
        began = time.monotonic()
        for _ in range(target.count(150, 2000)):
            await target.client.ask(protocol)
            figures["victim"] += sum(map(len, receive_waiting(victim)))
        protocol.is_stealing = False
        figures["seconds"] = time.monotonic() - began
        began = time.monotonic()
        await target.client.ask(protocol)
        figures["resumed"] = time.monotonic() - began
        loss = protocol._quic._loss
        figures["allowed"] = PROBE_TIMEOUTS * loss.get_probe_timeout()
        figures["stolen"], figures["stolen_len"] = protocol.stolen_count, protocol.stolen_len
        figures["sent_len"] = protocol.sent_len
        protocol.close()
        await asyncio.sleep(0.2)


def stolen_packets(target: Target, dice: random.Random) -> str:
    """D18: what goes to the victim is bounded by what came in its name, and the client is served
    on its own path."""
    figures = {"victim": 0}
    with contextlib.ExitStack() as stack:
        victim = stack.enter_context(udp_socket(target, VICTIM if is_loopback(target) else None))
        asyncio.run(download(target, victim, figures))
        figures["victim"] += sum(map(len, receive_waiting(victim)))
    ratio = figures["victim"] / figures["stolen_len"]
    expect(figures["victim"] > 0, "no datagram went to the victim, so none was taken for a move")
    free_len = FREE_LEN * (FREE_COUNT + FREE_PER_SECOND * figures["seconds"])
    expect(figures["victim"] <= AMPLIFICATION_MAX * figures["stolen_len"] + free_len,
           f"{ratio:.2f}x to the victim, which is more than the free datagrams")
    expect(figures["victim"] <= AMPLIFICATION_MAX * figures["sent_len"],
           f"{figures['victim']} bytes to the victim for {figures['sent_len']} in all")
    expect(figures["resumed"] <= figures["allowed"],
           f"the client waited {figures['resumed']:.2f} s, {figures['allowed']:.2f} s are allowed")
    return (f"{figures['stolen']} stolen, {figures['victim']} bytes to the victim, {ratio:.2f}x "
            f"with free datagrams, then a response after "
            f"{figures['resumed'] * 1e3:.0f} ms")


CASES = [
    Case("D18", "packets sent from a victim's address", stolen_packets),
]
