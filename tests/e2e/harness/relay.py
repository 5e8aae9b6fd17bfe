"""A bad UDP network in user space, in a process of its own. It sits between clients and the
gateway, and drops, delays, corrupts or repeats datagrams. It needs no privileges.

Each client has a socket of its own towards the gateway. "up" is from client to gateway. Datagrams
are counted from 1, for each client and direction. ECN marks are carried across. All choices come
from the seed, so only the timing of the host differs between two runs.
"""

import argparse
import asyncio
import dataclasses
import ipaddress
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import time

ECN_CE = 3
BUFFER_LEN = 4 << 20
HEADERS_LEN = 28  # of IPv4 and UDP: they count toward the rate
LONG = 1200  # RFC 9000 8.2: a datagram with a PATH_RESPONSE is at least this long
HELD_BACK_S = 0.012  # how long a reordered datagram waits


def numbers(kind):
    return lambda text: [kind(part) for part in text.split(",") if part]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--to", required=True, metavar="IP:PORT")
    add("--seed", type=int, default=1)
    for way in ("", "-up", "-down"):
        add(f"--loss{way}", type=float, default=0, metavar="P", help="share lost, 0 to 1")
    add("--delay", type=float, default=0, metavar="MS", help="one way")
    add("--jitter", type=float, default=0, metavar="MS", help="more delay, drawn each time")
    add("--reorder", type=float, default=0, metavar="P", help="share held back 12 ms")
    add("--dup", type=float, default=0, metavar="P", help="share sent twice")
    add("--corrupt", type=float, default=0, metavar="P", help="share with one wrong byte")
    add("--rate", type=float, default=0, metavar="MBIT", help="each way")
    add("--queue", type=int, default=64, help="datagrams that wait at the rate; more are lost")
    add("--mtu", type=int, default=65_535, help="longest UDP payload; longer ones are lost")
    add("--drop-up", type=numbers(int), default=[], metavar="N,M", help="these are lost")
    add("--drop-down", type=numbers(int), default=[], metavar="N,M")
    add("--blackhole", type=numbers(float), metavar="START,LEN[,EVERY]",
        help="all is lost for LEN s, START s after the first datagram")
    add("--rebind-port", type=float, default=0, metavar="S", help="a new port every S s")
    add("--rebind-addr", type=float, default=0, metavar="S", help="a new address every S s")
    add("--rebind-at", type=numbers(int), default=[], metavar="N,M",
        help="a new port right after these datagrams from the client")
    add("--rebind-at-addr", action="store_true", help="and a new address with it")
    add("--rebinds-max", type=int, default=1_000_000)
    add("--lose-responses", type=int, default=0, metavar="N",
        help="the first long datagram up after each of N moves is lost: mostly a PATH_RESPONSE")
    add("--addrs", type=lambda text: text.split(","),
        default=[f"127.0.0.{host}" for host in range(2, 10)])
    add("--bleach", action="store_true", help="clear ECN marks")
    add("--drop-marked", type=float, metavar="S",
        help="datagrams down with ECN marks are lost from S s after the first datagram on")
    add("--ce", type=float, default=0, metavar="P", help="share of ECT marks turned to CE")
    add("--keep-heads", type=int, default=0, help="tell the first bytes of so many datagrams up")
    return parser


@dataclasses.dataclass
class Direction:
    """Counts for one direction."""

    seen: int = 0
    seen_len: int = 0
    lost: int = 0
    corrupted: int = 0
    doubled: int = 0
    longest: int = 0
    """Length of the longest datagram that was let through."""
    ect: int = 0
    ce: int = 0
    """Marks as they came in; those that the relay made are not among them."""
    ce_made: int = 0


