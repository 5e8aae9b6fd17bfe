"""The container as the machine: control groups, PID 1, a read-only root."""

import asyncio
import dataclasses
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from harness import bodies, cgroup, h3, load
from harness.bodies import MIB
from harness.gateway import REPOSITORY, Gateway, binary
from harness.pid1 import First, child_of, wait_caught


@pytest.fixture
def groups():
    with cgroup.groups() as made:
        yield made


def run(configuration, verb: str = "run", **settings) -> subprocess.CompletedProcess:
    return subprocess.run([str(binary()), verb, "--config", str(configuration)],
                          capture_output=True, text=True, timeout=20, **settings)


def sizes(text: str) -> tuple[int, int, int]:
    """Returns workers, and the MiB of each one's pool and heap, as the gateway says them."""
    form = r"(\d+) workers?, each with a pool of (\d+) MiB and a heap of up to (\d+) MiB"
    found = re.search(form, text)
    return tuple(map(int, found.groups()))


@h3.run
async def test_auto_fits_into_a_quota_and_a_memory_limit(groups, start):
    """More memory than the limit would end the process: pools are populated at the start."""
    groups.limit_cpu(50_000)
    groups.limit_memory(300 * MIB)
    gateway = start(workers='"auto"', pool="auto", preexec=groups.enter)
    assert sizes(gateway.text()) == (1, 64, 196)
    assert "CPU time of 0.500 cores" in gateway.text()
    assert "memory 300 MiB" in gateway.text()
    assert len([name for name in gateway.threads() if name.startswith("worker-")]) == 1
    async with h3.connection(gateway) as client:
        assert (await client.get(f"/bytes/{4 * MIB}")).sha256 == bodies.digest(4 * MIB)
        uploaded = await client.post("/upload", 64 * MIB)
        assert uploaded.status == 200
    assert (groups.memory / "memory.failcnt").read_text() == "0\n"


def test_more_clients_than_the_memory_has_room_for_do_not_end_the_process(groups, start):
    """The heap's budget is what the limit leaves, so new clients are refused before it is reached:
    a limit that is hit would count as a failure of the group."""
    groups.limit_memory(140 * MIB)
    gateway = start(workers=1, pool="auto", preexec=groups.enter)
    assert sizes(gateway.text()) == (1, 32, 68)
    command = [load.client(), "--connect", f"127.0.0.1:{gateway.port}", "--host", h3.AUTHORITY,
               "--path", "/bytes/1000", "--connections", 3000, "--streams", 1, "--requests", 6000]
    clients = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        def wrong(metrics) -> str | None:
            refused = metrics.sum("connections_refused_total", reason="memory")
            return None if refused > 0 else "no connection is refused"

        gateway.settle(wrong, 60)
        time.sleep(1)
    finally:
        clients.kill()
        clients.wait(10)
    gateway.assert_alive()
    assert (groups.memory / "memory.failcnt").read_text() == "0\n"


