"""Connection limits across pools: global, per database, per user.

A gauge counts connections under one limit. A pool that may not open a server because a gauge is
full asks for the oldest idle server of another pool under the same gauge to be given up, and
stands in line (`hungry`) for the place that this frees.
"""

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pooler.core.pool import Pool


class Gauge:
    """How many connections there are, and how many there may be (0: no limit)."""

    __slots__ = ("count", "limit", "name")

    def __init__(self, name: str, limit: int = 0) -> None:
        self.name = name
        self.limit = limit
        self.count = 0

    def __repr__(self) -> str:
        """Show name, count and limit."""
        return f"<{type(self).__name__} {self.name} {self.count}/{self.limit or 'unlimited'}>"

    @property
    def full(self) -> bool:
        """True when no more may be opened."""
        return bool(self.limit) and self.count >= self.limit


class ServerGauge(Gauge):
    """A gauge of server connections, which pools compete for."""

    __slots__ = ("hungry", "leaving", "pools")

    def __init__(self, name: str, limit: int = 0) -> None:
        super().__init__(name, limit)
        self.pools: list[Pool] = []
        self.hungry: deque[Pool] = deque()  # pools that found it full, in that order
        self.leaving = 0  # connections being closed: places about to become free

    def _next(self) -> "Pool | None":
        """Return the first in line that still has somebody waiting."""
        while self.hungry:
            if self.hungry[0].someone_waits():
                return self.hungry[0]
            self.hungry.popleft()
        return None

    def make_room(self, pool: "Pool") -> None:
        """Put `pool` in line, and have the server idle for longest of another pool given up."""
        if pool not in self.hungry:
            self.hungry.append(pool)
        if self.leaving >= len(self.hungry):
            return
        owner = None
        for other in self.pools:
            if (
                other is not pool
                and other.idle
                and (owner is None or other.idle[0].idle_since < owner.idle[0].idle_since)
            ):
                owner = other
        if owner is not None:
            owner.give_up_oldest()

    def share(self) -> None:
        """A server has become idle: it goes if another pool stands in line for its place."""
        if self.hungry and self.full:
            pool = self._next()
            if pool is not None:
                self.make_room(pool)

    def owes_older(self, pool: "Pool", since: float) -> bool:
        """Return whether another pool's client waits for a place since before `since`."""
        if not self.hungry or not self.full or self.leaving >= len(self.hungry):
            return False
        first = self._next()
        return first is not None and first is not pool and first.waiting[0].waiting_since < since

    def freed(self) -> None:
        """Note a connection gone, and tell who is next in line."""
        self.count -= 1
        pool = self._next()
        if pool is not None and not self.full:
            self.hungry.popleft()
            pool.wake()
