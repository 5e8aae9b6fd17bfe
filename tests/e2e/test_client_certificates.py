"""Certificates of clients, by curl over each protocol, aioquic and OpenSSL: who is served, what
upstreams are told, and what a reload or a revocation changes."""

import base64
import json
import pathlib
import ssl
import subprocess
import time

import pytest
from cryptography.hazmat.primitives import hashes, serialization

from harness import certificates, h3, tcp
from harness.curl import Curl
from harness.gateway import binary, free_ports
from harness.h3 import AUTHORITY

PROTOCOLS = {"--http3-only": "HTTP/3", "--http2": "HTTP/2", "--http1.1": "HTTP/1.1"}
"""The options of curl, and the names in the access log."""
FIELDS = {
    "subject": "x-client-subject", "san": "x-client-san", "serial": "x-client-serial",
    "fingerprint": "x-client-fingerprint", "certificate": "client-cert",
}

pytestmark = pytest.mark.usefixtures("has_curl", "has_curl_with_http2")


def settings(mode: str, ca: pathlib.Path, crl: pathlib.Path | None = None) -> str:
    """Returns the setting `listener` of a gateway."""
    fields = ", ".join(f'{fact} = "{name}"' for fact, name in FIELDS.items())
    lists = f'"{crl}"' if crl else "[]"
    return (
        f'{tcp.LISTENER}\ntls.client_auth.mode = "{mode}"\ntls.client_auth.ca = "{ca}"\n'
        f"tls.client_auth.crl = {lists}\ntls.client_auth.headers = {{ {fields} }}"
    )


@pytest.fixture
def authority(tmp_path) -> certificates.ClientAuthority:
    return certificates.ClientAuthority(tmp_path, "own")


@pytest.fixture(params=PROTOCOLS)
def protocol(request) -> str:
    return request.param


def shown(identity: certificates.Identity | None) -> list[str]:
    """Returns the options of curl that show a certificate."""
    return [] if identity is None else ["--cert", str(identity.cert), "--key", str(identity.key)]


def ask(gateway, protocol: str, identity=None, *arguments: str) -> dict[str, list[str]] | None:
    """Returns the fields that the upstream got, or `None` if the connection failed."""
    done = Curl(gateway, protocol=protocol).run("/head", *shown(identity), *arguments)
    if done.returncode != 0:
        return None
    fields: dict[str, list[str]] = {}
    for field, value in json.loads(done.stdout)["fields"]:
        fields.setdefault(field, []).append(value)
    return fields


def test_upstreams_are_told_who_the_client_is(protocol, start, authority):
    client = authority.issue("alice")
    gateway = start(listener=settings("require", authority.pem))
    # Whatever it says itself is not passed on.
    lies = [part for name in FIELDS.values() for part in ("-H", f"{name}: root")]
    fields = ask(gateway, protocol, client, *lies)
    told = {fact: fields[name] for fact, name in FIELDS.items()}
    assert told == {
        "subject": ["CN=alice,O=Clients\\, Inc.,C=CH"],
        "san": ["DNS:alice.clients.test, URI:spiffe://clients.test/alice"],
        "serial": [openssl("x509", "-in", client.cert, "-noout", "-serial").split("=")[1]],
        "fingerprint": [client.leaf.fingerprint(hashes.SHA256()).hex()],
        "certificate": [f":{base64.b64encode(client.der).decode()}:"],
    }
    subject = openssl("x509", "-in", client.cert, "-noout", "-subject", "-nameopt", "RFC2253")
    assert subject == f"subject={told['subject'][0]}"
    line = gateway.access_lines(1)[0]
    assert line["client_subject"] == told["subject"][0]
    assert line["protocol"] == PROTOCOLS[protocol]


def openssl(*arguments) -> str:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_each_refusal_is_counted_by_its_reason(protocol, start, authority, tmp_path):
    crl = tmp_path / "own.crl"
    revoked = authority.issue("mallory")
    crl.write_bytes(authority.revoke(revoked))
    other = certificates.ClientAuthority(tmp_path, "other")
    gateway = start(listener=settings("require", authority.pem, crl))
    assert ask(gateway, protocol, authority.issue("alice")) is not None
    family = "handshake_failures" if protocol == "--http3-only" else "tcp_handshake_failures"
    for identity, reason in [
        (None, "missing"),
        (revoked, "revoked"),
        (authority.issue("bob", days=-1), "expired"),
        (other.issue("eve"), "untrusted"),
    ]:
        assert ask(gateway, protocol, identity) is None, reason
        gateway.settle_count(f"{family}_total", 1, reason=f"client_certificate_{reason}")
    text = gateway.text()
    for words in ("is in a list of client_auth.crl", "it has expired", "add its authority there",
                  "CN=mallory,O=Clients", "CN=bob,O=Clients", "CN=eve,O=Clients"):
        assert words in text, words
    assert len(gateway.access_lines(1)) == 1


