"""The attacks of tests/attack in their short forms, each against a gateway of its own.

`scripts/attack` runs the same cases, and their long forms, against any running gateway.
"""

import sys

import pytest

from harness import bodies, h3
from harness.gateway import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))

from attack import case, frames, handshakes, streams, unproven
from attack.oracle import Client, Process

CASES = [one for family in (unproven, handshakes, frames, streams) for one in family.CASES]

BODY_LEN = 1000
MAX_CONNECTIONS = 500
"""Fewer than what a flood of Initials would take if the gateway kept a connection for each."""

EXPECTED_FAILURES = {
    "D15B": "quinn-proto ignores STOP_SENDING and STREAM_DATA_BLOCKED of streams beyond the limit",
}
"""Why the gateway does not pass a case yet."""


@pytest.fixture
def target(start):
    gateway = start(max_connections=MAX_CONNECTIONS)
    client = Client("127.0.0.1", gateway.port, h3.AUTHORITY, f"/bytes/{BODY_LEN}",
                    bodies.digest(BODY_LEN))
    yield case.Target(client.host, client.port, client, Process(gateway.process.pid))
    gateway.assert_alive()


def parameter(one: case.Case):
    reason = EXPECTED_FAILURES.get(one.name)
    marks = [] if reason is None else [
        pytest.mark.xfail(reason=reason, raises=case.Failure, strict=True)]
    return pytest.param(one, id=one.name, marks=marks)


@pytest.mark.parametrize("attack", [parameter(one) for one in CASES])
def test_an_attack_is_survived_and_clients_notice_nothing(attack, target):
    case.run(attack, target)


def test_the_probe_notices_a_wrong_body(target):
    target.client.path = f"/bytes/{BODY_LEN + 1}"
    nothing = case.Case("none", "no attack", lambda target, dice: "nothing")
    with pytest.raises(case.Failure, match="wrong body"):
        case.run(nothing, target)


def test_the_process_check_notices_a_process_that_ended(target, start):
    other = start()
    target.process = Process(other.process.pid)
    ending = case.Case("end", "the gateway ends", lambda target, dice: str(other.stop()))
    with pytest.raises(case.Failure, match="not there any more"):
        case.run(ending, target)
