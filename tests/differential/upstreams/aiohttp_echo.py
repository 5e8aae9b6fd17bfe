"""An upstream on aiohttp's server, with its parser in pure Python (the other one is llhttp)."""

import asyncio
import os
import sys
import weakref

os.environ["AIOHTTP_NO_EXTENSIONS"] = "1"

from aiohttp import web
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from echo import Books, form

assert HttpRequestParser is HttpRequestParserPy, "this is the parser in C"
BOOKS = Books()
CONNECTIONS = weakref.WeakKeyDictionary()
"""Number of each connection, and of the last request on it."""
LINE_LEN_MAX = 256 * 1024


async def respond(request: web.BaseRequest) -> web.Response:
    body = await request.read()
    if request.raw_path == "/.totals":
        return web.Response(text=str(BOOKS.total))
    number, index = CONNECTIONS.get(request.transport) or (BOOKS.connection(), 0)
    CONNECTIONS[request.transport] = (number, index + 1)
    target = request.raw_path.encode("utf-8", "surrogateescape")
    parsed = form(request.method.encode(), target, request.raw_headers, body)
    field, body = BOOKS.response(parsed, number, index + 1)
    return web.Response(body=body, headers={"x-parsed": field.decode()})


async def main(port: int):
    server = web.Server(
        respond, auto_decompress=False, access_log=None, max_line_size=LINE_LEN_MAX,
        max_field_size=LINE_LEN_MAX, max_headers=1000,
    )
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=512).start()
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1])))
