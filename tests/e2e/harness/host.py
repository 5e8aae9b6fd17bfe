"""Changes what the host offers for the time of one test: huge pages, io_uring, addresses."""

import contextlib
import ctypes
import errno
import os
import pathlib
import re
import subprocess

import pytest

from . import seccomp

NR_HUGEPAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")

IPV6_ADDRESSES = [f"fd00::{host:x}" for host in range(2, 10)]
CLONE_NEWNET = 0x4000_0000


@contextlib.contextmanager
def reserved_hugepages(count: int):
    """Reserves this many huge pages of 2 MiB on the whole machine, then restores the number."""
    before = NR_HUGEPAGES.read_text()
    if int(before) == count:
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("reserving huge pages needs root")
    try:
        NR_HUGEPAGES.write_text(str(count))
        assert int(NR_HUGEPAGES.read_text()) == count, "this machine's memory is too fragmented"
        yield
    finally:
        NR_HUGEPAGES.write_text(before)


def hugetlb_len(pid: int) -> int:
    """Returns the bytes of the process in reserved huge pages, as the kernel accounts them."""
    smaps = pathlib.Path(f"/proc/{pid}/smaps").read_text()
    return sum(int(kib) * 1024 for kib in re.findall(r"^Private_Hugetlb: +(\d+) kB", smaps, re.M))


@contextlib.contextmanager
def own_network():
    """Moves this thread, and everything that it starts meanwhile, into a network namespace of its
    own, whose loopback has `IPV6_ADDRESSES` in addition to `::1`."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as outside:
        if libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"a network namespace needs root: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            for address in IPV6_ADDRESSES:
                command = ["ip", "address", "add", f"{address}/128", "dev", "lo", "nodad"]
                subprocess.run(command, check=True)
            yield
        finally:
            assert libc.setns(outside.fileno(), CLONE_NEWNET) == 0, "not back in our own network"


def without_io_uring():
    """Returns a function for the child process to call between fork and exec. It installs a seccomp
    filter that refuses `io_uring_setup` with EPERM, as the default profile of container engines
    does. Only this child is affected, and no privileges are needed."""
    return seccomp.without("io_uring_setup", errno.EPERM)
