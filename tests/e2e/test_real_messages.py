"""Messages in the shape of those that real sites exchange, through the gateway and back.

Each file of `tests/fixtures` holds the fields of one message, one a line. Their names and lengths
are those of real messages; what would identify somebody is random.
"""

import pathlib

import pytest

from harness import h3, raw
from harness.raw import head

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"


def fields_of(path: pathlib.Path) -> list[tuple[bytes, bytes]]:
    lines = path.read_bytes().splitlines()
    return [tuple(line.split(b": ", 1)) for line in lines]


def files(kind: str):
    found = sorted((FIXTURES / kind).glob("*.txt"))
    assert len(found) >= 5
    return [pytest.param(path, id=path.stem) for path in found]


@pytest.mark.parametrize("path", files("requests"))
@h3.run
async def test_a_real_request_reaches_the_upstream_as_it_was(start, recorder, path):
    """Under the default limits. The lines of cookie are one line then (RFC 9114 4.2.1)."""
    gateway = start(origin=recorder.address)
    sent = fields_of(path)
    async with raw.connection(gateway) as client:
        for _ in range(2):
            got = await client.ask(head(more=sent))
            assert (got.outcome, got.body) == ("200", b"ok"), got
    names = dict.fromkeys(name for name, _ in sent if name != b"cookie")
    for request in recorder.requests:
        for name in names:
            wanted = [value for key, value in sent if key == name]
            assert request.values(name.decode()) == wanted, name
        cookies = [value for name, value in sent if name == b"cookie"]
        assert request.values("cookie") == ([b"; ".join(cookies)] if cookies else [])
    metrics = gateway.settle_count("requests_total", 2)
    assert metrics.sum("proxy_fields_dropped_total") == 0


@pytest.mark.parametrize("path", files("responses"))
@h3.run
async def test_a_real_response_reaches_the_client_as_it_was(start, recorder, path):
    """Every byte of every value in its order, in whatever encoding the application wrote it."""
    gateway = start(origin=recorder.address)
    sent = fields_of(path)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in sent)
    response = b"HTTP/1.1 200 OK\r\n" + lines + b"content-length: 2\r\n\r\nok"
    recorder.script = lambda request: ["read", response]
    async with raw.connection(gateway) as client:
        for _ in range(2):
            got = await client.ask(head())
            assert (got.outcome, got.body) == ("200", b"ok"), got
            wanted = [*sent, (b"content-length", b"2"), (b"via", b"1.1 ringway")]
            assert got.fields == wanted
    assert len(recorder.connections) == 1
