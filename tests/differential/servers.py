"""The foreign HTTP/1.1 servers, as processes: each with its parser and what it cannot do."""

import contextlib
import dataclasses
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

UPSTREAMS = pathlib.Path(__file__).with_name("upstreams")
START_TIMEOUT = 20


@dataclasses.dataclass(frozen=True)
class Kind:
    """One server, and where it is narrower than the gateway. Requests outside of that must get its
    own refusal; nothing else is allowed to differ."""

    name: str
    parser: str
    command: tuple[str, ...]
    """`@FOLDER@` and `@PORT@` are replaced."""
    methods: str = "tokens"
    """`tokens`, `upper` (capital letters, `-` and `_`), or a list with commas."""
    bad_escapes: bool = True
    """Whether it accepts a `%` in a path without two hexadecimal digits."""
    raises_methods: bool = False
    """Whether it reads `foo` as `FOO`. Methods that are standard but for their case do not reach
    it, for that reason."""
    asterisk: bool = True
    """Whether it accepts `OPTIONS *`."""
    trailers: bool = False
    """Whether it exposes trailer fields."""


def python(name: str, parser: str, **limits) -> Kind:
    return Kind(name, parser, (sys.executable, f"@FOLDER@/{name}_echo.py", "@PORT@"), **limits)


def node_methods() -> str:
    command = ["node", "--print", "require('http').METHODS.join()"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def kinds() -> list[Kind]:
    """Returns all servers. Each has a parser of its own."""
    return [
        Kind("nginx", "its own, in C", ("nginx", "-c", "@FOLDER@/nginx.conf"), methods="upper",
             bad_escapes=False, asterisk=False),
        Kind("haproxy", "its own, in C", ("haproxy", "-db", "-f", "@FOLDER@/haproxy.cfg")),
        Kind("node", "llhttp, in C", ("node", "@FOLDER@/node_echo.js", "@PORT@"),
             methods=node_methods(), trailers=True),
        python("h11", "h11, in Python", trailers=True),
        python("gunicorn", "its own, in Python", trailers=True),
        python("aiohttp", "its own, in Python", raises_methods=True),
    ]


class Server:
    """One running server."""

    def __init__(self, kind: Kind, folder: pathlib.Path, port: int):
        self.kind, self.port = kind, port
        self.address = f"127.0.0.1:{port}"
        folder.mkdir()
        for file in UPSTREAMS.iterdir():
            if file.is_file():
                text = file.read_text()
                text = text.replace("@FOLDER@", str(folder)).replace("@PORT@", str(port))
                (folder / file.name).write_text(text)
        command = [part.replace("@FOLDER@", str(folder)).replace("@PORT@", str(port))
                   for part in kind.command]
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(f"{command[0]} is not installed: scripts/setup test")
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )
        self._wait()

    def _wait(self):
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"{self.kind.name} did not start: {self.text()}")

    def text(self) -> str:
        return self.log.read_text(errors="replace")[-5000:]

    def total(self) -> int:
        """Returns how many requests it read whole."""
        with urllib.request.urlopen(f"http://{self.address}/.totals", timeout=10) as page:
            return int(page.read())

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
