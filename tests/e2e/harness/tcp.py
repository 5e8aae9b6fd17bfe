"""HTTP/1.1 clients that send any bytes, over TCP or TLS, and settings for a gateway that serves
them."""

import dataclasses
import http.client
import socket
import ssl

from .gateway import free_ports
from .h3 import AUTHORITY

LISTENER = 'protocols = ["h3", "h2", "http/1.1"]'
"""The setting `listener` of a gateway with all protocols."""


def plain_listener(more: str = "") -> tuple[int, str]:
    """Returns the port of a listener without TLS, and the setting `extra` that adds it."""
    port = free_ports()[1]
    lines = f'[[listeners]]\nname = "plain"\naddress = "127.0.0.1:{port}"\ntls = false\n{more}\n'
    return port, lines


@dataclasses.dataclass
class Response:
    """One response as a foreign parser reads it."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field.lower() == name]


class _Kept:
    """A connection's reader in the place of a socket: it stays open for the next response."""

    def __init__(self, reader):
        self._reader = reader

    def makefile(self, *_):
        return self

    def close(self):
        pass

    def __getattr__(self, name):
        return getattr(self._reader, name)


class Client:
    """A connection to a port of the gateway on 127.0.0.1; with `tls` a secure one."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, seconds: float = 15,
                 source: str = "127.0.0.1"):
        address, own = ("127.0.0.1", port), (source, 0)
        self.socket = socket.create_connection(address, timeout=seconds, source_address=own)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            try:
                self.socket = tls.wrap_socket(self.socket, server_hostname=AUTHORITY)
            except Exception:
                self.socket.close()
                raise
        self._reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reader.close()
        self.socket.close()

    def send(self, data: bytes):
        self.socket.sendall(data)

    def end(self):
        """Ends our side of the TCP connection, without a close_notify: Python's TLS would not read
        after one."""
        socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def response(self, method: str = "GET") -> Response:
        """Reads the next final response."""
        parsed = http.client.HTTPResponse(_Kept(self._reader), method=method)
        parsed.begin()
        body = parsed.read()
        return Response(parsed.status, parsed.getheaders(), body)

    def line(self) -> bytes:
        return self._reader.readline()

    def rest(self) -> bytes:
        """Reads to the end of the connection."""
        return self._reader.read()

    def ask(self, data: bytes, method: str = "GET") -> Response:
        self.send(data)
        return self.response(method)


def context(gateway, *alpn: str, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """TLS settings of a client that trusts only the tests' certificate authority."""
    settings = ssl.create_default_context(cafile=str(gateway.authority))
    if alpn:
        settings.set_alpn_protocols(list(alpn))
    if newest:
        settings.maximum_version = newest
    return settings


def head(method: str, path: str, *lines: str, version="1.1", host: str | None = AUTHORITY) -> bytes:
    """Returns a request's head."""
    first = [f"{method} {path} HTTP/{version}"] + ([f"host: {host}"] if host else [])
    return "\r\n".join([*first, *lines, "", ""]).encode("latin-1")
