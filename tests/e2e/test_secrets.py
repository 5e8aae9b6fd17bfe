"""Secrets: the keys of connections in a log, the modes of key files, and who reaches the admin
endpoint."""

import shutil
import subprocess

import pytest

from harness import h3
from harness.gateway import Gateway, binary


def ringway(verb: str, configuration, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([str(binary()), verb, "--config", str(configuration)],
                          capture_output=True, text=True, timeout=20, **settings)


@h3.run
async def test_the_key_log_has_the_secrets_that_the_client_has(start, tmp_path):
    path = tmp_path / "keys.log"
    gateway = start(tls_keys=path)
    assert f"log.tls_keys is set: the secrets of EVERY connection are written to {path}" in (
        gateway.text())
    assert path.stat().st_mode & 0o777 == 0o600
    client_path = tmp_path / "client.log"
    with client_path.open("w") as client_log:
        async with h3.connection(gateway, secrets_log_file=client_log) as client:
            assert (await client.get("/bytes/10")).status == 200
    of_client = set(client_path.read_text().splitlines())
    assert {line.split()[0] for line in of_client} == {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0",
    }
    assert of_client <= set(path.read_text().splitlines())


@h3.run
async def test_the_environment_alone_logs_no_keys(start, tmp_path):
    path = tmp_path / "keys.log"
    gateway = start(environment={"SSLKEYLOGFILE": str(path)})
    async with h3.connection(gateway) as client:
        assert (await client.get("/bytes/10")).status == 200
    line, = (line for line in gateway.text().splitlines() if "SSLKEYLOGFILE" in line)
    assert "ignored" in line and "log.tls_keys" in line
    assert not path.exists()


def test_a_key_log_that_cannot_be_opened_is_refused(tmp_path, certificate):
    path = tmp_path / "gone" / "keys.log"
    done = ringway("run", Gateway(tmp_path, "127.0.0.1:1", certificate, tls_keys=path).configure())
    assert done.returncode == 3, done.stderr
    assert f"ringway: {path}: " in done.stderr and "log.tls_keys" in done.stderr


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o606])
@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_key_that_others_may_use_is_refused(tmp_path, certificate, verb, mode):
    key = tmp_path / "open.key"
    shutil.copy(certificate.key, key)
    key.chmod(mode)
    done = ringway(verb, Gateway(tmp_path, "127.0.0.1:1", certificate, key=key).configure())
    assert done.returncode == 1, done.stderr
    line, = (line for line in done.stderr.splitlines() if line.startswith("ringway: "))
    assert f"mode {mode:04o}" in line and f"`chmod 600 {key}`" in line


def test_an_admin_endpoint_for_other_hosts_is_refused(tmp_path, certificate):
    configuration = Gateway(tmp_path, "127.0.0.1:1", certificate).configure()
    text = configuration.read_text()
    start = text.index("listen = ") + len('listen = "')
    open_to_all = text[:start] + "0.0.0.0" + text[text.index(":", start):]
    configuration.write_text(open_to_all)
    done = ringway("check", configuration)
    assert done.returncode == 1 and "admin.listen" in done.stderr, done.stderr
    assert "allow_remote = true" in done.stderr
    configuration.write_text(open_to_all.replace("[admin]", "[admin]\nallow_remote = true"))
    assert ringway("check", configuration).returncode == 0
