"""Privileges as the kernel accounts for them, after the start and after a worker's restart. Most of
it needs root, as does what it tests: root starts the gateway, which becomes another user."""

import contextlib
import dataclasses
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from harness import bodies, h3
from harness.bodies import MIB
from harness.gateway import Gateway, binary, debug_binary

USER = "nobody"
IDS = pwd.getpwnam(USER)
NONE = "0" * 16
SYSCTL = pathlib.Path("/proc/sys/kernel")


def may_raise_limits() -> bool:
    """Returns whether we, and so the gateway at its start, have CAP_SYS_RESOURCE."""
    own = re.search(r"^CapEff:\s+(\S+)", pathlib.Path("/proc/self/status").read_text(), re.M)[1]
    return bool(int(own, 16) >> 24 & 1)


def assert_unprivileged(gateway, uid: int, gid: int):
    every = gateway.threads()
    assert any(name.startswith("worker-") for name in every), every.keys()
    for name, status in every.items():
        assert status["Uid"].split() == [str(uid)] * 4, name
        assert status["Gid"].split() == [str(gid)] * 4, name
        assert status["NoNewPrivs"] == "1", name
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert status[capabilities] == NONE, f"{name}: {capabilities}"
    return every


def owner_of_memory(gateway) -> int:
    """Returns the owner of /proc/PID/mem: root for a process that may not be dumped."""
    return os.stat(f"/proc/{gateway.process.pid}/mem").st_uid


async def assert_serves(gateway):
    async with h3.connection(gateway) as client:
        assert (await client.get(f"/bytes/{4 * MIB}")).sha256 == bodies.digest(4 * MIB)
        assert (await client.post("/upload", 4 * MIB)).status == 200


@h3.run
async def test_the_process_becomes_the_user_and_serves(start, as_root):
    gateway = start(workers=2, user=USER)
    every = assert_unprivileged(gateway, IDS.pw_uid, IDS.pw_gid)
    assert len([name for name in every if name.startswith("worker-")]) == 2
    assert all(status["Groups"] == "" for status in every.values()), "other groups are kept"
    assert owner_of_memory(gateway) == 0
    assert "running as root" not in gateway.text()
    # The kernel charges the user's rings and zero-copy sends to the limit of locked memory.
    limits = pathlib.Path(f"/proc/{gateway.process.pid}/limits").read_text()
    soft, hard = re.search(r"^Max locked memory +(\S+) +(\S+)", limits, re.M).groups()
    assert soft == hard, "the soft limit was not raised"
    assert hard == "unlimited" or not may_raise_limits()
    await assert_serves(gateway)
    assert len(gateway.access_lines(2)) == 2, "the access log was opened before"
    assert gateway.metrics()
    # The threads that the kernel made for the access log's writes are among these.
    assert_unprivileged(gateway, IDS.pw_uid, IDS.pw_gid)
    gateway.signal(signal.SIGQUIT)
    assert gateway.wait(10) == 0


@h3.run
async def test_the_log_on_standard_output_has_a_thread_without_privileges(start, as_root):
    gateway = start(user=f"{USER}:daemon", access_log="stdout")
    every = assert_unprivileged(gateway, IDS.pw_uid, 1)
    assert any(name.startswith("access-log") for name in every), every.keys()
    await assert_serves(gateway)


@h3.run
async def test_root_without_a_user_is_warned_and_keeps_no_capability(start, as_root):
    gateway = start()
    assert_unprivileged(gateway, 0, 0)
    assert "running as root: set runtime.user" in gateway.text()
    await assert_serves(gateway)


@h3.run
async def test_core_dumps_can_be_permitted(start, as_root):
    gateway = start(user=USER, core_dumps="true")
    assert owner_of_memory(gateway) == IDS.pw_uid
    assert_unprivileged(gateway, IDS.pw_uid, IDS.pw_gid)
    await assert_serves(gateway)


def free_port_of_root() -> int:
    """Returns a free UDP port that only root may bind."""
    first = int(pathlib.Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    for port in range(first - 1, 0, -1):
        with contextlib.suppress(OSError):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("127.0.0.1", port))
            return port
    pytest.skip("every user may bind every port, or none is free")


@h3.run
async def test_a_port_of_root_is_served(start, as_root):
    """The port is bound before the process becomes the user, who may not bind it."""
    port = free_port_of_root()
    gateway = start(user=USER, port=port)
    gateway.port = port
    await assert_serves(gateway)


