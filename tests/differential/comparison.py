"""One server behind a gateway: sends the requests and compares all three reports of them.

The client (`examples/differential`) compares each response with what it sent. Here its list of
responses is compared with the gateway's access log, and the number of requests with the server's
own.
"""

import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import time

from .servers import Server

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def client() -> pathlib.Path:
    """Returns the program, which `cargo build --example differential` builds."""
    named = os.environ.get("RINGWAY_DIFFERENTIAL")
    return pathlib.Path(named) if named else REPOSITORY / "target/debug/examples/differential"


LOG_TIMEOUT = 10
SETTINGS = {
    # The authorities of requests are many.
    "extra": '[[routes]]\nupstream = "origin"',
    # A busy machine is no difference.
    "response_timeout": "50s",
}
"""Settings of a gateway in front of a server."""


@dataclasses.dataclass
class Result:
    """What the client, the access log and the server say, and all that differs between them."""

    name: str
    client: dict
    differences: list[str]
    dropped: int
    """Lines that the access log dropped and counted."""

    def __str__(self):
        seen = self.client
        refused = sum(seen["refused"].values()) + seen["reset"]
        return (f"{self.name}: {seen['parsed']} parsed alike on {seen['connections']} connections, "
                f"{seen['refused_by_upstream']} refused by the server, {refused} by the gateway; "
                f"{self.dropped} lines of the log dropped; {len(self.differences)} differences")


def command(server: Server, gateway, folder: pathlib.Path, count: int, seed: int, first: int):
    kind = server.kind
    flags = {"--asterisk": kind.asterisk, "--bad-escapes": kind.bad_escapes,
             "--trailers": kind.trailers, "--raises-methods": kind.raises_methods}
    parts = [
        client(), "--connect", f"127.0.0.1:{gateway.port}", "--trust", gateway.authority,
        "--count", count, "--seed", seed, "--first", first, "--log", folder / "responses.log",
        "--methods", kind.methods, *(flag for flag, wanted in flags.items() if wanted),
    ]
    return [str(part) for part in parts]


def run(server: Server, gateway, folder: pathlib.Path, count: int, seed: int, first: int = 0,
        timeout: float = 3600) -> Result:
    """Sends the requests from `first` on and compares."""
    done = subprocess.run(command(server, gateway, folder, count, seed, first),
                          capture_output=True, text=True, timeout=timeout)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"{server.kind.name}: the client failed: {done.stderr}")
    seen = json.loads(done.stdout)
    differences = [json.dumps(one, indent=1) for one in seen["differences"] + seen["shifted"]]
    if len(differences) < seen["difference_count"]:
        differences.append(f"... {seen['difference_count']} differences in all")
    handled = seen["parsed"] + seen["refused_by_upstream"] + seen["reset"]
    handled += sum(seen["refused"].values())
    if not differences and handled != count:
        differences.append(f"{count} requests, but {handled} results")
    if (total := server.total()) != seen["parsed"]:
        differences.append(f"{server.kind.name} read {total} requests, not {seen['parsed']}")
    # After a difference the log most likely differs too.
    differences += compare_log(gateway, folder / "responses.log", seen,
                               timeout=1 if differences else LOG_TIMEOUT)
    return Result(server.kind.name, seen, differences, dropped_lines(gateway))


def compare_log(gateway, responses: pathlib.Path, seen: dict, timeout: float) -> list[str]:
    """Compares the access log with the responses that the client received. The log is written a
    little later than they are: `timeout` in seconds. Lines that the gateway counts as dropped,
    because the machine was too busy to write them, may be missing."""
    expected = collections.Counter()
    with responses.open() as file:
        for line in file:
            expected[tuple(json.loads(line))] += 1
    expected.update({f"{status} of the gateway": count for status, count in seen["refused"].items()})
    end = time.monotonic() + timeout
    while True:
        logged = read_log(gateway.access_log)
        missing, others = expected - logged, logged - expected
        if not others and missing.total() <= dropped_lines(gateway):
            return []
        if time.monotonic() >= end:
            break
        time.sleep(0.2)
    differences = [f"not in the access log: {one}" for one in missing]
    return (differences + [f"only in the access log: {one}" for one in others])[:20]


def dropped_lines(gateway) -> int:
    metrics = gateway.metrics()
    return int(metrics.sum("access_records_dropped_total")
               + metrics.sum("access_log_lines_total", outcome="dropped"))


def read_log(path: pathlib.Path) -> collections.Counter:
    """Returns the responses of the server in the client's form, and the gateway's own by status.
    Requests that were reset have neither."""
    logged = collections.Counter()
    with path.open() as file:
        for line in file:
            if not line.endswith("\n"):
                break
            line = json.loads(line)
            is_own = line["source"] == "gateway"
            if not is_own and line["outcome"] not in ("complete", "unconfirmed"):
                continue
            status = line["status"]
            if is_own and (line["upstream"] is None or status == 400):
                logged[f"{status} of the gateway"] += 1
                continue
            # How much of a body was read before the server refused it depends on time.
            bytes_in = line["bytes_in"] if status < 400 else None
            logged[line["method"], line["host"], line["path"], status, bytes_in,
                   line["bytes_out"]] += 1
    return logged