def test_an_optional_certificate_is_told_if_it_is_shown(protocol, start, authority, tmp_path):
    gateway = start(listener=settings("optional", authority.pem))
    lies = [part for name in FIELDS.values() for part in ("-H", f"{name}: root")]
    fields = ask(gateway, protocol, None, *lies)
    assert not set(FIELDS.values()) & set(fields), fields
    assert "client_subject" not in gateway.access_lines(1)[0]
    assert ask(gateway, protocol, authority.issue("alice"))["x-client-subject"]
    stranger = certificates.ClientAuthority(tmp_path, "other").issue("eve")
    assert ask(gateway, protocol, stranger) is None


ROUTE = """
[[routes]]
match = {{ host = "localhost" }}
client_auth = "require"
upstream = "origin"
[[listeners]]
name = "open"
address = "127.0.0.1:{port}"
protocols = ["h3", "h2", "http/1.1"]
"""


def test_a_route_that_needs_a_certificate_has_no_way_around(protocol, start, authority):
    port = free_ports()[0]
    gateway = start(listener=settings("optional", authority.pem), extra=ROUTE.format(port=port))
    lies = ["-H", "x-client-subject: root", "-H", "host: localhost"]
    guarded, client = gateway.port, authority.issue("alice")
    for at, identity, status in (
        (guarded, client, "200"), (guarded, None, "403"), (port, None, "403"), (port, client, "403")
    ):
        gateway.port = at
        run = Curl(gateway, protocol=protocol)
        done = run.run("/head", *shown(identity), *lies, "--write-out", "%{http_code}",
                       "--output", "/dev/null")
        assert done.stdout.decode() == status, (at, identity, done)
    outcomes = [line["outcome"] for line in gateway.access_lines(4)]
    assert outcomes[1:] == ["client_certificate_required"] * 3
    # The other routes are served on both, and what the open one is told is no certificate.
    gateway.port = port
    assert "x-client-subject" not in ask(gateway, protocol, None, *lies[:2])


@h3.run
async def test_aioquic_shows_a_certificate_and_resumes_no_session(start, authority):
    client = authority.issue("alice")
    port = free_ports()[0]
    open_listener = f'[[listeners]]\nname = "open"\naddress = "127.0.0.1:{port}"\n'
    gateway = start(listener=settings("require", authority.pem), extra=open_listener)
    own = {
        "certificate": client.leaf,
        "private_key": serialization.load_pem_private_key(client.key.read_bytes(), None),
    }
    tickets: list = []
    async with h3.connection(gateway, keep_ticket=tickets.append, **own) as connection:
        response = await connection.get("/head")
        fields = dict(map(tuple, json.loads(response.text)["fields"]))
        assert fields["x-client-subject"].startswith("CN=alice,")
    assert tickets == []
    # A ticket of a listener that asks for nothing is worth nothing here.
    guarded, gateway.port = gateway.port, port
    async with h3.connection(gateway, keep_ticket=tickets.append) as connection:
        assert (await connection.get("/head/only")).status == 200
    assert len(tickets) == 1
    async with h3.connection(gateway, session_ticket=tickets[0]) as connection:
        assert connection._quic.tls.session_resumed
    gateway.port = guarded
    async with h3.connection(gateway, session_ticket=tickets[0], **own) as connection:
        assert (await connection.get("/head/only")).status == 200
        assert not connection._quic.tls.session_resumed
    # The client takes the handshake for complete before its certificate is missed.
    async with h3.connection(gateway, session_ticket=tickets[0]) as connection:
        response = await connection.get("/head/only")
        assert response.end == "connection" and response.status is None
        assert connection.closed.error_code == 0x100 + 116  # certificate_required


