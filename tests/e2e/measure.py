"""First figures: what the gateway's process burns for small requests and for bulk.

The gateway has core 0 to itself; clients and origins share the other cores, so its CPU time is
the figure, not the rate. Run by `scripts/measure`; prints a table in Markdown.
"""

import argparse
import contextlib
import os
import pathlib
import platform
import socket
import subprocess
import tempfile
import time

from harness import bodies, certificates, curl
from harness.bodies import GIB, MIB
from harness.gateway import Gateway, Origin, free_ports

NGINX = """
daemon off; master_process off; error_log stderr error; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} reuseport;
        root {folder}/root;
        location = /small {{ return 200 "0123456789abcdef"; }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(folder: pathlib.Path):
    """A fast origin: 16 bytes under /small, a gibibyte under /large. Yields its address."""
    port = free_ports()[1]
    (folder / "root").mkdir()
    with (folder / "root/large").open("wb") as large:
        large.writelines(bodies.pieces(GIB, piece_len=MIB))
    for path in (folder, folder / "root"):
        path.chmod(0o755)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    command = [str(curl.TRIXIE), "run", "nginx", "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, "nginx ended"
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


class Meter:
    """CPU time, wall time and copied bytes around a piece of work."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway

    def __enter__(self):
        self.copied = self._copied()
        self.began, self.cpu = time.monotonic(), self.gateway.cpu_seconds()
        return self

    def _copied(self) -> float:
        return self.gateway.metrics().sum("payload_copied_bytes_total")

    def __exit__(self, *_):
        self.wall = time.monotonic() - self.began
        user, system = self.gateway.cpu_seconds()
        self.user, self.system = user - self.cpu[0], system - self.cpu[1]
        self.copied = self._copied() - self.copied

    def row(self, what: str, count: float, unit: str) -> str:
        cpu = self.user + self.system
        return (f"| {what} | {cpu / count:.4f} | {self.user / count:.4f} "
                f"| {self.system / count:.4f} | per {unit} | {self.wall:.1f} s "
                f"| {self.copied / MIB:.1f} MiB |")


LOAD = pathlib.Path(__file__).parents[2] / "target/release/examples/load"


def load(gateway: Gateway, *arguments: object) -> None:
    """Runs the project's load client, which sends and receives in batches."""
    command = [LOAD, "--connect", f"127.0.0.1:{gateway.port}", "--host", "e2e.test", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"<!-- {done.stdout.strip()} -->", flush=True)


def small_requests(gateway: Gateway, count: int, streams: int) -> str:
    load(gateway, "--path", "/small", "--requests", 1000)
    with Meter(gateway) as meter:
        load(gateway, "--path", "/small", "--requests", count, "--streams", streams)
    return meter.row(f"{count} requests of 16 B, 10 connections x {streams} streams", count / 1000,
                     "1,000 requests")


def download(gateway: Gateway) -> str:
    with Meter(gateway) as meter:
        load(gateway, "--path", "/large", "--requests", 2, "--connections", 1, "--streams", 1)
    return meter.row("2 GiB down, 1 connection", 2 * GIB / 1e9, "GB")


def upload(gateway: Gateway) -> str:
    with Meter(gateway) as meter:
        load(gateway, "--path", "/upload", "--upload", GIB, "--requests", 2,
             "--connections", 1, "--streams", 1)
    return meter.row("2 GiB up, 1 connection", 2 * GIB / 1e9, "GB")


def curl_download(gateway: Gateway) -> str:
    line = curl.Curl(gateway)
    with Meter(gateway) as meter:
        done = line.run("/large", "--output", "/dev/null", "--write-out", "%{size_download}")
    assert (done.returncode, done.stdout) == (0, str(GIB).encode()), done.stderr.decode()
    return meter.row("1 GiB down, curl", GIB / 1e9, "GB")


def curl_upload(gateway: Gateway, file: pathlib.Path) -> str:
    with Meter(gateway) as meter:
        text, errors = curl.Curl(gateway).upload("/upload", file).communicate()
    assert bodies.digest(GIB).encode() in text, errors.decode()
    return meter.row("1 GiB up, curl (a system call a datagram)", GIB / 1e9, "GB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(0, cores - {min(cores)})
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringway-")))
        certificate = certificates.make(folder)
        origin = Origin(folder)
        stack.callback(origin.stop)
        fast = stack.enter_context(nginx(folder))
        gateways = []
        for name, address in (("fast", fast), ("scripted", origin.address)):
            (folder / name).mkdir()
            gateway = Gateway(folder / name, address, certificate, pool="64MiB")
            gateway.launcher = ["taskset", "--cpu-list", str(min(cores))]
            stack.callback(gateway.stop)
            gateways.append(gateway.start())
        model = next((line.split(":", 1)[1].strip()
                      for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), "unknown")
        print(f"{model}, {len(cores)} cores, Linux {platform.release()}, loopback; "
              "the gateway on one core\n")
        print("| work | CPU s | user | system | | wall | copied |")
        print("|---|---|---|---|---|---|---|")
        for streams in (10, 100):
            print(small_requests(gateways[0], arguments.requests, streams), flush=True)
        print(download(gateways[0]), flush=True)
        print(upload(gateways[1]), flush=True)
        print(curl_download(gateways[0]), flush=True)
        print(curl_upload(gateways[1], folder / "root/large"), flush=True)


if __name__ == "__main__":
    main()