def test_a_quota_leaves_threads_to_the_scheduler(groups, start):
    """Else every container of a host would pin its first worker to the same core."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core is all there is")
    groups.limit_cpu(60_000)
    gateway = start(workers=1, preexec=groups.enter)
    status = next(status for name, status in gateway.threads().items() if "worker-0" in name)
    assert len(cores) == sum(
        int(last or first) - int(first) + 1
        for first, _, last in (part.partition("-") for part in
                               status["Cpus_allowed_list"].split(",")))


@pytest.mark.parametrize("verb", ["check", "run"])
def test_sizes_beyond_the_memory_limit_are_refused_before_they_are_taken(tmp_path, certificate,
                                                                        groups, verb):
    groups.limit_memory(300 * MIB)
    gateway = Gateway(tmp_path, "127.0.0.1:1", certificate, workers=2, pool="128MiB")
    done = run(gateway.configure(), verb, preexec_fn=groups.enter)
    assert done.returncode == 3, done.stderr
    line, = (line for line in done.stderr.splitlines() if line.startswith("ringway: "))
    for part in ("limited to 300 MiB", "memory.limit_in_bytes", "2 workers would need 384 MiB",
                 "128 MiB (runtime.pool)", "runtime.memory", "raise the limit"):
        assert part in line, line
    peak = int((groups.memory / "memory.max_usage_in_bytes").read_text())
    assert peak < 100 * MIB, f"{peak} bytes were taken before the refusal"


def test_check_prints_what_it_found(tmp_path, certificate, groups):
    groups.limit_cpu(150_000)
    groups.limit_memory(400 * MIB)
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate, pool="auto").configure()
    done = run(configuration, "check", preexec_fn=groups.enter)
    assert done.returncode == 0, done.stderr
    assert f"memory 400 MiB ({groups.memory}/memory.limit_in_bytes)" in done.stdout
    assert f"CPU time of 1.500 cores ({groups.cpu}/cpu.cfs_quota_us)" in done.stdout
    assert sizes(done.stdout) == (1, 64, 296)


ENDED_BY_TERM = 128 + signal.SIGTERM
"""The exit code of a first process that a TERM ended before it served."""
CAUGHT_LAST = signal.SIGUSR2
"""It is ignored until the control thread catches all signals."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_no_signal_is_lost_as_pid_1_however_early(tmp_path, certificate, number):
    """The moments are all over the first 50 ms. The last one is when the process serves."""
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate, pool="6MiB").configure()
    command = [str(binary()), "run", "--config", str(configuration)]
    early = ENDED_BY_TERM if number == signal.SIGQUIT else 128 + number
    codes = []
    for step in range(26):
        with First(command) as first:
            wait_caught(first.pid, number)
            if step < 25:
                time.sleep(0.002 * step + random.uniform(0, 0.002))
            else:
                wait_caught(first.pid, CAUGHT_LAST)
                time.sleep(0.1)
            first.signal(number)
            codes.append(first.wait(5))
    assert set(codes) <= {0, early}, codes
    assert (codes[0], codes[-1]) == (early, 0), codes


def test_other_signals_do_not_end_the_start(tmp_path, certificate):
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate, pool="6MiB").configure()
    command = [str(binary()), "run", "--config", str(configuration)]
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_caught(process.pid, signal.SIGUSR1)
            time.sleep(0.003)
            process.send_signal(number)
            wait_caught(process.pid, CAUGHT_LAST)
            time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0


SILENT_NAME_SERVER = """
set -e
ip link set lo up
ip route add 192.0.2.0/24 dev lo
mount --bind "$1" "$(readlink -f /etc/resolv.conf)"
shift
exec "$@"
"""


