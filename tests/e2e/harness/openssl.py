"""`openssl s_client` as a client of TLS over TCP that keeps sessions and sends early data."""

import dataclasses
import pathlib
import re
import subprocess

from .h3 import AUTHORITY

VERSIONS = ("tls1_2", "tls1_3")
"""The names of the versions, as options of s_client."""


@dataclasses.dataclass
class Visit:
    """One connection, and all that s_client wrote."""

    text: str

    @property
    def resumed(self) -> bool:
        found = re.search(r"^(New|Reused), (TLSv1\.[23])", self.text, re.MULTILINE)
        assert found, self.text
        return found[1] == "Reused"

    @property
    def early_data(self) -> str:
        """What became of early data: "accepted", "rejected" or "not sent"."""
        found = re.search(r"^Early data was (.*)$", self.text, re.MULTILINE)
        assert found, self.text
        return found[1]

    def has_response(self, status: int) -> bool:
        return f"HTTP/1.1 {status} " in self.text


def visit(
    gateway, version: str, *, keep: pathlib.Path | None = None, use: pathlib.Path | None = None,
    early: bytes | None = None, late: bytes = b"", port: int | None = None, alpn: str = "http/1.1",
) -> Visit:
    """Connects, sends `early` in the first flight and `late` after the handshake, and reads to the
    end: the last request has to close its connection. `keep` and `use` are files of a session."""
    command = [
        "openssl", "s_client", "-connect", f"127.0.0.1:{port or gateway.port}", f"-{version}",
        "-servername", AUTHORITY, "-CAfile", str(gateway.authority), "-verify_return_error",
        "-alpn", alpn, "-ign_eof",
    ]
    if keep:
        command += ["-sess_out", str(keep)]
    if use:
        command += ["-sess_in", str(use)]
    if early is not None:
        file = gateway.folder / "early"
        file.write_bytes(early)
        command += ["-early_data", str(file)]
    done = subprocess.run(command, input=late, capture_output=True, timeout=30)
    return Visit(done.stdout.decode("latin-1") + done.stderr.decode("latin-1"))
