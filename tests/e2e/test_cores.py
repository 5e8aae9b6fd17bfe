"""Several workers behind the same addresses: each connection stays with the worker that its ids
name, wherever the client's datagrams come from."""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import socket
import time

import pytest

from harness import bodies, h3
from harness.bodies import KIB
from harness.gateway import free_ports
from harness.relay import Relay

HANDSHAKE_OF_OURS = 0xE0
"""A long header of version 1, type Handshake (RFC 9000 17.2.4), with the fixed bit."""


def by_worker(gateway, name: str, **labels) -> list[float]:
    """One number for each worker, in order."""
    workers = range(gateway.settings["workers"])
    return [gateway.metrics().sum(name, worker=str(worker), **labels) for worker in workers]


def dropped(gateway, reason: str) -> float:
    return gateway.metrics().sum("datagrams_dropped_total", reason=reason)


def assert_all_reached_their_worker(gateway, connections: int):
    metrics = gateway.metrics()
    assert metrics.sum("handshakes_total", outcome="completed") == connections
    assert metrics.sum("datagrams_dropped_total", reason="foreign_id") == 0
    assert metrics.sum("stateless_responses_total", kind="reset") == 0
    assert metrics.sum("connections_closed_total", by="error") == 0


def bound_sockets(gateway, port: int) -> tuple[int, int]:
    """How many UDP sockets of the process are bound to the port, on IPv4 and on IPv6."""
    folder = pathlib.Path(f"/proc/{gateway.process.pid}")
    links = []
    for descriptor in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(descriptor))
    own = {link[len("socket:["):-1] for link in links if link.startswith("socket:[")}

    def count(table: str) -> int:
        rows = [row.split() for row in (folder / "net" / table).read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{port:04X}") and row[9] in own for row in rows)

    return count("udp"), count("udp6")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_socket_for_each_worker_and_address(start, workers):
    gateway = start(workers=workers)
    assert bound_sockets(gateway, gateway.port) == (workers, workers)


def test_workers_keep_to_a_core_each(start):
    cores = sorted(os.sched_getaffinity(0))
    gateway = start(workers=len(cores))
    pinned = []
    for task in pathlib.Path(f"/proc/{gateway.process.pid}/task").iterdir():
        if (task / "comm").read_text().startswith("worker-"):
            pinned.append(os.sched_getaffinity(int(task.name)))
    assert sorted(pinned, key=min) == [{core} for core in cores]


@h3.run
async def test_connections_spread_over_workers(start):
    """48 connections on both stacks: by the kernel's hash, no worker of four stays without, and
    each counts its own requests."""
    gateway = start(workers=4)

    async def one(number: int):
        async with h3.connection(gateway, ("127.0.0.1", "::1")[number % 2]) as client:
            responses = [client.post("/echo", 20 * KIB, seed=number), client.get("/bytes/9999")]
            echo, file = await asyncio.gather(*responses)
        assert echo.sha256 == bodies.digest(20 * KIB, number)
        assert file.sha256 == bodies.digest(9999)

    await asyncio.gather(*(one(number) for number in range(48)))
    accepted = by_worker(gateway, "connections_accepted_total")
    assert sum(accepted) == 48 and min(accepted) > 0, accepted
    assert by_worker(gateway, "requests_total") == [2 * count for count in accepted]
    assert_all_reached_their_worker(gateway, 48)


@h3.run
async def test_several_listeners(start):
    """Two more listeners with settings of their own, one of them with two addresses."""
    ports = [free_ports()[0] for _ in range(2)]
    more = f"""
[[listeners]]
name = "second"
address = "127.0.0.1:{ports[0]}"
  [listeners.quic]
  retry = "always"
[[listeners]]
name = "third"
address = ["127.0.0.1:{ports[1]}", "[::1]:{ports[1]}"]
"""
    gateway = start(workers=2, extra=more)
    assert bound_sockets(gateway, ports[0]) == (2, 0)
    assert bound_sockets(gateway, ports[1]) == (2, 2)
    first = gateway.port
    for port, host in [(first, "::1"), (ports[0], "127.0.0.1"), (ports[1], "::1"),
                       (ports[1], "127.0.0.1"), (first, "127.0.0.1")]:
        gateway.port = port
        async with h3.connection(gateway, host) as client:
            assert client._quic._retry_count == (port == ports[0])
            response = await client.post("/echo", 30 * KIB)
            assert response.sha256 == bodies.digest(30 * KIB)
    assert_all_reached_their_worker(gateway, 5)


@contextlib.asynccontextmanager
async def talking_connection(relay, host: str):
    """A connection whose client always has something to say. A client that only listens cannot
    know that its NAT forgot it, and no server can reach it."""
    async def talk():
        for number in range(1_000):
            await asyncio.sleep(0.1)
            client._quic.send_ping(number)
            client.transmit()

    async with h3.connection(relay, host) as client:
        talking = asyncio.ensure_future(talk())
        try:
            yield client
        finally:
            talking.cancel()


@pytest.mark.parametrize(("workers", "host", "retry", "places"), [
    (1, "127.0.0.1", "never", range(1, 8)),
    (4, "127.0.0.1", "never", range(1, 8)),
    (4, "::1", "never", range(1, 8)),
    # The token in datagram 2 stands for the address that it came from: who moves right behind it
    # is refused with INVALID_TOKEN (RFC 9000 8.1.2).
    (4, "127.0.0.1", "always", [1, *range(3, 8)]),
], ids=["one-worker", "ipv4", "ipv6", "retry"])
@h3.run
async def test_rebinding_while_a_connection_begins(start, workers, host, retry, places):
    """The port changes behind the first, second .. datagram of the client. By the kernel's hash
    alone, three of four connections would go to another worker of four."""
    gateway = start(workers=workers, retry=retry)
    relays = await moved_while_it_begins(gateway, host, places)
    assert all(len(relay.sources) == 4 for relay in relays.values()), "not all have moved"


@h3.run
async def test_a_new_address_while_a_connection_begins(start):
    await new_address_while_it_begins(start(workers=4, retry="never"), "127.0.0.1")


@h3.run
async def test_a_new_address_over_ipv6_while_a_connection_begins(ipv6_addresses, start):
    gateway = start(workers=4, retry="never")
    await new_address_while_it_begins(gateway, "::1", addrs=ipv6_addresses)


async def new_address_while_it_begins(gateway, host, **rules):
    relays = await moved_while_it_begins(gateway, host, range(1, 8), rebind_at_addr=True, **rules)
    for relay in relays.values():
        hosts = [source.rpartition(":")[0] for source in relay.sources]
        assert len(hosts) == 4 and len(set(hosts)) == 2, f"not all have moved: {hosts}"


async def moved_while_it_begins(gateway, host, places, **rules) -> dict[int, Relay]:
    """Two connections for each place, that move behind their datagram of this number. Responses with
    the relays, ended."""

    async def one(place: int, seed: int):
        async with talking_connection(relays[place], host) as client:
            response = await client.get(f"/bytes/{100 * KIB}?seed={seed}", seconds=6)
            assert response.sha256 == bodies.digest(100 * KIB, seed), f"moved after {place}"
            echo = await client.post("/echo", 30 * KIB, seed=seed, seconds=6)
            assert echo.sha256 == bodies.digest(30 * KIB, seed), f"moved after {place}"

    with contextlib.ExitStack() as stack:
        relays = {
            place: stack.enter_context(Relay(gateway, host, delay=2, rebind_at=[place], **rules))
            for place in places
        }
        pairs = [(place, seed) for place in places for seed in range(2)]
        began = time.monotonic()
        await asyncio.gather(*(one(*pair) for pair in pairs))
        took = time.monotonic() - began
    # A worker that keeps the place of who has gone holds them up until its timeout of ten seconds.
    assert took < 10, f"{took:.1f} s"
    gateway.assert_alive()
    metrics = gateway.metrics()
    assert metrics.sum("handshakes_total", outcome="completed") == len(pairs)
    assert metrics.sum("datagrams_dropped_total", reason="foreign_id") == 0
    assert metrics.sum("stateless_responses_total", kind="reset") == 0
    return relays


@pytest.mark.parametrize("rules", [{"rebind_port": 0.1}, {"rebind_addr": 0.1}],
                         ids=["port", "address"])
@h3.run
async def test_rebinding_again_and_again_with_four_workers(start, rules):
    """Twelve clients move up to ten times each a second; no datagram reaches a worker that does
    not have its connection."""
    gateway = start(workers=4)

    async def one(number: int):
        length = 300 * KIB
        async with talking_connection(relay, "127.0.0.1") as client:
            for seed in (number, number + 100):
                response = await client.get(f"/bytes/{length}?seed={seed}")
                assert (response.end, response.sha256) == ("clean", bodies.digest(length, seed))
                echo = await client.post("/echo", 100 * KIB, seed=seed)
                assert (echo.end, echo.sha256) == ("clean", bodies.digest(100 * KIB, seed))

    with Relay(gateway, delay=10, **rules) as relay:
        await asyncio.gather(*(one(number) for number in range(12)))
    assert len(relay.sources) > 40, "they hardly moved"
    accepted = by_worker(gateway, "connections_accepted_total")
    assert sum(count > 0 for count in accepted) > 1, accepted
    assert_all_reached_their_worker(gateway, 12)


@h3.run
async def test_a_client_that_moved_is_told_and_trusted_by_its_new_address(start):
    """What upstreams and the access log hear of a client is where it is now; that it began in a
    trusted network does not count once it has left."""
    port = free_ports()[0]
    gateway = start(extra=f"""
[[listeners]]
name = "trusting"
address = "127.0.0.1:{port}"
trusted_proxies = ["127.0.0.1/32"]
""")
    gateway.port = port
    elsewhere = "127.0.0.9"

    async def told() -> list[str]:
        response = await client.get("/head/client", [("x-forwarded-for", "192.0.2.9")])
        fields = json.loads(response.text)["fields"]
        return [value for name, value in fields if name.lower() == "x-forwarded-for"]

    with Relay(gateway, rebind_addr=1, rebinds_max=1, addrs=[elsewhere]) as relay:
        async with talking_connection(relay, "127.0.0.1") as client:
            assert await told() == ["192.0.2.9, 127.0.0.1"]
            await asyncio.sleep(1.5)
            assert await told() == [elsewhere]
    assert [source.split(":")[0] for source in relay.sources] == ["127.0.0.1", elsewhere]
    lines = gateway.access_lines(2)
    assert [line["client"].split(":")[0] for line in lines] == ["127.0.0.1", elsewhere]


@h3.run
async def test_a_client_is_not_believed_to_be_where_it_only_pretends_to_be(start):
    """A client writes a trusted address on its packets and adds responses to challenges that it has
    never seen."""
    port, trusted = free_ports()[0], "127.0.0.9"
    gateway = start(extra=f"""
[[listeners]]
name = "trusting"
address = "127.0.0.1:{port}"
trusted_proxies = ["{trusted}/32"]
""")
    gateway.port = port
    fields = [("x-forwarded-for", "192.0.2.9")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pretended:
        pretended.bind((trusted, 0))
        async with h3.connection(gateway) as client:
            assert (await client.get("/bytes/1")).status == 200
            quic, transmit = client._quic, client.transmit
            client.transmit = lambda: None
            for number in range(3):
                exchange = client.open("GET", f"/head/{number}", fields)
                quic._network_paths[0].remote_challenges.append(bytes([number] * 8))
                for datagram, _ in quic.datagrams_to_send(asyncio.get_running_loop().time()):
                    pretended.sendto(datagram, ("127.0.0.1", port))
            # The gateway has them all before it hears the client at home again.
            gateway.settle(lambda metrics: None if metrics.sum("requests_total") >= 4
                           else "requests are missing")
            client.transmit = transmit
            transmit()
            seen = json.loads((await exchange.wait()).text)
        assert pretended.recv(2048), "the gateway had followed it there"
    told = [value for name, value in seen["fields"] if name.lower() == "x-forwarded-for"]
    assert told == ["127.0.0.1"]
    assert {line["client"].split(":")[0] for line in gateway.access_lines(4)} == {"127.0.0.1"}


def test_ids_of_no_worker_are_counted_and_never_answered(start, host):
    """All 256 first bytes of an id: an index has seven bits, so two of them name each worker; they
    may be answered with a reset, since the connection may have been there. The others may not."""
    workers = 2
    gateway = start(workers=workers)
    tail = random.Random(7).randbytes(7 + 91)
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as raw:
        raw.connect((host, gateway.port))
        for first in range(256):
            raw.send(bytes([0x40, first]) + tail)
        # Too short for an id or for a packet: dropped by the kernel. And just long enough.
        for length in (1, 5, 8, 19, 20):
            raw.send(b"\x40" + tail[:length])
        gateway.settle(lambda metrics: None if metrics.sum(
            "datagrams_total", direction="in") >= 257 else "datagrams are missing")
        raw.settimeout(0.5)
        resets = []
        with contextlib.suppress(TimeoutError):
            while True:
                resets.append(raw.recv(2048))
    foreign = 256 - 2 * workers
    assert dropped(gateway, "foreign_id") in range(foreign, foreign + 2)
    metrics = gateway.metrics()
    assert metrics.sum("datagrams_total", direction="in") == 257
    assert 1 <= len(resets) <= 2 * workers
    assert metrics.sum("stateless_responses_total", kind="reset") == len(resets)
    # RFC 9000 10.3: it looks like a short header, and is shorter than what it answers.
    assert all(reset[0] & 0xC0 == 0x40 and len(reset) < 100 for reset in resets)


@h3.run
async def test_a_live_connection_survives_datagrams_under_its_neighbours_ids(start):
    """Somebody writes datagrams with the ids of live connections, and with ids one bit away, from
    other ports: they are counted or dropped, and every connection goes on."""
    gateway = start(workers=4)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(h3.connection(gateway)) for _ in range(8)]
        for client in clients:
            assert (await client.get("/bytes/1000")).status == 200
        before = dropped(gateway, "foreign_id")
        for client in clients:
            own = client._quic._peer_cid.cid
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
                for bit in (0, 1, 2, 4, 8, 16, 32, 64):
                    flipped = bytes([own[0] ^ bit]) + own[1:]
                    raw.sendto(b"\x40" + flipped + bytes(60), ("127.0.0.1", gateway.port))
        # Of the eight ids, the bits 4 to 64 make an index that no worker has.
        gateway.settle(lambda metrics: None if metrics.sum(
            "datagrams_dropped_total", reason="foreign_id") >= before + 8 * 5 else "not counted")
        for number, client in enumerate(clients):
            response = await client.post("/echo", 40 * KIB, seed=number)
            assert (response.end, response.sha256) == ("clean", bodies.digest(40 * KIB, number))
    assert dropped(gateway, "foreign_id") == before + 8 * 5


def test_handshake_packets_go_by_their_id_too(start):
    """A datagram that begins with a Handshake packet goes to the worker in its id, from any port:
    sixty ports to one id, and one worker sees them all."""
    gateway = start(workers=4)
    # Whichever worker this id names, or none: find one that does. An id that names none goes by the
    # port, so a dozen go to one worker by chance once in four million.
    id_of = {}
    for first in range(256):
        before = by_worker(gateway, "datagrams_total", direction="in")
        for _ in range(12):
            send_handshake(gateway, bytes([first, 1, 2, 3, 4, 5, 6, 7]))
        after = settled(gateway, sum(before) + 12)
        gained = [late - early for late, early in zip(after, before)]
        if max(gained) == 12:
            id_of.setdefault(gained.index(12), first)
        if len(id_of) == 4:
            break
    assert len(id_of) == 4, f"only for workers {sorted(id_of)} an id was found"
    for worker, first in id_of.items():
        before = by_worker(gateway, "datagrams_total", direction="in")
        for _ in range(15):
            send_handshake(gateway, bytes([first, 1, 2, 3, 4, 5, 6, 7]))
        after = settled(gateway, sum(before) + 15)
        assert after[worker] - before[worker] == 15


def send_handshake(gateway, destination_id: bytes):
    """A Handshake packet from a fresh port; nobody can decrypt it."""
    length = 60
    head = bytes([HANDSHAKE_OF_OURS, 0, 0, 0, 1, len(destination_id)]) + destination_id
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.sendto(head + b"\x00" + bytes([0x40, length]) + bytes(length),
                   ("127.0.0.1", gateway.port))


def settled(gateway, count: int) -> list[float]:
    """Datagrams in, for each worker, once there are so many in all."""
    end = time.monotonic() + 5
    while sum(now := by_worker(gateway, "datagrams_total", direction="in")) < count:
        assert time.monotonic() < end, f"{sum(now)} datagrams came, not {count}"
        time.sleep(0.005)
    return now
