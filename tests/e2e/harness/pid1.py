"""Programs that are the first process of a PID namespace, as in a container."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

import pytest


def child_of(pid: int) -> int | None:
    """Returns the first child of a process."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def catches(pid: int, number: int) -> bool:
    """Returns whether the process has a handler for the signal."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
        return bool(int(caught, 16) >> (number - 1) & 1)
    return False


def wait_caught(pid: int, number: int, seconds: float = 10):
    """Waits until the process has a handler for the signal. There is no pause between two looks: it
    is a matter of microseconds."""
    end = time.monotonic() + seconds
    while not catches(pid, number):
        assert time.monotonic() < end, f"signal {number} is not caught"


class First:
    """A process with PID 1 in its namespace. `pid` is its id in ours."""

    def __init__(self, command: list[str], unshare: tuple[str, ...] = ()):
        if os.geteuid() != 0:
            pytest.skip("a PID namespace needs root")
        self.launcher = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", *unshare, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.pid = self._child()

    def _child(self) -> int:
        """Returns the process that the launcher has forked."""
        end = time.monotonic() + 10
        while (child := child_of(self.launcher.pid)) is None:
            assert time.monotonic() < end and self.launcher.poll() is None, self.text()
        return child

    def signal(self, number: int):
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Waits for its end and returns its exit code."""
        return self.launcher.wait(seconds)

    def text(self) -> str:
        return self.launcher.stdout.read().decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.launcher.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.launcher.wait(10)
        self.launcher.stdout.close()
