"""A case, the gateway that it attacks, and how it fails."""

import dataclasses
import random
import socket
import zlib
from collections.abc import Callable

from .books import Books
from .client import Client
from .oracle import Oracle
from .process import Process


class Failure(Exception):
    """The gateway did something that the case does not allow."""


class Skipped(Exception):
    """The case needs what was not given."""


def expect(holds: bool, message: str):
    """Fails the case with this message if the condition does not hold."""
    if not holds:
        raise Failure(message)


@dataclasses.dataclass
class Target:
    """A running gateway, and the request that its legitimate clients make."""

    host: str
    port: int
    client: Client
    process: Process | None = None
    books: Books | None = None
    full: bool = False
    """Run the long forms."""
    seed: int = 1
    large_path: str | None = None
    """Path of a body that is larger than all windows."""
    upload_path: str | None = None
    """Path that takes a body."""

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def count(self, short: int, full: int) -> int:
        """Returns how often to do something in this run's form."""
        return full if self.full else short


@dataclasses.dataclass
class Case:
    """One attack. `run` returns the figures that it saw, as text."""

    name: str
    title: str
    run: Callable[[Target, random.Random], str]


def run(case: Case, target: Target) -> str:
    """Runs a case with the oracle beside it. Returns its figures, or raises `Failure`."""
    dice = random.Random(target.seed ^ zlib.crc32(case.name.encode()))
    oracle = Oracle(target.client, target.process, target.books, target.full)
    seen, faults = "", []
    try:
        oracle.begin()
        seen = case.run(target, dice)
    except (Failure, OSError, TimeoutError) as error:
        faults = [str(error) or type(error).__name__]
    faults += oracle.end()
    figures = "; ".join(filter(None, (seen, oracle.figures())))
    expect(not faults, f"{'; '.join(faults)} ({figures})")
    return figures
