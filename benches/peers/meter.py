"""What a process and its children use, how busy the cores are, and whether others used them."""

import os
import pathlib
import time

TICK = os.sysconf("SC_CLK_TCK")
KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of the flags in /proc/PID/stat."""


def processes() -> dict[int, tuple[int, float]]:
    """Each process but the kernel's: its parent, and its CPU seconds with those of dead children.

    A child's time goes over to the parent that waits for it: their sum loses next to nothing.
    """
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if not int(fields[6]) & KERNEL_THREAD:
                found[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15])) / TICK
    return found


def family(pid: int, among: dict | None = None) -> list[int]:
    """The process and all below it."""
    among = processes() if among is None else among
    found = [pid]
    for parent in found:
        found += [child for child, (its, _) in among.items() if its == parent]
    return found


def strangers_seconds() -> float:
    """CPU time of all processes but this one and those below it, since the machine started."""
    found = processes()
    own = set(family(os.getpid(), found))
    return sum(seconds for pid, (_, seconds) in found.items() if pid not in own)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process and of those below it; nanoseconds are counted."""
    total = 0
    for member in family(pid):
        for task in pathlib.Path(f"/proc/{member}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:
                continue
    return total / 1e9


def resident_kib(pid: int) -> int:
    """Anonymous memory that is resident."""
    total = 0
    for member in family(pid):
        for line in pathlib.Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1])
    return total


def idle_seconds(cores: set[int]) -> float:
    """Time that these cores had nothing to do."""
    total = 0
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in cores:
            total += int(fields[3]) + int(fields[4])
    return total / TICK


class Span:
    """CPU time of a server, busy shares of its core and of the load's, what others took."""

    def __init__(self, pid: int, server_cores: set[int], load_cores: set[int]):
        self.pid, self.cores = pid, (server_cores, load_cores)

    def __enter__(self):
        self.strangers = strangers_seconds()
        self.began = time.monotonic()
        self.idle = [idle_seconds(cores) for cores in self.cores]
        self.used = cpu_seconds(self.pid)
        return self

    def __exit__(self, *_):
        self.cpu = cpu_seconds(self.pid) - self.used
        wall = time.monotonic() - self.began
        self.server_busy, self.load_busy = (
            1 - (idle_seconds(cores) - before) / wall / len(cores)
            for cores, before in zip(self.cores, self.idle))
        self.strangers = (strangers_seconds() - self.strangers) / wall
        """Share of one core."""
