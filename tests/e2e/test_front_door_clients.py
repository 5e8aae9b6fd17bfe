"""The front door over TCP, by nghttp2's own clients."""

import collections
import re
import shutil
import subprocess

import pytest

from harness import bodies, tcp
from harness.bodies import KIB
from harness.h3 import AUTHORITY

REQUESTS = 2000


@pytest.fixture
def gateway(start):
    for program in ("nghttp", "h2load"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: `scripts/setup test` as root installs it")
    return start(listener=tcp.LISTENER)


def run(gateway, *command: str, path: str) -> subprocess.CompletedProcess:
    """Runs a client. It finds the gateway by address, and asks for another authority."""
    url = f"https://127.0.0.1:{gateway.port}{path}"
    line = [*command, "--header", f":authority: {AUTHORITY}", url]
    done = subprocess.run(line, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done


def test_nghttp_gets_one_body_many_times_at_once(gateway):
    length = 100 * KIB
    done = run(gateway, "nghttp", "--multiply=50", path=f"/bytes/{length}")
    # Pieces of all bodies come in turn.
    once = collections.Counter(bodies.body(length))
    assert collections.Counter(done.stdout) == {byte: 50 * count for byte, count in once.items()}


def test_nghttp_uploads_in_small_frames(gateway, tmp_path):
    file = tmp_path / "body"
    file.write_bytes(bodies.body(300 * KIB))
    done = run(gateway, "nghttp", f"--data={file}", "--padding=200", path="/echo")
    assert done.stdout == file.read_bytes()


@pytest.mark.parametrize("arguments", [("-m", "50"), ("--h1", "-m", "1"), ("-m", "50", "-w", "16")],
                         ids=["h2", "http1", "h2-small-windows"])
def test_every_request_of_h2load_succeeds(gateway, arguments):
    load = ("h2load", "-n", str(REQUESTS), "-c", "20", *arguments)
    text = run(gateway, *load, path=f"/bytes/{10 * KIB}").stdout.decode()
    requests = re.search(r"^requests: (.*)$", text, re.M).group(1)
    expected = f"{REQUESTS} total, {REQUESTS} started, {REQUESTS} done, {REQUESTS} succeeded, " \
               "0 failed, 0 errored, 0 timeout"
    assert requests == expected, text
    assert f"status codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx" in text
    assert f"({REQUESTS * 10 * KIB}) data" in text
    gateway.settle_count("request_outcomes_total", REQUESTS, outcome="complete")
