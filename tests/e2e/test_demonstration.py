"""`ringway` without arguments: it serves at once, and the command that it prints works."""

import asyncio
import pathlib
import re
import shlex
import signal
import subprocess
import time

import pytest

from harness import bodies, curl, h3
from harness.gateway import Gateway, binary


class Demonstration(Gateway):
    """The gateway, started without a configuration."""

    def __init__(self, folder):
        self.folder, self.authority, self.process = folder, None, None

    def start(self):
        self._launch([str(binary())])
        end = time.monotonic() + 15
        while not (found := re.search(r"(curl .*)https://([^/\s]+):(\d+)(/\S*)?", self.text())):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, f"no line to try:\n{self.text()}"
            time.sleep(0.05)
        self.line, self.port = found[0].strip("`'\" "), int(found[3])
        while not self.is_bound():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, f"port {self.port} is not bound:\n{self.text()}"
            time.sleep(0.05)
        return self

    def is_bound(self) -> bool:
        """Returns whether its UDP port is bound on IPv4 and IPv6."""
        tables = [pathlib.Path(f"/proc/net/{name}").read_text() for name in ("udp", "udp6")]
        return all(f":{self.port:04X} " in table for table in tables)


@pytest.fixture
def demonstration(tmp_path):
    demonstration = Demonstration(tmp_path)
    yield demonstration.start()
    assert demonstration.stop() in (0, None)


@h3.run
async def test_the_demonstration_serves_requests(demonstration, host):
    async with h3.connection(demonstration, host) as client:
        page = await client.open("GET", "/", authority="localhost").wait()
        assert (page.status, page.end) == (200, "clean")
        assert b"<html" in page.text.lower() or b"<!doctype html" in page.text.lower()
        for length in (0, 1000, 3_000_000):
            response = await client.open("GET", f"/bytes/{length}", authority="localhost").wait()
            assert (response.status, response.length, response.end) == (200, length, "clean")
            assert response.text == bodies.demo_body(length)[: 64 * 1024]
        for sized in (True, False):
            fields = [("content-length", "6")] if sized else []
            exchange = client.open("POST", "/echo", fields, end=False, authority="localhost")
            exchange.send(b"abc")
            exchange.send(b"def", end=True)
            response = await exchange.wait()
            assert (response.status, response.text, response.end) == (200, b"abcdef", "clean")
    demonstration.signal(signal.SIGINT)
    assert await asyncio.to_thread(demonstration.wait, 5) == 0


def test_no_thread_of_the_demonstration_has_a_capability(demonstration):
    threads = demonstration.threads()
    assert any(name.startswith("demo-origin") for name in threads), threads.keys()
    for name, status in threads.items():
        assert (status["CapPrm"], status["NoNewPrivs"]) == ("0" * 16, "1"), name


def test_the_printed_command_works(demonstration, has_curl):
    words = shlex.split(demonstration.line)
    assert words[0] == "curl", words
    done = subprocess.run([*curl.command(), *words[1:], "--silent", "--include"],
                          capture_output=True, timeout=20)
    assert done.returncode == 0, (words, done.stderr.decode())
    assert done.stdout.startswith(b"HTTP/3 200"), done.stdout[:500]


@pytest.mark.parametrize("protocol, first", [
    ("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200"),
])
def test_the_demonstration_serves_over_tcp_and_offers_http3(
    demonstration, has_curl_with_http2, protocol, first
):
    line = [*curl.command_with_http2(), protocol, "--insecure", "--silent", "--include",
            "--noproxy", "*", f"https://localhost:{demonstration.port}/"]
    done = subprocess.run(line, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().split("\r\n")
    assert lines[0].startswith(first), lines
    assert f'alt-svc: h3=":{demonstration.port}"; ma=86400' in lines, lines
