"""Three other implementations over bad networks: every body arrives byte for byte, on one
connection.

A relay plays the network. Each test also checks with the relay that the fault occurred, since a
network without the fault would prove nothing.
"""

import asyncio
import contextlib
import json
import subprocess

import pytest

from harness import bodies, h3, ngtcp2
from harness.bodies import KIB, MIB
from harness.curl import Curl
from harness.relay import Relay

LINK = {"delay": 15, "rate": 10, "queue": 25}
"""The link of QUIC's interoperability runner: 15 ms, 10 Mbit/s, 25 datagrams."""


async def by_aioquic(relay, folder, host, length):
    """Downloads and uploads at the same time."""
    async with h3.connection(relay, host) as client:
        uploading = asyncio.ensure_future(client.post("/upload", length, seed=7, seconds=25))
        response = await client.get(f"/bytes/{length}", seconds=25)
        seen = json.loads((await uploading).text)
    assert (response.end, response.sha256) == ("clean", bodies.digest(length))
    assert (seen["length"], seen["sha256"]) == (length, bodies.digest(length, 7))


async def by_ngtcp2(relay, folder, host, length):
    """Downloads three bodies at the same time, `length` bytes in all."""
    lengths = [length // 8, length // 4, length // 8 * 5]
    await asyncio.to_thread(ngtcp2.fetch, relay, folder, lengths, host=host, seconds=25)


async def by_curl(relay, folder, host, length):
    curl = Curl(relay, host)
    done = await asyncio.to_thread(curl.download, f"/bytes/{length}", "--max-time", "25")
    assert done == (0, length, bodies.digest(length))


CLIENTS = {"aioquic": by_aioquic, "ngtcp2": by_ngtcp2, "curl": by_curl}


@pytest.fixture
def clients(has_curl, has_ngtcp2):
    return CLIENTS


def through(gateway, clients, folder, rules, length, host="127.0.0.1") -> dict[str, Relay]:
    """Runs each client's transfer on one connection over a bad network of its own, all at the same
    time. Returns the relays with their counts."""
    async def one(name, client):
        try:
            await client(relays[name], folder / name, host, length)
        except (AssertionError, TimeoutError) as fault:
            raise AssertionError(f"{name}: {fault}") from fault

    async def all_at_once():
        await asyncio.gather(*(one(name, client) for name, client in clients.items()))

    with contextlib.ExitStack() as stack:
        relays = {name: stack.enter_context(Relay(gateway, host, **rules)) for name in clients}
        asyncio.run(all_at_once())
    gateway.assert_alive()
    metrics = gateway.metrics()
    assert metrics.sum("connections_accepted_total") == len(clients)
    # A corrupted connection id may be an unknown one, for which a reset is right.
    assert metrics.sum("stateless_responses_total", kind="reset") == 0 or "corrupt" in rules
    return relays


def test_an_ordinary_link(gateway, clients, tmp_path, host):
    for relay in through(gateway, clients, tmp_path, LINK, 400 * KIB, host).values():
        assert relay.down.seen_len > 400 * KIB


def test_300_ms_each_way(gateway, clients, tmp_path):
    """Clients repeat their Initial before the reply arrives. There is still one connection."""
    rules = {"delay": 300, "keep_heads": 9}
    for name, relay in through(gateway, clients, tmp_path, rules, 64 * KIB).items():
        assert relay.down.seen_len > 64 * KIB
        if name == "aioquic":
            # RFC 9000 17.2: a long header of type Initial.
            initials = [head for head in relay.heads if head[0] & 0xb0 == 0x80]
            assert len(initials) >= 2, "the Initial was not repeated"


def test_loss(gateway, clients, tmp_path):
    for relay in through(gateway, clients, tmp_path, {"delay": 10, "loss": 0.03},
                         600 * KIB).values():
        assert relay.down.lost > 3


def test_corruption(gateway, clients, tmp_path):
    for relay in through(gateway, clients, tmp_path, {"delay": 10, "corrupt": 0.03},
                         600 * KIB).values():
        # The client sends few datagrams here, so often none of them is corrupted.
        assert relay.down.corrupted + relay.up.corrupted > 3


def test_reordering_and_duplication(gateway, clients, tmp_path):
    rules = {"delay": 5, "jitter": 4, "reorder": 0.05, "dup": 0.1}
    for relay in through(gateway, clients, tmp_path, rules, 600 * KIB).values():
        assert relay.down.doubled > 10 and relay.up.doubled > 3


def test_a_blackout_of_two_seconds(gateway, clients, tmp_path):
    rules = LINK | {"rate": 4, "blackhole": (0.4, 2.0)}
    for relay in through(gateway, clients, tmp_path, rules, 500 * KIB).values():
        assert relay.up.lost + relay.down.lost > 2


def test_a_path_that_carries_1300_bytes(gateway, clients, tmp_path, host):
    """MTU discovery probes for more and does not take the lost probes for congestion or for a lost
    connection."""
    longest = 1300 - (48 if host == "::1" else 28)
    relays = through(gateway, clients, tmp_path, {"delay": 5, "mtu": longest}, 600 * KIB, host)
    for name, relay in relays.items():
        # curl's OpenSSL announces that it accepts no datagram over 1,200 bytes.
        assert relay.down.lost > 0 or name == "curl", "nothing was probed"
        assert 1200 <= relay.down.longest <= longest


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@h3.run
async def test_the_mtu_of_the_link_changes_during_a_download(ipv6_addresses, gateway, host):
    """The kernel refuses datagrams that have become too long for the link. The gateway must find a
    length that passes, and lose nothing."""
    length = 30 * MIB

    def set_mtu(mtu: int):
        subprocess.run(["ip", "link", "set", "lo", "mtu", str(mtu)], check=True)

    set_mtu(1500)
    async with h3.connection(gateway, host) as client:
        exchange = client.open("GET", f"/bytes/{length}")
        for part, mtu in enumerate((1280, 9000, 1280, 1500), start=1):
            await exchange.received(part * length // 6)
            assert exchange.response.length < length, "it was over before the MTU changed"
            set_mtu(mtu)
        response = await exchange.wait()
    assert (response.end, response.sha256) == ("clean", bodies.digest(length))
    assert gateway.metrics().sum("sends_lost_total", reason="too_long") > 0, "nothing was refused"


@pytest.mark.parametrize("rules", [
    {"rebind_port": 0.25}, {"rebind_addr": 0.25}, {"rebind_port": 0.25, "loss": 0.02},
], ids=["port", "address", "port-and-loss"])
def test_repeated_rebinding(gateway, clients, tmp_path, rules):
    """A NAT drops its mapping. The client does not know that its address has changed."""
    for relay in through(gateway, clients, tmp_path, LINK | rules, 900 * KIB).values():
        assert len(relay.sources) >= 4, f"only from {relay.sources}"


@pytest.mark.parametrize("moves", [1, 1000])
def test_rebinding_when_the_path_response_is_lost(gateway, has_ngtcp2, tmp_path, moves):
    """ngtcp2 sends only a probing packet again (RFC 9000 9.1), which does not migrate the
    connection. The gateway must find the client all the same, or both wait for each other until the
    idle timeout."""
    rules = LINK | {"rebind_port": 0.25, "rebinds_max": moves, "lose_responses": 3}
    with Relay(gateway, **rules) as relay:
        ngtcp2.fetch(relay, tmp_path / "ngtcp2", [600 * KIB], seconds=25)
    assert relay.up.lost >= 1, "no response was lost"


def test_rebinding_over_ipv6(gateway, clients, tmp_path):
    rules = LINK | {"rebind_port": 0.2}
    for relay in through(gateway, clients, tmp_path, rules, 600 * KIB, "::1").values():
        assert len(relay.sources) >= 3, f"only from {relay.sources}"


def test_new_addresses_over_ipv6(ipv6_addresses, gateway, clients, tmp_path):
    rules = LINK | {"rebind_addr": 0.25, "addrs": ipv6_addresses}
    for relay in through(gateway, clients, tmp_path, rules, 900 * KIB, "::1").values():
        hosts = {source.rpartition(":")[0] for source in relay.sources}
        assert len(hosts) >= 4, f"only from {hosts}"


@pytest.mark.parametrize("fault", ["loss", "corrupt"])
def test_handshakes_over_a_bad_network(start, has_ngtcp2, tmp_path, fault):
    """A fifth of all datagrams is lost or corrupted. Twelve handshakes of two clients all
    succeed."""
    gateway = start()

    async def by_one_aioquic():
        async with h3.connection(relay, initial_rtt=0.05) as client:
            response = await client.get("/bytes/1000", seconds=20)
            assert response.sha256 == bodies.digest(1000)

    async def all_at_once():
        runs = [
            asyncio.to_thread(ngtcp2.fetch, relay, tmp_path / f"{number}", [1000],
                              "--initial-rtt=50ms", seconds=25)
            for number in range(4)
        ]
        await asyncio.gather(*runs, *(by_one_aioquic() for _ in range(8)))

    with Relay(gateway, delay=5, **{fault: 0.2}) as relay:
        asyncio.run(all_at_once())
    harmed = sum(way.lost + way.corrupted for way in (relay.up, relay.down))
    assert harmed > 12
    assert gateway.metrics().sum("handshakes_total", outcome="completed") == 12
