"""curl with HTTP/3: the system's if it has HTTP/3, else the one in the trixie folder."""

import functools
import hashlib
import pathlib
import shutil
import subprocess

from .gateway import REPOSITORY
from .h3 import AUTHORITY

TRIXIE = REPOSITORY / "scripts/trixie"


@functools.cache
def command() -> tuple[str, ...] | None:
    """Returns the command for a curl with HTTP/3; `None` when there is none."""
    own = shutil.which("curl")
    if own and "HTTP3" in output(own, "--version"):
        return (own,)
    inside = (str(TRIXIE), "run", "curl")
    if "HTTP3" in output(*inside, "--version"):
        return inside
    return None


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


@functools.cache
def command_with_http2() -> tuple[str, ...] | None:
    """Returns the command for a curl with HTTP/2; `None` when there is none."""
    own = shutil.which("curl")
    return (own,) if own and "HTTP2" in output(own, "--version") else command()


class Curl:
    """Runs curl against one gateway, over HTTP/3 unless told another protocol."""

    def __init__(self, gateway, host: str = "127.0.0.1", protocol: str = "--http3-only"):
        self.gateway = gateway
        bracketed = f"[{host}]" if ":" in host else host
        self.base = f"https://{AUTHORITY}:{gateway.port}"
        with_http3 = protocol in ("--http3-only", "--alt-svc")
        program = command() if with_http3 else command_with_http2()
        self.arguments = [
            *program, protocol, "--silent", "--show-error", "--noproxy", "*",
            "--cacert", str(gateway.authority),
            "--resolve", f"{AUTHORITY}:{gateway.port}:{bracketed}",
        ]

    def run(self, path: str, *arguments: str, **settings) -> subprocess.CompletedProcess:
        """Runs one command and captures its output as bytes."""
        line = [*self.arguments, *arguments, self.base + path]
        return subprocess.run(line, capture_output=True, timeout=300, **settings)

    def download(self, path: str, *arguments: str, watch=None) -> tuple[int, int, str]:
        """Downloads a body and discards it. Returns exit code, length and SHA-256. Calls `watch`
        with the length so far."""
        line = [*self.arguments, *arguments, self.base + path]
        sha, length = hashlib.sha256(), 0
        with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
            while piece := process.stdout.read(1024 * 1024):
                sha.update(piece)
                length += len(piece)
                if watch:
                    watch(length)
        return process.returncode, length, sha.hexdigest()

    def upload(self, path: str, file: pathlib.Path, *arguments: str) -> subprocess.Popen:
        """Starts an upload of a file with its length. The response goes to standard output."""
        line = [*self.arguments, *arguments, "--upload-file", str(file), "-X", "POST",
                self.base + path]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
