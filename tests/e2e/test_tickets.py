"""Session tickets under keys of a file that gateways share, and its changes."""

import os
import pathlib
import secrets
import time

import pytest

from harness import bodies, h3, openssl, tcp
from harness.gateway import Gateway
from test_reload import ringway

GET = tcp.head("GET", "/bytes/10", "connection: close")


class KeyFile:
    """A file of ticket keys, the newest first."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.keys: list[str] = []
        self.rotate()

    def rotate(self, keep: int = 0):
        """Puts a new key in front, and keeps as many of those that were there."""
        self.keys = [secrets.token_hex(32), *self.keys[:keep]]
        self.write("".join(f"{key}\n" for key in self.keys))

    def write(self, text: str):
        """Replaces the file at once, as a tool that distributes keys does."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        os.replace(new, self.path)

    @property
    def setting(self) -> str:
        return f'[tls]\nticket_keys = "{self.path}"\n'


@pytest.fixture
def keys(tmp_path) -> KeyFile:
    return KeyFile(tmp_path / "tickets.keys")


@pytest.fixture
def pair(start, keys) -> list[Gateway]:
    return [start(listener=tcp.LISTENER, extra=keys.setting) for _ in range(2)]


def wait_for(gateway: Gateway, text: str, count: int = 1):
    end = time.monotonic() + 15
    while gateway.text().count(text) < count:
        assert time.monotonic() < end, gateway.text()
        time.sleep(0.05)


def rotated(pair: list[Gateway], keys: KeyFile, keep: int, count: int):
    """Rotates the keys, and waits until both gateways have read their new file, the `count`th."""
    keys.rotate(keep)
    for gateway in pair:
        wait_for(gateway, "new ticket keys: ", count)


@pytest.mark.parametrize("version", openssl.VERSIONS)
def test_gateways_resume_the_sessions_of_each_other_over_tcp(pair, keys, tmp_path, version):
    session = tmp_path / "session"
    first = openssl.visit(pair[0], version, keep=session, late=GET)
    assert first.has_response(200) and not first.resumed
    for gateway in [*pair, pair[1]]:
        again = openssl.visit(gateway, version, use=session, late=GET)
        assert again.has_response(200) and again.resumed, again.text
    # The key of the ticket moves back, and then is gone.
    rotated(pair, keys, keep=1, count=1)
    assert all(openssl.visit(one, version, use=session, late=GET).resumed for one in pair)
    rotated(pair, keys, keep=1, count=2)
    for gateway in pair:
        visit = openssl.visit(gateway, version, use=session, late=GET)
        assert visit.has_response(200) and not visit.resumed


@h3.run
async def test_gateways_resume_the_sessions_of_each_other_over_quic(pair, keys):
    tickets = []
    async with h3.connection(pair[0], keep_ticket=tickets.append) as client:
        assert (await client.get("/bytes/100")).status == 200

    async def is_resumed(gateway) -> bool:
        async with h3.connection(gateway, session_ticket=tickets[0]) as client:
            assert (await client.get("/bytes/100")).sha256 == bodies.digest(100)
            return client._quic.tls.session_resumed

    assert [await is_resumed(gateway) for gateway in pair] == [True, True]
    rotated(pair, keys, keep=1, count=1)
    assert [await is_resumed(gateway) for gateway in pair] == [True, True]
    rotated(pair, keys, keep=0, count=2)
    assert [await is_resumed(gateway) for gateway in pair] == [False, False]


def test_gateways_without_a_shared_file_do_not(start, tmp_path):
    session = tmp_path / "session"
    pair = [start(listener=tcp.LISTENER) for _ in range(2)]
    openssl.visit(pair[0], "tls1_3", keep=session, late=GET)
    assert openssl.visit(pair[0], "tls1_3", use=session, late=GET).resumed
    assert not openssl.visit(pair[1], "tls1_3", use=session, late=GET).resumed


def test_a_bad_file_keeps_the_keys_and_is_named(start, keys, tmp_path):
    gateway = start(listener=tcp.LISTENER, extra=keys.setting)
    session = tmp_path / "session"
    openssl.visit(gateway, "tls1_3", keep=session, late=GET)
    keys.write("hello\n")
    wait_for(gateway, "the ticket keys before it stay in use")
    assert f"{keys.path}:1: is no key of session tickets" in gateway.text()
    assert openssl.visit(gateway, "tls1_3", use=session, late=GET).resumed
    # A reload of the configuration refuses it too, as `check` and a start would.
    done = ringway("reload", "--config", gateway.folder / "ringway.toml")
    assert done.returncode != 0 and "is no key of session tickets" in done.stderr
    keys.path.chmod(0o644)
    done = ringway("check", "--config", gateway.folder / "ringway.toml")
    assert done.returncode != 0 and "0644" in done.stderr
    # What is repaired is used.
    keys.rotate()
    wait_for(gateway, "new ticket keys: ")
    assert not openssl.visit(gateway, "tls1_3", use=session, late=GET).resumed


def test_a_reload_applies_the_key(start, keys, tmp_path):
    other = start(listener=tcp.LISTENER, extra=keys.setting)
    session = tmp_path / "session"
    openssl.visit(other, "tls1_3", keep=session, late=GET)
    gateway = start(listener=tcp.LISTENER)
    assert not openssl.visit(gateway, "tls1_3", use=session, late=GET).resumed
    gateway.settings["extra"] = keys.setting
    done = ringway("reload", "--config", gateway.configure())
    assert done.returncode == 0, done.stderr
    assert "tls.ticket_keys: " in done.stdout and "ticket keys read: 1 key" in done.stdout
    assert openssl.visit(gateway, "tls1_3", use=session, late=GET).resumed
    done = ringway("reload", "--config", gateway.configure())
    assert "nothing has changed" in done.stdout
