"""A short flood of forged Initials, from a network namespace of its own. `scripts/overload`
measures the long form, and what more requests than a core can serve do.

The bounds are for a busy machine. They are such that a gateway fails which never asks for a proof
of addresses.
"""

import os
import sys

import pytest

from harness import h3
from harness.gateway import REPOSITORY
from harness.host import own_network

sys.path.insert(0, str(REPOSITORY / "tests"))

from attack.oracle import MIB
from overload import flood
from overload.clients import Programs
from overload.network import GATEWAY, strangers

RATE = 5000
"""Datagrams a second: five times the rate of handshakes that begin without a proof."""
SECONDS = 8
POPULATION = flood.Population(requests_rate=100, connections=10, new_rate=20)
REQUEST_P99_MS_MAX = 1000
NEWCOMERS_SHARE_MIN = 0.95
GROWTH_LEN_MAX = 32 * MIB


@pytest.fixture
def programs():
    folder = REPOSITORY / "target/release/examples"
    load = os.environ.get("RINGWAY_LOAD") or folder / "load"
    return Programs(str(load), str(folder / "flood"))


@pytest.fixture
def outside():
    """The strangers' namespace, linked to one of the test's own. A test must name it before
    `start`, so that the gateway starts there."""
    with own_network(), strangers() as found:
        yield found


def listen_at_the_link(start, retry: str):
    gateway = start(retry=retry, extra=f"""
[[listeners]]
name = "link"
address = "{GATEWAY}:4433"
  [listeners.quic]
  retry = "{retry}"
""")
    return gateway, flood.Target(4433, gateway.process.pid, gateway.metrics, h3.AUTHORITY,
                                 "/bytes/1000")


def test_a_flood_of_forged_initials_is_hardly_noticed(outside, start, programs):
    """Established clients are served, new ones too, and each forged Initial has one outcome."""
    gateway, target = listen_at_the_link(start, retry="adaptive")
    seen = flood.flooded(programs, target, POPULATION, outside, RATE, SECONDS)
    told = flood.table({"flood": seen})
    assert seen.flood_rate > RATE / 2, told
    assert seen.counted["retries"] > seen.counted["attempts"] / 4 > RATE, told
    assert seen.unaccounted() == 0, told
    assert seen.requests.failed == 0, told
    assert seen.requests.milliseconds("0.99") < REQUEST_P99_MS_MAX, told
    assert seen.newcomers_share() >= NEWCOMERS_SHARE_MIN, told
    assert seen.growth_len < GROWTH_LEN_MAX, told
    gateway.assert_alive()


def test_new_clients_notice_the_flood_without_retry(outside, start, programs):
    """Shows that the flood is one: forged handshakes take the place of those of new clients."""
    gateway, target = listen_at_the_link(start, retry="never")
    seen = flood.flooded(programs, target, POPULATION, outside, RATE, SECONDS)
    told = flood.table({"flood": seen})
    assert seen.newcomers_share() < NEWCOMERS_SHARE_MIN, told
    assert seen.counted["dropped, half open"] > RATE, told
    assert seen.unaccounted() == 0, told
    assert seen.requests.failed == 0, told
    gateway.assert_alive()
