"""Several workers behind the same addresses: a connection stays with the worker that its connection
ids name, wherever the client's datagrams come from."""

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
"""First byte of a long header: type Handshake (RFC 9000 17.2.4), with the fixed bit."""


def by_worker(gateway, name: str, **labels) -> list[float]:
    """Returns one number for each worker, in order."""
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
    """Returns how many UDP sockets of the process are bound to the port, on IPv4 and on IPv6. Only
    root may list the descriptors of a process that may not be dumped."""
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
def test_each_worker_has_a_socket_for_each_address(start, workers):
    gateway = start(workers=workers, core_dumps="true")
    assert bound_sockets(gateway, gateway.port) == (workers, workers)


def test_each_worker_is_pinned_to_its_own_core(start):
    cores = sorted(os.sched_getaffinity(0))
    gateway = start(workers=len(cores))
    pinned = []
    for task in pathlib.Path(f"/proc/{gateway.process.pid}/task").iterdir():
        if (task / "comm").read_text().startswith("worker-"):
            pinned.append(os.sched_getaffinity(int(task.name)))
    assert sorted(pinned, key=min) == [{core} for core in cores]


@h3.run
async def test_connections_spread_over_workers(start):
    """48 connections over IPv4 and IPv6. The kernel's hash gives each of four workers at least one,
    and each worker counts its own requests."""
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
    """Two further listeners have their own settings; one has two addresses."""
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
    gateway = start(workers=2, extra=more, core_dumps="true")
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
    """A connection whose client sends all the time. A client that only listens cannot know that its
    NAT dropped the mapping, and no server can reach it then."""
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
    # The token in datagram 2 is bound to its source address: a client that moves right after it is
    # refused with INVALID_TOKEN (RFC 9000 8.1.2).
    (4, "127.0.0.1", "always", [1, *range(3, 8)]),
], ids=["one-worker", "ipv4", "ipv6", "retry"])
@h3.run
async def test_a_port_change_while_a_connection_starts(start, workers, host, retry, places):
    """The client's port changes after its first, second, ... datagram. With the kernel's hash
    alone, three of four connections would then reach the wrong one of four workers."""
    gateway = start(workers=workers, retry=retry)
    relays = await moved_while_it_begins(gateway, host, places)
    assert all(len(relay.sources) == 4 for relay in relays.values()), "not all have moved"


@h3.run
async def test_an_address_change_while_a_connection_starts(start):
    await new_address_while_it_begins(start(workers=4, retry="never"), "127.0.0.1")


@h3.run
async def test_an_address_change_over_ipv6_while_a_connection_starts(ipv6_addresses, start):
    gateway = start(workers=4, retry="never")
    await new_address_while_it_begins(gateway, "::1", addrs=ipv6_addresses)


async def new_address_while_it_begins(gateway, host, **rules):
    relays = await moved_while_it_begins(gateway, host, range(1, 8), rebind_at_addr=True, **rules)
    for relay in relays.values():
        hosts = [source.rpartition(":")[0] for source in relay.sources]
        assert len(hosts) == 4 and len(set(hosts)) == 2, f"not all have moved: {hosts}"


async def moved_while_it_begins(gateway, host, places, **rules) -> dict[int, Relay]:
    """Runs two connections for each place; each moves after its datagram of that number. Returns
    the stopped relays."""

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
    # A worker that kept the state of the old address would delay them until its handshake timeout
    # of ten seconds.
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
async def test_repeated_rebinding_with_four_workers(start, rules):
    """Twelve clients each move up to ten times a second. No datagram reaches a worker that does not
    have the connection."""
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
async def test_a_moved_client_is_reported_and_trusted_by_its_new_address(start):
    """Upstreams and the access log get the client's current address. It is no longer trusted once
    it has left the trusted network."""
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
async def test_the_access_log_has_the_address_that_a_client_moved_to(start):
    elsewhere = "127.0.0.9"
    gateway = start()
    with Relay(gateway, rebind_addr=1, rebinds_max=1, addrs=[elsewhere]) as relay:
        async with talking_connection(relay, "127.0.0.1") as client:
            response = await client.get("/drip/3000?piece=100&pause=0.1")
            assert (response.status, response.length) == (200, 3000)
            line, = await asyncio.to_thread(gateway.access_lines, 1)
    assert [source.split(":")[0] for source in relay.sources] == ["127.0.0.1", elsewhere]
    assert (line["client"].split(":")[0], line["outcome"]) == (elsewhere, "complete")


