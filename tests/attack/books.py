"""The gateway's own books: gauges that return to where they were, and counters that add up."""

import urllib.request

from e2e.harness.metrics import Metrics

GAUGES = ["connections_open", "connections_handshaking", "exchanges_active", "requests_waiting",
          "responses_waiting_bytes"]


class Books:
    """The metrics page of a gateway's admin endpoint, before an attack and after it."""

    def __init__(self, url: str):
        self._url = url.rstrip("/") + "/metrics"
        self._before: dict[str, float] = {}
        self._restarts = 0.0

    def begin(self):
        metrics = self.read()
        self._before = figures(metrics)
        self._restarts = metrics.sum("worker_restarts_total")

    def read(self) -> Metrics:
        with urllib.request.urlopen(self._url, timeout=5) as page:
            return Metrics(page.read().decode())

    def worker_count(self) -> int:
        samples = self.read().samples
        return len({labels["worker"] for _, labels, _ in samples if "worker" in labels})

    def remains(self) -> list[str]:
        """Returns what is not yet as it was before."""
        now = figures(self.read())
        return [f"{name} is {value:.0f}, was {self._before[name]:.0f}"
                for name, value in now.items() if value > self._before[name]]

    def faults(self) -> list[str]:
        """Returns what does not add up, once nothing is under way, and deaths of workers."""
        metrics = self.read()
        restarts = metrics.sum("worker_restarts_total") - self._restarts
        return [*wrong_sums(metrics), *([f"{restarts:.0f} workers died"] if restarts else [])]


def figures(metrics: Metrics) -> dict[str, float]:
    gauges = {name: metrics.sum(name) for name in GAUGES}
    gauges["upstream connections in use"] = (
        metrics.sum("upstream_connections_open") - metrics.sum("upstream_connections_idle"))
    # Each idle upstream connection has a receive, which may hold a slot.
    gauges["slots in use"] = max(0.0, metrics.slots_out() - metrics.sum(
        "upstream_connections_idle"))
    return gauges


def wrong_sums(metrics: Metrics) -> list[str]:
    """Returns the sums that are wrong while no connection and no request begins or ends."""
    total = metrics.sum
    handshaking = total("connections_handshaking")
    started, established = total("connections_accepted_total"), total(
        "handshakes_total", outcome="completed")
    ended = established + total("handshakes_total", outcome="failed")
    wrong = []
    if started != ended + handshaking:
        wrong.append(f"{started:.0f} connections were begun, {ended:.0f} handshakes have ended, "
                     f"{handshaking:.0f} have not")
    still_open = total("connections_open") - handshaking
    closed = total("connections_closed_total")
    if established != closed + still_open:
        wrong.append(f"{established:.0f} connections were established, {closed:.0f} have ended, "
                     f"{still_open:.0f} are open")
    # An exchange that is cut may have had its response already.
    requests, under_way = total("requests_total"), total("exchanges_active")
    responses, cut = total("responses_total"), total("exchanges_cut_total")
    if not responses <= requests <= responses + cut + under_way:
        wrong.append(f"{requests:.0f} requests, {responses:.0f} responses, {cut:.0f} cut, "
                     f"{under_way:.0f} under way")
    return wrong
