"""The container as the machine: control groups, PID 1, a read-only root."""

import os
import re
import signal
import subprocess

import pytest

from harness import bodies, cgroup, h3
from harness.bodies import MIB
from harness.gateway import Gateway, binary


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
async def test_auto_fits_into_a_quota_and_a_memory_limit(start, groups):
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


def test_a_quota_leaves_threads_to_the_scheduler(start, groups):
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_no_signal_is_lost_as_pid_1_however_early(tmp_path, certificate, number):
    """The start takes some 20 ms, and the moments are all over it and behind it."""
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate, pool="6MiB").configure()
    command = [str(binary()), "run", "--config", str(configuration)]
    codes = set()
    for step in range(25):
        with First(command) as first:
            first.wait_caught(number)
            time.sleep(0.002 * step + random.uniform(0, 0.002))
            first.signal(number)
            codes.add(first.wait(5))
    early = ENDED_BY_TERM if number == signal.SIGQUIT else 128 + number
    assert codes <= {0, early}, codes
    assert codes == {0, early}, f"the moments are not all over the start: {codes}"


def test_other_signals_do_not_end_the_start(tmp_path, certificate):
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate, pool="6MiB").configure()
    command = [str(binary()), "run", "--config", str(configuration)]
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            status = f"/proc/{process.pid}/status"
            while "SigCgt:\t0000000000000000" in open(status).read():
                pass
            time.sleep(0.003)
            process.send_signal(number)
            time.sleep(0.3)
            assert process.poll() is None, process.stderr.read()
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            process.stderr.close()


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
        first.wait_caught()
        time.sleep(1)
        assert first.launcher.poll() is None, f"it does not wait: {first.text()}"
        begun = time.monotonic()
        first.signal(signal.SIGTERM)
        assert first.wait(5) == ENDED_BY_TERM
        assert time.monotonic() - begun < 1
