"""The gateway's process, seen through /proc."""

import contextlib
import os
import pathlib
import threading
import time

MIB = 1024 * 1024
WATCH_INTERVAL = 0.1
RSS_GROWTH_MAX = {False: 32 * MIB, True: 64 * MIB}
"""Bytes for each worker by which the process may grow, in the short and in the long form."""
RSS_KEPT_SHARE_MAX = 0.1
"""Share of the resident memory of before by which it may be larger once all is over."""
RSS_KEPT_LEN_MIN = 16 * MIB
"""Bytes for each worker that it may keep in any case. The allocator gives freed blocks back only when others are
freed a second later, and then not all; what it keeps does not grow when an attack is repeated."""


FILES_KEPT_MAX = 8
"""Open files that it may have more: idle upstream connections."""


class Process:
    """A process, and the bounds of its memory."""

    def __init__(self, pid: int, full: bool = False, worker_count: int = 1):
        self.worker_count = worker_count
        self._folder = pathlib.Path(f"/proc/{pid}")
        self._born = self._start_time()
        self._growth_max = RSS_GROWTH_MAX[full] * worker_count
        self._base_len = self._peak_len = 0
        self._base_files = 0
        self._began, self._base_starved = 0.0, 0.0
        self._watching = threading.Event()

    def begin(self):
        """Takes the resident memory and the open files of now as the base, and watches the memory
        from here on."""
        if not self.is_alive():
            return
        self._base_len = self._peak_len = self.rss_len()
        self._base_files = self.file_count()
        self._began, self._base_starved = time.monotonic(), self._starved_seconds()
        self._watching.clear()
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self):
        """Stops watching."""
        self._watching.set()
        if self.is_alive():
            self._peak_len = max(self._peak_len, self.rss_len())

    def faults(self) -> list[str]:
        """Returns what was wrong at some time."""
        if not self.is_alive():
            return ["the process is not there any more"]
        if self.growth_len() > self._growth_max:
            return [f"memory grew by {self.growth_len() / MIB:.1f} MiB, "
                    f"more than {self._growth_max // MIB} MiB"]
        return []

    def remains(self) -> list[str]:
        """Returns what is not yet as it was before."""
        if not self.is_alive():
            return []
        kept_max = max(RSS_KEPT_LEN_MIN * self.worker_count,
                       self._base_len * RSS_KEPT_SHARE_MAX)
        found = []
        if self.kept_len() > kept_max:
            found.append(f"{self.kept_len() / MIB:.1f} MiB of memory are kept")
        if self.file_count() > self._base_files + FILES_KEPT_MAX:
            found.append(f"{self.file_count()} files are open, before it were {self._base_files}")
        return found

    def growth_len(self) -> int:
        """Returns the most bytes by which it was larger than before."""
        return self._peak_len - self._base_len

    def kept_len(self) -> int:
        """Returns by how many bytes it is larger than before."""
        return self.rss_len() - self._base_len if self.is_alive() else 0

    def starved_share(self) -> float:
        """Returns the share of the time since `begin` in which a thread was ready to run, and the
        machine ran something else."""
        starved = self._starved_seconds() - self._base_starved
        return starved / (time.monotonic() - self._began)

    def is_alive(self) -> bool:
        return self._born is not None and self._start_time() == self._born

    def file_count(self) -> int:
        return len(list((self._folder / "fd").iterdir()))

    def rss_len(self) -> int:
        """Returns the resident memory in bytes."""
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def cpu_seconds(self) -> float:
        """Returns user and system time so far."""
        return sum(int(field) for field in self._stat()[11:13]) / os.sysconf("SC_CLK_TCK")

    def _starved_seconds(self) -> float:
        tasks = (self._folder / "task").glob("*/schedstat")
        return sum(int(task.read_text().split()[1]) for task in tasks) / 1e9

    def _start_time(self) -> str | None:
        """Returns when the process began, which tells it from a later one with its pid."""
        try:
            stat = self._stat()
        except OSError:
            return None
        return None if stat[0] == "Z" else stat[19]

    def _stat(self) -> list[str]:
        return (self._folder / "stat").read_text().rsplit(")", 1)[1].split()

    def _watch(self):
        with contextlib.suppress(OSError):
            while not self._watching.wait(WATCH_INTERVAL):
                self._peak_len = max(self._peak_len, self.rss_len())
