"""Bodies arrive byte for byte, in both directions, with both clients, over IPv4 and IPv6."""

import asyncio
import hashlib
import json

import pytest

from harness import bodies, h3
from harness.bodies import KIB, MIB
from harness.curl import Curl

LENGTHS = [0, 1, KIB, 68 * KIB, MIB]
LARGE = 100 * MIB


@pytest.mark.parametrize("length", LENGTHS)
@h3.run
async def test_download(gateway, host, length):
    async with h3.connection(gateway, host) as client:
        response = await client.get(f"/bytes/{length}?seed=5")
    assert (response.status, response.end) == (200, "clean")
    assert response.field("content-length") == str(length)
    assert (response.length, response.sha256) == (length, bodies.digest(length, 5))


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize("length", LENGTHS)
@h3.run
async def test_upload(gateway, host, length, sized):
    async with h3.connection(gateway, host) as client:
        response = await client.post("/upload", length, seed=6, sized=sized)
    assert (response.status, response.end) == (200, "clean")
    seen = json.loads(response.text)
    assert (seen["length"], seen["sha256"]) == (length, bodies.digest(length, 6))
    if sized:
        assert (seen["content_length"], seen["chunked"]) == (length, False)
    else:
        assert seen["chunked"] or length == 0


@pytest.mark.parametrize("length", [0, 1, MIB, LARGE])
def test_download_by_curl(has_curl, gateway, host, length):
    assert Curl(gateway, host).download(f"/bytes/{length}") == (0, length, bodies.digest(length))


@pytest.mark.parametrize("length", [0, 1, MIB, LARGE])
def test_upload_by_curl(has_curl, gateway, host, length, tmp_path):
    file = tmp_path / "upload"
    with file.open("wb") as out:
        out.writelines(bodies.pieces(length))
    text, errors = Curl(gateway, host).upload("/upload", file).communicate(timeout=120)
    file.unlink()
    assert text, errors.decode()
    seen = json.loads(text)
    assert (seen["length"], seen["sha256"]) == (length, bodies.digest(length))


