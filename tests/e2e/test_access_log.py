"""The access log has one JSON line for each request, whatever its outcome."""

import datetime

from harness import h3
from harness.bodies import MIB


@h3.run
async def test_each_request_has_a_line_with_its_outcome(gateway, origin):
    async with h3.connection(gateway) as client:
        await client.get("/bytes/1000?q=1")
        await client.post("/echo", 5000)
        await client.open("GET", "/none", authority="localhost").wait()
        await client.get("/down/x")
        exchange = client.open("GET", f"/bytes/{100 * MIB}")
        await exchange.received(1000)
        exchange.reset()
        lines = gateway.access_lines(5)
    by_path = {line["path"]: line for line in lines}
    assert len(by_path) == len(lines) == 5
    get, post = by_path["/bytes/1000?q=1"], by_path["/echo"]
    assert (get["method"], get["status"], get["bytes_in"], get["bytes_out"]) == ("GET", 200, 0, 1000)
    assert (post["method"], post["bytes_in"], post["bytes_out"]) == ("POST", 5000, 5000)
    assert get["host"] == get["sni"] == h3.AUTHORITY
    assert get["client"].startswith("127.0.0.1")
    assert get["upstream"] == origin.address
    assert get["protocol"] == "HTTP/3"
    assert 0 < get["upstream_us"] <= get["duration_us"] < 10_000_000
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(get["time"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)
    assert by_path["/none"]["status"] == 404
    assert by_path["/down/x"]["status"] == 502
    assert get["outcome"] == post["outcome"] == "complete"
    assert by_path[f"/bytes/{100 * MIB}"]["outcome"] == "aborted"


@h3.run
async def test_quotes_backslashes_and_long_paths_stay_on_one_line(gateway):
    async with h3.connection(gateway) as client:
        paths = ['/bytes/1?"quote"', "/bytes/1?back\\slash", "/bytes/1?" + "x" * 8000]
        for path in paths:
            await client.get(path)
        lines = gateway.access_lines(len(paths))
    assert len(lines) == len(paths)
    assert lines[-1]["path"].startswith("/bytes/1?xxx")
