"""Reads the gateway's metrics page."""

import re

LINE = re.compile(r"^(?P<name>[a-z0-9_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$")
LABEL = re.compile(r'([a-z_]+)="([^"]*)"')


class Metrics:
    """One reading."""

    def __init__(self, text: str):
        assert text.endswith("# EOF\n"), "the page is cut"
        self.samples: list[tuple[str, dict[str, str], float]] = []
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            match = LINE.match(line)
            assert match, f"not a sample: {line!r}"
            labels = dict(LABEL.findall(match["labels"] or ""))
            self.samples.append((match["name"], labels, float(match["value"])))

    def sum(self, name: str, **labels: str) -> float:
        """Returns the sum, over all workers, of the samples with these labels. An unknown family is
        an error, so that a misspelt name does not read as zero."""
        found = [
            value
            for sample, own, value in self.samples
            if sample == f"ringway_{name}" and labels.items() <= own.items()
        ]
        assert found, f"no sample ringway_{name}{labels or ''} on the metrics page"
        return sum(found)

    def gauges(self) -> dict[str, float]:
        """Returns the gauges that must be as before once all clients are gone. Idle upstream
        connections are not included: they stay open, each with a receive."""
        names = ["connections_open", "connections_handshaking", "exchanges_active",
                 "requests_waiting"]
        return {name: self.sum(name) for name in names}

    def slots_out(self) -> float:
        """Returns the pool slots in use, without those provided to the kernel."""
        return self.sum("pool_slots", state="owned") + self.sum("pool_slots", state="in_kernel")

    def slots_total(self) -> float:
        return self.sum("pool_slots")
