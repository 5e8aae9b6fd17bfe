"""The access log has one JSON line for each request, whatever its outcome, and its sums are those
of the counters."""

import asyncio
import collections
import contextlib
import datetime
import json
import os
import pathlib
import pwd
import signal
import subprocess
import time

import pytest

from harness import h3, raw
from harness.bodies import KIB, MIB
from harness.gateway import Gateway, binary
from harness.raw import DATA, HEADERS, frame, head, section
from harness.recorder import OK, Recorder


async def logged(gateway, count: int, seconds: float = 5) -> list[dict]:
    """Returns the access log, like `Gateway.access_lines`, while clients go on: a line waits for
    the client's acknowledgement of the response."""
    return await asyncio.to_thread(gateway.access_lines, count, seconds)


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
        lines = await logged(gateway, 5)
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
    assert 0 < get["duration_us"] <= get["delivered_us"] < 10_000_000
    assert (by_path["/none"]["outcome"], by_path["/none"]["source"]) == ("no_route", "gateway")
    assert by_path["/down/x"]["outcome"] == "connect_refused"
    assert by_path["/down/x"]["error"] == "connection_refused"
    cut = by_path[f"/bytes/{100 * MIB}"]
    assert (cut["outcome"], cut["status"], cut["delivered_us"]) == ("client_cancelled", 200, None)


@h3.run
async def test_quotes_backslashes_and_long_paths_stay_on_one_line(gateway):
    async with h3.connection(gateway) as client:
        paths = ['/bytes/1?"quote"', "/bytes/1?back\\slash", "/bytes/1?" + "x" * 8000]
        for path in paths:
            await client.get(path)
        lines = await logged(gateway, len(paths))
    assert len(lines) == len(paths)
    assert lines[-1]["path"].startswith("/bytes/1?xxx")


async def lines_of(path: pathlib.Path, count: int) -> list[dict]:
    """Returns the lines of a log once there are as many, while clients go on."""
    end = time.monotonic() + 5
    while len(lines := path.read_text().splitlines() if path.exists() else []) < count:
        assert time.monotonic() < end, f"{len(lines)} lines in {path}"
        await asyncio.sleep(0.02)
    return [json.loads(line) for line in lines]


def is_open(gateway, path: pathlib.Path) -> bool:
    """Returns whether the gateway has the file open."""
    folder = pathlib.Path(f"/proc/{gateway.process.pid}/fd")
    targets = []
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(entry))
    return str(path) in targets


@h3.run
async def test_usr1_opens_the_log_again_after_a_rotation(gateway):
    log = gateway.access_log
    moved = log.with_suffix(".1")
    async with h3.connection(gateway) as client:
        await client.get("/bytes/1")
        await lines_of(log, 1)
        log.rename(moved)
        await client.get("/bytes/2")
        assert [line["path"] for line in await lines_of(moved, 2)] == ["/bytes/1", "/bytes/2"]
        gateway.signal(signal.SIGUSR1)
        end = time.monotonic() + 5
        while not log.exists() or is_open(gateway, moved):
            assert time.monotonic() < end, "the moved file stays open"
            time.sleep(0.02)
        await client.get("/bytes/3")
        assert [line["path"] for line in await lines_of(log, 1)] == ["/bytes/3"]
    assert len(await lines_of(moved, 2)) == 2
    assert "is open again" in gateway.text()


