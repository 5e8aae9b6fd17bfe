"""A scripted HTTP/1.1 origin in a process of its own. The path of a request says what it does with
the connection, and it counts what it saw.

    GET  /bytes/N          N bytes with content-length          ?seed=
    GET  /chunked/N        N bytes in chunks of odd lengths     ?trailers=1
    GET  /close/N          N bytes, ended by the connection's end
    GET  /die/N            claims N bytes, ends after some      ?after= &how=fin|rst
    GET  /die-chunked/N    the same with chunks
    GET  /drip/N           N bytes slowly                       ?piece= &pause=
    GET  /slow-head        responds late                        ?seconds=
    GET  /status/CODE      an empty response with that status
    GET  /head             the request's head as JSON
    GET  /hang-up          closes the connection without a response
    POST /upload           {length, sha256, ..} of the body     ?pause= (before each read)
    POST /echo             the body again, as it arrives
    POST /die-upload/N     ends after N bytes of the body       ?how=fin|rst
    POST /refuse           413 at once, the body unread

Run as a program it prints one line of JSON, {"port": .., "control": .., "unix": ..}, and serves
until its standard input ends. The control port responds to any request with the counts.
"""

import argparse
import dataclasses
import hashlib
import http.server
import json
import os
import select
import socket
import socketserver
import struct
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

if __package__:
    from . import bodies
else:  # as a program
    import bodies

READ_LEN = 256 * 1024
HEAD_LEN_MAX = 64 * 1024


@dataclasses.dataclass
class Counts:
    """What the origin saw since it started."""

    connections_accepted: int = 0
    connections_open: int = 0
    requests: int = 0
    uploads_whole: int = 0
    uploads_broken: int = 0
    responses_broken: int = 0


class Broken(Exception):
    """The other side closed in the middle of a message."""


class Request:
    """One request. Its body is read by the code that handles the path."""

    def __init__(self, reader, head: bytes):
        self.reader = reader
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = first.split(" ")
        self.fields = [tuple(part.strip() for part in line.split(":", 1)) for line in lines if line]
        url = urlsplit(self.target)
        self.path = url.path
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        lengths = self.values("content-length")
        self.length = int(lengths[0]) if lengths else None
        self.chunked = [value.lower() for value in self.values("transfer-encoding")] == ["chunked"]
        self.unread = bool(self.length) or self.chunked

    def values(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field.lower() == name]

    def pieces(self):
        """Yields the body as it arrives. Raises `Broken` when it ends early."""
        if self.chunked:
            yield from self._chunks()
        else:
            left = self.length or 0
            while left:
                piece = self.reader.read1(min(left, READ_LEN))
                if not piece:
                    raise Broken(f"{left} bytes of the request are missing")
                left -= len(piece)
                yield piece
        self.unread = False

    def _chunks(self):
        while True:
            line = self.reader.readline(HEAD_LEN_MAX)
            if not line.endswith(b"\r\n"):
                raise Broken(f"no chunk header but {line!r}")
            left = int(line.split(b";")[0], 16)
            if left == 0:
                break
            while left:
                piece = self.reader.read1(min(left, READ_LEN))
                if not piece:
                    raise Broken("a chunk is cut")
                left -= len(piece)
                yield piece
            if self.reader.read(2) != b"\r\n":
                raise Broken("a chunk does not end with CRLF")
        while (line := self.reader.readline(HEAD_LEN_MAX)) != b"\r\n":
            if not line.endswith(b"\r\n"):
                raise Broken("the trailers are cut")


