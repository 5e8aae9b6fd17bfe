"""An upstream on the parser of gunicorn, with a thread for each connection."""

import contextlib
import socket
import sys
import threading

from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser

from echo import Books, form, http1

BOOKS = Books()
LOCK = threading.Lock()


def configuration() -> Config:
    settings = Config()
    for name, value in {
        "limit_request_line": 0, "limit_request_fields": 1000, "limit_request_field_size": 100_000,
        "http_parser": "python", "header_map": "dangerous",
        # Its guess which methods are meant seriously: upper case, 3 to 20 bytes, no `#`.
        "permit_unconventional_http_method": True,
    }.items():
        settings.set(name, value)
    return settings


def latin(text: str) -> bytes:
    return text.encode("latin-1")


def serve(connection, address, settings):
    with LOCK:
        number = BOOKS.connection()
    with connection, contextlib.suppress(ConnectionError):
        try:
            for index, request in enumerate(RequestParser(settings, connection, address), 1):
                connection.sendall(respond(request, number, index))
        except ParseException as error:
            connection.sendall(http1(b"400 Refused", None, repr(error).encode(), False))


def respond(request, number: int, index: int) -> bytes:
    body, parsed = request.body.read(), None
    check_whole(request, body)
    fields, trailers = ([(latin(name), latin(value)) for name, value in lines]
                        for lines in (request.headers, request.trailers))
    if request.uri == "/.totals":
        body = b"%d" % BOOKS.total
    else:
        body = form(latin(request.method), latin(request.uri), fields, body, trailers)
        with LOCK:
            parsed, body = BOOKS.response(body, number, index)
    return http1(b"200 OK", parsed, body, request.method == "HEAD")


def check_whole(request, body: bytes):
    """Refuses a body that ended with its connection, which this parser takes for a whole one."""
    lengths = [value for name, value in request.headers if name == "CONTENT-LENGTH"]
    if lengths and int(lengths[0]) != len(body):
        raise ConnectionError("cut off")


def main(port: int):
    settings = configuration()
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    while True:
        connection, address = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection, address, settings), daemon=True).start()


main(int(sys.argv[1]))
