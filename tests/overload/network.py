"""A network namespace for strangers, with a link to the namespace of the gateway."""

import contextlib
import pathlib
import subprocess
import time

GATEWAY = "192.0.2.1"
"""Address of the gateway, on its end of the link; clients in its own namespace use it too."""
STRANGERS = "192.0.2.2"
FORGED = "10.0.0.0/8"
"""The addresses that strangers forge. What the gateway sends there goes over the link."""


class Strangers:
    """The namespace of strangers. A process in it holds it, and it ends with that process."""

    def __init__(self):
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._await_namespace()
        for command in (
            f"ip link add edge type veth peer name stranger netns {self._holder.pid}",
            f"ip address add {GATEWAY}/24 dev edge",
            "ip link set edge up",
        ):
            run(command.split())
        for command in (
            f"ip address add {STRANGERS}/24 dev stranger",
            "ip link set stranger up",
            # Responses to forged addresses end here, without a trace.
            "nft add table ip strangers",
            "nft add chain ip strangers in { type filter hook prerouting priority -300; }",
            f"nft add rule ip strangers in ip daddr {FORGED} drop",
        ):
            run(self.command(*command.split()))
        run(f"ip route add {FORGED} via {STRANGERS}".split())

    def command(self, *words: str) -> list[str]:
        """Returns the command that runs `words` in the namespace."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *words]

    def close(self):
        self._holder.stdin.close()
        self._holder.wait(5)

    def _await_namespace(self):
        own = pathlib.Path("/proc/thread-self/ns/net").readlink()
        for _ in range(200):
            if pathlib.Path(f"/proc/{self._holder.pid}/ns/net").readlink() != own:
                return
            time.sleep(0.01)
        raise AssertionError("no network namespace: that needs root")


@contextlib.contextmanager
def strangers():
    """Yields the strangers' namespace, linked to that of the calling thread."""
    found = Strangers()
    try:
        yield found
    finally:
        found.close()


def udp_counters() -> dict[str, int]:
    """Returns the kernel's counters of UDP over IPv4 in the namespace of the calling thread."""
    lines = pathlib.Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = [line.split()[1:] for line in lines if line.startswith("Udp:")]
    return dict(zip(names, map(int, values)))


def run(command: list[str]):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
