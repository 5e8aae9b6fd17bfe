"""Certificates as an operator sees them: what `check` and `run` say about their files, which one
clients get, and what becomes of a file that changes."""

import asyncio
import pathlib
import re
import shutil
import ssl
import subprocess
import time

import pytest
from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration
from cryptography.x509 import ocsp

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


def replace(certificate, other):
    """Writes another certificate over one: first the chain, then the key."""
    certificate.cert.write_bytes(other.cert.read_bytes())
    certificate.key.write_bytes(other.key.read_bytes())


@pytest.fixture
def renewals(tmp_path):
    """Returns a function that makes certificates for the tests' names, each from its own authority
    and in its own folder."""
    def make(folder):
        folder = tmp_path / folder
        folder.mkdir(parents=True)
        return certificates.make(folder)

    return make


async def assert_gets(gateway, authority):
    """Checks that a new client that trusts nobody but `authority` is served."""
    gateway.authority = authority
    async with raw.connection(gateway) as client:
        response = await client.ask(head(path=b"/head/only", authority=b"e2e.test"))
        assert response.outcome == "200"


def await_log(gateway, text, seconds=15):
    end = time.monotonic() + seconds
    while text not in gateway.text():
        assert time.monotonic() < end, f"{text!r} is not logged:\n{gateway.text()}"
        time.sleep(0.05)


@h3.run
async def test_a_changed_certificate_is_used_without_closing_a_connection(
    tmp_path, start, renewals
):
    own, other = renewals("own"), renewals("other")
    gateway = start(cert=own.cert, key=own.key, workers=2)
    gateway.authority = own.authority
    async with raw.connection(gateway) as client:
        replace(own, other)
        await asyncio.to_thread(gateway.settle_count, "certificate_changes_total", 1,
                                outcome="loaded")
        await assert_gets(gateway, other.authority)
        response = await client.ask(head(path=b"/head/only", authority=b"e2e.test"))
        assert response.outcome == "200"
    gateway.authority = own.authority
    with pytest.raises(ConnectionError):
        async with raw.connection(gateway):
            pass
    metrics = gateway.metrics()
    assert metrics.sum("certificate_refused", certificate=str(own.cert)) == 0
    not_after = metrics.sum("certificate_not_after_timestamp_seconds", certificate=str(own.cert))
    assert 29 < (not_after - time.time()) / 86400 <= 30
    assert f"new certificate: {own.cert}" in gateway.text()


def kubernetes(folder, certificate, version):
    """Swaps the link `..data`, as Kubernetes does for a secret."""
    data = folder / f"..{version}"
    data.mkdir()
    for name, source in (("tls.crt", certificate.cert), ("tls.key", certificate.key)):
        shutil.copy(source, data / name)
        (data / name).chmod(0o600)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")


def certbot(folder, certificate, version):
    """Adds a version to the archive, and changes the links below `live`, one after the other."""
    archive, live = folder / "archive/site", folder / "live/site"
    archive.mkdir(parents=True, exist_ok=True)
    live.mkdir(parents=True, exist_ok=True)
    for name, source in (("tls.crt", certificate.cert), ("tls.key", certificate.key)):
        shutil.copy(source, archive / f"{version}-{name}")
        (archive / f"{version}-{name}").chmod(0o600)
        (live / name).unlink(missing_ok=True)
        (live / name).symlink_to(f"../../archive/site/{version}-{name}")
        time.sleep(0.1)


@pytest.mark.parametrize("swap, place", [(kubernetes, "."), (certbot, "live/site")])
@h3.run
async def test_links_are_followed(tmp_path, start, renewals, swap, place):
    folder = tmp_path / "links"
    folder.mkdir()
    versions = [renewals(f"version{number}") for number in range(3)]
    swap(folder, versions[0], 0)
    gateway = start(cert=folder / place / "tls.crt", key=folder / place / "tls.key")
    await assert_gets(gateway, versions[0].authority)
    for number in (1, 2):
        swap(folder, versions[number], number)
        await asyncio.to_thread(gateway.settle_count, "certificate_changes_total", number,
                                outcome="loaded")
        await assert_gets(gateway, versions[number].authority)
    assert gateway.metrics().sum("certificate_changes_total", outcome="refused") == 0


@h3.run
async def test_a_changed_certificate_that_is_refused_leaves_the_one_before(start, renewals):
    own, other = renewals("own"), renewals("other")
    before = own.cert.read_bytes()
    gateway = start(cert=own.cert, key=own.key)
    own.cert.write_bytes(other.cert.read_bytes())
    await asyncio.to_thread(await_log, gateway, "what was read before it stays in use")
    assert f"{own.key}: this private key does not belong to any certificate" in gateway.text()
    metrics = gateway.metrics()
    assert metrics.sum("certificate_changes_total", outcome="refused") == 1
    assert metrics.sum("certificate_refused", certificate=str(own.cert)) == 1
    await assert_gets(gateway, own.authority)
    # What is put back is no news, and no longer refused.
    own.cert.write_bytes(before)
    await asyncio.to_thread(gateway.settle_count, "certificate_refused", 0)
    assert gateway.metrics().sum("certificate_changes_total", outcome="loaded") == 0
    await assert_gets(gateway, own.authority)


