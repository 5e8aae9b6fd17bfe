"""The servers under test, at their best, and the origins behind them."""

import contextlib
import pathlib
import re
import socket
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).parents[2]
TRIXIE = REPOSITORY / "scripts/trixie"
LOAD = REPOSITORY / "target/release/examples/load"
RINGWAY = REPOSITORY / "target/release/ringway"

PORT, ADMIN, ORIGIN, SINK = 4433, 9901, 8080, 8081
NAME = "localhost"
SIZES = {"1k": 1 << 10, "16k": 16 << 10, "128k": 128 << 10, "1m": 1 << 20, "10m": 10 << 20}
"""Bodies that the origin has, by the last part of their path."""

ORIGIN_CONFIG = """
daemon off; master_process off; error_log stderr crit; pid {folder}/origin.pid;
events {{ worker_connections 16384; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
    client_body_temp_path {folder}/o1; proxy_temp_path {folder}/o2;
    fastcgi_temp_path {folder}/o3; uwsgi_temp_path {folder}/o4; scgi_temp_path {folder}/o5;
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        root {folder}/root;
        location = /1k {{ return 200 "{small}"; }}
    }}
}}
"""

RINGWAY_CONFIG = """
[runtime]
workers = {workers}
# So that the meter may read its memory without being root.
core_dumps = true
[log]
access = {{ format = "off" }}
[admin]
listen = "127.0.0.1:{admin}"
[[listeners]]
address = ["127.0.0.1:{port}"]
protocols = ["h3", "h2", "http/1.1"]
[[certificates]]
hosts = ["{name}"]
cert = "{cert}"
key = "{key}"
[[routes]]
match = {{ path_prefix = "/upload" }}
upstream = "sink"
[[routes]]
upstream = "origin"
[upstreams.origin]
max_connections = 200
max_waiting = 20000
{congestion}
endpoints = [{{ address = "127.0.0.1:{origin}" }}]
[upstreams.sink]
max_connections = 200
max_waiting = 20000
{congestion}
endpoints = [{{ address = "127.0.0.1:{sink}" }}]
"""

# `multi_accept`: it reads all datagrams that are there before it hands on what they brought.
NGINX_CONFIG = """
daemon off; worker_processes 1; error_log stderr crit; pid {folder}/nginx.pid;
events {{ worker_connections 131072; multi_accept on; }}
http {{
    access_log off; keepalive_requests 1000000000; client_max_body_size 0;
    client_body_temp_path {folder}/n1; proxy_temp_path {folder}/n2;
    fastcgi_temp_path {folder}/n3; uwsgi_temp_path {folder}/n4; scgi_temp_path {folder}/n5;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 1100; keepalive_requests 1000000000; }}
    upstream sink {{ server 127.0.0.1:{sink}; keepalive 1100; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} quic reuseport;
        listen 127.0.0.1:{port} ssl reuseport backlog=4096;
        http2 on; http2_max_concurrent_streams 256; http2_body_preread_size 1m;
        http2_chunk_size 64k;
        quic_gso on; http3_stream_buffer_size 1m; http3_max_concurrent_streams 256;
        ssl_certificate {cert}; ssl_certificate_key {key};
        proxy_http_version 1.1; proxy_set_header Connection "";
        proxy_request_buffering off; client_body_buffer_size 128k;
        proxy_buffering off; proxy_buffer_size 64k; proxy_buffers 4 64k;
        proxy_busy_buffers_size 64k;
        location / {{ proxy_pass http://origin; }}
        location /upload {{ proxy_pass http://sink; }}
    }}
}}
"""

# Its windows are buffers: a connection sends up to 256 of them, and a stream receives one. 3.0 does
# not pace, so nothing is to be switched off; from 3.2 on `tune.quic.disable-tx-pacing` is needed.
HAPROXY_CONFIG = """
global
    nbthread 1
    maxconn 9000
    limited-quic
    tune.bufsize 262144
    tune.quic.frontend.conn-tx-buffers.limit 256
    tune.quic.frontend.max-streams-bidi 256
    tune.quic.frontend.max-idle-timeout 120s
    tune.quic.max-frame-loss 1000
    tune.h2.fe.max-concurrent-streams 256
    tune.h2.fe.initial-window-size 1048576
defaults
    mode http
    timeout connect 5s
    timeout client 120s
    timeout server 120s
    http-reuse always
frontend edge
    bind quic4@127.0.0.1:{port} ssl crt {pem} alpn h3 quic-cc-algo cubic(64m)
    bind 127.0.0.1:{port} ssl crt {pem} alpn h2,http/1.1 backlog 4096
    use_backend sink if {{ path_beg /upload }}
    default_backend origin
backend origin
    server origin 127.0.0.1:{origin} maxconn 100 pool-max-conn 2000
backend sink
    server sink 127.0.0.1:{sink} maxconn 100 pool-max-conn 2000
"""

