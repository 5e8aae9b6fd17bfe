"""Copies as counted by an independent witness: a preloaded memcpy and memmove (witness/copies.c
says what it can see and what not). Payload in the buffer pool is not copied on its way to the
upstream, and copied once per packet on its way to the client. The gateway's ledger names every
other copy."""

import json
import pathlib
import tempfile

import pytest

from harness import bodies, load, witness
from harness.bodies import KIB, MIB
from harness.curl import Curl
from harness.gateway import binary, debug_binary
from harness.witness import Witness

BODY_LEN = 96 * MIB
REASONS = ("gather", "small", "quota", "low_water", "handshake")
# For one client.
HANDSHAKE_LEN_MAX = 8 * KIB
DATAGRAM_LEN_MAX = 1500


@pytest.fixture
def has_load():
    if not load.client().is_file():
        pytest.skip("no load client: `cargo build --release --example load` makes it")


@pytest.fixture
def watched(start, tmp_path):
    """Returns a function that starts a gateway with a witness."""

    def watched(program: pathlib.Path | None = None, pool: str = "64MiB", **environment: str):
        folder = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
        seen = Witness(folder, program or binary())
        return start(pool=pool, **seen.settings(**environment)), seen

    return watched


class Watch:
    """What the witness saw and the gateway counted while the block ran."""

    def __init__(self, gateway, seen: Witness):
        self.gateway, self.witness = gateway, seen

    def __enter__(self):
        self.before, self.page = self.witness.read(), self.gateway.metrics()
        return self

    def __exit__(self, *_):
        self.after = self.gateway.metrics()
        self.seen = self.witness.read() - self.before

    def counted(self, name: str, **labels: str) -> int:
        return int(self.after.sum(name, **labels) - self.page.sum(name, **labels))

    def copied(self, direction: str) -> dict[str, int]:
        """Returns the ledger's copied bytes, by reason."""
        return {reason: self.counted("payload_copied_bytes_total", direction=direction,
                                     reason=reason) for reason in REASONS}

    def where(self) -> str:
        return self.witness.where(self.seen)


def upload(gateway, seen: Witness) -> Watch:
    with Watch(gateway, seen) as watch:
        load.run(gateway, "/upload", upload=BODY_LEN)
    assert watch.counted("payload_bytes_total", direction="request") >= BODY_LEN
    return watch


def assert_agree(watch: Watch, named_len: int):
    """Checks that the ledger names every long copy that was seen. The rest of what it names must be
    short copies: a few datagrams and the ends of bodies have less than 200 bytes."""
    long_len, all_len = watch.seen.bytes, watch.seen.bytes + watch.seen.short_bytes
    assert long_len <= named_len <= all_len, watch.where()


def test_the_binary_has_no_copying_function_that_the_witness_misses():
    """The witness could not see a memcpy inside the binary, or another function that copies."""
    for program in (binary(), debug_binary()):
        taken, own = witness.copying_symbols(program)
        assert (taken, own) == (witness.INTERPOSED, set()), program


def test_a_bulk_upload_is_not_copied(watched, has_load):
    watch = upload(*watched())
    ledger = watch.copied("request")
    print(f"{watch.seen.copies} copies of {watch.seen.bytes} bytes; ledger {ledger}")
    # Only datagrams of the handshake are copied out of their slots.
    assert 0 < ledger["handshake"] <= HANDSHAKE_LEN_MAX
    assert sum(ledger.values()) == ledger["handshake"], ledger
    assert_agree(watch, ledger["handshake"])


def test_a_bulk_download_is_copied_once_per_packet(watched, has_load):
    gateway, seen = watched()
    with Watch(gateway, seen) as watch:
        load.run(gateway, f"/bytes/{BODY_LEN}")
    # A packet's payload may come from two pieces of the response. Its copy then has two parts.
    gathers = watch.seen.copies - watch.seen.continued
    datagrams = watch.counted("datagrams_total", direction="out")
    lost = watch.counted("packets_lost_total")
    sent_len = watch.counted("datagram_bytes_total", direction="out")
    ledger = watch.copied("response")
    handshake_len = watch.copied("request")["handshake"]
    print(f"{gathers} gathers of {watch.seen.bytes} bytes, {watch.seen.continued} of them in two "
          f"parts; {datagrams} datagrams of {sent_len} bytes, {lost} lost; ledger {ledger}")
    assert 0.97 * datagrams <= gathers <= datagrams, watch.where()
    assert watch.seen.bytes - handshake_len <= sent_len, watch.where()
    # The ledger counts a byte once, however often it is sent. Probes are not counted as lost.
    again_len = lost * DATAGRAM_LEN_MAX + 0.005 * BODY_LEN
    assert watch.seen.bytes - handshake_len <= BODY_LEN + again_len, watch.where()
    assert watch.seen.bytes - handshake_len >= 0.98 * BODY_LEN, watch.where()
    assert BODY_LEN <= ledger.pop("gather") <= BODY_LEN + 4 * KIB
    # The end of a burst from the origin may be a small piece.
    assert ledger.pop("small") <= 0.02 * BODY_LEN
    assert not any(ledger.values()), ledger


def test_small_responses_are_copied_as_the_ledger_says(watched, has_load):
    gateway, seen = watched()
    count, length = 500, 5_000
    with Watch(gateway, seen) as watch:
        load.run(gateway, f"/bytes/{length}", requests=count)
    ledger = watch.copied("response")
    print(f"{watch.seen.bytes} bytes in {watch.seen.copies} copies; ledger {ledger}")
    assert ledger["small"] == count * length
    assert (ledger["quota"], ledger["low_water"]) == (0, 0), ledger
    # Packets are then gathered from the heap, so the pool is read only once.
    assert_agree(watch, ledger["small"] + watch.copied("request")["handshake"])


def test_datagrams_over_the_quota_are_copied_as_the_ledger_says(
    watched, has_curl, tmp_path
):
    """Each datagram of a client without segmentation offload takes a slot."""
    file = tmp_path / "upload"
    with file.open("wb") as out:
        out.writelines(bodies.pieces(BODY_LEN))
    gateway, seen = watched(pool="8MiB")
    with Watch(gateway, seen) as watch:
        text, errors = Curl(gateway).upload("/upload?pause=0.01", file).communicate(timeout=150)
    assert text, errors.decode()
    assert json.loads(text)["sha256"] == bodies.digest(BODY_LEN)
    ledger = watch.copied("request")
    print(f"{watch.seen.bytes} bytes in {watch.seen.copies} copies; ledger {ledger}")
    assert ledger["quota"] > 0, "the client stayed within its quota: this run shows nothing"
    assert ledger["gather"] == ledger["small"] == 0, ledger
    assert_agree(watch, sum(ledger.values()))


def test_the_witness_sees_a_planted_copy(watched, has_load):
    """Runs the same build without and with a copy that the ledger does not count."""
    program = debug_binary()
    if not program.is_file():
        pytest.skip(f"{program} is not there: `cargo test --no-run --test lifetime` makes it")
    assert b"RINGWAY_PLANT" not in binary().read_bytes(), "a release can be told to copy"
    clean = upload(*watched(program))
    assert_agree(clean, sum(clean.copied("request").values()))
    watch = upload(*watched(program, RINGWAY_PLANT="copied-body"))
    unnamed = watch.seen.bytes - sum(watch.copied("request").values())
    print(f"{unnamed} bytes of {BODY_LEN} copied without a name")
    assert unnamed >= 0.99 * BODY_LEN, watch.where()
