"""Which of a database's hosts to dial next: in order or round-robin, dead ones passed over.

A host that failed is left alone for a while that doubles with each failure in a row, with jitter,
up to the pool's `server_login_retry`; one success forgives it all.
"""

from collections.abc import Callable
from typing import Final

from pooler.core.settings import Host

FIRST_RETRY: Final = 0.05
"""Seconds after the first failure: PostgreSQL's own restart takes some tenths of a second."""


class Hosts:
    """The hosts of one pool and how they have been lately."""

    def __init__(
        self, hosts: tuple[Host, ...], round_robin: bool, random: Callable[[], float]
    ) -> None:
        self.hosts = hosts
        self._round_robin = round_robin
        self._random = random
        self._next = 0
        self._failures = [0] * len(hosts)
        self._not_before = [0.0] * len(hosts)

    def pick(self, now: float) -> Host | None:
        """Return the host to dial now, None while all of them are left alone."""
        n = len(self.hosts)
        first = self._next if self._round_robin else 0
        for step in range(n):
            i = (first + step) % n
            if self._not_before[i] <= now:
                self._next = (i + 1) % n
                return self.hosts[i]
        return None

    def ready(self, now: float) -> bool:
        """Return whether there is a host to dial now."""
        return any(not_before <= now for not_before in self._not_before)

    def succeeded(self, host: Host) -> None:
        """Forgive a host its failures."""
        if host not in self.hosts:  # no longer, since a reload
            return
        i = self.hosts.index(host)
        self._failures[i] = 0
        self._not_before[i] = 0.0

    def failed(self, host: Host, now: float, longest: float) -> None:
        """Leave a host alone for a while of at most `longest` seconds."""
        if host not in self.hosts:
            return
        i = self.hosts.index(host)
        pause = min(FIRST_RETRY * 2.0 ** min(self._failures[i], 30), longest)
        self._failures[i] += 1
        self._not_before[i] = now + pause * (0.5 + 0.5 * self._random())

    @property
    def all_failing(self) -> bool:
        """True when the last attempt on every host failed."""
        return all(self._failures)