@h3.run
async def test_a_worker_that_panics_is_replaced_without_privileges(tmp_path, origin, certificate,
                                                                   as_root):
    """A new worker needs a ring, buffer rings and its sockets again, all as the user."""
    program = debug_binary()
    if not program.is_file():
        pytest.skip(f"{program} is not there: `cargo build` makes it")
    gateway = Gateway(tmp_path, origin.address, certificate, user=USER, program=program,
                      idle_timeout="2s",
                      environment={"RINGWAY_PLANT": "worker-panic"}).start()
    try:
        async with h3.connection(gateway) as client:
            await client.get("/bytes/10")
        gateway.settle_restart()
        assert "planted: the first request has ended" in gateway.text()
        await assert_serves(gateway)
        assert_unprivileged(gateway, IDS.pw_uid, IDS.pw_gid)
        assert gateway.metrics().sum("worker_restarts_total") == 1
    finally:
        assert gateway.stop() == 0, gateway.text()


@pytest.fixture
def home_of_user(as_root, certificate):
    """A folder of the user with a program and a certificate of its own, which others may enter."""
    with tempfile.TemporaryDirectory(prefix="ringway-user-") as name:
        home = pathlib.Path(name)
        home.chmod(0o755)
        shutil.copy(binary(), home / "ringway")
        own = {"authority": certificate.authority}
        for part in ("cert", "key"):
            own[part] = pathlib.Path(shutil.copy(getattr(certificate, part), home / part))
        own["key"].chmod(0o600)
        for path in (home, own["cert"], own["key"]):
            os.chown(path, IDS.pw_uid, IDS.pw_gid)
        yield home, dataclasses.replace(certificate, **own)


@pytest.mark.parametrize("user", ["", USER])
@h3.run
async def test_a_process_started_as_the_user_gives_up_what_it_was_given(home_of_user, origin, user):
    """As systemd starts it: with the capability to bind ports of root, and no other."""
    home, certificate = home_of_user
    gateway = Gateway(home, origin.address, certificate, program=home / "ringway", user=user)
    gateway.launcher = ["setpriv", f"--reuid={IDS.pw_uid}", f"--regid={IDS.pw_gid}",
                        "--clear-groups", "--inh-caps=-all,+net_bind_service",
                        "--ambient-caps=-all,+net_bind_service"]
    gateway.port = gateway.settings["port"] = free_port_of_root()
    gateway.start()
    try:
        for name, status in gateway.threads().items():
            assert status["Uid"].split() == [str(IDS.pw_uid)] * 4, name
            assert status["NoNewPrivs"] == "1", name
            # The bounding set is not its to change: what is in it cannot be gained.
            for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert status[capabilities] == NONE, f"{name}: {capabilities}"
        assert owner_of_memory(gateway) == 0
        assert "running as root" not in gateway.text()
        await assert_serves(gateway)
    finally:
        assert gateway.stop() == 0, gateway.text()


def run(configuration, *launcher: str, verb: str = "run") -> subprocess.CompletedProcess:
    return subprocess.run([*launcher, str(binary()), verb, "--config", str(configuration)],
                          capture_output=True, text=True, timeout=20)


def test_an_unknown_user_is_refused(tmp_path, certificate):
    gateway = Gateway(tmp_path, "127.0.0.1:1", certificate, user="no-such-user")
    for verb in ("run", "check"):
        done = run(gateway.configure(), verb=verb)
        assert done.returncode == 1 and "runtime.user" in done.stderr, done.stderr
        assert "useradd --system" in done.stderr


def test_a_process_that_may_not_become_the_user_does_not_serve(tmp_path, certificate, as_root):
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate, user=USER).configure()
    done = run(configuration, "setpriv", "--bounding-set=-setuid,-setgid")
    assert done.returncode == 3, done.stderr
    refusal, = (line for line in done.stderr.splitlines() if line.startswith("ringway: "))
    assert "runtime.user" in refusal and f'"{USER}"' in refusal and "SETUID" in refusal


@contextlib.contextmanager
def io_uring_for_group(gid: int):
    """Restricts io_uring to root and one group on the whole machine, then restores the settings."""
    settings = {"io_uring_disabled": "1", "io_uring_group": str(gid)}
    before = {name: (SYSCTL / name).read_text() for name in settings}
    if before["io_uring_disabled"].strip() != "0":
        pytest.skip("io_uring is restricted on this machine already")
    try:
        for name, value in settings.items():
            (SYSCTL / name).write_text(value)
        yield
    finally:
        for name, value in before.items():
            (SYSCTL / name).write_text(value)


@h3.run
async def test_io_uring_for_one_group_is_used_as_that_group(start, tmp_path, certificate, as_root):
    refused = Gateway(tmp_path, "127.0.0.1:1", certificate, user=USER).configure()
    with io_uring_for_group(1):
        done = run(refused)
        assert done.returncode == 3, done.stderr
        assert "kernel.io_uring_group" in done.stderr and "USER:GROUP" in done.stderr
        await assert_serves(start(user=f"{USER}:daemon"))
