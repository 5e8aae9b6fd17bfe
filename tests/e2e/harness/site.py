"""A site for browsers: a page, images, bodies, an event stream, and a place for uploads. It is an
HTTP/1.1 server in threads of the test's own process, so it is in the test's network namespace."""

import contextlib
import hashlib
import http.server
import json
import threading

from . import bodies

PAGE = """<!doctype html><title>{title}</title><link rel="icon" href="data:,">
<body>{title}</body>"""

IMAGE = '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="1"/>'

EVENT_SECONDS = 20
"""How long the stream waits until the page has seen an event."""


class Site:
    """A running site. Its address is that of an endpoint."""

    def __init__(self, title: str = "site"):
        self.title = title
        self._seen, self._news = set(), threading.Condition()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def see(self, number: int):
        """Notes that the page has seen an event."""
        with self._news:
            self._seen.add(number)
            self._news.notify_all()

    def wait_seen(self, number: int) -> bool:
        with self._news:
            return self._news.wait_for(lambda: number in self._seen, EVENT_SECONDS)


def _handler(site: Site):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            _, name, *rest = self.path.split("/")
            match name:
                case "image":
                    image = IMAGE.format(width=int(rest[0])).encode()
                    self._respond("image/svg+xml", image)
                case "bytes":
                    self._respond("application/octet-stream", bodies.body(int(rest[0])))
                case "events":
                    self._send_events(int(rest[0]))
                case "seen":
                    site.see(int(rest[0]))
                    self._respond("text/plain", b"")
                case _:
                    self._respond("text/html", PAGE.format(title=site.title).encode())

        def do_POST(self):
            length, sha = int(self.headers["content-length"]), hashlib.sha256()
            left = length
            while left > 0:
                piece = self.rfile.read(min(left, bodies.PIECE_LEN))
                if not piece:
                    return
                sha.update(piece)
                left -= len(piece)
            report = {"length": length, "sha256": sha.hexdigest()}
            self._respond("application/json", json.dumps(report).encode())

        def _respond(self, kind: str, body: bytes):
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("cache-control", "no-store")
            self.send_header("timing-allow-origin", "*")
            self.end_headers()
            self.wfile.write(body)

        def _send_events(self, count: int):
            """Sends each event once the page has seen the one before it."""
            self.close_connection = True
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("cache-control", "no-store")
            self.send_header("connection", "close")
            self.end_headers()
            with contextlib.suppress(OSError):
                for number in range(count):
                    self.wfile.write(b"data: %d\n\n" % number)
                    if not site.wait_seen(number):
                        return

        def log_message(self, *_):
            pass

    return Handler