def s_client(port: int, authority: pathlib.Path, *options) -> str:
    """Returns what openssl says of a connection with one request."""
    command = [
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", AUTHORITY,
        "-CAfile", authority, "-verify_return_error", "-ign_eof", *options,
    ]
    request = f"GET /head/only HTTP/1.1\r\nhost: {AUTHORITY}\r\nconnection: close\r\n\r\n"
    done = subprocess.run(list(map(str, command)), input=request, capture_output=True, text=True,
                          timeout=30)
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_cannot_resume_past_a_certificate(version, start, authority, tmp_path):
    client, crl = authority.issue("alice"), tmp_path / "own.crl"
    crl.write_bytes(authority.revoke())
    port = free_ports()[1]
    open_listener = (
        f'[[listeners]]\nname = "open"\naddress = "127.0.0.1:{port}"\n'
        'protocols = ["http/1.1"]\n'
    )
    gateway = start(listener=settings("require", authority.pem, crl), extra=open_listener)
    own = ("-cert", client.cert, "-key", client.key)
    session = tmp_path / "session"

    def connect(port, *options):
        return s_client(port, gateway.authority, version, *options)

    assert "HTTP/1.1 200" in connect(port, "-sess_out", session)
    assert "Reused, " in connect(port, "-sess_in", session)
    text = connect(gateway.port, "-sess_in", session)
    assert "HTTP/1.1 200" not in text and "alert" in text, text
    text = connect(gateway.port, "-sess_in", session, *own)
    assert "HTTP/1.1 200" in text and "Reused, " not in text, text
    # A session with a certificate is not continued, so a revocation is seen by the next connection.
    kept = tmp_path / "kept"
    assert "HTTP/1.1 200" in connect(gateway.port, "-sess_out", kept, *own)
    if kept.exists():
        assert "Reused, " not in connect(gateway.port, "-sess_in", kept, *own)
    crl.write_bytes(authority.revoke(client))
    gateway.settle_count("certificate_changes_total", 1, outcome="loaded")
    resumed = ("-sess_in", kept) if kept.exists() else ()
    text = connect(gateway.port, *resumed, *own)
    assert "HTTP/1.1 200" not in text and "certificate revoked" in text, text


def test_changed_files_are_used_and_broken_ones_are_not(start, authority, tmp_path):
    other = certificates.ClientAuthority(tmp_path, "other")
    alice, eve = authority.issue("alice"), other.issue("eve")
    ca, crl = tmp_path / "ca.pem", tmp_path / "ca.crl"
    ca.write_bytes(authority.pem.read_bytes())
    crl.write_bytes(authority.revoke())
    gateway = start(listener=settings("require", ca, crl), workers=2)

    def served() -> list[bool]:
        return [ask(gateway, "--http2", who) is not None for who in (alice, eve)]

    assert served() == [True, False]
    metrics = gateway.metrics()
    for path, days in ((ca, 30), (crl, 7)):
        name = "certificate_not_after_timestamp_seconds"
        left = metrics.sum(name, certificate=str(path)) - time.time()
        assert days - 1 < left / 86400 <= days, path
    ca.write_bytes(eve.cert.read_bytes())
    gateway.settle_count("certificate_changes_total", 1, outcome="refused")
    assert '"eve" is not the certificate of an authority' in gateway.text()
    assert served() == [True, False]
    ca.write_bytes(other.pem.read_bytes())
    crl.write_bytes(other.revoke())
    gateway.settle_count("certificate_changes_total", 1, outcome="loaded")
    assert served() == [False, True]
    # Its list has expired: nobody of the authority is served any more.
    crl.write_bytes(other.revoke(days=-1))
    gateway.settle_count("certificate_changes_total", 2, outcome="loaded")
    assert served() == [False, False]
    assert "fetch the current" in gateway.text()


def reload(gateway, listener: str) -> subprocess.CompletedProcess:
    gateway.settings["listener"] = listener
    command = [str(binary()), "reload", "--config", str(gateway.configure())]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_reload_turns_certificates_on_and_off(protocol, start, authority, tmp_path):
    gateway = start(listener=tcp.LISTENER)
    assert ask(gateway, protocol) is not None
    done = reload(gateway, settings("require", authority.pem))
    assert done.returncode == 0 and "tls.client_auth.mode" in done.stdout, done
    assert ask(gateway, protocol) is None
    assert ask(gateway, protocol, authority.issue("alice"))["x-client-subject"]
    done = reload(gateway, settings("require", tmp_path / "gone.pem"))
    assert done.returncode != 0 and "gone.pem: cannot be read" in done.stderr, done
    assert ask(gateway, protocol) is None, "what ran before goes on"
    assert reload(gateway, tcp.LISTENER).returncode == 0
    assert ask(gateway, protocol) is not None


def test_check_and_the_oldest_version(start, authority):
    listener = tcp.LISTENER + '\ntls.min_version = "1.3"'
    gateway = start(listener=listener)
    for newest, is_served in ((ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)):
        context = tcp.context(gateway, "http/1.1", newest=newest)
        try:
            with tcp.Client(gateway.port, context) as client:
                assert client.ask(tcp.head("GET", "/head/only")).status == 200
        except ssl.SSLError as error:
            assert not is_served and "PROTOCOL_VERSION" in str(error).upper()
        else:
            assert is_served
    gateway.settings["listener"] = settings("optional", authority.pem)
    command = [str(binary()), "check", "--config", str(gateway.configure())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    expected = f'{authority.pem}: authorities of the clients of "edge": "own"; no revocation list'
    assert expected in done.stdout, done.stdout
