"""An upstream on h11, a strict parser in pure Python."""

import asyncio
import sys

import h11

from echo import Books, form, http1

BOOKS = Books()
HEAD_LEN_MAX = 256 * 1024


class Upstream(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LEN_MAX)
        self.number, self.index = BOOKS.connection(), 0
        self.pieces = []

    def data_received(self, data):
        try:
            self.parser.receive_data(data)
            self.read()
        except h11.RemoteProtocolError as error:
            self.transport.write(http1(b"400 Refused", None, str(error).encode(), False))
            self.transport.close()

    def read(self):
        while True:
            event = self.parser.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED):
                return
            if isinstance(event, h11.Request):
                self.request, self.pieces = event, []
                self.index += 1
            elif isinstance(event, h11.Data):
                self.pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self.respond(event.headers)

    def respond(self, trailers):
        request, parsed = self.request, None
        if request.target == b"/.totals":
            body = b"%d" % BOOKS.total
        else:
            body = form(request.method, request.target, request.headers, b"".join(self.pieces),
                        trailers)
            parsed, body = BOOKS.response(body, self.number, self.index)
        fields = [(b"content-length", b"%d" % len(body))]
        if parsed:
            fields.append((b"x-parsed", parsed))
        out = self.parser.send(h11.Response(status_code=200, headers=fields, reason=b"OK"))
        if request.method != b"HEAD":
            out += self.parser.send(h11.Data(data=body))
        out += self.parser.send(h11.EndOfMessage())
        self.transport.write(out)
        self.parser.start_next_cycle()


async def main(port: int):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
