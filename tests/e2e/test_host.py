"""Huge pages and io_uring, available or refused by the host. Each refusal is one line that says
what helps."""

import json
import re
import subprocess

import pytest

from harness import bodies, h3
from harness.bodies import MIB
from harness.gateway import Gateway, binary
from harness.host import hugetlb_len, reserved_hugepages, without_io_uring

POOL = "6MiB"
PAGES_EACH = 3


async def assert_serves(gateway):
    async with h3.connection(gateway) as client:
        assert (await client.get(f"/bytes/{4 * MIB}")).sha256 == bodies.digest(4 * MIB)
        uploaded = await client.post("/upload", 4 * MIB)
        assert json.loads(uploaded.text)["sha256"] == bodies.digest(4 * MIB)


@h3.run
async def test_pools_are_in_huge_pages_when_required(start):
    with reserved_hugepages(2 * PAGES_EACH):
        gateway = start(workers=2, pool=POOL, hugepages="require")
        assert hugetlb_len(gateway.process.pid) == 2 * PAGES_EACH * 2 * MIB
        assert "nr_hugepages" not in gateway.text()
        await assert_serves(gateway)
        gateway.stop()


@h3.run
async def test_the_log_says_once_how_to_reserve_missing_huge_pages(start):
    with reserved_hugepages(0):
        gateway = start(workers=2, pool=POOL, hugepages="try")
        said = re.findall(r"sysctl -w vm\.nr_hugepages=(\d+)", gateway.text())
        assert said == [str(2 * PAGES_EACH)], gateway.text()
        assert hugetlb_len(gateway.process.pid) == 0
        await assert_serves(gateway)


def run(configuration, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([str(binary()), "run", "--config", str(configuration)],
                          capture_output=True, text=True, timeout=20, **settings)


def refusal(done: subprocess.CompletedProcess) -> str:
    """Returns the one line of the refusal, without the log."""
    assert done.returncode == 3, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("ringway: ")]
    assert len(lines) == 1 and "panicked" not in done.stderr, done.stderr
    return lines[0]


def test_missing_huge_pages_refuse_the_start_when_required(start, tmp_path, certificate):
    settings = {"workers": 2, "pool": POOL, "hugepages": "require"}
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate, **settings).configure()
    with reserved_hugepages(0):
        line = refusal(run(configuration))
    assert 'pool.hugepages is "require"' in line
    said = int(re.search(r"`sysctl -w vm\.nr_hugepages=(\d+)`", line)[1])
    assert said == 2 * PAGES_EACH
    # It starts with the number that it asked for.
    with reserved_hugepages(said):
        start(**settings).stop()


def test_a_seccomp_filter_that_refuses_io_uring_is_reported(tmp_path, certificate):
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate).configure()
    line = refusal(run(configuration, preexec_fn=without_io_uring()))
    assert "seccomp" in line
    for way_out in ("io_uring_setup", "io_uring_enter", "io_uring_register", "docker", "systemd"):
        assert way_out in line


def test_a_demonstration_that_cannot_start_prints_no_command():
    done = subprocess.run([str(binary())], capture_output=True, text=True, timeout=20,
                          preexec_fn=without_io_uring())
    assert "seccomp" in refusal(done)
    assert done.stdout == "", "it says what to try before it knows that it can serve"


def test_a_demonstration_whose_port_is_taken_prints_no_command(tmp_path):
    """The first demonstration has printed its command, so its ports are bound."""
    with subprocess.Popen([str(binary())], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as first:
        try:
            assert "a demonstration" in first.stdout.readline()
            second = subprocess.run([str(binary())], capture_output=True, text=True, timeout=20)
        finally:
            first.terminate()
    assert ":4433" in refusal(second)
    assert second.stdout == ""