class Network:
    """The rules, the counts and both queues."""

    def __init__(self, rules, loop):
        self.rules, self.loop = rules, loop
        self.random = random.Random(rules.seed)
        self.first_at: float | None = None
        self.counts = {"up": Direction(), "down": Direction()}
        self.busy_until = {"up": 0.0, "down": 0.0}
        self.waiting = {"up": 0, "down": 0}
        self.sources: list[str] = []
        self.heads: list[str] = []

    def happens(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    def is_dark(self, now: float) -> bool:
        if not self.rules.blackhole:
            return False
        start, length, *every = self.rules.blackhole
        since = now - self.first_at - start
        return since >= 0 and (since % every[0] if every else since) < length

    def drops_marks(self, now: float) -> bool:
        return self.rules.drop_marked is not None and now >= self.first_at + self.rules.drop_marked

    def is_lost(self, way: str, datagram: bytes, ecn: int, number: int, now: float) -> bool:
        rules = self.rules
        listed = rules.drop_up if way == "up" else rules.drop_down
        share = rules.loss_up if way == "up" else rules.loss_down
        return (self.is_dark(now) or len(datagram) > rules.mtu or number in listed
                or way == "down" and ecn != 0 and self.drops_marks(now)
                or self.happens(rules.loss) or self.happens(share))

    def bend(self, datagram: bytes) -> bytes:
        bent = bytearray(datagram)
        bent[self.random.randrange(len(bent))] ^= self.random.randrange(1, 256)
        return bytes(bent)

    def carry(self, way: str, datagram: bytes, ecn: int, number: int, deliver):
        """Calls `deliver(datagram, ecn)` not at all, now, later, or twice."""
        rules, counts, now = self.rules, self.counts[way], time.monotonic()
        self.first_at = self.first_at or now
        counts.seen += 1
        counts.seen_len += len(datagram)
        counts.ce += ecn == ECN_CE
        counts.ect += ecn in (1, 2)
        if way == "up" and len(self.heads) < rules.keep_heads:
            self.heads.append(datagram[:32].hex())
        if self.is_lost(way, datagram, ecn, number, now):
            counts.lost += 1
            return
        wait = (rules.delay + self.random.random() * rules.jitter) / 1000
        wait += HELD_BACK_S if self.happens(rules.reorder) else 0
        if rules.rate:
            if self.waiting[way] >= rules.queue:
                counts.lost += 1
                return
            took = (len(datagram) + HEADERS_LEN) * 8 / (rules.rate * 1e6)
            self.busy_until[way] = max(self.busy_until[way], now) + took
            wait += self.busy_until[way] - now
            self.waiting[way] += 1
        if datagram and self.happens(rules.corrupt):
            datagram = self.bend(datagram)
            counts.corrupted += 1
        if rules.bleach:
            ecn = 0
        elif ecn in (1, 2) and self.happens(rules.ce):
            ecn = ECN_CE
            counts.ce_made += 1
        counts.longest = max(counts.longest, len(datagram))
        copies = 2 if self.happens(rules.dup) else 1
        counts.doubled += copies - 1

        def arrive():
            self.waiting[way] -= bool(rules.rate)
            for _ in range(copies):
                deliver(datagram, ecn)

        if wait > 0:
            self.loop.call_later(wait, arrive)
        else:
            arrive()

    def report(self) -> str:
        counts = {way: dataclasses.asdict(counts) for way, counts in self.counts.items()}
        return json.dumps(counts | {"sources": self.sources, "heads": self.heads})


class Flow:
    """One client, and its socket towards the gateway."""

    def __init__(self, network: Network, front: socket.socket, client, to):
        self.network, self.front, self.client, self.to = network, front, client, to
        self.counts = {"up": 0, "down": 0}
        self.moves = 0
        self.loses_long = False
        self.retired: list[socket.socket] = []
        self.socket: socket.socket | None = None
        self.open("::1" if ":" in to[0] else "127.0.0.1")

    def open(self, ip: str):
        """Takes a new port. Datagrams to the old one are not read: the mapping is gone, and no ICMP
        message is sent either."""
        if self.socket:
            self.network.loop.remove_reader(self.socket)
            self.retired.append(self.socket)
        self.ip, self.opened_at = ip, time.monotonic()
        self.socket = udp_socket((ip, 0))
        host, port, *_ = self.socket.getsockname()
        self.network.sources.append(f"{host}:{port}")
        self.network.loop.add_reader(self.socket, self.down)

    def move(self, ip: str):
        if self.moves < self.network.rules.rebinds_max:
            self.moves += 1
            self.loses_long = self.moves <= self.network.rules.lose_responses
            self.open(ip)

    def next_address(self) -> str:
        addresses = self.network.rules.addrs
        return addresses[self.moves % len(addresses)]

    def up(self, datagram: bytes, ecn: int):
        rules, age = self.network.rules, time.monotonic() - self.opened_at
        if rules.rebind_addr and age > rules.rebind_addr:
            self.move(self.next_address())
        elif rules.rebind_port and age > rules.rebind_port:
            self.move(self.ip)
        if self.loses_long and len(datagram) >= LONG:
            self.loses_long = False
            self.network.counts["up"].lost += 1
            return
        by = self.socket  # a delayed datagram leaves from the port that it was sent through
        self.pass_on("up", datagram, ecn, lambda *late: send(by, *late, self.to))
        if self.counts["up"] in rules.rebind_at:
            self.move(self.next_address() if rules.rebind_at_addr else self.ip)

    def down(self):
        for datagram, ecn, _ in receive(self.socket):
            self.pass_on("down", datagram, ecn, lambda *late: send(self.front, *late, self.client))

    def pass_on(self, way: str, datagram: bytes, ecn: int, deliver):
        self.counts[way] += 1
        self.network.carry(way, datagram, ecn, self.counts[way], deliver)


def udp_socket(address: tuple[str, int]) -> socket.socket:
    is_v6 = ":" in address[0]
    made = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_LEN)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_LEN)
    if is_v6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    made.bind(address)
    made.setblocking(False)
    return made


