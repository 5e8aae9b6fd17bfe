"""Changes what the host offers for the time of one test: huge pages, io_uring, addresses."""

import contextlib
import ctypes
import errno
import os
import pathlib
import re
import struct
import subprocess

import pytest

NR_HUGEPAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")

IPV6_ADDRESSES = [f"fd00::{host:x}" for host in range(2, 10)]
CLONE_NEWNET = 0x4000_0000

IO_URING_SETUP = 425  # On every architecture: the tables of system calls were joined before it.
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF_0000, 0x0005_0000
BPF_LOAD_WORD, BPF_JUMP_EQUAL, BPF_RETURN = 0x20, 0x15, 0x06


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


class Filter(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


def without_io_uring():
    """Returns a function for the child process to call between fork and exec. It installs a seccomp
    filter that refuses `io_uring_setup` with EPERM, as the default profile of container engines
    does. Only this child is affected, and no privileges are needed."""
    steps = [
        (BPF_LOAD_WORD, 0, 0, 0),  # the system call's number
        (BPF_JUMP_EQUAL, 0, 1, IO_URING_SETUP),
        (BPF_RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
        (BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = Filter(len(steps), code)
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def apply():
        if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
        if prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")

    return apply
