"""The same generated requests over HTTP/3, HTTP/2 and HTTP/1.1: the upstream receives the same
messages, clients receive the same responses, and the access log has the same lines.

    RINGWAY_SEED=7 RINGWAY_COUNT=100000 pytest tests/e2e/test_front_door_differential.py

sends others. A seed and a number decide a case (`harness/messages.py`); what differs is shrunk to
the least that still does."""

import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator

import pytest

from harness import messages, tcp
from harness.http2 import Lines
from harness.messages import ALL, Case
from harness.recorder import Recorded, Recorder
from harness.three import CLIENTS, Outcome

SEED = int(os.environ.get("RINGWAY_SEED", "20"))
COUNT = int(os.environ.get("RINGWAY_COUNT", "5000"))

OF_CONNECTION = {b"connection", b"keep-alive", b"transfer-encoding"}
"""Fields of a connection over HTTP/1.1 (RFC 9110 7.6.1)."""
LOGGED = ("method", "host", "path", "status", "source", "bytes_in", "bytes_out", "outcome",
          "error", "rule", "limit", "limit_value")


@dataclasses.dataclass
class Seen:
    """All that is to be the same."""

    outcome: Outcome
    messages: list
    """The requests that the upstream received: lines, fields, bodies, trailers."""
    line: dict | None
    """The line of the access log, where the path tells which it is."""


def comparable(fields: Lines) -> Lines:
    """The fields that all protocols have in common. Those of one name keep their order."""
    kept = []
    for name, value in fields:
        if name == b"via":  # The version by which the message came is that of the client.
            value = re.sub(rb"(3|2|1\.1) ringway$", b"X ringway", value)
        if name not in OF_CONNECTION:
            kept.append((name, value))
    return sorted(kept, key=lambda field: field[0])


def comparable_outcome(outcome: Outcome, port: int) -> Outcome:
    offer = (b"alt-svc", b'h3=":%d"; ma=86400' % port)  # RFC 7838 3: not over HTTP/3 itself.
    return dataclasses.replace(
        outcome,
        interim=[comparable(lines) for lines in outcome.interim],
        fields=[field for field in comparable(outcome.fields) if field != offer],
        trailers=comparable(outcome.trailers),
        end="cut" if outcome.end not in ("clean", "malformed") else outcome.end,
        # What came before a response broke off is a matter of time.
        body=outcome.body if outcome.end == "clean" else b"",
    )


def comparable_message(request: Recorded) -> tuple:
    first, *lines = request.head.split(b"\r\n")
    fields = comparable([tuple(line.split(b": ", 1)) for line in lines])
    trailers = sorted(request.trailers.split(b"\r\n"))
    return first, fields, request.body, trailers, request.whole


