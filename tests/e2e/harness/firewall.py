"""A rule of nftables for UDP to a port of the gateway, in the network namespace of a test."""

import json
import subprocess


class Firewall:
    """One rule for datagrams that arrive for a port: `verdict` is "drop" or "accept". It counts
    them."""

    TABLE = "ringway_tests"

    def __init__(self, port: int, verdict: str, of_clients_only: bool = False):
        """With `of_clients_only` the gateway's own probes are left out: they come from its port."""
        source = f"udp sport != {port}" if of_clients_only else ""
        self._nft(f"""table inet {self.TABLE} {{
            chain input {{
                type filter hook input priority 0;
                udp dport {port} {source} counter {verdict}
            }}
        }}""")

    def count(self) -> int:
        """Returns the number of datagrams that the rule was applied to."""
        listed = json.loads(self._nft("--json", f"list table inet {self.TABLE}"))["nftables"]
        rule = next(entry["rule"] for entry in listed if "rule" in entry)
        return next(part["counter"]["packets"] for part in rule["expr"] if "counter" in part)

    def remove(self):
        self._nft(f"delete table inet {self.TABLE}")

    @staticmethod
    def _nft(*words: str) -> str:
        command = ["nft", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