@h3.run
async def test_a_log_of_another_user_is_opened_again_by_that_user(origin, certificate, tmp_path):
    """The file that root makes at the start belongs to the user that the process becomes."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    user = pwd.getpwnam("nobody")
    folder = pathlib.Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    os.chown(folder, user.pw_uid, user.pw_gid)
    log = folder / "access.log"
    gateway = Gateway(tmp_path, origin.address, certificate, user="nobody", access_log=log)
    gateway.start()
    try:
        assert (log.stat().st_uid, log.stat().st_gid) == (user.pw_uid, user.pw_gid)
        gateway.signal(signal.SIGUSR1)
        async with h3.connection(gateway) as client:
            await client.get("/bytes/1")
        await lines_of(log, 1)
        assert "is open again" in gateway.text(), gateway.text()
    finally:
        assert gateway.stop() == 0
        log.unlink(missing_ok=True)
        folder.rmdir()


@h3.run
async def test_a_full_disk_cuts_no_line_and_the_counters_agree_with_the_file(start, tmp_path):
    """The disk takes about 25 lines of some 330 bytes, then none, then all."""
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root")
    def count(metrics) -> float:
        return metrics.sum("access_log_lines_total")

    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(disk)], check=True)
    log = disk / "access.log"
    gateway = start(access_log=log)
    try:
        async with h3.connection(gateway) as client:
            for number in range(80):
                await client.get(f"/bytes/{number}")
            # One line may be in the file in part: it is neither written nor dropped.
            await asyncio.to_thread(gateway.settle, lambda found: (
                None if 80 - count(found) in (0, 1) else count(found)))
            subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
            for number in range(80, 90):
                await client.get(f"/bytes/{number}")
        await asyncio.to_thread(gateway.settle, lambda found: (
            None if count(found) == 90 else count(found)))
        found = await lines_of(log, 20)
        metrics = gateway.metrics()
        written = metrics.sum("access_log_lines_total", outcome="written")
        dropped = metrics.sum("access_log_lines_total", outcome="dropped")
        assert (written, written + dropped) == (len(found), 90)
        assert dropped > 10, "the disk was full"
        assert found[-1]["path"] == "/bytes/89"
    finally:
        gateway.stop()
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1", "-", "/dev/stderr"])
@h3.run
async def test_a_standard_stream_of_root_takes_lines_of_a_user(start, origin, path):
    """A path to it could be opened by its owner only, and not at all if it is a socket."""
    user = "nobody" if os.geteuid() == 0 else ""
    gateway = start(access_log=path, user=user)
    async with h3.connection(gateway) as client:
        await client.get("/bytes/1")
    end = time.monotonic() + 5
    while '"path":"/bytes/1"' not in gateway.text():
        assert time.monotonic() < end, gateway.text()
        time.sleep(0.02)


@pytest.mark.parametrize("target", ["none/access.log", "."])
def test_check_finds_what_run_would(tmp_path, certificate, target):
    gateway = Gateway(tmp_path, "127.0.0.1:1", certificate, access_log=tmp_path / target)
    configuration = gateway.configure()
    said = []
    for verb in ("check", "run"):
        done = subprocess.run([str(binary()), verb, "--config", str(configuration)],
                              capture_output=True, text=True, timeout=20)
        assert done.returncode == 3, done.stderr
        said += [line for line in done.stderr.splitlines() if "log.access.path" in line]
    assert len(said) == 2 and "cannot be opened" in said[0], said


def test_check_leaves_no_log_behind(tmp_path, certificate):
    gateway = Gateway(tmp_path, "127.0.0.1:1", certificate, tls_keys=tmp_path / "keys.log")
    before = sorted(tmp_path.iterdir())
    configuration = gateway.configure()
    subprocess.run([str(binary()), "check", "--config", str(configuration)], check=True,
                   capture_output=True)
    assert sorted(tmp_path.iterdir()) == sorted([*before, configuration])


MALFORMED, TOO_LARGE = "request_malformed", "fields_too_large"
POST_5 = head(b"POST", b"/short", more=[(b"content-length", b"5")])


@h3.run
async def test_a_request_that_is_refused_has_a_line_with_what_was_understood(start):
    """Each has the method, the host and the path, the rule in words and a token, as far as they
    were read before the rule was broken."""
    long = [(b"x", b"0" * 100)] * 2_000
    cases = [
        # Bytes, path, status, outcome, a part of the rule, key
        (head(path=b"/up", more=[(b"X-Upper", b"x")]), "/up", None, MALFORMED, "token", None),
        (POST_5 + frame(DATA, b"123456"), "/short", None, MALFORMED, "longer", None),
        (POST_5 + frame(DATA, b"123"), "/short", None, MALFORMED, "shorter", None),
        (POST_5 + frame(DATA, b"12345") + frame(HEADERS, section([(b"te", b"x")])), "/short",
         None, MALFORMED, "te with", None),
        (head(path="/\u00e4".encode()), "/\u00e4", 400, MALFORMED, "path", None),
        (head(path=b"/a/../b"), "/a/../b", 400, MALFORMED, "", None),
        (head(path=b"/many", more=[(b"x", b"y")] * 200), "/many", 431, TOO_LARGE,
         "more fields", "limits.max_header_count"),
        (head(path=b"/long", more=long), "/long", 431, TOO_LARGE,
         "longer", "limits.max_header_size"),
    ]
    gateway = start()
    async with raw.connection(gateway) as client:
        for number, (data, path, status, outcome, rule, key) in enumerate(cases):
            await client.ask(data)
            line = (await logged(gateway, number + 1))[-1]
            seen = (line["path"], line["host"], line["status"], line["outcome"], line.get("limit"))
            assert seen == (path, h3.AUTHORITY, status, outcome, key), line
            assert line["method"] in ("GET", "POST") and rule in line["rule"], line
            assert line["error"] == "http_request_error", line
    assert gateway.metrics().sum("request_outcomes_total", outcome=MALFORMED) == 6


@h3.run
async def test_a_connection_error_is_blamed_on_the_request_that_caused_it(start):
    gateway = start()
    async with raw.connection(gateway) as client:
        client.request(head(path=b"/slow-head?seconds=20"))
        await asyncio.sleep(0.2)
        client.request(head(path=b"/culprit") + frame(0x04))
        await client.close_code()
        lines = {line["path"]: line for line in await logged(gateway, 2)}
    assert {line["outcome"] for line in lines.values()} == {"connection_error"}
    assert "rule" not in lines["/slow-head?seconds=20"]
    assert lines["/culprit"]["rule"] == "SETTINGS on a request stream"


def upstream_script(request):
    if "/chunk" in request.line:
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        return ["read", head, 0.1, b"no chunk\r\n", "fin"]
    if "/cut" in request.line:
        return ["read", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", 0.1, "fin"]
    if "/fields" in request.line:
        return ["read", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 130 + b"\r\n"]
    if "/long" in request.line:
        return ["read", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40_000 + b"\r\n\r\n"]
    if "/te" in request.line:
        return ["read", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n"]
    if "/never" in request.line:
        return ["read", 20]
    return ["read", OK]


@h3.run
async def test_faults_of_an_upstream_are_named_with_rule_and_bound(start):
    recorder = Recorder(upstream_script)
    gateway = start(origin=recorder.address, response_timeout="1s")
    cases = [
        # Path, status, outcome, error, a part of the rule, key
        ("/chunk", 200, "upstream_protocol", "http_protocol_error", "chunk size", None),
        ("/cut", 200, "upstream_incomplete", "http_response_incomplete", None, None),
        ("/fields", 502, "upstream_protocol", "http_protocol_error", "more than 128", None),
        ("/long", 502, "upstream_head_too_long", "http_response_header_section_size", None,
         "limits.max_response_header_size"),
        ("/te", 502, "upstream_protocol", "http_protocol_error", "chunked alone", None),
        ("/never", 504, "upstream_timeout", "http_response_timeout", None, None),
    ]
    async with h3.connection(gateway) as client:
        for number, (path, status, outcome, error, rule, key) in enumerate(cases):
            response = await client.get(path)
            line = (await logged(gateway, number + 1))[-1]
            seen = [line.get(name) for name in ("path", "status", "outcome", "error", "limit")]
            assert seen == [path, status, outcome, error, key], line
            assert (rule is None) == ("rule" not in line) and (rule or "") in line.get("rule", "")
            if status != 200:
                proxy_status = response.field("proxy-status")
                assert f"error={error}" in proxy_status and (rule or "") in proxy_status
                assert key is None or f"{key} = 32768" in proxy_status, proxy_status
    metrics = gateway.metrics()
    kinds = {"protocol": 4, "terminated": 1, "response_timeout": 1}
    for kind, count in kinds.items():
        assert metrics.sum("upstream_failures_total", kind=kind) == count, kind
    recorder.stop()


@h3.run
async def test_how_a_client_left_is_distinguished(start):
    """A client that cancels, one that closes, one that falls silent, one that has only a part of
    its response, and a gateway that stops."""
    gateway = start(idle_timeout="2s")
    async with h3.connection(gateway) as client:
        exchange = client.open("GET", "/slow-head?seconds=20&cancels")
        await asyncio.sleep(0.3)
        exchange.reset()
        await logged(gateway, 1)
    async with h3.connection(gateway) as client:
        client.open("GET", "/slow-head?seconds=20&closes")
        await asyncio.sleep(0.3)
    gateway.access_lines(2)
    async with h3.connection(gateway) as client:
        client.open("GET", "/slow-head?seconds=20&silent")
        await asyncio.sleep(0.3)
        client._transport.close()
        client._transport = Silence()
        gateway.access_lines(3, 15)
        client._closed.set()
    async with h3.connection(gateway) as client:
        # The gateway has handed over all of it, and a part of it is on its way.
        exchange = client.open("GET", f"/bytes/{400 * KIB}?part")
        await exchange.received(1)
        client._transport.close()
        client._transport = Silence()
        gateway.access_lines(4, 15)
        client._closed.set()
    async with h3.connection(gateway) as client:
        client.open("GET", "/slow-head?seconds=20&stopped")
        await asyncio.sleep(0.3)
        gateway.stop()
    lines = {line["path"].rsplit("&", 1)[-1].rsplit("?", 1)[-1]: line
             for line in gateway.access_lines(5)}
    outcomes = {name: line["outcome"] for name, line in lines.items()}
    assert outcomes == {"cancels": "client_cancelled", "closes": "client_closed",
                        "silent": "idle_timeout", "part": "idle_timeout",
                        "stopped": "gateway_closed"}
    assert all(line["delivered_us"] is None for line in lines.values())
    assert lines["part"]["status"] == 200 and lines["silent"]["status"] is None


class Silence:
    """A transport that drops every datagram."""

    def sendto(self, *_):
        pass

    def close(self):
        pass


@h3.run
async def test_sums_over_the_log_are_the_counters(start):
    gateway = start(idle_timeout="2s")
    async with raw.connection(gateway) as client:
        await client.ask(head(path=b"/bytes/1", more=[(b"X-Upper", b"x")]))
        await client.ask(head(path=b"/a#b"))
        await client.ask(POST_5 + frame(DATA, b"123"))
        # Its head never comes.
        client.reset(client.request(b"\x01", end=False).stream)
    async with h3.connection(gateway) as client:
        for path in ("/bytes/1000", "/chunked/5000", "/none", "/down/x", "/die/1000", "/hang-up"):
            await client.get(path)
        await client.post("/echo", 5000)
        exchange = client.open("GET", f"/bytes/{100 * MIB}")
        await exchange.received(1000)
        exchange.reset()
        client.open("GET", "/slow-head?seconds=20")
        await asyncio.sleep(0.3)
    lines = gateway.access_lines(13)
    assert len(lines) == 13
    metrics = gateway.metrics()
    outcomes = collections.Counter(line["outcome"] for line in lines)
    assert len(outcomes) >= 6, outcomes
    for outcome, count in outcomes.items():
        assert metrics.sum("request_outcomes_total", outcome=outcome) == count, outcome
    assert metrics.sum("request_outcomes_total") == len(lines)
    assert metrics.sum("http3_streams_opened_total") == len(lines)
    classes = collections.Counter(line["status"] // 100 for line in lines if line["status"])
    for number in range(1, 6):
        counted = metrics.sum("responses_total", **{"class": f"{number}xx"})
        assert counted == classes[number], number
    for key, direction in (("bytes_in", "request"), ("bytes_out", "response")):
        summed = sum(line[key] for line in lines)
        assert metrics.sum("body_bytes_total", direction=direction) == summed, key
    delivered = sum(line["delivered_us"] is not None for line in lines)
    assert metrics.sum("delivery_duration_seconds_count") == delivered
    own = [line for line in lines if line["source"] == "gateway"]
    assert metrics.sum("responses_own_total") == len(own)


@h3.run
async def test_an_endpoint_that_is_ejected_and_restored_has_a_line_in_the_process_log(start):
    def script(request):
        return ["read", b"nonsense\r\n\r\n"] if "/bad" in request.line else ["read", OK]

    recorder = Recorder(script)
    gateway = start(origin=recorder.address, response_timeout="2s")
    async with h3.connection(gateway) as client:
        assert (await client.get("/down/x?a=b")).status == 502
        for _ in range(5):
            assert (await client.get("/bad\\n")).status == 502
        await asyncio.sleep(1.5)
        assert (await client.get("/good")).status == 200
        await asyncio.sleep(0.3)
    lines = gateway.text().splitlines()
    ejected = [line for line in lines if "an endpoint has failed" in line]
    assert len(ejected) == 2, ejected
    for line, parts in zip(ejected, [
        ["upstream=down", "connect_refused", "GET e2e.test/down/x?a=b", "pause=1s"],
        ["upstream=origin", f"endpoint={recorder.address}", "upstream_protocol: ", "/bad"],
    ]):
        assert all(part in line for part in parts), (line, parts)
    restored = [line for line in lines if "gets its share again" in line]
    assert len(restored) == 1 and f"endpoint={recorder.address}" in restored[0], restored
    metrics = gateway.metrics()
    for upstream, count in (("down", 1), ("origin", 1), ("small", 0)):
        assert metrics.sum("upstream_ejections_total", upstream=upstream) == count, upstream
    labels = {"upstream": "origin", "endpoint": recorder.address}
    assert metrics.sum("upstream_restorations_total", **labels) == 1
    assert metrics.sum("upstream_endpoint_ejected", **labels) == 0
    recorder.stop()
