"""Features of QUIC with other implementations as clients: ciphers, Retry, resumption, key update,
ECN, migration, thousands of streams. Each is checked in the client's own records."""

import asyncio
import hashlib
import json
import re
import socket

import pytest
from aioquic import tls
from aioquic.quic.packet import QuicFrameType, pull_ack_frame

from harness import bodies, h3, ngtcp2
from harness.bodies import KIB, MIB
from harness.curl import Curl
from harness.relay import Relay

GNUTLS_CHACHA20 = "--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305"
FILE_COUNT = 2000
ECT_0 = 2


@h3.run
async def test_chacha20_with_aioquic(gateway):
    only = [tls.CipherSuite.CHACHA20_POLY1305_SHA256]
    async with h3.connection(gateway, cipher_suites=only) as client:
        assert client._quic.tls.key_schedule.cipher_suite == only[0]
        assert (await client.get(f"/bytes/{MIB}")).sha256 == bodies.digest(MIB)


def test_chacha20_with_ngtcp2_and_key_update(has_ngtcp2, gateway, tmp_path):
    done = ngtcp2.fetch(gateway, tmp_path / "client", [3 * MIB], GNUTLS_CHACHA20,
                        "--key-update=3ms")
    assert done.lines("Negotiated cipher suite is CHACHA20-POLY1305")
    assert done.lines("key update confirmed")


def test_chacha20_with_curl(has_curl, gateway):
    done = Curl(gateway).run(f"/bytes/{MIB}", "--tls13-ciphers", "TLS_CHACHA20_POLY1305_SHA256",
                             "--verbose")
    # curl reports what it offers; the response cannot have been encrypted with anything else.
    offered = b"TLS 1.3 cipher selection: TLS_CHACHA20_POLY1305_SHA256\n"
    assert offered in done.stderr, done.stderr.decode()
    assert hashlib.sha256(done.stdout).hexdigest() == bodies.digest(MIB)


@h3.run
async def test_two_thousand_small_files_with_aioquic(gateway):
    async with h3.connection(gateway) as client:
        exchanges = [client.open("GET", f"/bytes/32?seed={seed}") for seed in range(FILE_COUNT)]
        responses = await asyncio.gather(*(exchange.wait() for exchange in exchanges))
    for seed, response in enumerate(responses):
        assert (response.status, response.end) == (200, "clean"), seed
        assert response.sha256 == bodies.digest(32, seed), f"stream {seed} has other bytes"


def test_two_thousand_small_files_with_ngtcp2(has_ngtcp2, gateway, tmp_path):
    ngtcp2.fetch(gateway, tmp_path / "client", range(1, FILE_COUNT + 1), "--quiet")
    metrics = gateway.metrics()
    assert metrics.sum("requests_total") == FILE_COUNT
    assert metrics.sum("connections_accepted_total") == 1


def test_two_thousand_small_files_with_curl(has_curl, gateway, tmp_path):
    done = Curl(gateway).run(
        f"/bytes/32?seed=[0-{FILE_COUNT - 1}]", "--parallel", "--parallel-max", "100",
        "--output", str(tmp_path / "body-#1"),
    )
    assert done.returncode == 0, done.stderr.decode()
    for seed in range(FILE_COUNT):
        body = (tmp_path / f"body-{seed}").read_bytes()
        assert hashlib.sha256(body).hexdigest() == bodies.digest(32, seed), seed


def test_retry(has_ngtcp2, has_curl, start, host, tmp_path):
    """Each client gets one Retry and is accepted with its token."""
    gateway = start(retry="always", workers=2)

    async def by_aioquic():
        async with h3.connection(gateway, host) as client:
            assert client._quic._retry_count == 1
            assert (await client.get("/bytes/5000")).sha256 == bodies.digest(5000)

    asyncio.run(by_aioquic())
    done = ngtcp2.fetch(gateway, tmp_path / "client", [5000], host=host)
    assert len(done.lines("pkt rx", "type=Retry")) == 1
    assert Curl(gateway, host).download("/bytes/5000") == (0, 5000, bodies.digest(5000))
    metrics = gateway.metrics()
    # curl's ClientHello, with its post-quantum key, takes two datagrams.
    assert metrics.sum("stateless_responses_total", kind="retry") in (3, 4)
    assert metrics.sum("connections_accepted_total") == 3


def test_retry_over_a_bad_network(start, tmp_path):
    """A Retry is lost, and then the Initial that follows. Each is repeated once, and there is one
    connection."""
    gateway = start(retry="always")

    async def by_aioquic():
        async with h3.connection(relay) as client:
            assert (await client.get("/bytes/5000")).sha256 == bodies.digest(5000)

    with Relay(gateway, drop_down=[1], drop_up=[3]) as relay:
        asyncio.run(by_aioquic())
    assert (relay.up.lost, relay.down.lost) == (1, 1)
    assert gateway.metrics().sum("stateless_responses_total", kind="retry") == 2
    assert gateway.metrics().sum("connections_accepted_total") == 1