@h3.run
async def test_a_spoofed_source_address_is_not_trusted(start):
    """A client spoofs a trusted source address and sends PATH_RESPONSE frames for challenges that
    it has never received."""
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
            # Wait until the gateway has received all of them before the client sends from its own
            # address.
            gateway.settle(lambda metrics: None if metrics.sum("requests_total") >= 4
                           else "requests are missing")
            client.transmit = transmit
            transmit()
            seen = json.loads((await exchange.wait()).text)
        assert pretended.recv(2048), "the gateway had followed it there"
    told = [value for name, value in seen["fields"] if name.lower() == "x-forwarded-for"]
    assert told == ["127.0.0.1"]
    assert {line["client"].split(":")[0] for line in gateway.access_lines(4)} == {"127.0.0.1"}


def test_datagrams_with_foreign_connection_ids_are_counted_and_dropped(start, host):
    """Sends all 256 values of an id's first byte. Two values name each worker, since an index has
    seven bits. For these a stateless reset may come back, since the connection may have existed.
    The others get no reply."""
    workers = 2
    gateway = start(workers=workers)
    tail = random.Random(7).randbytes(7 + 91)
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as raw:
        raw.connect((host, gateway.port))
        for first in range(256):
            raw.send(bytes([0x40, first]) + tail)
        # Lengths that the kernel drops as too short, and one that is just long enough.
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
    # RFC 9000 10.3: a reset looks like a short header and is shorter than the datagram it replies
    # to.
    assert all(reset[0] & 0xC0 == 0x40 and len(reset) < 100 for reset in resets)


@h3.run
async def test_connections_survive_forged_datagrams_with_similar_ids(start):
    """Datagrams arrive from other ports under the ids of live connections, and under ids that
    differ in one bit. They are counted or dropped, and every connection continues."""
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
        # With bits 4 to 64 flipped, five of the eight ids name a worker that does not exist.
        gateway.settle(lambda metrics: None if metrics.sum(
            "datagrams_dropped_total", reason="foreign_id") >= before + 8 * 5 else "not counted")
        for number, client in enumerate(clients):
            response = await client.post("/echo", 40 * KIB, seed=number)
            assert (response.end, response.sha256) == ("clean", bodies.digest(40 * KIB, number))
    assert dropped(gateway, "foreign_id") == before + 8 * 5


def test_handshake_packets_are_steered_by_connection_id(start):
    """A datagram that begins with a Handshake packet goes to the worker named by its id, from any
    port: one worker receives everything that is sent to one id from many ports."""
    gateway = start(workers=4)
    # Find an id for each worker. Datagrams under an id that names no worker are distributed by
    # port, so a dozen of them reach the same worker by chance only once in four million tries.
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
    """Sends a Handshake packet that cannot be decrypted, from a new port."""
    length = 60
    head = bytes([HANDSHAKE_OF_OURS, 0, 0, 0, 1, len(destination_id)]) + destination_id
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.sendto(head + b"\x00" + bytes([0x40, length]) + bytes(length),
                   ("127.0.0.1", gateway.port))


def settled(gateway, count: int) -> list[float]:
    """Waits for `count` datagrams in total. Returns the number for each worker."""
    end = time.monotonic() + 5
    while sum(now := by_worker(gateway, "datagrams_total", direction="in")) < count:
        assert time.monotonic() < end, f"{sum(now)} datagrams came, not {count}"
        time.sleep(0.005)
    return now
