"""An upstream that keeps every byte it is sent, and responds by a script.

It runs in threads of the test's own process. Its reading is strict: where a head or a body is not
exactly HTTP/1.1 as it must be sent, the connection is noted as `wrong`.
"""

import dataclasses
import select
import socket
import struct
import threading
import time

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclasses.dataclass
class Recorded:
    """One request as it arrived."""

    connection: int
    head: bytes
    body: bytes = b""
    trailers: bytes = b""
    whole: bool = False

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    def values(self, name: str) -> list[bytes]:
        """Returns the values of all fields of this name, whatever its case."""
        lines = [line.split(b": ", 1) for line in self.head.split(b"\r\n")[1:]]
        return [value for key, value in lines if key.decode("latin-1").lower() == name]


class Cut(Exception):
    """The connection ended."""


class Recorder:
    """`script(request)` returns steps. Bytes are sent. A number is a pause in seconds. "fin" and
    "rst" close the connection. "read" waits for the rest of the request's body. "leave" waits for
    the next request and closes the connection without reading a byte of it. Without a script every
    response is 200."""

    def __init__(self, script=None):
        self.script = script or (lambda request: ["read", OK])
        self.connections: list[bytearray] = []
        self.requests: list[Recorded] = []
        self.wrong: list[str] = []
        self.ended: list[int] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.close()

    def raw(self) -> bytes:
        """Returns all bytes of all connections."""
        with self._lock:
            return b"".join(bytes(one) for one in self.connections)

    def settle(self, wanted, seconds: float = 5):
        end = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < end, f"not settled: {self.requests}, {self.wrong}"
            time.sleep(0.02)

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                index = len(self.connections)
                self.connections.append(bytearray())
            threading.Thread(target=self._serve, args=(connection, index), daemon=True).start()

    def _serve(self, connection, index):
        reader = Reader(connection, self.connections[index], self._lock)
        try:
            while True:
                request = Recorded(index, reader.until(b"\r\n\r\n")[:-4])
                with self._lock:
                    self.requests.append(request)
                read = False
                for step in self.script(request):
                    if step == "read":
                        self._read_body(reader, request)
                        read = True
                    elif step == "fin":
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):
                            pass
                        raise Cut
                    elif step == "rst":
                        linger = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        raise Cut
                    elif step == "leave":
                        select.select([connection], [], [])
                        raise Cut
                    elif isinstance(step, bytes):
                        connection.sendall(step)
                    else:
                        time.sleep(step)
                if not read:
                    self._read_body(reader, request)
        except (Cut, OSError):
            pass
        except ValueError as error:
            self.wrong.append(f"connection {index}: {error}")
        finally:
            self.ended.append(index)
            connection.close()

    def _read_body(self, reader, request):
        lengths = request.values("content-length")
        codings = request.values("transfer-encoding")
        if len(lengths) + len(codings) > 1 or codings not in ([], [b"chunked"]):
            raise ValueError(f"framing: {lengths} {codings}")
        if lengths:
            if not lengths[0].isdigit():
                raise ValueError(f"content-length {lengths[0]!r}")
            request.body = reader.exactly(int(lengths[0]))
        while codings:
            length = int(reader.until(b"\r\n")[:-2], 16)
            if length == 0:
                while (line := reader.until(b"\r\n")) != b"\r\n":
                    request.trailers += line
                break
            request.body += reader.exactly(length)
            if reader.exactly(2) != b"\r\n":
                raise ValueError("a chunk does not end with CRLF")
        request.whole = True


class Reader:
    """Reads a connection and keeps what was read."""

    def __init__(self, connection, kept: bytearray, lock):
        self.connection, self.kept, self.lock, self.buffer = connection, kept, lock, b""

    def _more(self):
        piece = self.connection.recv(65536)
        if not piece:
            raise Cut
        with self.lock:
            self.kept += piece
        self.buffer += piece

    def until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self._more()
        at = self.buffer.index(end) + len(end)
        taken, self.buffer = self.buffer[:at], self.buffer[at:]
        return taken

    def exactly(self, length: int) -> bytes:
        while len(self.buffer) < length:
            self._more()
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken
