"""A hundred reloads during a thousand downloads and a steady load, over all three protocols:
nothing is lost, and no connection is refused."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import subprocess
import time
from collections.abc import Callable

from harness import bodies, h3, http2, load, tcp
from harness.gateway import Gateway, free_ports

RELOADS = 100
LENGTH, PIECE = 40_000, 1_000
SLOW = f"/drip/{LENGTH}?piece={PIECE}&pause=1"
"""A download that takes as long as the reloads do."""
DOWNLOADS = {"HTTP/3": 350, "HTTP/2": 350, "HTTP/1.1": 300}
STREAMS = 50
"""Downloads of one connection over HTTP/3 and HTTP/2."""
STEADY_PATH, STEADY_LENGTH = "/bytes/10000", 10_000

# The upstream of the downloads: only their route and its timeout change.
DRIPS = """
[[routes]]
match = {{ host = "localhost" }}
upstream = "drips"

[upstreams.drips]
endpoints = [{{ address = "{origin}" }}]
max_connections = 4096
max_connections_per_address = "100%"
timeout = {{ response = "{response}" }}
"""

SECOND = """
[[listeners]]
name = "second"
address = "127.0.0.1:{port}"
protocols = ["h3", "h2", "http/1.1"]
"""


class Variants:
    """The files of a hundred reloads: each differs from the one before."""

    def __init__(self, gateway: Gateway, renewed, origin):
        self.gateway, self.renewed, self.origin = gateway, renewed, origin
        self.port = free_ports()[0]

    def write(self, number: int):
        settings = self.gateway.settings
        certificate = self.renewed[number // 2 % 2]
        settings |= {"cert": certificate.cert, "key": certificate.key}
        settings["max_body_size"] = f"{4 + number % 3}GiB"
        settings["upstream_idle"] = f"{30 + number % 2}s"
        drips = DRIPS.format(origin=self.origin, response=f"{60 + number % 5}s")
        routes = '[[routes]]\nmatch = { host = "x%d.test" }\nupstream = "drips"\n' % (number % 7)
        listener = SECOND.format(port=self.port) if number % 4 < 2 else ""
        settings["extra"] = drips + routes + listener
        return self.gateway.configure()


class Http2Downloads:
    """Downloads of one HTTP/2 connection, which a thread reads."""

    def __init__(self, gateway: Gateway, count: int):
        self.client = http2.Client(gateway, seconds=90)
        self.count = count
        self.client.send(b"".join(
            http2.request(2 * index + 1, path=SLOW.encode(), authority=b"localhost")
            for index in range(count)
        ))
        self.client.until(lambda: len(self.responses) == count and all(
            len(response.body) >= PIECE for response in self.responses), 60)

    @property
    def responses(self) -> list[http2.Response]:
        return [one for stream, one in self.client.responses.items() if stream]

    def finish(self):
        """Reads to the end of all downloads."""
        with self.client:
            self.client.until(lambda: all(one.end for one in self.responses), 120)
        for response in self.responses:
            assert (response.status, response.end) == (200, "clean")
            assert hashlib.sha256(response.body).hexdigest() == bodies.digest(LENGTH)


async def http11_download(gateway: Gateway, begun: Callable[[], None]):
    """Downloads over one HTTP/1.1 connection."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.port, ssl=tcp.context(gateway, "http/1.1"),
        server_hostname=h3.AUTHORITY,
    )
    writer.write(tcp.head("GET", SLOW, host="localhost"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"content-length: %d" % LENGTH in head, head
    body = await reader.readexactly(PIECE)
    begun()
    body += await reader.readexactly(LENGTH - PIECE)
    assert hashlib.sha256(body).hexdigest() == bodies.digest(LENGTH)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Steady:
    """A load over TCP: on connections that are kept, and on new ones. A thread for each."""

    def __init__(self, gateway: Gateway):
        self.gateway, self.is_over = gateway, False
        self.body = bodies.body(STEADY_LENGTH)

    def run(self) -> list:
        return [asyncio.to_thread(one) for one in (
            self.keep_http2, self.keep_http11, self.come_and_go)]

    def keep_http2(self) -> int:
        with http2.Client(self.gateway) as client:
            count = 0
            while not self.is_over:
                response = client.ask(2 * count + 1, path=STEADY_PATH.encode())
                assert (response.status, response.body, response.end) == (200, self.body, "clean")
                del client.responses[2 * count + 1]
                count += 1
                time.sleep(0.02)
        return count

    def keep_http11(self) -> int:
        with tcp.Client(self.gateway.port, tcp.context(self.gateway, "http/1.1")) as client:
            count = 0
            while not self.is_over:
                response = client.ask(tcp.head("GET", STEADY_PATH))
                assert (response.status, response.body) == (200, self.body)
                count += 1
                time.sleep(0.02)
        return count

    def come_and_go(self) -> int:
        """Each connection is a new one: a listening socket that is replaced would refuse some."""
        contexts = tcp.context(self.gateway, "http/1.1"), tcp.context(self.gateway, "h2")
        count = 0
        while not self.is_over:
            with tcp.Client(self.gateway.port, contexts[0]) as client:
                response = client.ask(tcp.head("GET", STEADY_PATH))
                assert (response.status, response.body) == (200, self.body)
            with http2.Client(self.gateway) as client:
                assert client.ask(1, path=STEADY_PATH.encode()).body == self.body
            count += 2
            time.sleep(0.02)
        return count


async def come_and_go_over_http3(gateway: Gateway, steady: Steady) -> int:
    count = 0
    while not steady.is_over:
        async with h3.connection(gateway) as client:
            response = await client.get("/bytes/20000")
            assert (response.status, response.sha256) == (200, bodies.digest(20_000))
        count += 1
        await asyncio.sleep(0.05)
    return count


async def begin_http3_downloads(gateway: Gateway, stack) -> list[h3.Exchange]:
    downloads = []
    for _ in range(DOWNLOADS["HTTP/3"] // STREAMS):
        client = await stack.enter_async_context(h3.connection(gateway))
        downloads += [client.open("GET", SLOW, authority="localhost") for _ in range(STREAMS)]
        await asyncio.sleep(0.05)
    for download in downloads:
        await download.received(PIECE)
    return downloads


async def begin_http11_downloads(gateway: Gateway) -> list[asyncio.Task]:
    begun = 0

    def note():
        nonlocal begun
        begun += 1

    tasks = []
    for index in range(DOWNLOADS["HTTP/1.1"]):
        tasks.append(asyncio.create_task(http11_download(gateway, note)))
        if index % 20 == 0:
            await asyncio.sleep(0.05)
    async with asyncio.timeout(60):
        while begun < len(tasks) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.05)
    return tasks


@h3.run
async def test_a_hundred_reloads_lose_nothing(start, origin, renewed):
    gateway = start(
        workers=2, extra=DRIPS.format(origin=origin.address, response="60s"),
        listener=tcp.LISTENER, tcp='max_connections_per_address = "100%"',
    )
    gateway.authority = renewed[0].authority
    # A thread for each HTTP/2 connection and each steady load, and for the reloads.
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(32))
    variants = Variants(gateway, renewed, origin.address)
    async with contextlib.AsyncExitStack() as stack:
        over_http3 = await begin_http3_downloads(gateway, stack)
        over_http11 = await begin_http11_downloads(gateway)
        over_http2 = await asyncio.gather(*(
            asyncio.to_thread(Http2Downloads, gateway, STREAMS)
            for _ in range(DOWNLOADS["HTTP/2"] // STREAMS)))
        finishing = [asyncio.create_task(asyncio.to_thread(one.finish)) for one in over_http2]
        running = gateway.metrics().sum("exchanges_active")
        assert running >= 1000, running
        load_client = await asyncio.create_subprocess_exec(
            str(load.client()), "--connect", f"127.0.0.1:{gateway.port}", "--host", h3.AUTHORITY,
            "--path", STEADY_PATH, "--connections", "4", "--streams", "10",
            "--rate", "100", "--requests", "3000",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        steady = Steady(gateway)
        loads = [asyncio.create_task(one) for one in
                 [*steady.run(), come_and_go_over_http3(gateway, steady)]]
        for number in range(RELOADS):
            variants.write(number)
            status, report = await asyncio.to_thread(gateway.reload)
            assert (status, report["result"]) == (200, "applied"), report
            assert report["changes"] and report["generation"] == number + 2
            await asyncio.sleep(0.2)
        running = sum(not one._done.done() for one in over_http3)
        running += sum(not one.done() for one in over_http11)
        running += STREAMS * sum(not one.done() for one in finishing)
        steady.is_over = True
        print(f"{running} of 1000 downloads still ran after the last reload")
        assert running > 900, "the downloads were to run during all reloads"
        counts = await asyncio.gather(*loads)
        print(f"requests over HTTP/2, HTTP/1.1, and new connections over TCP and QUIC: {counts}")
        assert min(counts) > 10
        for download in over_http3:
            response = await download.wait(90)
            assert (response.status, response.end) == (200, "clean")
            assert response.sha256 == bodies.digest(LENGTH)
        await asyncio.gather(*over_http11, *finishing)
        output, _ = await load_client.communicate()
        assert load_client.returncode == 0, output.decode()
    metrics = gateway.metrics()
    assert metrics.sum("reloads_total", result="success") == RELOADS
    assert metrics.sum("worker_config_generation") == 2 * (RELOADS + 1)
    assert metrics.sum("tcp_connections_refused_total") == 0
    gateway.settle_count("exchanges_active", 0)
    outcomes = {line["outcome"] for line in gateway.access_lines(1000 + 3000)}
    assert outcomes <= {"complete", "unconfirmed"}, outcomes
    gateway.assert_alive()