class Judge:
    """A gateway, its upstream, and what both saw of the cases."""

    def __init__(self, start, cases: list[Case], script=None):
        self.cases = {case.number: case for case in cases}
        self.script = script or (lambda request, case: case.answer)
        self.recorder = Recorder(self._answer)
        self.gateway = start(
            origin=self.recorder.address, listener=tcp.LISTENER, limits=messages.LIMITS,
            max_body_size=f"{messages.BODY_LEN_MAX}B",
        )
        self._requests = self._lines = 0

    def _answer(self, request: Recorded) -> list:
        return self.script(request, self.cases[number_of(request)])

    def see(self, cases: list[Case]) -> dict[str, dict[int, Seen]]:
        """Sends the cases over each protocol. Returns what was seen, by protocol and number."""
        self.cases |= {case.number: case for case in cases}
        seen = {}
        for name, client in CLIENTS.items():
            mine = [case for case in cases if name in case.protocols]
            outcomes = client(self.gateway, mine)
            arrived = self._arrived()
            # `h2` refuses some by itself, and they have no line.
            certain = len(mine)
            if name == "HTTP/2":
                certain = sum(1 for one in outcomes if one.end == "clean" and one.status != 431)
            lines = self._new_lines(certain, len(mine))
            seen[name] = {
                case.number: self._seen(
                    case, outcome, arrived.get(case.number, []),
                    lines.get((case.method, case.path)),
                )
                for case, outcome in zip(mine, outcomes, strict=True)
            }
        return seen

    def _seen(self, case: Case, outcome: Outcome, arrived: list[Recorded], line) -> Seen:
        seen = Seen(comparable_outcome(outcome, self.gateway.port), [], line)
        if is_refused(seen):
            assert not any(request.whole for request in arrived), (case, arrived)
        elif not case.is_cut:
            seen.messages = [comparable_message(request) for request in arrived]
            if case.closes and case.method != b"POST" and len(set(map(str, seen.messages))) == 1:
                # It is sent again if the connection was not a new one, which others decide.
                del seen.messages[1:]
        if line and (case.is_cut or outcome.end != "clean"):
            # How much passed before the message broke off is a matter of time.
            line["bytes_in"] = line["bytes_out"] = None
        return seen

    def _arrived(self) -> dict[int, list[Recorded]]:
        new = self.recorder.requests[self._requests:]
        self._requests += len(new)
        by_number: dict[int, list[Recorded]] = {}
        for request in new:
            by_number.setdefault(number_of(request), []).append(request)
        return by_number

    def _new_lines(self, least: int, most: int) -> dict[tuple[bytes, bytes], dict]:
        """Returns the new lines of the access log, once there are no more."""
        lines = self.gateway.access_lines(self._lines + least) if most else []
        while least < most and len(lines) < len(lines := self._lines_later()):
            pass
        new, self._lines = lines[self._lines:], max(len(lines), self._lines)
        assert least <= len(new) <= most
        return {
            (line["method"].encode(), line["path"].encode("latin-1")):
                {key: line.get(key) for key in LOGGED}
            for line in new if line["method"] and line["path"]
        }

    def _lines_later(self) -> list[dict]:
        time.sleep(0.3)
        return self.gateway.access_lines(0)


def number_of(request: Recorded) -> int:
    return int(request.values("x-case")[0])


def is_refused(seen: Seen) -> bool:
    """The request breaks a rule: 400, or reset. The upstream has not received it whole."""
    own = seen.line is None or seen.line["source"] != "upstream"
    return seen.outcome.end == "malformed" or seen.outcome.status == 400 and own


Intended = Callable[[Case, Seen, Seen], bool]

# Where protocols differ by intention: the first is over HTTP/3, the other over HTTP/2 or HTTP/1.1.
INTENDED: dict[str, dict[str, Intended]] = {
    "HTTP/2": {
        "9113 8.1.1: `h2` resets what it finds malformed, without a response and a line":
            lambda case, first, other: is_refused(first) and other.outcome.end == "malformed",
        "9110 15.5.20, 15.5.14: .. also what would be refused otherwise":
            lambda case, first, other:
                first.outcome.status in (413, 421) and other.outcome.end == "malformed",
        "6585 5: `h2` responds by itself to a head of twice the length":
            lambda case, first, other:
                first.outcome.status == other.outcome.status == 431 and other.line is None,
        "3986 2: .. and bytes that no URI may hold":
            lambda case, first, other:
                set(case.path) & set(messages.UNWISE) and other.outcome.end == "malformed",
        "3986 3.5: `h2` cuts off a fragment": lambda case, first, other: b"#" in case.path,
    },
    "HTTP/1.1": {
        "9112 2.2: what is malformed gets 400 and not a reset, and other words":
            lambda case, first, other: is_refused(first) and is_refused(other),
        "9112 7.1.2: .. or the end of the connection, where trailers are malformed":
            lambda case, first, other:
                case.trailers and is_refused(first) and other.outcome.end == "cut",
        "9112 3.2.2: a target may be absolute":
            lambda case, first, other: case.path.startswith(b"https://"),
        "9112 6.3: a second length is refused, an equal one too":
            lambda case, first, other:
                any(name == b"content-length" for name, _ in case.fields) and is_refused(other),
        "9110 15.5.15: a request line that alone is too long":
            lambda case, first, other:
                (first.outcome.status, other.outcome.status) == (431, 414),
    },
}


