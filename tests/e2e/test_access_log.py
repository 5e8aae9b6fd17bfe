"""The access log has one JSON line for each request, whatever its outcome."""

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

from harness import h3
from harness.bodies import MIB
from harness.gateway import Gateway, binary


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


def lines_of(path: pathlib.Path, count: int) -> list[dict]:
    """Returns the lines of a log once there are as many."""
    end = time.monotonic() + 5
    while len(lines := path.read_text().splitlines() if path.exists() else []) < count:
        assert time.monotonic() < end, f"{len(lines)} lines in {path}"
        time.sleep(0.02)
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
        lines_of(log, 1)
        log.rename(moved)
        await client.get("/bytes/2")
        assert [line["path"] for line in lines_of(moved, 2)] == ["/bytes/1", "/bytes/2"]
        gateway.signal(signal.SIGUSR1)
        end = time.monotonic() + 5
        while not log.exists() or is_open(gateway, moved):
            assert time.monotonic() < end, "the moved file stays open"
            time.sleep(0.02)
        await client.get("/bytes/3")
        assert [line["path"] for line in lines_of(log, 1)] == ["/bytes/3"]
    assert len(lines_of(moved, 2)) == 2
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
        lines_of(log, 1)
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
            gateway.settle(lambda found: None if 80 - count(found) in (0, 1) else count(found))
            subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
            for number in range(80, 90):
                await client.get(f"/bytes/{number}")
        gateway.settle(lambda found: None if count(found) == 90 else count(found))
        found = lines_of(log, 20)
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
