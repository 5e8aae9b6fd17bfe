"""The attacks of tests/attack in their short forms, each against a gateway of its own.

`scripts/attack` runs the same cases, and their long forms, against any running gateway.
"""

import contextlib
import random
import signal
import sys
import time

import pytest

from harness import bodies, h3
from harness.gateway import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))

from attack import books, case, oracle, process, unproven, wire
from attack.books import Books
from attack.cases import CASES
from attack.client import Client
from attack.process import Process

BODY_LEN = 1000
MAX_CONNECTIONS = 1000
"""Fewer than what a flood of Initials would take if the gateway kept a connection for each."""

EXPECTED_FAILURES = {
    "D15B": "quinn-proto ignores STOP_SENDING and STREAM_DATA_BLOCKED of streams beyond the limit",
    "D20B": "quinn-proto accepts an end before bytes that it has received",
}
"""Why the gateway does not pass a case yet."""


@pytest.fixture
def target(start):
    # A close of the attacker's may be lost. Its connection has to be gone in time all the same.
    gateway = start(max_connections=MAX_CONNECTIONS, header_timeout="2s", body_timeout="2s",
                    idle_timeout="8s")
    seed = random.randrange(1, 1 << 30)
    client = Client("127.0.0.1", gateway.port, h3.AUTHORITY, f"/bytes/{BODY_LEN}?seed={seed}",
                    bodies.digest(BODY_LEN, seed))
    process, books = Process(gateway.process.pid), Books(gateway.admin_url)
    yield case.Target(client.host, client.port, client, process, books,
                      large_path=f"/bytes/{1 << 30}?seed=1", upload_path="/upload")
    gateway.assert_alive()


def parameter(one: case.Case):
    reason = EXPECTED_FAILURES.get(one.name)
    marks = [] if reason is None else [
        pytest.mark.xfail(reason=reason, raises=case.Failure, strict=True)]
    return pytest.param(one, id=one.name, marks=marks)


@pytest.mark.parametrize("attack", [parameter(one) for one in CASES.values()])
def test_an_attack_is_survived_and_clients_notice_nothing(attack, target):
    case.run(attack, target)


def test_silence_after_a_long_certificate_chain(target, start, certificate, tmp_path):
    """Nine certificates are more than a silent client may be sent."""
    chain = tmp_path / "chain.pem"
    chain.write_bytes(9 * certificate.cert.read_bytes())
    der_len_min = chain.stat().st_size * 2 // 3
    assert der_len_min > unproven.AMPLIFICATION_MAX * wire.INITIAL_LEN
    gateway = start(cert=chain)
    target.client.port = target.port = gateway.port
    target.process, target.books = Process(gateway.process.pid), Books(gateway.admin_url)
    case.run(CASES["D01"], target)


def fails_with(text: str, target, attack):
    with pytest.raises(case.Failure, match=text):
        case.run(case.Case("planted", "a fault that the oracle must see", attack), target)


def test_the_probe_notices_a_wrong_body(target):
    target.client.path = f"/bytes/{BODY_LEN + 1}"
    fails_with("wrong body", target, lambda target, dice: "nothing")


def test_the_probe_notices_a_gateway_that_pauses(target, start):
    def attack(target, dice):
        for _ in range(4):
            gateway.signal(signal.SIGSTOP)
            time.sleep(0.5)
            gateway.signal(signal.SIGCONT)
            time.sleep(0.02)
        return "paused"

    gateway = start()
    target.client.port, target.process = gateway.port, None
    fails_with("99 of 100 within", target, attack)


def test_the_books_notice_a_connection_that_stays(target, monkeypatch):
    monkeypatch.setattr(oracle, "REST_TIMEOUT", {False: 0.5})
    with contextlib.ExitStack() as stack:
        def attack(target, dice):
            one = stack.enter_context(wire.udp_socket(target))
            one.sendto(unproven.hello(target).initial(), target.address)
            return "half-open"

        fails_with("connections_handshaking is 1, was 0", target, attack)


@pytest.mark.parametrize("name, wrong_count", [
    ("connections_accepted_total", 1), ("handshakes_total", 2), ("connections_closed_total", 1),
    ("requests_total", 1), ("responses_total", 1),
])
def test_the_books_notice_sums_that_are_wrong(target, name, wrong_count):
    target.client.first_response_seconds()
    metrics = target.books.read()
    assert books.wrong_sums(metrics) == []
    at = next(at for at, sample in enumerate(metrics.samples) if sample[0] == f"ringway_{name}")
    metrics.samples[at] = (*metrics.samples[at][:2], metrics.samples[at][2] + 1)
    assert len(books.wrong_sums(metrics)) == wrong_count


def test_the_process_check_notices_memory_that_is_kept(target, monkeypatch):
    monkeypatch.setattr(oracle, "REST_TIMEOUT", {False: 0.5})
    monkeypatch.setattr(process, "RSS_KEPT_LEN_MIN", -1)
    monkeypatch.setattr(process, "RSS_KEPT_SHARE_MAX", -1)
    fails_with("MiB of memory are kept", target, lambda target, dice: "nothing")


def test_the_process_check_notices_a_process_that_ended(target, start):
    other = start()
    target.process = Process(other.process.pid)
    fails_with("not there any more", target, lambda target, dice: str(other.stop()))
