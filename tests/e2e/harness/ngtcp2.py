"""ngtcp2's example client (`gtlsclient`, on GnuTLS), the system's own or the one in the trixie
folder. It logs every packet and frame, so a test can check what was on the wire."""

import dataclasses
import functools
import hashlib
import pathlib
import shutil
import subprocess
from collections.abc import Iterable

from . import bodies
from .curl import TRIXIE, output
from .h3 import AUTHORITY


@functools.cache
def command() -> tuple[str, ...] | None:
    """Returns the command for the client; `None` when there is none."""
    if own := shutil.which("gtlsclient"):
        return (own,)
    inside = (str(TRIXIE), "run", "gtlsclient")
    return inside if "--change-local-addr" in output(*inside, "--help") else None


@dataclasses.dataclass
class Run:
    """One run of the client: one connection."""

    log: str
    folder: pathlib.Path

    def lines(self, *parts: str) -> list[str]:
        """Returns the lines of the log that contain all of these."""
        return [line for line in self.log.splitlines() if all(part in line for part in parts)]

    def assert_body(self, length: int):
        file = self.folder / str(length)
        assert file.exists(), f"no response of {length} bytes:\n{self.log[-3000:]}"
        body = file.read_bytes()
        assert len(body) == length, f"cut short; the log ends:\n{self.log[-3000:]}"
        assert hashlib.sha256(body).hexdigest() == bodies.digest(length)


def run(gateway, folder: pathlib.Path, paths: list[str], *options: str,
        host: str = "127.0.0.1", seconds: float = 30) -> Run:
    """Requests these paths at the same time over one connection. Responses go to files in `folder`,
    named by the last part of the path."""
    folder.mkdir(exist_ok=True)
    line = [
        *command(), "--no-quic-dump", "--no-http-dump", "--exit-on-all-streams-close",
        "--sni", AUTHORITY, "--download", str(folder), *options, host, str(gateway.port),
        *(f"https://{AUTHORITY}:{gateway.port}{path}" for path in paths),
    ]
    # A client that hangs is killed. The missing bodies then fail the test with the end of the log.
    log = folder.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return Run(log.read_text(errors="replace"), folder)


def fetch(gateway, folder: pathlib.Path, lengths: Iterable[int], *options: str, **named) -> Run:
    """Downloads bodies of these lengths and compares them."""
    lengths = list(lengths)
    done = run(gateway, folder, [f"/bytes/{length}" for length in lengths], *options, **named)
    for length in lengths:
        done.assert_body(length)
    return done