@pytest.mark.parametrize("workers", [1, 2])
@h3.run
async def test_resumption_with_aioquic(start, workers):
    """The second handshake sends no certificate, whichever worker it reaches."""
    gateway = start(workers=workers)
    tickets = []
    async with h3.connection(gateway, keep_ticket=tickets.append) as client:
        assert not client._quic.tls.session_resumed
        assert (await client.get("/bytes/100")).status == 200
    assert tickets, "no session ticket came"
    for _ in range(4):
        async with h3.connection(gateway, session_ticket=tickets[0]) as client:
            assert client._quic.tls.session_resumed
            assert client._quic.tls._peer_certificate is None
            assert (await client.get("/bytes/100")).sha256 == bodies.digest(100)


def test_resumption_with_ngtcp2(has_ngtcp2, gateway, certificate, tmp_path):
    options = [f"--session-file={tmp_path / 'session'}", f"--tp-file={tmp_path / 'parameters'}",
               "--wait-for-ticket", "--disable-early-data"]

    def handshake_len(name: str) -> int:
        """Returns the length of the gateway's CRYPTO data in Handshake packets, which includes its
        certificate."""
        done = ngtcp2.fetch(gateway, tmp_path / name, [100], *options)
        lines = done.lines("frm rx", "Handshake CRYPTO")
        return sum(int(re.search(r"len=(\d+)", line)[1]) for line in lines)

    first, second = handshake_len("first"), handshake_len("second")
    certificate_len = len(certificate.cert.read_bytes()) * 3 // 5  # of the DER, about
    assert second < certificate_len < first


@h3.run
async def test_key_update_with_aioquic(gateway):
    async with h3.connection(gateway) as client:
        keys = client._quic._cryptos[tls.Epoch.ONE_RTT]
        for number in range(1, 9):
            client._quic.request_key_update()
            response = await client.get(f"/bytes/{300 * KIB}?seed={number}")
            assert response.sha256 == bodies.digest(300 * KIB, number)
            assert keys.send.key_phase == keys.recv.key_phase == number % 2, (
                f"after {number} updates: we {keys.send.key_phase}, they {keys.recv.key_phase}"
            )
        response = await client.post("/echo", MIB)
        assert response.sha256 == bodies.digest(MIB)


def test_key_update_with_ngtcp2(has_ngtcp2, gateway, tmp_path):
    """Keys are updated while packets of both key phases are in flight and some are lost."""
    with Relay(gateway, delay=10, loss=0.03) as relay:
        done = ngtcp2.fetch(relay, tmp_path / "client", [600 * KIB], "--key-update=60ms")
    assert done.lines("key update confirmed")
    assert done.lines("pkt rx", "k=0") and done.lines("pkt rx", "k=1")
    assert relay.down.lost > 3


def test_ecn_marks(has_ngtcp2, gateway, host, tmp_path):
    """Every datagram is marked in both directions, and acknowledgements report the marks."""
    with Relay(gateway, host, delay=2) as relay:
        done = ngtcp2.fetch(relay, tmp_path / "client", [300 * KIB], host=host)
    assert relay.down.ect == relay.down.seen > 200
    assert relay.up.ect == relay.up.seen
    told = done.lines("frm rx", "ACK", "ect0=")
    assert told and int(re.search(r"ect0=(\d+)", told[-1])[1]) > 10


def test_ecn_congestion_marks_are_reported_and_obeyed(has_ngtcp2, gateway, tmp_path):
    with Relay(gateway, delay=2, ce=0.1) as relay:
        done = ngtcp2.fetch(relay, tmp_path / "client", [600 * KIB])
    assert relay.up.ce_made > 3 and relay.down.ce_made > 10
    told = done.lines("frm rx", "ACK", "ce=")
    assert 0 < int(re.search(r"\bce=(\d+)", told[-1])[1]) <= relay.up.ce_made
    # Both sides still mark their datagrams, so the reported counts were accepted.
    assert relay.down.ect == relay.down.seen


def test_ecn_marking_stops_on_a_path_that_clears_marks(has_ngtcp2, gateway, tmp_path):
    """RFC 9000 13.4.2: an endpoint stops marking if the marks do not arrive."""
    with Relay(gateway, delay=2, bleach=True) as relay:
        ngtcp2.fetch(relay, tmp_path / "client", [600 * KIB])
    assert 0 < relay.down.ect < relay.down.seen / 2