@h3.run
async def test_responses_of_a_connection_share_its_window(gateway):
    """Five large responses get their share each, and small ones are not behind them, although the
    client's window for the connection is short all the time."""
    length, small_count = 8 * MIB, 10
    async with h3.connection(gateway, max_data=256 * KIB) as client:
        client.fix_window()
        large = [client.open("GET", f"/bytes/{length}?seed={seed}") for seed in range(5)]

        def received_lens() -> list[int]:
            return [exchange.response.length for exchange in large]

        lens_at_first_end = []
        for exchange in large:
            exchange._done.add_done_callback(lambda _: lens_at_first_end or
                                             lens_at_first_end.extend(received_lens()))
        waits = []
        for step in range(small_count):
            await large[0].received((step + 1) * length // (small_count + 2))
            before = sum(received_lens())
            small = await client.get("/bytes/1024")
            assert (small.status, small.length) == (200, 1024)
            waits.append(sum(received_lens()) - before)
        assert not lens_at_first_end, "small requests are made while all large ones run"
        for seed, exchange in enumerate(large):
            response = await exchange.wait()
            assert response.sha256 == bodies.digest(length, seed), seed
    # A window or less comes before a small response. On a busy machine its upstream may be late,
    # so a few of them may wait for more, but never for the ends of the large ones.
    assert sorted(waits)[small_count // 2] <= MIB and max(waits) <= 8 * MIB, waits
    assert min(lens_at_first_end) >= length // 2, lens_at_first_end


@h3.run
async def test_large_download(gateway):
    async with h3.connection(gateway) as client:
        response = await client.get(f"/bytes/{LARGE}", seconds=120)
    assert (response.end, response.length, response.sha256) == ("clean", LARGE, bodies.digest(LARGE))


@h3.run
async def test_large_upload(gateway):
    async with h3.connection(gateway) as client:
        response = await client.post("/upload", LARGE, seconds=120)
    assert json.loads(response.text)["sha256"] == bodies.digest(LARGE)


@h3.run
async def test_hundred_streams_at_once(gateway, host):
    async with h3.connection(gateway, host) as client:
        length = 100 * KIB
        exchanges = [client.open("GET", f"/bytes/{length}?seed={seed}") for seed in range(100)]
        responses = await asyncio.gather(*(exchange.wait() for exchange in exchanges))
    for seed, response in enumerate(responses):
        assert (response.status, response.end) == (200, "clean"), seed
        assert response.sha256 == bodies.digest(length, seed), f"stream {seed} has other bytes"


@h3.run
async def test_connections_on_several_workers(start):
    gateway = start(workers=2)

    async def one(number: int):
        async with h3.connection(gateway, ["127.0.0.1", "::1"][number % 2]) as client:
            posts = [client.post("/echo", 50 * KIB, seed=number * 10 + i) for i in range(10)]
            return await asyncio.gather(*posts)

    for number, responses in enumerate(await asyncio.gather(*(one(n) for n in range(12)))):
        for i, response in enumerate(responses):
            assert response.sha256 == bodies.digest(50 * KIB, number * 10 + i)
    assert gateway.metrics().sum("requests_total") == 120


def test_hundred_streams_by_curl(has_curl, gateway, tmp_path):
    curl = Curl(gateway)
    done = curl.run(
        "/bytes/5000?seed=[0-99]", "--parallel", "--parallel-max", "100",
        "--output", str(tmp_path / "body-#1"),
    )
    assert done.returncode == 0, done.stderr.decode()
    for seed in range(100):
        body = (tmp_path / f"body-{seed}").read_bytes()
        assert hashlib.sha256(body).hexdigest() == bodies.digest(5000, seed)


@h3.run
async def test_echo_streams_both_ways_at_once(gateway, host):
    length = 8 * MIB
    async with h3.connection(gateway, host) as client:
        for sized in (True, False):
            response = await client.post("/echo", length, seed=2, sized=sized)
            assert (response.end, response.sha256) == ("clean", bodies.digest(length, 2))
        # The response starts while the request is still open.
        exchange = client.open("POST", "/echo", end=False)
        exchange.send(b"first")
        await exchange.received(5)
        assert exchange.response.text == b"first"
        exchange.send(b" last", end=True)
        response = await exchange.wait()
        assert (response.text, response.end) == (b"first last", "clean")


@pytest.mark.parametrize("form", ["chunked", "close"])
@pytest.mark.parametrize("length", [0, 1, MIB])
@h3.run
async def test_responses_without_length(gateway, form, length):
    async with h3.connection(gateway) as client:
        for _ in range(2):
            response = await client.get(f"/{form}/{length}")
            assert (response.status, response.end) == (200, "clean")
            assert (response.length, response.sha256) == (length, bodies.digest(length))
            assert response.field("transfer-encoding") is None
            assert response.field("connection") is None


@h3.run
async def test_trailers_arrive(gateway):
    async with h3.connection(gateway) as client:
        response = await client.get("/chunked/1000?trailers=1")
    assert ("x-digest", bodies.digest(1000)) in response.trailers


@h3.run
async def test_head_has_no_body(gateway, host):
    async with h3.connection(gateway, host) as client:
        response = await client.open("HEAD", "/bytes/1000").wait()
        assert (response.status, response.length, response.end) == (200, 0, "clean")
        assert response.field("content-length") == "1000"
        # The upstream connection can take the next request.
        assert (await client.get("/bytes/10")).sha256 == bodies.digest(10)


def test_head_by_curl(has_curl, gateway, host):
    """Two requests on one connection: the second would read any bytes that the first had left."""
    curl = Curl(gateway, host)
    done = curl.run("/chunked/1000", "--head", curl.base + "/bytes/1000")
    assert done.returncode == 0, done.stderr.decode()
    first, second, rest = done.stdout.decode().split("\r\n\r\n")
    assert first.startswith("HTTP/3 200") and "content-length: 1000\r\n" in first + "\r\n"
    assert second.startswith("HTTP/3 200") and "content-length" not in second
    assert rest == "", "a body came"
    assert gateway.metrics().sum("connections_accepted_total") == 1


@pytest.mark.parametrize("status", [204, 304])
@h3.run
async def test_statuses_without_body(gateway, status):
    async with h3.connection(gateway) as client:
        response = await client.get(f"/status/{status}")
        assert (response.status, response.length, response.end) == (status, 0, "clean")
        assert (await client.get("/bytes/10")).sha256 == bodies.digest(10)


@h3.run
async def test_upstream_on_a_unix_socket(start, origin):
    gateway = start(origin=f"unix:{origin.unix}")
    async with h3.connection(gateway) as client:
        assert (await client.get(f"/bytes/{MIB}")).sha256 == bodies.digest(MIB)


@h3.run
async def test_the_request_arrives_unchanged(gateway):
    fields = [("user-agent", "tests"), ("x-twice", "1"), ("x-twice", "2"),
              ("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]
    async with h3.connection(gateway) as client:
        response = await client.get("/head/%41b?q=a%20b&c", fields)
    seen = json.loads(response.text)
    assert (seen["method"], seen["target"]) == ("GET", "/head/%41b?q=a%20b&c")
    assert seen["version"] == "HTTP/1.1"

    def values(name):
        return [value for field, value in seen["fields"] if field.lower() == name]

    assert values("host") == [h3.AUTHORITY]
    assert values("user-agent") == ["tests"]
    assert [part.strip() for value in values("x-twice") for part in value.split(",")] == ["1", "2"]
    assert values("cookie") == ["a=1; b=2"], "RFC 9114 4.2.1"
    assert values("te") == []
    assert values("x-forwarded-proto") == ["https"]
    assert values("x-forwarded-for") == ["127.0.0.1"]
