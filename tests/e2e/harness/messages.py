"""Generated requests that mean the same in each protocol, with what their upstream does.

A seed and a number decide a case, whatever other cases there are."""

import dataclasses
import random

from . import bodies
from .h3 import AUTHORITY
from .http2 import Lines

HEAD_LEN_MAX = 8 * bodies.KIB
HEAD_COUNT_MAX = 40
BODY_LEN_MAX = 24 * bodies.KIB
RESPONSE_HEAD_LEN_MAX = 8 * bodies.KIB
LIMITS = f"""
max_header_size = "{HEAD_LEN_MAX}B"
max_header_count = {HEAD_COUNT_MAX}
max_response_header_size = "{RESPONSE_HEAD_LEN_MAX}B"
max_stream_resets = 1000000
"""
"""The setting `limits` of a gateway at whose limits the requests aim; `max_body_size` is
`BODY_LEN_MAX`."""

ALL = ("HTTP/3", "HTTP/2", "HTTP/1.1")
WITH_STREAMS = ALL[:2]
"""Of HTTP/1.1, a message that is shorter or longer than it says is another one."""


@dataclasses.dataclass
class Case:
    """A request and the response to it."""

    number: int
    kind: str
    method: bytes = b"GET"
    path: bytes = b"/"
    authority: bytes | None = AUTHORITY.encode()
    fields: Lines = dataclasses.field(default_factory=list)
    body: bytes | None = None
    length: bytes | None = None
    """The value of content-length. A body without one has an end, but no length."""
    pieces: int = 1
    """DATA frames or chunks of the body."""
    trailers: Lines = dataclasses.field(default_factory=list)
    answer: list = dataclasses.field(default_factory=lambda: ["read", ok()])
    """Steps of a `Recorder`."""
    protocols: tuple[str, ...] = ALL
    is_cut: bool = False
    """The upstream may have received a part of the body only."""

    @property
    def closes(self) -> bool:
        """The upstream closes the connection, perhaps without saying so before."""
        return bool(self.answer) and self.answer[-1] in ("fin", "rst")

    def body_pieces(self) -> list[bytes]:
        if not self.body:
            return []
        length = -(-len(self.body) // self.pieces)
        return [self.body[at:at + length] for at in range(0, len(self.body), length)]

    def head_len(self) -> int:
        """The length of the head as HTTP/3 counts it (RFC 9114 4.2.2)."""
        lines = [(b":method", self.method), (b":scheme", b"https"), (b":path", self.path),
                 (b":authority", self.authority or b""), *self.all_fields()]
        return sum(len(name) + len(value) + 32 for name, value in lines)

    def all_fields(self) -> Lines:
        fields = [*self.fields, (b"x-case", b"%d" % self.number)]
        if self.length is not None:
            fields.append((b"content-length", self.length))
        return fields


def ok(body: bytes = b"ok", *lines: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", *lines, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PROPFIND", b"M-SEARCH", b"a!~")
METHODS_WITH_BODY = (b"POST", b"POST", b"PUT", b"PATCH", b"REPORT", b"GET", b"DELETE", b"x")
SEGMENTS = (b"", b"a", b"B", b"%2F", b"%20", b"~", b"a.b", b"%c3%a9", b"a;b=c", b"@:!$&'()*+,=",
            b"...", b".a", b"a..", b"%E2%80%AE", b"[]", b"{}|", b"x" * 300)
UNWISE = b'<>`"'
"""Bytes that no URI may hold (RFC 3986 2); over HTTP/3 and HTTP/1.1 they are forwarded."""
QUERIES = (b"", b"", b"?", b"?a=b", b"?a=b&c=%26", b"?//x?y", b"?q=%00", b"?..", b"?/../x",
           b"?" + b"q" * 500)
FIELDS: Lines = [
    (b"accept", b"text/html, */*;q=0.1"), (b"x-empty", b""), (b"x-long", b"v" * 3000),
    (b"cache-control", b"no-cache"), (b"x-quotes", b'"a, \\"b"'), (b"accept-language", b"de"),
    (b"authorization", b"Basic YTpi"), (b"x-tab", b"a\tb"), (b"x-forwarded-for", b"203.0.113.9"),
    (b"x-forwarded-proto", b"http"), (b"via", b"1.0 liar"), (b"te", b"trailers"),
    (b"range", b"bytes=0-4"), (b"if-none-match", b'"x"'), (b"priority", b"u=1, i"),
    (b"max-forwards", b"3"), (b"content-type", b"text/plain"), (b"x-bytes", b"\xc3\xa9\xff\x80"),
    (b"x-twice", b"1"), (b"x-twice", b"2"), (b"forwarded", b"for=203.0.113.9"),
    (b"x-real-ip", b"203.0.113.9"), (b"early-data", b"1"), (b"proxy", b"http://x.test/"),
    (b"!#$%&'*+-.^`|~", b"token"), (b"1", b"digit"), (b"trailer", b"x-t"), (b"date", b"now"),
    (b"origin", b"null"), (b"referer", b"https://e2e.test/a"), (b"user-agent", b"test/1"),
    (b"accept-encoding", b"gzip, br"), (b"x-colon", b":a:b"), (b"client-cert", b":liar:"),
    (b"http2-settings", b"AAMAAABk"), (b"alt-used", b"x.test"), (b"x-commas", b",,a, ,b,"),
]
COOKIES = (b"a=1", b"b=2", b"c=" + b"x" * 400, b"d", b'e="q"', b"=f", b"g=1;h=2", b"i=1; j=2;")
STATUSES = ("200 OK", "200 OK", "200 OK", "201 Created", "204 No Content", "206 Partial Content",
            "301 Moved", "304 Not Modified", "400 Bad", "404 Not Found", "418 I'm a teapot",
            "500 Oops", "503 Busy", "299 ", "599 Far", "451 \u00e9", "600 Odd", "999 Odder")
RESPONSE_FIELDS = (
    "content-type: text/plain", "set-cookie: a=1; path=/", "set-cookie: b=2", 'etag: "abc"',
    "vary: accept", "vary: cookie", "x-empty:", "location: /elsewhere?x=y", "server: recorder",
    "cache-control: max-age=1", "X-Mixed-Case: V", "x-bytes: \u00e9\u00ff", "x-tab: a\tb",
    "x-padded: \t v \t", "date: Thu, 01 Jan 1970 00:00:00 GMT", "via: 1.0 behind", "age: 7",
    "x-long: " + "v" * 3000, "proxy-connection: close", "upgrade: h2c", "te: x", "trailer: x-t",
    "www-authenticate: Basic", 'alt-svc: h3=":1"', "strict-transport-security: max-age=1",
)
BODY_LENS = (0, 0, 1, 2, 100, 255, 256, 1000, 4096, 16_383, 16_384, 16_385, 20_000)


def generate(seed: int, count: int) -> list[Case]:
    return [make(seed, number) for number in range(count)]


def make(seed: int, number: int) -> Case:
    dice = random.Random(f"{seed} {number}")
    kind = dice.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    case = Case(number, kind, path=b"/%d" % number)
    KINDS[kind][1](case, dice)
    return case


def plain(case: Case, dice: random.Random):
    """A request that every server accepts, and an ordinary response."""
    case.method = dice.choice(METHODS)
    case.path += b"".join(b"/" + one for one in dice.choices(SEGMENTS, k=dice.randrange(4)))
    case.path += dice.choice(QUERIES)
    case.fields = dice.sample(FIELDS, dice.randrange(8))
    answer(case, dice)


def answer(case: Case, dice: random.Random):
    """Draws an ordinary response."""
    status = dice.choice(STATUSES)
    body = bodies.body(dice.choice(BODY_LENS), case.number)
    lines = [f"HTTP/1.1 {status}", *dice.sample(RESPONSE_FIELDS, dice.randrange(6))]
    if dice.random() < 0.2:
        lines += ["connection: x-private, keep-alive", "x-private: 1", "keep-alive: timeout=60"]
    framing = dice.choice(("length", "length", "chunked", "close"))
    is_empty = case.method == b"HEAD" or status[:3] in ("204", "304")
    steps: list = ["read"]
    if framing == "length" and status[:3] != "204":
        lines.append(f"content-length: {len(body)}")
    if framing == "chunked" and status[:3] != "204":
        lines.append("transfer-encoding: chunked")
        body = chunks(body, dice)
    elif framing == "close":
        lines.append("connection: close")
    steps.append("\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if is_empty else body))
    if framing == "close":
        steps.append("fin")
    case.answer = steps


def chunks(body: bytes, dice: random.Random) -> bytes:
    out = b""
    while body:
        length = dice.choice((1, 100, 16_000, len(body)))
        piece, body = body[:length], body[length:]
        extension = dice.choice((b"", b"", b";a=b", b' ; q="x"'))
        out += b"%x%b\r\n%b\r\n" % (len(piece), extension, piece)
    trailers = dice.choice((b"", b"", b"x-t: 1\r\n", b"x-t: 1\r\nX-U: \t2 \r\n"))
    return out + b"0\r\n" + trailers + b"\r\n"


def with_body(case: Case, dice: random.Random):
    plain(case, dice)
    case.method = dice.choice(METHODS_WITH_BODY)
    answer(case, dice)
    case.body = bodies.body(dice.choice(BODY_LENS), case.number)
    if dice.random() < 0.3:
        case.body = b"GET /smuggled HTTP/1.1\r\nhost: e2e.test\r\n\r\n"
    if dice.random() < 0.6:
        case.length = b"%d" % len(case.body)
    case.pieces = dice.choice((1, 1, 2, 5))
    if case.length is None and dice.random() < 0.3:
        case.trailers = dice.sample([(b"x-t", b"1"), (b"x-u", b""), (b"x-t", b"\xff")], 2)


def cookies(case: Case, dice: random.Random):
    plain(case, dice)
    lines = [(b"cookie", one) for one in dice.choices(COOKIES, k=dice.randrange(1, 6))]
    case.fields = [*lines[:2], *case.fields, *lines[2:]]


def expecting(case: Case, dice: random.Random):
    with_body(case, dice)
    case.fields = [(b"expect", dice.choice((b"100-continue", b"100-Continue")))]


def early(case: Case, dice: random.Random):
    """The upstream does not wait for the body, or does not read it at all."""
    with_body(case, dice)
    case.method, case.body, case.is_cut = b"POST", bodies.body(20_000, case.number), True
    case.length, case.trailers = b"20000", []
    case.answer = [dice.choice((ok(b"no", status="413 Too Long"), ok(b"yes")))]
    if dice.random() < 0.5:
        case.answer.append("fin")


def interim(case: Case, dice: random.Random):
    plain(case, dice)
    count = dice.choice((1, 2, 8, 9))
    heads = ["HTTP/1.1 103 Early\r\nlink: </a>; rel=preload\r\n\r\n",
             "HTTP/1.1 102 \r\n\r\n", "HTTP/1.1 100 Continue\r\nx: y\r\n\r\n",
             "HTTP/1.1 199 Odd\r\nX-A: b\r\nconnection: x-b\r\nx-b: c\r\n\r\n"]
    case.answer = ["read", *(one.encode() for one in dice.choices(heads, k=count)),
                   *case.answer[1:]]


def authorities(case: Case, dice: random.Random):
    plain(case, dice)
    case.authority = dice.choice((
        b"E2E.TEST", b"e2e.test:443", b"e2e.test:8443", b"e2e.test.", b"localhost", b"small.test",
        b"e2e.test:80", b"LocalHost:1",
    ))
    if dice.random() < 0.2:
        case.path = dice.choice((b"/down/%d", b"/head/only/%d", b"/DOWN/%d", b"//down/%d")) % (
            case.number)


def targets(case: Case, dice: random.Random):
    """Targets in forms that some server takes for another one."""
    plain(case, dice)
    case.method = b"GET"
    case.path = dice.choice((
        b"*", b"a%d", b"/%d/..", b"/%d/../b", b"/%d/%%2e%%2e", b"/%d/%%2E./b", b"/%d%%2f..%%2fb",
        b"/%d/..;x/b", b"/%d\\..\\b", b"/%d/%%00", b"/%d#b", b"/%d?a#b", b"/%d\xc3\xa4",
        b"/%d/.", b"/./%d", b"?%d", b"/%d\x7f", b"/%d\x01", b"/%d%%", b"/%d%%zz", b"/%d%%2",
        b"//%d", b"/%d//..", b"/%d/.;/b", b"/%d/%%252e%%252e/b", b"/%d%%5c..%%5cb",
        b"https://e2e.test/%d", b"/%d/http://x.test/", b"/%d<>", b"/%d^", b"/%d`?`", b'/%d"?"',
    )).replace(b"%d", b"%d" % case.number).replace(b"%%", b"%")
    case.answer = ["read", ok()]


def bad_authorities(case: Case, dice: random.Random):
    plain(case, dice)
    case.authority = dice.choice((
        b"user@e2e.test", b"e2e.test:0", b"e2e.test:65536", b"e2e.test:", b"e2e.test:a",
        b"e2e.test:1:2", b"e2e.test/x", b"[::1", b"e2e.test,other.test", b"%65", b"", None,
        b"other.test", b"192.0.2.1", b"[::1]", b"e2e..test", b"-e2e.test", b"e2e.test?x", b"a b",
        b"e2e_.test", b"e2e.test..", b".", b"e2e.test#x", b"\xc3\xa4.test", b"127.1", b"0x7f.1",
    ))
    if case.authority and dice.random() < 0.2:
        # A second name, in `host`.
        case.authority = AUTHORITY.encode()
        case.fields.append((b"host", dice.choice((b"e2e.test", b"other.test", b"E2E.test", b""))))


def methods(case: Case, dice: random.Random):
    plain(case, dice)
    case.method = dice.choice((
        b"get", b"head", b"Post", b"connect", b"tRACE", b"TRACE", b"CONNECT", b"G(T", b"G\x7fT",
        b"", b"PRI", b"OPTIONS", b"X" * 64, b"X" * 200,
    ))
    case.answer = ["read", ok()]
    if case.method == b"OPTIONS":
        case.path = dice.choice((b"*", b"/%d" % case.number))
        case.fields = [(b"max-forwards", dice.choice((b"0", b"1", b"00", b"-1", b"x", b"")))]
    if case.method == b"CONNECT":
        case.path, case.authority, case.fields = b"", b"e2e.test:1", []
        case.protocols = WITH_STREAMS


def bad_fields(case: Case, dice: random.Random):
    plain(case, dice)
    bad = dice.choice((
        (b"x_under", b"v"), (b"content_length", b"1"), (b"", b"v"), (b"x y", b"v"),
        (b"x\xe4", b"v"), (b"x(", b"v"), (b'x"', b"v"), (b"x", b"a\x00b"), (b"x", b"a\x01b"),
        (b"x", b"a\x7fb"),
        (b"cookie", b"a\x1fb"), (b"x,y", b"v"), (b"x/", b"v"), (b"x\x7f", b"v"), (b"x{", b"v"),
        (b"expect", b"something"), (b"expect", b"100-continue, x"), (b"expect", b""),
        (b"host", b"e2e.test"),
    ))
    case.fields.insert(dice.randrange(len(case.fields) + 1), bad)


def bad_fields_of_streams(case: Case, dice: random.Random):
    """Fields that HTTP/1.1 knows, removes or cannot say."""
    plain(case, dice)
    bad = dice.choice((
        (b"X-Upper", b"v"), (b"x:y", b"v"), (b"x", b" v"), (b"x", b"v\t"), (b"x", b" "),
        (b"x", b"a\rb"), (b"x", b"a\nb"), (b"x", b"a\r\nb: c"), (b"connection", b"close"),
        (b"connection", b"x-mine"), (b"keep-alive", b"timeout=5"), (b"upgrade", b"websocket"),
        (b"proxy-connection", b"keep-alive"), (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"), (b"te", b"gzip"), (b"te", b"trailers, gzip"),
        (b"te", b""), (b":path", b"/smuggled"), (b":x", b"v"), (b"x ", b"v"), (b" x", b"v"),
    ))
    case.fields.insert(dice.randrange(len(case.fields) + 1), bad)
    case.protocols = WITH_STREAMS


def bad_lengths(case: Case, dice: random.Random):
    with_body(case, dice)
    case.method, case.body, case.trailers, case.pieces = b"POST", b"hello", [], 1
    case.length = dice.choice((b"+5", b"5,5", b"5 5", b"0x5", b"-0", b"", b"5.0", b"5, 5",
                               b"18446744073709551616", b"5\x0b", b"V"))
    if dice.random() < 0.2:
        case.length = b"5"
        case.fields.append((b"content-length", dice.choice((b"5", b"6", b"05"))))
    elif dice.random() < 0.2:
        case.length = dice.choice((b"05", b"0005"))


def other_lengths(case: Case, dice: random.Random):
    """The body has another length than is said."""
    with_body(case, dice)
    case.method, case.protocols, case.is_cut = b"POST", WITH_STREAMS, True
    case.body, case.pieces = bodies.body(dice.choice((0, 4, 6, 1000, 20_000))), dice.choice((1, 2))
    case.length = dice.choice((b"5", b"999", b"1001", b"19999", b"20001", b"%d" % (2**64 - 1)))
    case.trailers = dice.choice(([], [(b"x-t", b"v")]))


def bad_trailers(case: Case, dice: random.Random):
    with_body(case, dice)
    case.method, case.body, case.length, case.is_cut = b"POST", b"x", None, True
    case.trailers = [dice.choice((
        (b"content-length", b"1"), (b"host", b"e2e.test"), (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"), (b"te", b"trailers"), (b"x_under", b"1"), (b"x y", b"1"),
        (b"x", b"a\x00b"), (b"trailer", b"x"), (b"authorization", b"x"), (b"cookie", b"a=b"),
        (b"content-type", b"x"), (b"", b"v"), (b"max-forwards", b"1"), (b"x-forwarded-for", b"x"),
        (b"via", b"1.1 x"), (b"expect", b"100-continue"), (b"x", b"a\x7fb"), (b"set-cookie", b"x"),
    ))]


def limits(case: Case, dice: random.Random):
    """Sizes around each limit."""
    plain(case, dice)
    aim = dice.choice(("length", "length", "path", "count", "cookies", "body", "unsized"))
    past = dice.choice((-60, -1, 0, 1, 60, 10_000))
    if aim in ("length", "path"):
        case.fields = [(b"x-fill", b"")]
        case.path = b"/%d/" % case.number
        left = HEAD_LEN_MAX + past - case.head_len()
        if aim == "path":
            case.path += b"p" * left
        else:
            case.fields = [(b"x-fill", b"f" * left)]
    elif aim == "count":
        case.fields = [(b"x-%d" % index, b"v") for index in range(HEAD_COUNT_MAX - 3 + past % 4)]
    elif aim == "cookies":
        case.fields = [(b"cookie", b"a=%d" % index) for index in range(HEAD_COUNT_MAX + past % 4)]
    else:
        case.method, case.body = b"POST", bodies.body(BODY_LEN_MAX + past, case.number)
        case.is_cut = past > 0
        if aim == "body":
            case.length = b"%d" % len(case.body)
    case.answer = ["read", ok()]


def odd_answers(case: Case, dice: random.Random):
    """Responses that a careful client refuses, or bears."""
    plain(case, dice)
    case.method = dice.choice((b"GET", b"GET", b"HEAD", b"POST"))
    if case.method == b"POST":
        case.body, case.length = b"hello", b"5"
    case.answer = ["read", *dice.choice(ODD_ANSWERS), "fin"]


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


CHUNKED = "transfer-encoding: chunked"
ODD_ANSWERS = [
    [], [b"HTTP/1.1 200"], [b"\r\n" + ok()], [b"<html>no head</html>"], [b"HTTP/1.1 200 OK\n\nx"],
    [b"HTTP/0.9 200 OK\r\n\r\n"], [b"HTTP/2.0 200 OK\r\n\r\n"], [b"HTTP/1.1 20 OK\r\n\r\n"],
    [b"HTTP/1.1 099 No\r\n\r\n"], [b"HTTP/1.1 1000 No\r\n\r\n"], [b"http/1.1 200 OK\r\n\r\n"],
    [b"HTTP/1.1  200 OK\r\ncontent-length: 0\r\n\r\n"], [b"HTTP/1.0 200 OK\r\n\r\nold"],
    [b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok"],
    [head("content-length: 0", status="101 Switching")], [head(status="204 No", ) + b"late"],
    [head("x: a", " b", "content-length: 0")], [head("content-length: 2", "content-length: 2")
                                                + b"ok"],
    [head("content-length: 2", "content-length: 3") + b"ok"],
    [head("content-length: 2, 2") + b"ok"],
    [head("content-length: +2") + b"ok"], [head("content-length: ") + b"ok"],
    [head("content-length: 18446744073709551616")], [head("content-length: 02") + b"ok"],
    [head("content-length: 2", CHUNKED) + b"2\r\nok\r\n0\r\n\r\n"],
    [head("transfer-encoding: gzip, chunked") + b"0\r\n\r\n"], [head("transfer-encoding: gzip")],
    [head("transfer-encoding: chunked, chunked") + b"0\r\n\r\n"],
    [head("Transfer-Encoding: Chunked") + b"2\r\nok\r\n0\r\n\r\n"],
    [head(CHUNKED) + b"2;x=\ny\r\nok\r\n0\r\n\r\n"], [head(CHUNKED) + b"2\nok\r\n0\r\n\r\n"],
    [head(CHUNKED) + b"2 \r\nok\r\n0\r\n\r\n"], [head(CHUNKED) + b"0x2\r\nok\r\n0\r\n\r\n"],
    [head(CHUNKED) + b"2\r\nok!\r\n0\r\n\r\n"], [head(CHUNKED) + b"2\r\nok\r\n0\r\n"],
    [head(CHUNKED) + b"2\r\nok\r\n"], [head(CHUNKED) + b"2\r\no"],
    [head(CHUNKED) + b"ffffffffffffffff1\r\nok\r\n0\r\n\r\n"],
    [head(CHUNKED) + b"2\r\nok\r\n0\r\ncontent-length: 1\r\nx-t: 2\r\n\r\n"],
    [head(CHUNKED) + b"2\r\nok\r\n0\r\nx y: 1\r\n\r\n"],
    [head("content-length: 10") + b"short"], [head("content-length: 10")],
    [head("content-length: 2") + b"ok and more"], [head("x : a", "content-length: 0")],
    [head("x y: a", "content-length: 0")], [head("x: a\x00b", "content-length: 0")],
    [head("x: a\x01b", "content-length: 0")], [head(": a", "content-length: 0")],
    [head("no colon", "content-length: 0")], [head("x_y: a", "content-length: 0")],
    [head("x: a\rb", "content-length: 0")], [head("location: /a b", "content-length: 0")],
    [head("x: " + "v" * (RESPONSE_HEAD_LEN_MAX + 100), "content-length: 0")],
    [head(*[f"x-{index}: v" for index in range(300)], "content-length: 0")],
    [head("content-length: 5", status="304 Not Modified")],
    [head(CHUNKED, status="304 Not Modified")], [head("content-length: 5", status="204 No")],
    [head("connection: close, x-a", "x-a: 1", "content-length: 2") + b"ok"],
    [head("content-length: 2") + b"o", 0.02, b"k"], [head("content-length: 9") + b"o", "rst"],
    [b"HTTP/1.1 103 Early\r\n\r\n"], [b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 2"],
    [b"HTTP/1.1 100 Continue\r\n\r\n" + ok()], [head("content-length: 0", status="200")],
]

KINDS = {
    "plain": (26, plain), "body": (14, with_body), "cookies": (4, cookies),
    "expect": (3, expecting), "early": (2, early), "interim": (4, interim),
    "authority": (4, authorities), "target": (7, targets), "bad authority": (5, bad_authorities), "method": (4, methods),
    "bad field": (5, bad_fields), "bad field of streams": (4, bad_fields_of_streams),
    "bad length": (4, bad_lengths), "other length": (3, other_lengths),
    "bad trailer": (4, bad_trailers), "limit": (6, limits), "odd response": (12, odd_answers),
}
"""Kinds of cases with their weights."""
