"""Fixtures, and a hook that turns skipped tests into failures when CI is set."""

import dataclasses
import os
import platform

import pytest

pytest.register_assert_rewrite("harness")

from harness import certificates, curl, ngtcp2
from harness.gateway import Gateway, Origin, binary
from harness.host import IPV6_ADDRESSES, own_network
from harness.recorder import Recorder


def pytest_sessionstart(session):
    if not binary().is_file() and not session.config.option.collectonly:
        pytest.exit(
            f"{binary()} is not there: `cargo build --release` makes it, or name another one "
            "with RINGWAY_BIN", returncode=2,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def network():
    """A network namespace of the test's own, with loopback only. A test that uses it must name it
    before everything that starts a process in it."""
    with own_network():
        yield


@pytest.fixture
def ipv6_addresses():
    """Addresses on a loopback interface in a namespace of the test's own. A test that uses it must
    name it before `gateway`, so that the gateway starts in the namespace."""
    with own_network():
        yield IPV6_ADDRESSES


@pytest.fixture
def origin(tmp_path):
    origin = Origin(tmp_path)
    yield origin
    origin.stop()


@pytest.fixture
def recorder():
    """An upstream that keeps the bytes of each request, and responds to all of them alike."""
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture
def start(tmp_path, origin, certificate):
    """Returns a function that starts gateways with the given settings. At the end of the test each
    is stopped, and must not have panicked."""
    started = []

    def start(**settings) -> Gateway:
        folder = tmp_path / f"gateway{len(started)}"
        folder.mkdir()
        settings.setdefault("origin", origin.address)
        gateway = Gateway(folder, certificate=certificate, **settings)
        started.append(gateway)
        return gateway.start()

    yield start
    for gateway in started:
        code = gateway.stop()
        assert code in (0, None), f"exit code {code}:\n{gateway.text()}"
        assert "panicked" not in gateway.text(), gateway.text()


@pytest.fixture
def gateway(start) -> Gateway:
    return start()


@pytest.fixture
def renewed(tmp_path, certificate):
    """The certificate of the session and another one, and an authority file that has both roots."""
    folder = tmp_path / "renewed"
    folder.mkdir()
    other = certificates.make(folder)
    both = folder / "both.pem"
    both.write_bytes(certificate.authority.read_bytes() + other.authority.read_bytes())
    return [dataclasses.replace(one, authority=both) for one in (certificate, other)]


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def host(request):
    return request.param


@pytest.fixture
def as_root():
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")


@pytest.fixture
def has_curl():
    if curl.command() is None:
        pytest.skip("no curl with HTTP/3: `scripts/trixie make` as root fetches one")


@pytest.fixture
def has_curl_with_http2():
    if curl.command_with_http2() is None:
        pytest.skip("no curl with HTTP/2")


@pytest.fixture
def has_ngtcp2():
    if ngtcp2.command() is None:
        pytest.skip("no ngtcp2 client: `scripts/trixie make` as root fetches one")


def pytest_report_header():
    return f"binary: {binary()}, kernel: {platform.release()}, curl: {curl.command()}"