CADDY_CONFIG = """
{{
    admin off
    auto_https off
    servers {{
        protocols h1 h2 h3
    }}
    log {{
        level ERROR
    }}
}}
https://{name}:{port} {{
    tls {cert} {key}
    reverse_proxy /upload* 127.0.0.1:{sink} {{
        flush_interval -1
        transport http {{
            max_conns_per_host 100
            keepalive_idle_conns_per_host 100
        }}
    }}
    reverse_proxy 127.0.0.1:{origin} {{
        transport http {{
            max_conns_per_host 100
            keepalive_idle_conns_per_host 100
        }}
    }}
}}
"""


def has_cubic() -> bool:
    """Whether every process may use cubic for TCP: the kernel has it and allows it."""
    folder = pathlib.Path("/proc/sys/net/ipv4")
    files = [folder / f"tcp_{kind}_congestion_control" for kind in ("available", "allowed")]
    return all(file.exists() and "cubic" in file.read_text().split() for file in files)


def values(folder: pathlib.Path, certificate) -> dict:
    pem = folder / "both.pem"
    pem.write_bytes(certificate.cert.read_bytes() + certificate.key.read_bytes())
    return {"folder": folder, "port": PORT, "admin": ADMIN, "origin": ORIGIN, "sink": SINK,
            "name": NAME, "cert": certificate.cert, "key": certificate.key, "pem": pem,
            "congestion": 'congestion = "cubic"' if has_cubic() else ""}


class Peer:
    """One server: how it is configured and called."""

    def __init__(self, name: str, config: str, command: list[str], version: list[str],
                 workers: int = 1):
        self.name, self.config, self.workers = name, config, workers
        self.command, self.version_command = command, version

    @contextlib.contextmanager
    def running(self, folder: pathlib.Path, certificate, core: int | None):
        """Serves on its core, or on all, until the end of the block; yields its process."""
        config = folder / f"{self.name}.conf"
        config.write_text(
            self.config.format(workers=self.workers, **values(folder, certificate)))
        pin = [] if core is None else ["taskset", "--cpu-list", str(core)]
        line = [*pin, *(part.replace("{config}", str(config)) for part in self.command)]
        with (folder / f"{self.name}.log").open("wb") as log:
            process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env={"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin"})
        try:
            await_response(process, folder / f"{self.name}.log")
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def version(self) -> str:
        done = subprocess.run(self.version_command, capture_output=True, text=True)
        found = re.search(r"\d+\.\d+(\.\d+)*", done.stdout + done.stderr)
        return found.group() if found else "unknown"


def ringway(name: str, binary: pathlib.Path, workers: int = 1) -> Peer:
    command = [str(binary), "run", "--config", "{config}"]
    return Peer(name, RINGWAY_CONFIG, command, [str(binary), "version"], workers)


def inside(*command: str) -> list[str]:
    return [str(TRIXIE), "run", *command]


PEERS = [
    Peer("nginx", NGINX_CONFIG, inside("nginx", "-c", "{config}"), inside("nginx", "-v")),
    Peer("haproxy", HAPROXY_CONFIG, inside("haproxy", "-f", "{config}"), inside("haproxy", "-v")),
    Peer("caddy", CADDY_CONFIG,
         inside("env", "GOMAXPROCS=1", "caddy", "run", "--adapter", "caddyfile",
                "--config", "{config}"),
         inside("caddy", "version")),
]


def await_response(process, log: pathlib.Path):
    """Waits until one request is answered."""
    line = [LOAD, "--connect", f"127.0.0.1:{PORT}", "--path", "/1k", "--connections", "1",
            "--streams", "1", "--requests", "1"]
    for _ in range(20):
        assert process.poll() is None, f"it ended:\n{log.read_text()[-2000:]}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            if subprocess.run(line, capture_output=True, timeout=2).returncode == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"no response:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def origins(folder: pathlib.Path, cores: set[int]):
    """nginx with bodies of every size, and a sink for uploads, on the load's cores."""
    (folder / "root").mkdir()
    for name, length in SIZES.items():
        (folder / "root" / name).write_bytes(bytes(range(256)) * (length // 256))
    for path in (folder, folder / "root"):
        path.chmod(0o755)
    config = folder / "origin.conf"
    config.write_text(ORIGIN_CONFIG.format(folder=folder, port=ORIGIN, small="x" * 1024))
    pin = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))]
    started = [subprocess.Popen([*pin, *inside("nginx", "-c", str(config))]),
               subprocess.Popen([*pin, str(LOAD), "--sink", f"127.0.0.1:{SINK}"])]
    try:
        for port in (ORIGIN, SINK):
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
        yield
    finally:
        for process in started:
            process.terminate()
            process.wait(10)
