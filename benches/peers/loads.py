"""The load clients: `examples/load` for HTTP/3, h2load for HTTP/2 and HTTP/1.1."""

import dataclasses
import json
import pathlib
import re
import subprocess
import tempfile

from servers import LOAD, NAME, PORT, inside

SECONDS_MAX = 90
QUANTILES = [0.5, 0.9, 0.99, 0.999]
HANDSHAKES_A_BURST = 8
HANDSHAKE_BURSTS_A_SECOND = 125
BODY = 1 << 10
"""Length of the response to `/1k`, which all rows but downloads ask for."""


@dataclasses.dataclass
class Load:
    """Options of a load client. Both understand these."""

    path: str
    connections: int
    streams: int = 1
    upload: int = 0
    """Bytes of each request's body."""
    response: int = BODY
    """Bytes of each response's body."""
    handshakes: bool = False
    """A connection for each request."""
    protocol: str = "h3"
    rate: int = 0
    """Requests a second, begun by the clock; only HTTP/3."""
    loss: float = 0
    """Share of received datagrams that the client discards; only HTTP/3."""

    def run(self, count: int, core_list: str) -> dict:
        """Sends `count` requests, all of which must succeed: `requests`, `seconds`, `bytes` of
        bodies, and `latency_us` by quantile if it is known."""
        client = over_udp if self.protocol == "h3" else over_tcp
        return client(self, count, core_list)

    def hold(self, seconds: int, core_list: str, **pipes) -> subprocess.Popen:
        """Starts a client that makes one request on each connection and is silent then, all of
        them open, until so many seconds have passed."""
        if self.protocol == "h3":
            line = udp_line(self, self.connections, core_list) + ["--hold", str(seconds)]
            return subprocess.Popen(line, **pipes)
        # Each connection follows the script: a second request ends the silence.
        script = tempfile.NamedTemporaryFile("w", prefix="ringway-bench-", suffix=".script")
        script.write(f"0\t{uri(self)}\n{seconds * 1000}\t{uri(self)}\n")
        script.flush()
        line = tcp_line(self, 2, core_list, self.connections)
        process = subprocess.Popen(line + ["--timing-script-file", script.name], **pipes)
        process.script = script
        return process


def pinned(core_list: str, *command: str) -> list[str]:
    return ["taskset", "--cpu-list", core_list, *command]


def udp_line(load: Load, count: int, core_list: str) -> list[str]:
    line = pinned(core_list, str(LOAD), "--json", "--connect", f"127.0.0.1:{PORT}")
    for name in ("path", "connections", "streams", "upload", "rate", "loss"):
        if value := getattr(load, name):
            line += [f"--{name}", str(value)]
    return line + ["--requests", str(count)] + ["--handshakes"] * load.handshakes


def over_udp(load: Load, count: int, core_list: str) -> dict:
    return json.loads(finished(udp_line(load, count, core_list)))


def uri(load: Load) -> str:
    # The connection goes to this address whatever the name means on this machine.
    return f"https://{NAME}:{PORT}{load.path}"


def tcp_line(load: Load, count: int, core_list: str, connections: int) -> list[str]:
    line = pinned(core_list, *inside("h2load", "--connect-to", f"127.0.0.1:{PORT}",
                                     "--alpn-list", load.protocol))
    return line + ["-n", str(count), "-c", str(connections), "-m", str(load.streams)]


def over_tcp(load: Load, count: int, core_list: str) -> dict:
    with tempfile.TemporaryDirectory(prefix="ringway-bench-") as folder:
        folder = pathlib.Path(folder)
        connections = count if load.handshakes else load.connections
        line = tcp_line(load, count, core_list, connections)
        if load.handshakes:
            line += ["-r", str(HANDSHAKES_A_BURST),
                     "--rate-period", f"{1000 // HANDSHAKE_BURSTS_A_SECOND}ms"]
        else:
            line += ["--log-file", str(folder / "log")]
        if load.upload:
            body = folder / "body"
            body.write_bytes(bytes(load.upload))
            line += ["--data", str(body)]
        told = finished([*line, uri(load)])
        outcome = re.search(r"requests: (\d+) total, .* (\d+) succeeded, .*", told)
        assert outcome and outcome[1] == outcome[2], f"not all succeeded: {told[-400:]}"
        seconds = re.search(r"finished in ([\d.]+)(ms|us|s)", told)
        scale = {"s": 1, "ms": 1e-3, "us": 1e-6}[seconds[2]]
        result = {"requests": count, "seconds": float(seconds[1]) * scale,
                  "bytes": count * (load.upload or load.response)}
        if not load.handshakes:
            result["latency_us"] = quantiles(folder / "log")
        return result


def quantiles(log: pathlib.Path) -> dict[str, int]:
    """h2load's log has a line for each request: when it began, its status, its microseconds."""
    took = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    return {str(quantile): took[min(len(took) - 1, int(len(took) * quantile))]
            for quantile in QUANTILES}


def finished(line: list[str]) -> str:
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS_MAX)
    assert done.returncode == 0, f"{' '.join(line)}: {done.stderr or done.stdout}"
    return done.stdout