@pytest.mark.parametrize("begins_at", [0, 0.3])
def test_a_network_that_drops_marked_datagrams_costs_the_marks_only(
        has_ngtcp2, gateway, tmp_path, begins_at):
    """From the start, and in the middle of a download of a second."""
    with Relay(gateway, delay=5, rate=10, drop_marked=begins_at) as relay:
        ngtcp2.fetch(relay, tmp_path / "client", [1200 * KIB], seconds=10)
    assert 0 < relay.down.lost
    assert 0 < relay.down.ect < relay.down.seen


def marked_and_watched(client) -> list[tuple[int, int, int]]:
    """Makes the client mark its datagrams as ECT(0), which aioquic does not do by itself. Returns a
    list that grows with each acknowledgement's counts of ECT(0), ECT(1) and CE."""
    socket_of_it = client._transport.get_extra_info("socket")
    for option in ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)):
        socket_of_it.setsockopt(*option, ECT_0)
    told = []
    handlers = client._quic._QuicConnection__frame_handlers
    handle, epochs = handlers[QuicFrameType.ACK_ECN]

    def watch(context, kind, buffer):
        at = buffer.tell()
        pull_ack_frame(buffer)
        told.append(tuple(buffer.pull_uint_var() for _ in range(3)))
        buffer.seek(at)
        handle(context, kind, buffer)

    handlers[QuicFrameType.ACK_ECN] = (watch, epochs)
    return told


@h3.run
async def test_ecn_marks_of_aioquic_are_counted(gateway, host):
    """The gateway reports the marks that it receives, CE separately. This client reports no marks,
    so the gateway stops marking (RFC 9000 13.4.2.1)."""
    with Relay(gateway, host, delay=2, ce=0.1) as relay:
        async with h3.connection(relay, host) as client:
            told = marked_and_watched(client)
            response = await client.post("/echo", 600 * KIB)
            assert response.sha256 == bodies.digest(600 * KIB)
    ect_0, ect_1, ce = told[-1]
    assert relay.up.ce_made > 10
    assert relay.up.ce_made / 2 < ce <= relay.up.ce_made
    assert relay.up.ect / 2 < ect_0 + ce <= relay.up.ect
    assert ect_1 == 0
    assert told == sorted(told), "a count fell"
    assert 0 < relay.down.ect < relay.down.seen / 2


def test_ecn_marking_stops_for_curl_which_reports_no_counts(has_curl, gateway, host):
    with Relay(gateway, host, delay=2, ce=0.1) as relay:
        done = Curl(relay, host).download(f"/bytes/{MIB}")
    assert done == (0, MIB, bodies.digest(MIB))
    assert 0 < relay.down.ect < relay.down.seen / 2


def moved_upload(gateway, folder, host, *options) -> ngtcp2.Run:
    """Runs an upload during which the client changes its port, and which continues well after
    that."""
    length = 32 * MIB
    file = folder / "body"
    with file.open("wb") as out:
        out.writelines(bodies.pieces(length))
    done = ngtcp2.run(gateway, folder / "client", ["/upload"], "-m", "POST", "--data", str(file),
                      "--change-local-addr=20ms", *options, host=host, seconds=20)
    response = done.folder / "upload"
    assert response.exists(), done.log[-3000:]
    seen = json.loads(response.read_text())
    assert (seen["length"], seen["sha256"]) == (length, bodies.digest(length))
    assert done.lines("Changing local address"), "it was over before the client moved"
    return done


def test_migration_with_ngtcp2(has_ngtcp2, start, host, tmp_path):
    """The client probes the new path, then migrates (RFC 9000 9.2) and uses a new connection id."""
    gateway = start(workers=2)
    done = moved_upload(gateway, tmp_path, host)
    ids = {re.search(r"dcid=(\S+)", line)[1] for line in done.lines("pkt tx", "type=1RTT")}
    assert len(ids) >= 2, "it went on under the same connection id"
    assert done.lines("frm rx", "PATH_RESPONSE"), "the gateway did not respond"
    assert done.lines("frm rx", "PATH_CHALLENGE"), "the gateway did not ask"
    assert gateway.metrics().sum("connections_accepted_total") == 1


def test_nat_rebinding_with_ngtcp2(has_ngtcp2, start, host, tmp_path):
    """The client continues from the new port under the same connection id. The gateway validates
    the new path."""
    gateway = start(workers=2)
    done = moved_upload(gateway, tmp_path, host, "--nat-rebinding")
    assert done.lines("frm rx", "PATH_CHALLENGE"), "the gateway did not ask"
    assert done.lines("frm tx", "PATH_RESPONSE")
    assert gateway.metrics().sum("connections_accepted_total") == 1
