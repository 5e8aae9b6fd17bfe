"""Certificates as an operator sees them: what `check` and `run` say about their files, and which one
clients get that connect to an address."""

import pathlib
import shutil
import subprocess

import pytest
from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration

from harness import certificates, curl, h3, raw
from harness.gateway import REPOSITORY, Gateway, binary
from harness.raw import head

FIXTURES = REPOSITORY / "tests/fixtures/certificates"


def ringway(verb: str, configuration: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(binary()), verb, "--config", str(configuration)],
        capture_output=True, text=True, timeout=20,
    )


@pytest.fixture
def keys(tmp_path):
    """A folder with the fixtures' keys, for their owner only."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for key in FIXTURES.glob("*.key"):
        copy = pathlib.Path(shutil.copy(key, folder))
        copy.chmod(0o600)
    return folder


def more(chain: pathlib.Path, key: pathlib.Path, *hosts: str) -> str:
    quoted = ", ".join(f'"{host}"' for host in hosts)
    return f'\n[[certificates]]\nhosts = [{quoted}]\ncert = "{chain}"\nkey = "{key}"\n'


def test_check_describes_each_certificate_and_warns(tmp_path, certificate, keys):
    chain = FIXTURES / "leaf-only.pem"
    extra = more(chain, keys / "leaf.key", "www.example.test")
    done = ringway("check", Gateway(tmp_path, "127.0.0.1:1", certificate, extra=extra).configure())
    assert done.returncode == 0, done.stderr
    described = [line for line in done.stdout.splitlines() if "valid until" in line]
    assert len(described) == 2, done.stdout
    assert described[0].startswith(
        f'ringway: {certificate.cert}: 1 certificate; for e2e.test, small.test, localhost; '
        'signed by "ringway tests"; valid until 20'
    )
    assert described[1] == (
        f'ringway: {chain}: 1 certificate; for www.example.test; signed by "Test Authority E1"; '
        'valid until 2026-05-02'
    )
    warnings = [line for line in done.stderr.splitlines() if line.startswith("ringway: warning: ")]
    about = f"ringway: warning: {chain}:1: "
    assert all(line.startswith(about) for line in warnings), done.stderr
    assert any("is not in the file" in line for line in warnings), done.stderr
    assert any("the certificate expired" in line for line in warnings), done.stderr


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize("chain, key, told", [
    ("cut.pem", "leaf.key", "cut.pem:15: "),
    ("changed.pem", "leaf.key", "changed.pem:1: "),
    ("leaf.p12", "leaf.key", "openssl pkcs12 -in "),
    ("fullchain.pem", "passphrase.key", "passphrase.key:1: "),
])
def test_check_and_run_refuse_the_same_files(tmp_path, certificate, keys, verb, chain, key, told):
    extra = more(FIXTURES / chain, keys / key, "www.example.test")
    done = ringway(verb, Gateway(tmp_path, "127.0.0.1:1", certificate, extra=extra).configure())
    assert done.returncode == 1 and told in done.stderr, done.stderr


@pytest.fixture
def for_addresses(tmp_path):
    """A certificate whose only names are addresses, from another authority than the tests'."""
    folder = tmp_path / "addresses"
    folder.mkdir()
    return certificates.make(folder, names=())


@pytest.mark.parametrize("policy", ["default", "refuse"])
@h3.run
async def test_a_client_of_an_address_gets_the_certificate_for_addresses(
    start, certificate, for_addresses, policy
):
    extra = more(for_addresses.cert, for_addresses.key, "127.0.0.1", "::1")
    extra += f'\n[tls]\nunknown_server_name = "{policy}"\n'
    gateway = start(extra=extra)
    # aioquic sends no name for an address, and verifies the certificate for it.
    gateway.authority = for_addresses.authority
    async with raw.connection(gateway, server_name=None) as client:
        for authority, status in (
            (f"127.0.0.1:{gateway.port}".encode(), "200"),
            (b"127.0.0.1", "200"),
            (b"[::1]", "200"),
            (b"e2e.test", "421"),
        ):
            response = await client.ask(head(path=b"/head/only", authority=authority))
            assert response.outcome == status, authority
    gateway.authority = certificate.authority
    async with raw.connection(gateway) as client:
        response = await client.ask(head(path=b"/head/only", authority=b"e2e.test"))
        assert response.outcome == "200"


def test_curl_connects_to_an_address(has_curl, start, for_addresses):
    gateway = start(extra=more(for_addresses.cert, for_addresses.key, "127.0.0.1", "::1"))
    for address in ("127.0.0.1", "[::1]"):
        done = subprocess.run(
            [*curl.command(), "--http3-only", "--silent", "--show-error", "--noproxy", "*",
             "--cacert", str(for_addresses.authority), "--output", "/dev/null",
             "--write-out", "%{http_code}", f"https://{address}:{gateway.port}/head/only"],
            capture_output=True, text=True, timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "200"), done.stderr


@h3.run
async def test_failed_handshakes_are_counted_and_logged_with_their_reason(start, for_addresses):
    gateway = start(log_level="debug", extra='\n[tls]\nunknown_server_name = "refuse"\n')

    async def fail(alpn=("h3",), server_name="e2e.test", authority=gateway.authority):
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=list(alpn), server_name=server_name,
        )
        configuration.load_verify_locations(str(authority))
        with pytest.raises(ConnectionError):
            async with connect("127.0.0.1", gateway.port, configuration=configuration):
                pass

    await fail(alpn=["smtp"])
    await fail(server_name="unknown.test")
    await fail(authority=for_addresses.authority)
    metrics, log = gateway.metrics(), gateway.text()
    for reason, text in (
        ("no_shared_protocol", "the client does not offer h3 (ALPN)"),
        ("unknown_server_name", "no certificate is for the name it asks for"),
        ("certificate_rejected", "the client does not accept the certificate"),
    ):
        assert metrics.sum("handshake_failures_total", reason=reason) == 1, reason
        lines = [line for line in log.splitlines() if text in line]
        assert len(lines) == 1 and "127.0.0.1:" in lines[0], log
    assert metrics.sum("handshake_failures_total") == 3
    assert metrics.sum("handshakes_total", outcome="failed") == 3
