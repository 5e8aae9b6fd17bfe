// Responds with the request as node (llhttp) parsed it; ../echo.py describes the form.
'use strict';
const { createHash } = require('node:crypto');
const http = require('node:http');

const digest = (bytes) => createHash('sha1').update(bytes).digest('hex');

let connections = 0;
let total = 0;

function sortedFields(raw) {
  const lines = [];
  for (let at = 0; at < raw.length; at += 2) {
    lines.push([raw[at].toLowerCase(), raw[at + 1]]);
  }
  // Array.prototype.sort is stable: lines of one name keep their order.
  lines.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return lines.map(([name, value]) => `${name}: ${value}\n`).join('');
}

function respond(request, response) {
  if (request.url === '/.totals') {
    response.end(String(total));
    return;
  }
  const { socket } = request;
  socket.requests += 1;
  const index = socket.requests;
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    total += 1;
    const body = Buffer.concat(pieces);
    const form = Buffer.from(
      `${request.method} ${request.url}\n${sortedFields(request.rawHeaders)}\n` +
        `${body.length} ${digest(body)}\n${sortedFields(request.rawTrailers)}`,
      'latin1',
    );
    response.writeHead(200, {
      'content-length': form.length,
      'x-parsed': `${socket.number} ${index} ${digest(form)}`,
    });
    response.end(form);
  });
}

const server = http.createServer({
  maxHeaderSize: 256 * 1024,
  keepAliveTimeout: 3_600_000,
  headersTimeout: 0,
  requestTimeout: 0,
}, respond);
server.maxHeadersCount = 0;
server.on('connection', (socket) => {
  connections += 1;
  socket.number = connections;
  socket.requests = 0;
});
server.listen(Number(process.argv[2]), '127.0.0.1');
