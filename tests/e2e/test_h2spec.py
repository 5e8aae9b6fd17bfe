"""The cases of h2spec (RFC 9113 and RFC 7541), by its numbers and titles, with frames of our own.

h2spec itself is a program in Go, which nothing else here needs. It takes a closed connection for
any error; here the code has to be the one that the RFC names, in RST_STREAM or GOAWAY. Its case of
`h2c` is left out: there is no HTTP/2 without TLS.
"""

import dataclasses
from collections.abc import Callable

import pytest

from harness import http2, tcp
from harness.gateway import Gateway
from harness.http2 import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENABLE_PUSH, FRAME_SIZE_ERROR, GOAWAY,
    HEADERS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, PADDED, PING, PREFACE, PRIORITY, PROTOCOL_ERROR,
    PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_MAX, WINDOW_UPDATE,
    WITH_PRIORITY, frame, headers, number, pseudo, request, rst_stream, section, settings,
    window_update,
)
from harness.recorder import Recorder

FLOW_CONTROL_ERROR, COMPRESSION_ERROR = http2.FLOW_CONTROL_ERROR, http2.COMPRESSION_ERROR
BODY = b"ok"
"""The body of each response."""
STREAMS_MAX = 100
"""The limit that the gateway announces by default."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, certificate):
    recorder = Recorder()
    folder = tmp_path_factory.mktemp("h2spec")
    gateway = Gateway(folder, recorder.address, certificate, listener=tcp.LISTENER).start()
    yield gateway
    recorder.stop()
    code = gateway.stop()
    assert code == 0 and "panicked" not in gateway.text(), f"exit code {code}:\n{gateway.text()}"
    assert recorder.wrong == []


# What the gateway has to do.

Check = Callable[[http2.Client], None]


def accepts(client: http2.Client):
    """It goes on as if nothing had happened."""
    assert client.is_alive(), client.goaway
    assert client.resets == {}


def responds(client: http2.Client, stream: int = 1):
    response = client.response(stream)
    assert (response.status, response.end) == (200, "clean"), (response, client.goaway)
    accepts(client)


def closes(*codes: int) -> Check:
    """A connection error (RFC 9113 5.4.1): GOAWAY with one of these codes, and the end."""
    def check(client: http2.Client):
        assert client.close_code() in codes, client.goaway
    return check


def resets(*codes: int, stream: int = 1) -> Check:
    """A stream error (5.4.2), which may be made one of the connection."""
    def check(client: http2.Client):
        client.response(stream)
        # A reset that follows the end of a response is sent before anything of a new stream.
        after = client.ask(99_999, path=b"/after")
        if client.has_ended:
            assert client.goaway and client.goaway.code in codes, client.goaway
            return
        assert client.resets.get(stream) in codes
        assert after.status == 200 or after.end == f"reset {REFUSED_STREAM}", after
    return check


@dataclasses.dataclass
class Case:
    group: str
    title: str
    sends: bytes | Callable[[http2.Client], bytes]
    check: Check
    own_settings: tuple = ()
    preface: bytes | None = None


CASES: list[Case] = []


def case(group: str, title: str, sends, check: Check = accepts, **more):
    CASES.append(Case(group, title, sends, check, **more))


def with_zero_window(*more: bytes) -> dict:
    """The arguments of a case whose responses wait, so that their streams stay open."""
    return {"sends": b"".join(more), "own_settings": ((INITIAL_WINDOW_SIZE, 0),)}


def post(stream: int = 1, more=()) -> bytes:
    return request(stream, method=b"POST", more=more, flags=0)


def data(stream: int, payload: bytes = b"test", flags: int = END_STREAM) -> bytes:
    return frame(DATA, flags, stream, payload)


def priority(stream: int, parent: int = 0, weight: int = 255, exclusive: bool = False) -> bytes:
    return frame(PRIORITY, 0, stream, dependency(parent, weight, exclusive))


def dependency(parent: int, weight: int = 255, exclusive: bool = False) -> bytes:
    return number(parent | exclusive << 31) + bytes([weight])


def get_with(*lines: tuple[bytes, bytes]) -> bytes:
    return request(1, more=list(lines))


def block(*more: bytes) -> bytes:
    """The field section of a GET request, with representations behind it."""
    return section(pseudo()) + b"".join(more)


def in_block(*more: bytes) -> bytes:
    return headers(1, block(*more))


def split(count: int) -> bytes:
    """A request whose head has this many CONTINUATION frames."""
    out = frame(HEADERS, END_STREAM, 1, block())
    for index in range(count):
        flags = END_HEADERS if index == count - 1 else 0
        out += frame(CONTINUATION, flags, 1, section([(b"x-%d" % index, b"v")]))
    return out


def after_the_response(*more: bytes) -> Callable[[http2.Client], bytes]:
    """Sends these bytes once the stream is closed."""
    def send(client: http2.Client) -> bytes:
        assert client.ask(1).status == 200
        return b"".join(more)
    return send


GET = request(1)
UNKNOWN = frame(0x16, 0, 0, b"0123456789")

# h2spec's generic cases.

case("generic/1", "Sends a client connection preface", b"")

case("generic/2", "Sends a PRIORITY frame on idle stream", priority(1))


def credit_for_one(client: http2.Client):
    client.until(lambda: client.responses.setdefault(1, http2.Response()).body == BODY[:1])
    accepts(client)


case("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream",
     check=credit_for_one, **with_zero_window(GET, window_update(1, 1)))
case("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream",
     check=credit_for_one, **with_zero_window(GET, priority(1), window_update(1, 1)))
case("generic/2", "Sends a RST_STREAM frame on half-closed (remote) stream", GET + rst_stream(1))
case("generic/2", "Sends a PRIORITY frame on closed stream", after_the_response(priority(1)))

case("generic/3.1", "Sends a DATA frame", post() + data(1), responds)
case("generic/3.1", "Sends multiple DATA frames", post() + data(1, flags=0) + data(1), responds)
case("generic/3.1", "Sends a DATA frame with padding",
     post() + data(1, b"\x06test" + bytes(6), END_STREAM | PADDED), responds)

case("generic/3.2", "Sends a HEADERS frame", GET, responds)
case("generic/3.2", "Sends a HEADERS frame with padding",
     headers(1, b"\x06" + block() + bytes(6), END_STREAM | PADDED), responds)
case("generic/3.2", "Sends a HEADERS frame with priority",
     headers(1, dependency(0) + block(), END_STREAM | WITH_PRIORITY), responds)

case("generic/3.3", "Sends a PRIORITY frame with priority 1", GET + priority(1, weight=0), responds)
case("generic/3.3", "Sends a PRIORITY frame with priority 256",
     GET + priority(1, weight=255), responds)
case("generic/3.3", "Sends a PRIORITY frame with stream dependency",
     GET + priority(1, parent=3), responds)
case("generic/3.3", "Sends a PRIORITY frame with exclusive",
     GET + priority(1, parent=3, exclusive=True), responds)
case("generic/3.3",
     "Sends a PRIORITY frame for an idle stream, then send a HEADER frame for a lower stream ID",
     priority(3) + GET, responds)

case("generic/3.4", "Sends a RST_STREAM frame", GET + rst_stream(1))


def acknowledges(client: http2.Client):
    assert any(one[:2] == (SETTINGS, ACK) for one in client.frames()), client.goaway


case("generic/3.5", "Sends a SETTINGS frame",
     settings((1, 4096), (2, 1), (3, 100), (4, 65_535), (5, 16_384), (6, 100)), acknowledges)
case("generic/3.7", "Sends a PING frame", b"")
case("generic/3.8", "Sends a GOAWAY frame", frame(GOAWAY, 0, 0, number(0) + number(0)),
     closes(http2.NO_ERROR, None))
case("generic/3.9", "Sends a WINDOW_UPDATE frame with stream ID 0",
     GET + window_update(0, 1), responds, preface=PREFACE + settings())
case("generic/3.9", "Sends a WINDOW_UPDATE frame with stream ID 1",
     GET + window_update(1, 1), responds, preface=PREFACE + settings())
case("generic/3.10", "Sends a CONTINUATION frame", split(1), responds)
case("generic/3.10", "Sends multiple CONTINUATION frames", split(2), responds)

case("generic/4", "Sends a GET request", GET, responds)
case("generic/4", "Sends a HEAD request", request(1, method=b"HEAD"), responds)
case("generic/4", "Sends a POST request", post() + data(1), responds)
case("generic/4", "Sends a POST request with trailers",
     post(more=[(b"trailer", b"x-test")]) + data(1, flags=0)
     + headers(1, section([(b"x-test", b"ok")])), responds)

# "user-agent", "x-test" and "h2spec", as they are and in the Huffman code.
PLAIN_AGENT, CODED_AGENT = b"\x0auser-agent", bytes.fromhex("87b505b161cc5a93")
PLAIN_NEW, CODED_NEW = b"\x06x-test", bytes.fromhex("85f2b24a84ff")
PLAIN_VALUE, CODED_VALUE = b"\x06h2spec", bytes.fromhex("849c48aca4")
STATIC_AGENT = 58

case("generic/5", "Sends a indexed header field representation",
     in_block(bytes([0x80 | STATIC_AGENT])), responds)
for kind, first, prefix_bits in (
    ("with incremental indexing", 0x40, 6), ("without indexing", 0x00, 4),
    ("never indexed", 0x10, 4),
):
    indexed = http2.prefixed(first, prefix_bits, STATIC_AGENT)
    for what, name, value in (
        ("indexed name", indexed, PLAIN_VALUE),
        ("indexed name (with Huffman coding)", indexed, CODED_VALUE),
        ("new name", bytes([first]) + PLAIN_NEW, PLAIN_VALUE),
        ("new name (with Huffman coding)", bytes([first]) + CODED_NEW, CODED_VALUE),
    ):
        case("generic/5", f"Sends a literal header field {kind} - {what}",
             in_block(name + value), responds)
case("generic/5", "Sends a dynamic table size update", headers(1, b"\x20" + block()), responds)
case("generic/5", "Sends multiple dynamic table size update",
     headers(1, b"\x20\x3f\xe1\x1f" + block()), responds)

# HTTP/2.

case("http2/3.5", "Sends client connection preface", GET, responds, preface=PREFACE + settings())
case("http2/3.5", "Sends invalid connection preface", b"", closes(PROTOCOL_ERROR, None),
     preface=b"INVALID CONNECTION PREFACE\r\n\r\n")

case("http2/4.1", "Sends a frame with unknown type", UNKNOWN)
case("http2/4.1", "Sends a frame with undefined flag", frame(PING, 0x16, 0, bytes(8)))
case("http2/4.1", "Sends a frame with reserved field bit", frame(PING, 0, 1 << 31, bytes(8)))

case("http2/4.2", "Sends a DATA frame with 2^14 octets in length",
     post() + data(1, b"x" * 16_384), responds)
case("http2/4.2", "Sends a large size DATA frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
     post() + data(1, b"x" * 16_385), resets(FRAME_SIZE_ERROR))
case("http2/4.2", "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
     frame(HEADERS, END_STREAM | END_HEADERS, 1, block(section([(b"x", b"v" * 16_400)]))),
     closes(FRAME_SIZE_ERROR))

case("http2/4.3", "Sends invalid header block fragment",
     headers(1, b"\x40\xfe" + b"\xff" * 29 + b"\xf0"),
     closes(COMPRESSION_ERROR))
case("http2/4.3", "Sends a PRIORITY frame while sending the header blocks",
     frame(HEADERS, END_STREAM, 1, block()) + priority(1), closes(PROTOCOL_ERROR))
case("http2/4.3", "Sends a HEADERS frame to another stream while sending the header blocks",
     frame(HEADERS, END_STREAM, 1, block()) + request(3), closes(PROTOCOL_ERROR))

case("http2/5.1", "idle: Sends a DATA frame", data(1), closes(PROTOCOL_ERROR))
case("http2/5.1", "idle: Sends a RST_STREAM frame", rst_stream(1), closes(PROTOCOL_ERROR))
case("http2/5.1", "idle: Sends a WINDOW_UPDATE frame", window_update(1, 100),
     closes(PROTOCOL_ERROR))
case("http2/5.1", "idle: Sends a CONTINUATION frame",
     frame(CONTINUATION, END_HEADERS, 1, block()), closes(PROTOCOL_ERROR))
case("http2/5.1", "half closed (remote): Sends a DATA frame", GET + data(1), resets(STREAM_CLOSED))
case("http2/5.1", "half closed (remote): Sends a HEADERS frame", GET + GET, resets(STREAM_CLOSED))
case("http2/5.1", "half closed (remote): Sends a CONTINUATION frame",
     GET + frame(CONTINUATION, END_HEADERS, 1, section([(b"x", b"y")])),
     closes(STREAM_CLOSED, PROTOCOL_ERROR))
case("http2/5.1", "closed: Sends a DATA frame after sending RST_STREAM frame",
     post() + rst_stream(1) + data(1), resets(STREAM_CLOSED))
case("http2/5.1", "closed: Sends a HEADERS frame after sending RST_STREAM frame",
     post() + rst_stream(1) + GET, resets(STREAM_CLOSED))
case("http2/5.1", "closed: Sends a CONTINUATION frame after sending RST_STREAM frame",
     post() + rst_stream(1) + frame(CONTINUATION, END_HEADERS, 1, section([(b"x", b"y")])),
     closes(STREAM_CLOSED, PROTOCOL_ERROR))
case("http2/5.1", "closed: Sends a DATA frame", after_the_response(data(1)), resets(STREAM_CLOSED))
case("http2/5.1", "closed: Sends a HEADERS frame", after_the_response(GET), closes(STREAM_CLOSED))
case("http2/5.1", "closed: Sends a CONTINUATION frame",
     after_the_response(frame(CONTINUATION, END_HEADERS, 1, section([(b"x", b"y")]))),
     closes(STREAM_CLOSED, PROTOCOL_ERROR))

case("http2/5.1.1", "Sends even-numbered stream identifier", request(2), closes(PROTOCOL_ERROR))
case("http2/5.1.1",
     "Sends stream identifier that is numerically smaller than previous",
     request(5) + request(3), closes(PROTOCOL_ERROR))

case("http2/5.1.2",
     "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
     check=resets(PROTOCOL_ERROR, REFUSED_STREAM, stream=2 * STREAMS_MAX + 1),
     **with_zero_window(*(request(2 * index + 1) for index in range(STREAMS_MAX + 1))))

case("http2/5.3.1", "Sends HEADERS frame that depends on itself",
     headers(1, dependency(1) + block(), END_STREAM | WITH_PRIORITY), resets(PROTOCOL_ERROR))
case("http2/5.3.1", "Sends PRIORITY frame that depend on itself", priority(1, parent=1),
     resets(PROTOCOL_ERROR))

case("http2/5.4.1", "Sends an invalid PING frame for connection close",
     frame(PING, 0, 0, bytes(6)), closes(FRAME_SIZE_ERROR))


def names_the_last_stream(client: http2.Client):
    closes(FRAME_SIZE_ERROR)(client)
    assert client.goaway.payload[:4] == number(1)


case("http2/5.4.1", "Sends an invalid PING frame to receive GOAWAY frame",
     after_the_response(frame(PING, 0, 0, bytes(6))), names_the_last_stream)

case("http2/5.5", "Sends an unknown extension frame", UNKNOWN)
case("http2/5.5", "Sends an unknown extension frame in the middle of a header block",
     frame(HEADERS, END_STREAM, 1, block()) + UNKNOWN, closes(PROTOCOL_ERROR))

case("http2/6.1", "Sends a DATA frame with 0x0 stream identifier", data(0), closes(PROTOCOL_ERROR))
case("http2/6.1",
     'Sends a DATA frame on the stream that is not in "open" or "half-closed (local)" state',
     GET + data(1), resets(STREAM_CLOSED))
case("http2/6.1", "Sends a DATA frame with invalid pad length",
     post() + data(1, b"\x06test", END_STREAM | PADDED), closes(PROTOCOL_ERROR))

case("http2/6.2", "Sends a HEADERS frame without the END_HEADERS flag, and a PRIORITY frame",
     frame(HEADERS, END_STREAM, 1, block()) + priority(1), closes(PROTOCOL_ERROR))
case("http2/6.2", "Sends a HEADERS frame to another stream while sending a HEADERS frame",
     frame(HEADERS, END_STREAM, 1, block()) + request(3), closes(PROTOCOL_ERROR))
case("http2/6.2", "Sends a HEADERS frame with 0x0 stream identifier", headers(0, block()),
     closes(PROTOCOL_ERROR))
case("http2/6.2", "Sends a HEADERS frame with invalid pad length",
     headers(1, b"\xff" + block(), END_STREAM | PADDED), closes(PROTOCOL_ERROR))

case("http2/6.3", "Sends a PRIORITY frame with 0x0 stream identifier", priority(0),
     closes(PROTOCOL_ERROR))
case("http2/6.3", "Sends a PRIORITY frame with a length other than 5 octets",
     frame(PRIORITY, 0, 1, b"\x80\0\0\1"), resets(FRAME_SIZE_ERROR))

case("http2/6.4", "Sends a RST_STREAM frame with 0x0 stream identifier", rst_stream(0),
     closes(PROTOCOL_ERROR))
case("http2/6.4", "Sends a RST_STREAM frame on a idle stream", rst_stream(1),
     closes(PROTOCOL_ERROR))
case("http2/6.4", "Sends a RST_STREAM frame with a length other than 4 octets",
     post() + frame(RST_STREAM, 0, 1, bytes(3)), closes(FRAME_SIZE_ERROR))

case("http2/6.5", "Sends a SETTINGS frame with ACK flag and payload",
     frame(SETTINGS, ACK, 0, bytes(6)), closes(FRAME_SIZE_ERROR))
case("http2/6.5", "Sends a SETTINGS frame with a stream identifier other than 0x0",
     frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64"), closes(PROTOCOL_ERROR))
case("http2/6.5", "Sends a SETTINGS frame with a length other than a multiple of 6 octets",
     frame(SETTINGS, 0, 0, b"\0\3\0"), closes(FRAME_SIZE_ERROR))

case("http2/6.5.2", "SETTINGS_ENABLE_PUSH (0x2): Sends the value other than 0 or 1",
     settings((ENABLE_PUSH, 2)), closes(PROTOCOL_ERROR))
case("http2/6.5.2",
     "SETTINGS_INITIAL_WINDOW_SIZE (0x4): Sends the value above the maximum flow control window "
     "size", settings((INITIAL_WINDOW_SIZE, 1 << 31)), closes(FLOW_CONTROL_ERROR))
case("http2/6.5.2", "SETTINGS_MAX_FRAME_SIZE (0x5): Sends the value below the initial value",
     settings((MAX_FRAME_SIZE, 16_383)), closes(PROTOCOL_ERROR))
case("http2/6.5.2",
     "SETTINGS_MAX_FRAME_SIZE (0x5): Sends the value above the maximum allowed frame size",
     settings((MAX_FRAME_SIZE, 1 << 24)), closes(PROTOCOL_ERROR))
case("http2/6.5.2", "Sends a SETTINGS frame with unknown identifier", settings((0xFF, 1)))

case("http2/6.5.3", "Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE",
     settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)) + GET, credit_for_one)
case("http2/6.5.3", "Sends a SETTINGS frame without ACK flag", settings(), acknowledges)

case("http2/6.7", "Sends a PING frame", b"")
case("http2/6.7", "Sends a PING frame with ACK", frame(PING, ACK, 0, b"invalid!"))
case("http2/6.7", "Sends a PING frame with a stream identifier field value other than 0x0",
     frame(PING, 0, 1, bytes(8)), closes(PROTOCOL_ERROR))
case("http2/6.7", "Sends a PING frame with a length field value other than 8",
     frame(PING, 0, 0, bytes(6)), closes(FRAME_SIZE_ERROR))

case("http2/6.8", "Sends a GOAWAY frame with a stream identifier other than 0x0",
     frame(GOAWAY, 0, 1, number(0) + number(0)), closes(PROTOCOL_ERROR))

case("http2/6.9", "Sends a WINDOW_UPDATE frame with a flow control window increment of 0",
     window_update(0, 0), closes(PROTOCOL_ERROR))
case("http2/6.9",
     "Sends a WINDOW_UPDATE frame with a flow control window increment of 0 on a stream",
     post() + window_update(1, 0), resets(PROTOCOL_ERROR))
case("http2/6.9", "Sends a WINDOW_UPDATE frame with a length other than 4 octets",
     frame(WINDOW_UPDATE, 0, 0, bytes(3)), closes(FRAME_SIZE_ERROR))

case("http2/6.9.1", "Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS "
     "frame", settings((INITIAL_WINDOW_SIZE, 1)) + GET, credit_for_one)
case("http2/6.9.1",
     "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1",
     window_update(0, WINDOW_MAX) * 2, closes(FLOW_CONTROL_ERROR))
case("http2/6.9.1",
     "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a "
     "stream", post() + window_update(1, WINDOW_MAX) * 2, resets(FLOW_CONTROL_ERROR))


def widen_behind_the_request(client: http2.Client) -> bytes:
    client.until(lambda: client.responses.setdefault(1, http2.Response()).status == 200)
    return settings((INITIAL_WINDOW_SIZE, 1))


def begin_then(then: Callable[[http2.Client], bytes], *first: bytes):
    def send(client: http2.Client) -> bytes:
        client.send(b"".join(first))
        return then(client)
    return send


case("http2/6.9.2", "Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame",
     begin_then(widen_behind_the_request, GET), credit_for_one,
     own_settings=((INITIAL_WINDOW_SIZE, 0),))


def negative_window(client: http2.Client) -> bytes:
    """A window of 1, of which 1 is used, becomes -1, then 1: two more bytes of credit are one."""
    client.until(lambda: client.responses.setdefault(1, http2.Response()).body == BODY[:1])
    client.send(settings((INITIAL_WINDOW_SIZE, 0)) + window_update(1, 1))
    assert client.is_alive() and client.responses[1].body == BODY[:1]
    return window_update(1, 1)


case("http2/6.9.2", "Sends a SETTINGS frame for window size to be negative",
     begin_then(negative_window, settings((INITIAL_WINDOW_SIZE, 1)), GET), responds)
case("http2/6.9.2",
     "Sends a SETTINGS_INITIAL_WINDOW_SIZE settings with an exceeded maximum window size value",
     settings((INITIAL_WINDOW_SIZE, 1 << 31)), closes(FLOW_CONTROL_ERROR))

case("http2/6.10", "Sends multiple CONTINUATION frames preceded by a HEADERS frame",
     split(3), responds)
case("http2/6.10",
     "Sends a CONTINUATION frame followed by any frame other than CONTINUATION",
     frame(HEADERS, 0, 1, block()) + frame(CONTINUATION, 0, 1, section([(b"x", b"y")])) + data(1),
     closes(PROTOCOL_ERROR))
case("http2/6.10", "Sends a CONTINUATION frame with 0x0 stream identifier",
     frame(HEADERS, END_STREAM, 1, block()) + frame(CONTINUATION, END_HEADERS, 0, b""),
     closes(PROTOCOL_ERROR))
case("http2/6.10",
     "Sends a CONTINUATION frame preceded by a HEADERS frame with END_HEADERS flag",
     post() + frame(CONTINUATION, END_HEADERS, 1, section([(b"x", b"y")])), closes(PROTOCOL_ERROR))
case("http2/6.10",
     "Sends a CONTINUATION frame preceded by a CONTINUATION frame with END_HEADERS flag",
     split(1) + frame(CONTINUATION, END_HEADERS, 1, section([(b"x", b"y")])),
     closes(PROTOCOL_ERROR))
case("http2/6.10", "Sends a CONTINUATION frame preceded by a DATA frame",
     post() + data(1, flags=0) + frame(CONTINUATION, END_HEADERS, 1, section([(b"x", b"y")])),
     closes(PROTOCOL_ERROR))

case("http2/7", "Sends a GOAWAY frame with unknown error code",
     frame(GOAWAY, 0, 0, number(0) + number(0xFF)), closes(http2.NO_ERROR, None))
case("http2/7", "Sends a RST_STREAM frame with unknown error code", post() + rst_stream(1, 0xFF))

# Of the sections on HTTP, which RFC 9113 has put together in 8.1 to 8.3, the numbers are h2spec's.
case("http2/8.1", "Sends a second HEADERS frame without the END_STREAM flag",
     post() + data(1, flags=0) + headers(1, section([(b"x-test", b"ok")]), flags=0),
     resets(PROTOCOL_ERROR))
case("http2/8.1.2", "Sends a HEADERS frame that contains the header field name in uppercase "
     "letters", get_with((b"X-TEST", b"ok")), resets(PROTOCOL_ERROR))
case("http2/8.1.2.1", "Sends a HEADERS frame that contains a unknown pseudo-header field",
     get_with((b":test", b"ok")), resets(PROTOCOL_ERROR))
case("http2/8.1.2.1",
     "Sends a HEADERS frame that contains the pseudo-header field defined for response",
     get_with((b":status", b"200")), resets(PROTOCOL_ERROR))
case("http2/8.1.2.1", "Sends a HEADERS frame that contains a pseudo-header field as trailers",
     post() + data(1, flags=0) + headers(1, section([(b":method", b"200")])),
     resets(PROTOCOL_ERROR))
case("http2/8.1.2.1",
     "Sends a HEADERS frame that contains a pseudo-header field that appears in a header block "
     "after a regular header field",
     headers(1, section([*pseudo()[:3], (b"x-test", b"ok"), pseudo()[3]])), resets(PROTOCOL_ERROR))
case("http2/8.1.2.2",
     "Sends a HEADERS frame that contains the connection-specific header field",
     get_with((b"connection", b"keep-alive")), resets(PROTOCOL_ERROR))
case("http2/8.1.2.2",
     'Sends a HEADERS frame that contains the TE header field with any value other than "trailers"',
     get_with((b"trailers", b"test"), (b"te", b"trailers, deflate")), resets(PROTOCOL_ERROR))
case("http2/8.1.2.3", 'Sends a HEADERS frame with empty ":path" pseudo-header field',
     request(1, path=b""), resets(PROTOCOL_ERROR))
for name in ("method", "scheme", "path"):
    case("http2/8.1.2.3", f'Sends a HEADERS frame that omits ":{name}" pseudo-header field',
         request(1, **{name: None}), resets(PROTOCOL_ERROR))
for line in (0, 1, 3):
    lines = pseudo()
    title = f'Sends a HEADERS frame with duplicated "{lines[line][0].decode()}" pseudo-header field'
    case("http2/8.1.2.3", title, headers(1, section([*lines, lines[line]])), resets(PROTOCOL_ERROR))
case("http2/8.1.2.6",
     'Sends a HEADERS frame with the "content-length" header field which does not equal the DATA '
     "frame payload length", post(more=[(b"content-length", b"1")]) + data(1),
     resets(PROTOCOL_ERROR))
case("http2/8.1.2.6",
     'Sends a HEADERS frame with the "content-length" header field which does not equal the sum '
     "of the multiple DATA frames payload length",
     post(more=[(b"content-length", b"1")]) + data(1, flags=0) + data(1), resets(PROTOCOL_ERROR))
case("http2/8.2", "Sends a PUSH_PROMISE frame",
     frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + block()), closes(PROTOCOL_ERROR))

# HPACK.

case("hpack/2.3.3", "Sends a indexed header field representation with invalid index",
     in_block(b"\xbe"), closes(COMPRESSION_ERROR))
case("hpack/2.3.3", "Sends a literal header field representation with invalid index",
     in_block(b"\x7e" + PLAIN_VALUE), closes(COMPRESSION_ERROR))
case("hpack/4.2", "Sends a dynamic table size update at the end of header block",
     in_block(b"\x20"), closes(COMPRESSION_ERROR))
case("hpack/5.2",
     "Sends a Huffman-encoded string literal representation with padding longer than 7 bits",
     in_block(b"\x00\x85\xf2\xb2\x4a\x84\xff" + b"\x85\x9c\x48\xac\xa4\xff"),
     closes(COMPRESSION_ERROR))
case("hpack/5.2", "Sends a Huffman-encoded string literal representation padded by zero",
     in_block(b"\x00\x85\xf2\xb2\x4a\x84\xff" + b"\x83\x49\x50\x90"), closes(COMPRESSION_ERROR))
case("hpack/5.2",
     "Sends a Huffman-encoded string literal representation containing the EOS symbol",
     in_block(b"\x00\x85\xf2\xb2\x4a\x84\xff" + b"\x86\x9c\x48\xff\xff\xff\xff"),
     closes(COMPRESSION_ERROR))
case("hpack/6.1", "Sends a indexed header field representation with index 0",
     in_block(b"\x80"), closes(COMPRESSION_ERROR))
case("hpack/6.3", "Sends a dynamic table size update larger than the value of "
     "SETTINGS_HEADER_TABLE_SIZE", headers(1, b"\x3f\xe1\xff\x03" + block()),
     closes(COMPRESSION_ERROR))


GENERAL = "`h2` reports PROTOCOL_ERROR where the RFC names a more specific code"
IGNORED = "`h2` drops pseudo-header fields of trailers, which are not forwarded"

DIFFERS: dict[str, tuple[str, Check]] = {
    "http2/8.1.2.1/3": (IGNORED, responds),
} | dict.fromkeys([
    # FRAME_SIZE_ERROR.
    "http2/5.4.1/1", "http2/5.4.1/2", "http2/6.3/2", "http2/6.4/3", "http2/6.5/1", "http2/6.5/3",
    "http2/6.7/4", "http2/6.9/3",
    # FLOW_CONTROL_ERROR.
    "http2/6.5.2/2", "http2/6.9.2/3",
    # STREAM_CLOSED.
    "http2/5.1/5", "http2/5.1/6", "http2/5.1/9", "http2/5.1/12", "http2/6.1/2",
    # COMPRESSION_ERROR.
    "http2/4.3/1", "hpack/2.3.3/1", "hpack/2.3.3/2", "hpack/4.2/1", "hpack/5.2/1", "hpack/5.2/2",
    "hpack/5.2/3", "hpack/6.1/1", "hpack/6.3/1",
], (GENERAL, closes(PROTOCOL_ERROR)))
"""Cases in which the `h2` crate differs: why, and what it does. Nothing of them is forwarded that
should not be, and the connection is closed all the same."""


def named() -> dict[str, Case]:
    counts: dict[str, int] = {}
    found = {}
    for one in CASES:
        counts[one.group] = counts.get(one.group, 0) + 1
        found[f"{one.group}/{counts[one.group]}"] = one
    return found


def parameters() -> list:
    def marks(name: str) -> list:
        if name not in DIFFERS:
            return []
        return [pytest.mark.xfail(strict=True, raises=AssertionError, reason=DIFFERS[name][0])]

    return [
        pytest.param(one, id=f"{name}: {one.title}", marks=marks(name))
        for name, one in named().items()
    ]


def run(gateway: Gateway, case: Case, check: Check):
    own_settings = case.own_settings or ((INITIAL_WINDOW_SIZE, 65_535),)
    with http2.Client(gateway, own_settings, preface=case.preface) as client:
        client.send(case.sends if isinstance(case.sends, bytes) else case.sends(client))
        check(client)


@pytest.mark.parametrize("case", parameters())
def test_h2spec(gateway, case):
    run(gateway, case, case.check)


@pytest.mark.parametrize("name", DIFFERS)
def test_where_h2_differs(gateway, name):
    run(gateway, named()[name], DIFFERS[name][1])