class Connection(socketserver.BaseRequestHandler):
    """One connection: requests, one after the other, until either side closes it."""

    server: "Origin"

    def handle(self):
        counts, lock = self.server.counts, self.server.lock
        with lock:
            counts.connections_accepted += 1
            counts.connections_open += 1
        self.keep = True
        reader = self.request.makefile("rb", READ_LEN)
        try:
            while self.keep and (head := read_head(reader)) is not None:
                with lock:
                    counts.requests += 1
                self.response(Request(reader, head))
        except (Broken, OSError):
            pass
        finally:
            reader.close()
            with lock:
                counts.connections_open -= 1

    def response(self, request: Request):
        name, *rest = request.path.strip("/").split("/")
        number = int(rest[0]) if rest and rest[0].isdigit() else 0
        serve = getattr(self, "serve_" + name.replace("-", "_"), None)
        if serve is None:
            self.head(request, 404, [("content-length", "0")])
            return
        try:
            serve(request, number)
        except OSError:
            with self.server.lock:
                self.server.counts.responses_broken += 1
            raise
        if request.unread:
            self.keep = False

    def head(self, request: Request, status: int, fields):
        lines = [f"HTTP/1.1 {status} Status", "x-origin: scripted"]
        lines += [f"{name}: {value}" for name, value in fields]
        self.request.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def end(self, how: str):
        self.keep = False
        if how == "rst":
            linger = struct.pack("ii", 1, 0)
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.request.close()

    def end_after_what_comes(self):
        """Closes without a reset. Unread bytes in the socket would cause one, and a reset overtakes
        the response."""
        self.request.shutdown(socket.SHUT_WR)
        self.request.settimeout(5)
        while self.request.recv(READ_LEN):
            pass

    def is_gone_within(self, seconds: float) -> bool:
        """Waits this long, or until the other side closes the connection."""
        readable, _, _ = select.select([self.request], [], [], seconds)
        return bool(readable) and self.request.recv(1, socket.MSG_PEEK) == b""

    def pieces_of(self, request: Request, length: int, piece_len=bodies.PIECE_LEN):
        return bodies.pieces(length, int(request.query.get("seed", 0)), piece_len)

    def serve_bytes(self, request: Request, number: int):
        fields = [("content-length", number), ("content-type", "application/octet-stream")]
        self.head(request, 200, fields)
        if request.method != "HEAD":
            for piece in self.pieces_of(request, number):
                self.request.sendall(piece)

    def serve_chunked(self, request: Request, number: int):
        trailers = "trailers" in request.query
        fields = [("transfer-encoding", "chunked")]
        self.head(request, 200, fields + [("trailer", "x-digest")] * trailers)
        for piece in self.pieces_of(request, number, 7919):
            self.request.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        end = b"x-digest: %b\r\n" % bodies.digest(number).encode() if trailers else b""
        self.request.sendall(b"0\r\n" + end + b"\r\n")

    def serve_close(self, request: Request, number: int):
        self.keep = False
        self.head(request, 200, [("connection", "close")])
        for piece in self.pieces_of(request, number):
            self.request.sendall(piece)

    def serve_die(self, request: Request, number: int):
        self.head(request, 200, [("content-length", number)])
        for piece in self.pieces_of(request, int(request.query.get("after", number // 2))):
            self.request.sendall(piece)
        self.end(request.query.get("how", "fin"))

    def serve_die_chunked(self, request: Request, number: int):
        self.head(request, 200, [("transfer-encoding", "chunked")])
        for piece in self.pieces_of(request, number, 7919):
            self.request.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.end(request.query.get("how", "fin"))

    def serve_drip(self, request: Request, number: int):
        self.head(request, 200, [("content-length", number)])
        pause = float(request.query.get("pause", 0.05))
        for piece in self.pieces_of(request, number, int(request.query.get("piece", 1024))):
            self.request.sendall(piece)
            if self.is_gone_within(pause):
                raise BrokenPipeError("the client of the drip is gone")

    def serve_slow_head(self, request: Request, number: int):
        if self.is_gone_within(float(request.query.get("seconds", 1))):
            raise BrokenPipeError("the client of the slow head is gone")
        self.head(request, 200, [("content-length", "0")])

    def serve_status(self, request: Request, number: int):
        bodiless = number in (204, 304)
        self.head(request, number, [] if bodiless else [("content-length", "0")])

    def serve_head(self, request: Request, number: int):
        self.json(request, {
            "method": request.method, "target": request.target, "version": request.version,
            "fields": request.fields,
        })

    def serve_hang_up(self, request: Request, number: int):
        self.keep = False

    def serve_upload(self, request: Request, number: int):
        sha, length = hashlib.sha256(), 0
        pause = float(request.query.get("pause", 0))
        counts, lock = self.server.counts, self.server.lock
        try:
            for piece in request.pieces():
                sha.update(piece)
                length += len(piece)
                if pause:
                    time.sleep(pause)
        except (Broken, OSError):
            with lock:
                counts.uploads_broken += 1
            self.keep = False
            return
        with lock:
            counts.uploads_whole += 1
        self.json(request, {
            "length": length, "sha256": sha.hexdigest(),
            "content_length": request.length, "chunked": request.chunked,
        })

    def serve_die_upload(self, request: Request, number: int):
        length = 0
        for piece in request.pieces():
            length += len(piece)
            if length >= number:
                break
        with self.server.lock:
            self.server.counts.uploads_broken += 1
        self.end(request.query.get("how", "fin"))
        if request.query.get("how") != "rst":
            self.end_after_what_comes()

    def serve_echo(self, request: Request, number: int):
        known = request.length is not None
        framing = ("content-length", request.length) if known else ("transfer-encoding", "chunked")
        self.head(request, 200, [framing])
        for piece in request.pieces():
            self.request.sendall(piece if known else b"%x\r\n%b\r\n" % (len(piece), piece))
        if not known:
            self.request.sendall(b"0\r\n\r\n")

    def serve_refuse(self, request: Request, number: int):
        self.keep = False
        self.head(request, 413, [("content-length", "3"), ("connection", "close")])
        self.request.sendall(b"no\n")
        self.end_after_what_comes()

    def json(self, request: Request, value):
        text = json.dumps(value).encode() + b"\n"
        fields = [("content-length", len(text)), ("content-type", "application/json")]
        self.head(request, 200, fields)
        if request.method != "HEAD":
            self.request.sendall(text)


def read_head(reader) -> bytes | None:
    """Returns a request's head; `None` when the connection ended between requests."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.readline(HEAD_LEN_MAX)
        if not line:
            if head:
                raise Broken("the connection ended inside a head")
            return None
        head += line
    return head[:-4]


class Origin(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """A listener on a TCP port or a unix socket."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, counts: Counts, lock: threading.Lock):
        super().__init__(None, Connection)
        self.socket, self.counts, self.lock = listener, counts, lock

    def fileno(self):
        return self.socket.fileno()

    def get_request(self):
        connection, address = self.socket.accept()
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def shutdown_request(self, request):
        request.close()

    def handle_error(self, request, client_address):
        import traceback
        traceback.print_exc()


def control_server(counts: Counts, lock: threading.Lock) -> http.server.ThreadingHTTPServer:
    class Control(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with lock:
                text = json.dumps(dataclasses.asdict(counts)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Control)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--unix", help="also listen on this unix socket")
    arguments = parser.parse_args()
    counts, lock = Counts(), threading.Lock()
    tcp = socket.create_server(("127.0.0.1", arguments.port), backlog=1024)
    listeners = [tcp]
    if arguments.unix:
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(arguments.unix)
        unix.listen(1024)
        listeners.append(unix)
    control = control_server(counts, lock)
    servers = [Origin(listener, counts, lock) for listener in listeners] + [control]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ports = {"port": tcp.getsockname()[1], "control": control.server_address[1]}
    print(json.dumps(ports | {"unix": arguments.unix}), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
