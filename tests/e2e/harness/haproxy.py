"""HAProxy as a proxy of TCP connections in front of the gateway."""

import contextlib
import pathlib
import shutil
import socket
import subprocess
import time

from .gateway import free_ports

CONFIGURATION = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend front
    bind 127.0.0.1:{port}
    default_backend gateway
backend gateway
    server gateway 127.0.0.1:{target} {options}
"""


def command() -> str | None:
    return shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@contextlib.contextmanager
def haproxy(folder: pathlib.Path, target: int, options: str):
    """Runs HAProxy before a port, with these options of its server. Yields its own port."""
    port = free_ports()[1]
    file = folder / "haproxy.cfg"
    file.write_text(CONFIGURATION.format(port=port, target=target, options=options))
    process = subprocess.Popen([command(), "-f", str(file), "-db"], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 10
        while True:
            assert process.poll() is None, process.stderr.read().decode()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < end, "HAProxy does not listen"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()
