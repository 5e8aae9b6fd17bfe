"""configs/seccomp.json, the profile for containers: ringway lives with it, and much else does not.

No container engine is needed: the profile is translated into a filter, which the kernel applies as
it would for a container."""

import ctypes
import errno
import os
import signal
import socket

import pytest

from harness import bodies, h3, seccomp
from harness.bodies import MIB
from harness.gateway import REPOSITORY, Gateway, debug_binary

PROFILE = REPOSITORY / "configs/seccomp.json"
USER = "nobody" if os.geteuid() == 0 else ""
CLONE_NEWUSER = 0x1000_0000


@pytest.fixture(scope="module")
def profile():
    return seccomp.load(PROFILE)


@pytest.fixture(scope="module")
def strict(profile):
    """The profile as a filter that ends the process at the first call that is not listed, so that
    no refusal goes unnoticed."""
    return seccomp.installer(seccomp.steps_of(profile, seccomp.RETURN_KILL_PROCESS))


async def assert_serves(gateway):
    async with h3.connection(gateway) as client:
        assert (await client.get(f"/bytes/{4 * MIB}")).sha256 == bodies.digest(4 * MIB)
        assert (await client.post("/upload", 4 * MIB)).status == 200
        assert (await client.get("/down/")).status == 502


async def assert_lives(gateway, stop: signal.Signals):
    await assert_serves(gateway)
    assert gateway.metrics()
    gateway.signal(stop)
    assert gateway.wait(20) == 0, gateway.text()


@h3.run
async def test_ringway_serves_and_drains_with_nothing_but_the_profile(start, strict):
    gateway = start(preexec=strict, workers=2, user=USER, hugepages="try")
    await assert_lives(gateway, signal.SIGQUIT)


@h3.run
async def test_unix_sockets_names_and_the_key_log_are_covered(start, strict, origin, tmp_path):
    named = '[upstreams.named]\nendpoints = [{ address = "localhost:1" }]'
    gateway = start(preexec=strict, origin=f"unix:{origin.unix}", access_log="stdout",
                    tls_keys=tmp_path / "keys.log", core_dumps="true", extra=named)
    await assert_lives(gateway, signal.SIGTERM)


@h3.run
async def test_a_workers_panic_and_restart_are_covered(tmp_path, origin, certificate, strict):
    program = debug_binary()
    if not program.is_file():
        pytest.skip(f"{program} is not there: `cargo build` makes it")
    gateway = Gateway(tmp_path, origin.address, certificate, preexec=strict, program=program,
                      idle_timeout="2s", environment={"RINGWAY_PLANT": "worker-panic"}).start()
    try:
        async with h3.connection(gateway) as client:
            await client.get("/bytes/10")
        gateway.settle_restart()
        await assert_lives(gateway, signal.SIGTERM)
    finally:
        gateway.stop()


def test_a_call_that_is_missing_in_the_profile_ends_the_gateway(tmp_path, certificate, profile):
    """The other tests can fail."""
    rules = [rule | {"names": [name for name in rule["names"] if name != "io_uring_setup"]}
             for rule in profile["syscalls"]]
    steps = seccomp.steps_of(profile | {"syscalls": rules}, seccomp.RETURN_KILL_PROCESS)
    gateway = Gateway(tmp_path, "127.0.0.1:1", certificate,
                      preexec=seccomp.installer(steps))
    with pytest.raises(AssertionError, match=f"ended at start with -{int(signal.SIGSYS)}"):
        gateway.start()


def in_child(install, action) -> int:
    """Returns what `action` returns in a child process with the filter."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            install()
            code = action()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refusal_of(call, *arguments):
    """Returns a function that makes a system call and returns its error number, or 0."""
    number, libc = seccomp.numbers()[call], ctypes.CDLL(None, use_errno=True)

    def action() -> int:
        return ctypes.get_errno() if libc.syscall(number, *arguments) == -1 else 0

    return action


@pytest.mark.parametrize("call, arguments, expected", [
    ("unshare", (CLONE_NEWUSER,), errno.EPERM),
    ("clone", (CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM),
    ("clone3", (0, 0), errno.ENOSYS),
    ("ptrace", (0, 0, 0, 0), errno.EPERM),
    ("mount", (0, 0, 0, 0, 0), errno.EPERM),
    ("bpf", (0, 0, 0), errno.EPERM),
    ("userfaultfd", (0,), errno.EPERM),
    ("process_vm_readv", (0, 0, 0, 0, 0, 0), errno.EPERM),
    ("kexec_load", (0, 0, 0, 0), errno.EPERM),
    ("keyctl", (0, 0, 0, 0, 0), errno.EPERM),
    ("socket", (socket.AF_PACKET, socket.SOCK_RAW, 0), errno.EPERM),
    ("socket", (38, socket.SOCK_SEQPACKET, 0), errno.EPERM),  # AF_ALG
    ("socket", (socket.AF_INET6, socket.SOCK_DGRAM, 0), 0),
])
def test_the_profile_refuses_what_ringway_does_not_need(profile, call, arguments, expected):
    install = seccomp.installer(seccomp.steps_of(profile))
    assert in_child(install, refusal_of(call, *arguments)) == expected
