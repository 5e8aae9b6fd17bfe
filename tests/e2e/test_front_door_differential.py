"""The same requests over HTTP/3, HTTP/2 and HTTP/1.1: the upstream receives the same messages, and
so do the clients.

The clients share no code: aioquic, curl with nghttp2, and the parser of Python.
"""

import asyncio
import dataclasses
import json
import random
import re
import subprocess

from harness import bodies, h3, tcp
from harness.curl import Curl
from harness.recorder import Recorder

COUNT = 300
SEED = 20

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT")
SEGMENTS = ("a", "B", "%2F", "%20", "~", "a.b", "é".encode().hex(), "a;b=c", "@:!$&'()*+,=")
QUERIES = ("", "?", "?a=b", "?a=b&c=%26", "?//x?y", "?q=%00")
FIELDS = (
    ("accept", "text/html, */*;q=0.1"), ("cookie", "a=1; b=2"), ("x-empty-not", "0"),
    ("x-long", "v" * 3000), ("cache-control", "no-cache"), ("x-quotes", '"a, \\"b"'),
    ("accept-language", "de"), ("authorization", "Basic YTpi"), ("x-tab", "a\tb"),
    ("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "http"), ("via", "1.0 liar"),
    ("te", "trailers"), ("range", "bytes=0-4"), ("if-none-match", '"x"'), ("priority", "u=1, i"),
    ("max-forwards", "3"), ("content-type", "text/plain"),
)
STATUSES = (200, 200, 200, 201, 204, 206, 301, 304, 400, 404, 418, 500, 503)
ANSWER_FIELDS = (
    ("content-type", "text/plain"), ("set-cookie", "a=1; path=/"), ("set-cookie", "b=2"),
    ("etag", '"abc"'), ("vary", "accept"), ("vary", "cookie"), ("x-empty", ""),
    ("location", "/elsewhere?x=y"), ("server", "recorder"), ("cache-control", "max-age=1"),
    ("keep-alive", "timeout=5"), ("connection", "x-private"), ("x-private", "1"),
)
OF_CONNECTION = {"via", "alt-svc", "connection", "keep-alive", "transfer-encoding", "date"}
"""Fields that differ because the protocols do. `date` is the time at which the gateway responded,
where the upstream did not say one."""


@dataclasses.dataclass
class Case:
    """A request and the response to it."""

    number: int
    method: str
    path: str
    fields: list[tuple[str, str]]
    body: bytes | None
    status: int
    answer_fields: list[tuple[str, str]]
    answer_body: bytes
    answer_framing: str

    def answer(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} X"]
        lines += [f"{name}: {value}" for name, value in self.answer_fields]
        bodiless = self.method == "HEAD" or self.status in (204, 304)
        if self.answer_framing == "chunked" and self.status not in (204, 304):
            lines.append("transfer-encoding: chunked")
        elif self.status != 204:
            lines.append(f"content-length: {len(self.answer_body)}")
        body = b"" if bodiless else self.answer_body
        if body and self.answer_framing == "chunked":
            body = b"%x\r\n%b\r\n" % (len(body), body)
        if self.answer_framing == "chunked" and not bodiless:
            body += b"0\r\n\r\n"
        return "\r\n".join([*lines, "", ""]).encode() + body


def generate() -> list[Case]:
    dice = random.Random(SEED)
    cases = []
    for number in range(COUNT):
        method = dice.choice(METHODS)
        segments = dice.choices(SEGMENTS, k=dice.randrange(4))
        path = "/" + "/".join([str(number), *segments]) + dice.choice(QUERIES)
        has_body = method in ("POST", "PUT", "PATCH", "REPORT")
        body = bodies.body(dice.choice((0, 1, 100, 20_000)), number) if has_body else None
        cases.append(Case(
            number, method, path, dice.sample(FIELDS, dice.randrange(6)), body,
            dice.choice(STATUSES), dice.sample(ANSWER_FIELDS, dice.randrange(5)),
            bodies.body(dice.choice((0, 1, 1000, 30_000)), number),
            dice.choice(("length", "chunked")),
        ))
    return cases


Outcome = tuple[int, list[tuple[str, str]], bytes | str]
"""Status, fields and body of a response."""


def comparable(fields) -> list[tuple[str, str]]:
    """The fields that all protocols have in common. Those of one name keep their order."""
    kept = [(name.lower(), value) for name, value in fields if name.lower() not in OF_CONNECTION]
    return sorted(kept, key=lambda field: field[0])


async def over_http3(gateway, cases) -> list[Outcome]:
    outcomes = []
    async with h3.connection(gateway) as client:
        for case in cases:
            fields = list(case.fields)
            if case.body is not None:
                fields.append(("content-length", str(len(case.body))))
            exchange = client.open(
                case.method, case.path, fields, end=not case.body,
                authority=f"{h3.AUTHORITY}:{gateway.port}",
            )
            if case.status == 304:  # Its length is that of a body which does not come.
                client.http.bodiless.add(exchange.stream)
            if case.body:
                exchange.send(case.body, True)
            response = await exchange.wait()
            assert response.end == "clean", (case, response)
            outcomes.append((response.status, comparable(response.fields), response.text))
        # A line waits for the client's acknowledgement of the response.
        await asyncio.to_thread(gateway.access_lines, len(cases))
    return outcomes


def over_http2(gateway, cases, folder) -> list[Outcome]:
    """All requests by one run of curl, over one connection."""
    base = f"https://{h3.AUTHORITY}:{gateway.port}"
    sections = []
    for case in cases:
        answer, head, body = (folder / f"{case.number}.{kind}" for kind in ("out", "head", "in"))
        lines = [
            "http2", "silent", "show-error", 'noproxy = "*"', f'cacert = "{gateway.authority}"',
            f'resolve = "{h3.AUTHORITY}:{gateway.port}:127.0.0.1"', "path-as-is", "globoff",
            f'url = "{base}{case.path}"', f'output = "{answer}"', f'dump-header = "{head}"',
            "head" if case.method == "HEAD" else f'request = "{case.method}"',
        ]
        names = {name for name, _ in case.fields}
        lines += [f'header = "{name}:"' for name in ("user-agent", "accept", "content-type")
                  if name not in names]
        lines += [f"header = {json.dumps(f'{name}: {value}')}" for name, value in case.fields]
        if case.body is not None:
            body.write_bytes(case.body)
            lines.append(f'data-binary = "@{body}"')
        sections.append("\n".join(lines))
    config = folder / "curl"
    config.write_text("\nnext\n".join(sections) + "\n")
    program = Curl(gateway, protocol="--http2").arguments[0]
    command = [program, "--disable", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return [_read_outcome(folder, case) for case in cases]


def _read_outcome(folder, case: Case) -> Outcome:
    head = (folder / f"{case.number}.head").read_bytes().decode("latin-1")
    first, *lines = head.strip("\r\n").split("\r\n")
    assert first.startswith("HTTP/2 "), first
    fields = [tuple(line.split(": ", 1)) for line in lines]
    answer = folder / f"{case.number}.out"
    body = answer.read_bytes() if answer.exists() and case.method != "HEAD" else b""
    return int(first.split(" ")[1]), comparable(fields), body


def over_http11(gateway, cases) -> list[Outcome]:
    outcomes = []
    with tcp.Client(gateway.port, tcp.context(gateway, "http/1.1")) as client:
        for case in cases:
            lines = [f"{name}: {value}" for name, value in case.fields]
            if case.body is not None:
                lines.append(f"content-length: {len(case.body)}")
            authority = f"{h3.AUTHORITY}:{gateway.port}"
            request = tcp.head(case.method, case.path, *lines, host=authority)
            response = client.ask(request + (case.body or b""), case.method)
            outcomes.append((response.status, comparable(response.fields), response.body))
    return outcomes


def number_in(line: str) -> int:
    """Returns the number of the case with this request line."""
    return int(re.match(r"\S+ /(\d+)", line)[1])


def differences(cases, first: list, other: list) -> list:
    return [(case.method, case.path, case.fields, one, two)
            for case, one, two in zip(cases, first, other, strict=True) if one != two]


def received(recorder: Recorder, begin: int) -> list:
    """Returns what the upstream was sent since `begin`, without the fields of a connection."""
    messages = []
    for request in recorder.requests[begin:]:
        assert request.whole
        lines = request.head.decode("latin-1").split("\r\n")[1:]
        fields = [tuple(line.split(": ", 1)) for line in lines]
        messages.append((request.line, comparable(fields), request.body, request.trailers))
    return messages


def test_the_protocols_say_the_same(start, tmp_path, has_curl_with_http2):
    cases = generate()
    recorder = Recorder(lambda request: ["read", cases[number_in(request.line)].answer()])
    gateway = start(origin=recorder.address, listener=tcp.LISTENER)
    clients = {
        "HTTP/3": lambda: asyncio.run(over_http3(gateway, cases)),
        "HTTP/2": lambda: over_http2(gateway, cases, tmp_path),
        "HTTP/1.1": lambda: over_http11(gateway, cases),
    }
    outcomes, messages = {}, {}
    for name, client in clients.items():
        begin = len(recorder.requests)
        outcomes[name], messages[name] = client(), received(recorder, begin)
    recorder.stop()
    assert recorder.wrong == []
    assert len(messages["HTTP/3"]) == COUNT
    assert [outcome[0] for outcome in outcomes["HTTP/3"]] == [case.status for case in cases]
    for name in ("HTTP/2", "HTTP/1.1"):
        assert differences(cases, messages["HTTP/3"], messages[name]) == [], name
        assert differences(cases, outcomes["HTTP/3"], outcomes[name]) == [], name
    lines = gateway.access_lines(3 * COUNT)
    kinds = [line["protocol"] for line in lines]
    assert {name: kinds.count(name) for name in clients} == dict.fromkeys(clients, COUNT)
    assert [line for line in lines if line["outcome"] != "complete"] == []
