"""Control groups of the first version, made for the time of one test."""

import contextlib
import os
import pathlib
import time

import pytest

ROOT = pathlib.Path("/sys/fs/cgroup")
CPU, MEMORY = ROOT / "cpu", ROOT / "memory"


class Groups:
    """A group in each of two hierarchies. `enter` is for the child process, before it becomes the
    gateway."""

    def __init__(self, cpu: pathlib.Path, memory: pathlib.Path):
        self.cpu, self.memory = cpu, memory

    def limit_cpu(self, quota_micros: int, period_micros: int = 100_000):
        (self.cpu / "cpu.cfs_period_us").write_text(str(period_micros))
        (self.cpu / "cpu.cfs_quota_us").write_text(str(quota_micros))

    def limit_memory(self, length: int):
        (self.memory / "memory.limit_in_bytes").write_text(str(length))

    def enter(self):
        for folder in (self.cpu, self.memory):
            (folder / "cgroup.procs").write_text(str(os.getpid()))


def _own(hierarchy: pathlib.Path, controller: str) -> pathlib.Path:
    """Returns the folder of our own group."""
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    fields = (line.split(":", 2) for line in lines)
    group = next(group for _, controllers, group in fields if controller in controllers.split(","))
    folder = hierarchy / group.lstrip("/")
    # Where it is not mounted, ours is what stands at the root.
    return folder if folder.is_dir() else hierarchy


def _remove(folder: pathlib.Path):
    """Removes a group once its last process is gone."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            return folder.rmdir()
        time.sleep(0.05)
    folder.rmdir()


@contextlib.contextmanager
def groups():
    """Makes groups below our own. The test is skipped where that is not possible. A fixture of it
    has to come before that of a gateway, which must have ended first."""
    name = f"ringway-e2e-{os.getpid()}"
    made = []
    try:
        for hierarchy, controller, file in ((CPU, "cpu", "cpu.cfs_quota_us"),
                                            (MEMORY, "memory", "memory.limit_in_bytes")):
            if not (hierarchy / "cgroup.procs").is_file():
                pytest.skip(f"no control groups of version 1 at {hierarchy}")
            folder = _own(hierarchy, controller) / name
            try:
                folder.mkdir()
            except OSError as refusal:
                pytest.skip(f"a control group cannot be made: {refusal}")
            made.append(folder)
            assert (folder / file).is_file()
        yield Groups(*made)
    finally:
        for folder in made:
            _remove(folder)
