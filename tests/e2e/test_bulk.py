"""One gigabyte in each direction: the bytes are right, memory does not grow, and payload is copied
only for a counted reason."""

import json
import threading
import time

import pytest

from harness import bodies, h3
from harness.bodies import GIB, MIB
from harness.curl import Curl

GROWTH_MAX = 24 * MIB

QUOTA_SHARE_MAX = 0.05
"""Share of an upload that may be copied for the quota. On loopback, each datagram of a client
without segmentation offload takes a slot, so a client that runs ahead of the origin reaches its
quota. The usual share is 0.0 %, even on a busy machine. The rest allows for moments in which the
origin does not run at all."""

HANDSHAKE_LEN_MAX = 16 * 1024


@pytest.fixture
def bulk(start, has_curl):
    return start(pool="64MiB")


def slots_back(gateway, out_before):
    gateway.settle(
        lambda now: None if now.slots_out() <= out_before else f"{now.slots_out()} slots are out"
    )


def copied(gateway, direction: str) -> dict[str, float]:
    """Returns the payload bytes that the gateway copied, by reason."""
    metrics = gateway.metrics()
    return {
        reason: metrics.sum("payload_copied_bytes_total", direction=direction, reason=reason)
        for reason in ("gather", "small", "quota", "low_water", "handshake")
    }


def assert_hardly_copied(now: dict[str, float], length: int):
    """Checks the copies of an upload. Datagrams of the handshake are always copied; they carry no
    payload."""
    assert now.pop("quota") <= QUOTA_SHARE_MAX * length
    assert 0 < now.pop("handshake") <= HANDSHAKE_LEN_MAX
    assert not any(now.values()), f"an upload's payload was copied: {now}"


@pytest.mark.timeout(300)
def test_gigabyte_down(bulk):
    out_before = bulk.metrics().slots_out()
    samples = []

    def watch(length):
        if length >= 64 * MIB:
            samples.append(bulk.rss_len())

    assert Curl(bulk).download(f"/bytes/{GIB}", watch=watch) == (0, GIB, bodies.digest(GIB))
    growth = max(samples) - samples[0]
    print(f"resident: {samples[0] / MIB:.1f} MiB at 64 MiB, then at most {growth / MIB:.1f} more")
    assert growth <= GROWTH_MAX
    assert bulk.metrics().sum("payload_bytes_total", direction="response") >= GIB
    slots_back(bulk, out_before)


@pytest.mark.timeout(300)
def test_gigabyte_up(bulk, tmp_path):
    file = tmp_path / "upload"
    with file.open("wb") as out:
        out.writelines(bodies.pieces(GIB, piece_len=MIB))
    out_before = bulk.metrics().slots_out()
    samples, done = [], threading.Event()

    def sample():
        while not done.wait(0.2):
            if bulk.metrics().sum("payload_bytes_total", direction="request") >= 64 * MIB:
                samples.append(bulk.rss_len())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        text, errors = Curl(bulk).upload("/upload", file).communicate(timeout=280)
    finally:
        done.set()
        sampler.join()
        file.unlink()
    assert text, errors.decode()
    seen = json.loads(text)
    assert (seen["length"], seen["sha256"]) == (GIB, bodies.digest(GIB))
    growth = max(samples) - samples[0]
    print(f"resident: {samples[0] / MIB:.1f} MiB at 64 MiB, then at most {growth / MIB:.1f} more")
    assert growth <= GROWTH_MAX
    assert bulk.metrics().sum("payload_bytes_total", direction="request") >= GIB
    now = copied(bulk, "request")
    print(f"copied for the client's quota: {now['quota'] / GIB:.1%}")
    assert_hardly_copied(now, GIB)
    slots_back(bulk, out_before)


def test_a_paced_upload_is_hardly_copied(bulk, tmp_path):
    """The origin keeps up with this upload, except when the machine is busy with something else."""
    length = 64 * MIB
    file = tmp_path / "upload"
    with file.open("wb") as out:
        out.writelines(bodies.pieces(length))
    upload = Curl(bulk).upload("/upload", file, "--limit-rate", "8M")
    text, errors = upload.communicate(timeout=100)
    assert text, errors.decode()
    assert json.loads(text)["sha256"] == bodies.digest(length)
    assert bulk.metrics().sum("payload_bytes_total", direction="request") >= length
    assert_hardly_copied(copied(bulk, "request"), length)


@pytest.mark.timeout(120)
@h3.run
async def test_a_slow_reader_does_not_delay_others(start, has_curl):
    """One client reads a large body at 1 MB/s from a gateway with a small pool. Others are served
    as usual."""
    gateway = start(pool="8MiB")
    out_before = gateway.metrics().slots_out()
    code = []
    slow = threading.Thread(target=lambda: code.append(
        Curl(gateway).download(f"/bytes/{8 * MIB}", "--limit-rate", "1M")
    ))
    slow.start()
    time.sleep(1)
    async with h3.connection(gateway) as client:
        for number in range(50):
            response = await client.get(f"/bytes/{50_000 + number}", seconds=5)
            assert response.sha256 == bodies.digest(50_000 + number)
        uploaded = await client.post("/upload", 4 * MIB, seconds=20)
        assert json.loads(uploaded.text)["sha256"] == bodies.digest(4 * MIB)
    assert slow.is_alive(), "the reader was not slow"
    slow.join()
    assert code == [(0, 8 * MIB, bodies.digest(8 * MIB))]
    slots_back(gateway, out_before)