def test_a_term_ends_a_start_that_waits_for_a_silent_name_server(tmp_path, certificate):
    """Packets for its address go nowhere, and there is no error."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 192.0.2.53\n")
    configuration = Gateway(tmp_path, "upstream.test:1", certificate).configure()
    command = ["sh", "-c", SILENT_NAME_SERVER, "sh", str(resolver),
               str(binary()), "run", "--config", str(configuration)]
    with First(command, ("--mount", "--net")) as first:
        wait_caught(first.pid, signal.SIGTERM)
        time.sleep(1)
        assert first.launcher.poll() is None, f"it does not wait: {first.text()}"
        begun = time.monotonic()
        first.signal(signal.SIGTERM)
        assert first.wait(5) == ENDED_BY_TERM
        assert time.monotonic() - begun < 1


HOSTS = """
set -e
mount --bind "$1" /etc/hosts
shift
exec "$@"
"""


@pytest.fixture
def with_hosts(tmp_path):
    """Returns a launcher for a program that sees this file as /etc/hosts."""
    if os.geteuid() != 0:
        pytest.skip("a mount namespace needs root")

    def launcher(text: str) -> list[str]:
        file = tmp_path / "hosts"
        file.write_text(text)
        return ["unshare", "--mount", "sh", "-c", HOSTS, "sh", str(file)]

    return launcher


@h3.run
async def test_localhost_works_for_an_origin_on_ipv4_only(start, origin, with_hosts):
    """As on most hosts, ::1 is the first address, and nobody listens there."""
    launcher = with_hosts("::1 localhost\n127.0.0.1 localhost\n")
    gateway = start(launcher=launcher, origin=f"localhost:{origin.port}")
    async with h3.connection(gateway) as client:
        for _ in range(5):
            response = await client.get("/bytes/1000")
            assert (response.status, response.sha256) == (200, bodies.digest(1000))
    metrics = gateway.metrics()
    assert metrics.sum("upstream_address_fallbacks_total") == 1, "the one that worked is first"
    assert metrics.sum("upstream_ejections_total") == 0
    assert metrics.sum("upstream_fixed_names") == 1
    assert {line["upstream"] for line in gateway.access_lines(5)} == {f"localhost:{origin.port}"}
    fixed = f"the endpoint localhost:{origin.port} is 127.0.0.1:{origin.port}, [::1]:{origin.port}"
    assert fixed in gateway.text(), gateway.text()
    done = run(gateway.configure(), "check")
    assert "not again until the next start" in done.stdout, done.stdout


@pytest.fixture
def image(certificate):
    """A folder that every user may read, with the program and a certificate of `nobody`."""
    if os.geteuid() != 0:
        pytest.skip("namespaces and another user need root")
    user = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="ringway-image-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        shutil.copy(binary(), folder / "ringway")
        own = {"authority": certificate.authority}
        for part in ("cert", "key"):
            own[part] = pathlib.Path(shutil.copy(getattr(certificate, part), folder / part))
            os.chown(own[part], user.pw_uid, user.pw_gid)
        own["key"].chmod(0o600)
        yield folder, dataclasses.replace(certificate, **own), user


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
@h3.run
async def test_everything_at_once_as_a_container_has_it(image, groups, origin, number):
    """PID 1, a read-only root, a user without privileges, limits of CPU time and memory, and
    configs/seccomp.json, in which a call that is not listed ends the process."""
    folder, certificate, user = image
    groups.limit_cpu(100_000)
    groups.limit_memory(300 * MIB)
    gateway = Gateway(folder, origin.address, certificate, program=folder / "ringway",
                      workers='"auto"', pool="auto", access_log="/dev/stdout",
                      preexec=groups.enter, lame_duck="500ms",
                      environment={"PYTHONPATH": str(REPOSITORY / "tests/e2e")})
    gateway.launcher = ["unshare", "--pid", "--fork", "--kill-child", "--mount", sys.executable,
                        "-m", "harness.confined", str(user.pw_uid), str(user.pw_gid),
                        str(REPOSITORY / "configs/seccomp.json"), str(folder)]
    try:
        gateway.start()
        pid = child_of(gateway.process.pid)
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {name: value.split() for name, value in (line.split(":", 1) for line in lines)}
        assert status["NSpid"][-1] == "1"
        assert status["Uid"] == [str(user.pw_uid)] * 4
        assert (status["Seccomp"], status["NoNewPrivs"]) == (["2"], ["1"])
        assert sizes(gateway.text())[0] == 1
        async with h3.connection(gateway) as client:
            assert (await client.get(f"/bytes/{4 * MIB}")).sha256 == bodies.digest(4 * MIB)
            assert (await client.post("/upload", 4 * MIB)).status == 200
            os.kill(pid, signal.SIGUSR1)
            exchange = client.open("GET", "/drip/10000?piece=1000&pause=0.1")
            await exchange.received(1000)
            os.kill(pid, number)
            response = await exchange.wait()
            assert (response.end, response.sha256) == ("clean", bodies.digest(10_000))
        assert await asyncio.to_thread(gateway.wait, 10) == 0
        assert "there is nothing to reopen" in gateway.text()
        assert gateway.text().count('"path":"/') == 3, gateway.text()
        assert (groups.memory / "memory.failcnt").read_text() == "0\n"
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait(10)