def test_check_and_run_name_files_that_are_closed_to_the_user(as_root, tmp_path, start, renewals):
    own = renewals("own")
    gateway = start(cert=own.cert, key=own.key, user="nobody")
    await_log(gateway, f"{own.key} cannot be read after privileges were given up")
    done = ringway("check", gateway.folder / "ringway.toml")
    assert done.returncode == 0
    assert f"warning: {own.key} is closed to the user nobody" in done.stderr, done.stderr
    assert "`chgrp " in done.stderr


@h3.run
async def test_a_dot_at_the_end_of_the_server_name_is_ignored(start):
    gateway = start(extra='\n[tls]\nunknown_server_name = "refuse"\n')
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], server_name="e2e.test.",
        verify_mode=ssl.CERT_NONE,
    )
    async with connect("127.0.0.1", gateway.port, configuration=configuration):
        pass
    assert gateway.metrics().sum("handshakes_total", outcome="completed") == 1


def test_curl_gets_the_certificate_that_it_verifies(has_curl, start, certificate, tmp_path):
    folder = tmp_path / "rsa"
    folder.mkdir()
    rsa = certificates.make(folder, new_key=certificates.rsa_key)
    gateway = start(extra=more(rsa.cert, rsa.key, "e2e.test"))
    # The authorities differ, so that curl accepts one certificate only.
    for schemes, authority in (("RSA-PSS+SHA256", rsa.authority),
                               ("ECDSA+SHA256", certificate.authority),
                               ("RSA-PSS+SHA256:ECDSA+SHA256", certificate.authority)):
        done = subprocess.run(
            [*curl.command(), "--http3-only", "--silent", "--show-error", "--noproxy", "*",
             "--sigalgs", schemes,
             "--resolve", f"e2e.test:{gateway.port}:127.0.0.1",
             "--cacert", str(authority), "--output", "/dev/null", "--write-out", "%{http_code}",
             f"https://e2e.test:{gateway.port}/head/only"],
            capture_output=True, text=True, timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "200"), (schemes, done.stderr)


def stapled_status(gateway) -> str | None:
    """Returns what the stapled statement says of the certificate; `None` without a statement."""
    openssl = [*curl.command()[:-1], "openssl"]
    done = subprocess.run(
        [*openssl, "s_client", "-quic", "-alpn", "h3", "-status", "-servername", "e2e.test",
         "-CAfile", str(gateway.authority), "-connect", f"127.0.0.1:{gateway.port}"],
        input="", capture_output=True, text=True, timeout=60,
    )
    if "OCSP response: no response sent" in done.stdout:
        return None
    found = re.search(r"Cert Status: (\w+)", done.stdout)
    assert found, done.stdout + done.stderr
    return found[1]


def test_a_statement_of_the_authority_is_stapled_and_follows_its_file(has_curl, start, renewals):
    own = renewals("own")
    file = own.cert.with_suffix(".ocsp")
    file.write_bytes(own.statement())
    # The key is followed by another one of its table.
    gateway = start(cert=own.cert, key=f'{own.key}"\nocsp = "{file}')
    gateway.authority = own.authority
    assert stapled_status(gateway) == "good"
    # One that has expired would have clients refuse the certificate.
    file.write_bytes(own.statement(days=-1))
    await_log(gateway, "has expired, and is not stapled")
    assert stapled_status(gateway) is None
    file.write_bytes(own.statement(days=3))
    gateway.settle_count("certificate_changes_total", 2, outcome="loaded")
    assert stapled_status(gateway) == "good"
    file.write_bytes(own.statement(ocsp.OCSPCertStatus.REVOKED))
    await_log(gateway, f"{file}: says that the certificate is revoked")
    assert stapled_status(gateway) == "good"


def test_statements_about_other_certificates_are_refused(tmp_path, renewals):
    own, other = renewals("own"), renewals("other")
    file = own.cert.with_suffix(".ocsp")
    configuration = Gateway(tmp_path, "127.0.0.1:1", own,
                            key=f'{own.key}"\nocsp = "{file}').configure()
    for content, told in (
        (other.statement(), "about another certificate"),
        (own.statement(ocsp.OCSPCertStatus.REVOKED), "is revoked"),
        (own.cert.read_bytes(), "is no response of OCSP"),
    ):
        file.write_bytes(content)
        done = ringway("check", configuration)
        assert done.returncode == 1 and f"{file}: " in done.stderr, done.stderr
        assert told in done.stderr, done.stderr
    file.write_bytes(own.statement())
    assert ringway("check", configuration).returncode == 0
