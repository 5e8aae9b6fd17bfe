"""What a process and its children use, and how busy the cores are."""

import os
import pathlib
import time

TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """The process and all below it."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


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


def busy_seconds(cores: set[int]) -> float:
    """Time that these cores were not idle."""
    total = 0
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in cores:
            user, nice, system, _, _, irq, softirq, steal, *_ = map(int, fields)
            total += user + nice + system + irq + softirq + steal
    return total / TICK


class Span:
    """CPU time of a server, and busy shares of its core and of the load's cores."""

    def __init__(self, pid: int, core: int, others: set[int]):
        self.pid, self.core, self.others = pid, core, others

    def __enter__(self):
        self.began = time.monotonic()
        self.before = (cpu_seconds(self.pid), busy_seconds({self.core}), busy_seconds(self.others))
        return self

    def __exit__(self, *_):
        after = (cpu_seconds(self.pid), busy_seconds({self.core}), busy_seconds(self.others))
        wall = time.monotonic() - self.began
        self.cpu, server, load = (now - then for now, then in zip(after, self.before))
        self.server_busy = server / wall
        self.load_busy = load / wall / len(self.others)
