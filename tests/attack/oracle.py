"""The common oracle of all cases: a client beside the attack, the process, and the books."""

import time

from .books import Books
from .client import Client
from .probe import Probe
from .process import MIB, Process

FIRST_RESPONSE_TIMEOUT = 2.0
"""Seconds in which a new client must have its first response, right after the attack."""
P99_GROWTH_MAX = 2.0
"""How many times its unloaded latency the probe may need in 99 of 100 requests."""
P99_FLOOR = 0.15
"""Seconds that are allowed in any case: the machine has other work, the attack itself included."""
STARVED_SHARE_MAX = 0.1
"""Share of the time that the process may have waited for a core, for its latency to be judged."""
REST_TIMEOUT = {False: 20.0, True: 60.0}
"""Seconds after the attack in which memory, slots, files and connections must be as before, in the
short and in the long form. A half-open connection may take ten, and thirty if it acknowledges."""
REST_INTERVAL = 0.25


class Oracle:
    """What must hold during every case, and after it."""

    def __init__(self, client: Client, process: Process | None, books: Books | None, full: bool):
        self._client, self._process, self._books = client, process, books
        self._rest_timeout = REST_TIMEOUT[full]
        self._probe = Probe(client)
        self._first_response_seconds = 0.0
        self._rest_seconds = 0.0
        self._starved_share = 0.0

    def begin(self):
        if self._books:
            self._books.begin()
        self._probe.start()
        if self._process:
            self._process.begin()

    def end(self) -> list[str]:
        """Returns what did not hold."""
        if self._process and self._process.is_alive():
            self._starved_share = self._process.starved_share()
        faults = self._new_client_faults()
        self._probe.stop()
        faults += self._probe_faults()
        if self._process:
            self._process.end()
            faults += self._process.faults()
            if not self._process.is_alive():
                return faults
        if not faults:
            faults = self._rest()
        if self._books:
            faults += self._books.faults()
        return faults

    def _new_client_faults(self) -> list[str]:
        try:
            self._first_response_seconds = self._client.first_response_seconds()
        except (OSError, TimeoutError) as error:
            return [f"a new client is not served: {error or type(error).__name__}"]
        if self._first_response_seconds > FIRST_RESPONSE_TIMEOUT:
            return [f"a new client waited {self._first_response_seconds:.1f} s"]
        return []

    def _probe_faults(self) -> list[str]:
        seen = self._probe.result
        if seen.error:
            return [f"probe: {seen.error}"]
        p99_max = max(P99_FLOOR, P99_GROWTH_MAX * seen.base_p99)
        if seen.p99 > p99_max and self._starved_share <= STARVED_SHARE_MAX:
            return [f"probe: 99 of 100 within {seen.p99 * 1e3:.0f} ms, "
                    f"{seen.base_p99 * 1e3:.0f} ms without an attack"]
        return []

    def _rest(self) -> list[str]:
        """Waits until everything is as before. Returns what is not."""
        began = time.monotonic()
        while True:
            remains = [fault for one in (self._process, self._books) if one
                       for fault in one.remains()]
            self._rest_seconds = time.monotonic() - began
            if not remains or self._rest_seconds > self._rest_timeout:
                return [f"{self._rest_timeout:.0f} s later {fault}" for fault in remains]
            time.sleep(REST_INTERVAL)

    def figures(self) -> str:
        seen = self._probe.result
        text = (f"probe {seen.served_count} served, p99 {seen.p99 * 1e3:.0f} ms "
                f"({seen.base_p99 * 1e3:.0f} before), slowest {seen.slowest * 1e3:.0f} ms, "
                f"new client {self._first_response_seconds * 1e3:.0f} ms")
        if self._process:
            text += (f", waited for a core {self._starved_share:.0%}"
                     f", memory +{self._process.growth_len() / MIB:.1f} MiB, "
                     f"+{self._process.kept_len() / MIB:.1f} kept")
        if self._process or self._books:
            text += f", at rest after {self._rest_seconds:.1f} s"
        return text
