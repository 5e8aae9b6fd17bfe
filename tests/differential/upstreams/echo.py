"""The form in which every upstream of this folder reports how it parsed a request.

    METHOD TARGET
    name: value             each field, sorted by lower-case name; equal names in their order

    LENGTH SHA-1            of the body, after its framing was removed
    name: value             each trailer field, where the server exposes them

Lines end with LF and hold bytes as they came. The response has this text as its body, and a field
`x-parsed: CONNECTION INDEX SHA-1` with the number of the connection, that of the request on it
(from 1), and the digest of the text, so that a response to HEAD reports it too.

`GET /.totals`, sent straight to the server, returns the number of requests that it read whole.
"""

import hashlib
import itertools


def lines(fields) -> bytes:
    ordered = sorted(((name.lower(), value) for name, value in fields), key=lambda line: line[0])
    return b"".join(name + b": " + value + b"\n" for name, value in ordered)


def form(method: bytes, target: bytes, fields, body: bytes, trailers=()) -> bytes:
    digest = hashlib.sha1(body).hexdigest().encode()
    return b"%b %b\n%b\n%d %b\n%b" % (
        method, target, lines(fields), len(body), digest, lines(trailers)
    )


class Books:
    """Numbers connections and counts requests."""

    def __init__(self):
        self._connections = itertools.count(1)
        self.total = 0

    def connection(self) -> int:
        return next(self._connections)

    def response(self, parsed: bytes, connection: int, index: int) -> tuple[bytes, bytes]:
        """Counts a request that was read whole. Returns the value of `x-parsed`, and the body."""
        self.total += 1
        digest = hashlib.sha1(parsed).hexdigest()
        return f"{connection} {index} {digest}".encode(), parsed


def http1(status: bytes, parsed: bytes | None, body: bytes, to_head: bool) -> bytes:
    """Writes a response, for servers that are only a parser."""
    own = b"x-parsed: %b\r\n" % parsed if parsed else b""
    head = b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n" % (status, own, len(body))
    return head if to_head else head + body