def receive(from_socket: socket.socket):
    """Receives up to 64 datagrams with their ECN marks."""
    for _ in range(64):
        try:
            datagram, ancillary, _, peer = from_socket.recvmsg(65_536, 64)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # an ICMP error for an earlier datagram
            continue
        ecn = 0
        for level, kind, value in ancillary:
            if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TOS),
                                 (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)):
                ecn = value[0] & 3
        yield datagram, ecn, peer


def send(by: socket.socket, datagram: bytes, ecn: int, peer):
    kind = (socket.IPPROTO_IP, socket.IP_TOS)
    if by.family == socket.AF_INET6:
        kind = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    try:
        by.sendmsg([datagram], [(*kind, struct.pack("i", ecn))] if ecn else [], 0, peer)
    except OSError:  # a full buffer or an ICMP error: counts as a loss
        pass


def main():
    rules = arguments().parse_args()
    host, _, port = rules.to.rpartition(":")
    to = (str(ipaddress.ip_address(host.strip("[]"))), int(port))
    loop = asyncio.new_event_loop()
    network = Network(rules, loop)
    front = udp_socket(("::1" if ":" in to[0] else "127.0.0.1", 0))
    flows: dict[tuple, Flow] = {}

    def inbound():
        for datagram, ecn, peer in receive(front):
            if peer not in flows:
                flows[peer] = Flow(network, front, peer, to)
            flows[peer].up(datagram, ecn)

    loop.add_reader(front, inbound)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, loop.stop)
    print(front.getsockname()[1], flush=True)
    loop.run_forever()
    print(network.report(), flush=True)


class Relay:
    """The relay as a process, in front of a gateway. Clients connect to it as to the gateway.

    `with Relay(gateway, "::1", delay=15, rebind_port=1) as relay:`; after it, `relay.up`,
    `relay.down` and `relay.sources` say what passed.
    """

    def __init__(self, gateway, host: str = "127.0.0.1", **rules):
        self.authority = gateway.authority
        to = f"[{host}]:{gateway.port}" if ":" in host else f"{host}:{gateway.port}"
        self.command = [sys.executable, __file__, "--to", to]
        for name, value in rules.items():
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            option = "--" + name.replace("_", "-")
            self.command += [option] if value is True else [option, text]

    def __enter__(self) -> "Relay":
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_):
        self.process.terminate()
        report, _ = self.process.communicate(timeout=10)
        counts = json.loads(report)
        self.up, self.down = Direction(**counts["up"]), Direction(**counts["down"])
        self.sources: list[str] = counts["sources"]
        self.heads = [bytes.fromhex(head) for head in counts["heads"]]
        assert self.process.returncode == 0, "the relay failed"


if __name__ == "__main__":
    main()
