"""Programs that are the first process of a PID namespace, as in a container."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

import pytest


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
        task = pathlib.Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children")
        end = time.monotonic() + 10
        while not (children := task.read_text().split()):
            assert time.monotonic() < end and self.launcher.poll() is None, self.text()
        return int(children[0])

    def catches(self, number: int) -> bool:
        """Returns whether the process has a handler for the signal."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines()
            caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
            return bool(int(caught, 16) >> (number - 1) & 1)
        return False

    def wait_caught(self, number: int = signal.SIGTERM, seconds: float = 10):
        """Waits until a signal is not lost. There is no pause: it is a matter of microseconds."""
        end = time.monotonic() + seconds
        while not self.catches(number):
            assert time.monotonic() < end, "signals are not caught"

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