def differences(
    cases: list[Case], seen: dict[str, dict[int, Seen]], used: set[str] | None = None,
) -> Iterator[tuple[Case, str]]:
    """Yields the cases that differ, with how. Notes in `used` what is intended."""
    for case in cases:
        first = seen["HTTP/3"][case.number]
        for name in case.protocols[1:]:
            other = seen[name][case.number]
            if first == other:
                continue
            rules = [rule for rule, differ in INTENDED[name].items() if differ(case, first, other)]
            if used is not None:
                used.update(rules)
            if not rules:
                yield case, f"over HTTP/3: {first}\nover {name}: {other}"
                break


def shrink(judge: Judge, case: Case) -> Case:
    """Leaves out of the case what does not matter: it still differs."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in simpler(case):
            if list(differences([candidate], judge.see([candidate]))):
                case, smaller = candidate, True
                break
    return case


def simpler(case: Case) -> Iterator[Case]:
    """Yields the case with something left out."""
    for index in range(len(case.fields)):
        left = case.fields[:index] + case.fields[index + 1:]
        yield dataclasses.replace(case, fields=left)
    if case.trailers:
        yield dataclasses.replace(case, trailers=[])
    if case.pieces > 1:
        yield dataclasses.replace(case, pieces=1)
    if case.body and len(case.body) > 1 and case.length in (None, b"%d" % len(case.body)):
        length = case.length and b"1"
        yield dataclasses.replace(case, body=b"x", length=length)
    if case.body is not None and case.length is None:
        yield dataclasses.replace(case, body=None)
    if case.answer != ["read", messages.ok()]:
        yield dataclasses.replace(case, answer=["read", messages.ok()])
    if case.method not in (b"GET", b"POST"):
        yield dataclasses.replace(case, method=b"POST" if case.body else b"GET")
    if case.path != b"/%d" % case.number:
        yield dataclasses.replace(case, path=b"/%d" % case.number)


def first_difference(judge: Judge, cases: list[Case], seed: int, used: set[str]) -> str | None:
    """Describes the first case that differs, in its least form."""
    found = list(differences(cases, judge.see(cases), used))
    if not found:
        return None
    case, how = found[0]
    least = shrink(judge, case)
    again = [how for _, how in differences([least], judge.see([least]))] or [how]
    return (f"{len(found)} of {len(cases)} cases differ, first number {case.number} of "
            f"RINGWAY_SEED={seed}:\n{least}\n{again[0]}\nat first:\n{how}")


def test_the_protocols_say_the_same(start):
    cases = messages.generate(SEED, COUNT)
    judge = Judge(start, cases)
    used: set[str] = set()
    wrong = first_difference(judge, cases, SEED, used)
    assert wrong is None, wrong
    assert judge.recorder.wrong == []
    judge.recorder.stop()
    # What no case needs any more is to leave the table.
    assert used == {rule for table in INTENDED.values() for rule in table}


@pytest.mark.parametrize("name", ALL[1:])
def test_a_difference_is_found_and_shrunk(start, name):
    """The upstream itself plants it: it notices which protocol a request came over."""
    token = {"HTTP/2": b"2 ringway", "HTTP/1.1": b"1.1 ringway"}[name]

    def script(request: Recorded, case: Case) -> list:
        is_planted = request.values("via")[-1].endswith(token) and request.values("accept-language")
        return ["read", messages.ok(b"another" if is_planted else b"ok")]

    cases = [case for case in messages.generate(SEED, 200) if case.kind in ("plain", "body")]
    judge = Judge(start, cases, script)
    found = [case for case, _ in differences(cases, judge.see(cases))]
    expected = [case for case in cases if (b"accept-language", b"de") in case.fields
                and case.method != b"HEAD"]
    assert found == expected != []
    least = shrink(judge, found[0])
    assert least.fields == [(b"accept-language", b"de")]
    assert (least.path, least.trailers) == (b"/%d" % least.number, [])
    judge.recorder.stop()
