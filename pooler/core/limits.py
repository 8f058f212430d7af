"""Connection limits across pools: global, per database, per user.

A gauge counts connections under one limit. A pool that may not open a server because a gauge is
full asks for the oldest idle server of another pool under the same gauge to be given up, and
stands in line (`hungry`) for the place that this frees.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from pooler.core.budget import Report
from pooler.core.retiring import give_up_oldest

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


class Elsewhere:
    """Clients that another process has and that count with ours: by kind of limit, and name."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def take(self, counts: list[tuple[str, str, int]]) -> None:
        """Go by new numbers of some of them; an empty list: there is no other process any more."""
        if not counts:
            self._counts.clear()
        for kind, name, count in counts:
            if count:
                self._counts[kind, name] = count
            else:
                self._counts.pop((kind, name), None)

    def count(self, kind: str, name: str) -> int:
        """Return how many there are under a limit ("", "": in all)."""
        return self._counts.get((kind, name), 0)


class ServerGauge(Gauge):
    """A gauge of server connections, which pools compete for."""

    __slots__ = ("hungry", "leaving", "pools")

    def __init__(self, name: str, limit: int = 0) -> None:
        super().__init__(name, limit)
        self.pools: list[Pool] = []
        self.hungry: deque[Pool] = deque()  # pools that found it full, in that order
        self.leaving = 0  # connections being closed: places about to become free

    def add(self, pool: "Pool") -> None:
        """Have a pool go by this limit too, which counts what it has already."""
        self.pools.append(pool)
        self.count += pool.total
        self.leaving += len(pool.leaving)
        pool.gauges = (*pool.gauges, self)

    def remove(self, pool: "Pool") -> None:
        """Have it go by this limit no longer."""
        self.pools.remove(pool)
        pool.gauges = tuple(other for other in pool.gauges if other is not self)
        pool.wake()

    def _next(self) -> "Pool | None":
        """Return the first in line that still has somebody waiting."""
        while self.hungry:
            if self.hungry[0].someone_waits() and not self.hungry[0].paused:
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
            give_up_oldest(owner)

    def withdraw(self, pool: "Pool") -> None:
        """Have a pool that needs no place any more stand in line no longer."""
        if pool in self.hungry:
            self.hungry.remove(pool)
            first = self._next()
            if first is not None:
                first.wake()

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


_UNTOLD: Final = (-1, -1, -1)


class Allotment(ServerGauge):
    """What this worker may have of one pool, where several workers have one budget.

    As long as there is a pool, the budget hears what it has and wants whenever that changes.
    """

    __slots__ = ("_told", "_waited", "round")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.round = 0  # of the allotment that is in force
        self._told = (0, 0, 0)
        self._waited = False

    @property
    def full(self) -> bool:
        """True when no more may be opened; that none is allowed is no exception."""
        return self.count >= self.limit

    @property
    def over(self) -> bool:
        """True when a server has to be given up."""
        return self.count - self.leaving > self.limit

    def allot(self, limit: int, round_: int) -> None:
        """Go by another allotment: give up what is idle and above it, or open what is wanted.

        The budget has to hear of it, even if nothing comes of it: it counts what it has taken back
        as this worker's until then.
        """
        self.limit = limit
        self.round = round_
        self._told = _UNTOLD
        for pool in self.pools:
            while self.over and pool.idle:
                give_up_oldest(pool)
            pool.wake()

    def report(self) -> Report | None:
        """Return what the budget does not know yet, None if that is nothing."""
        want, fixed, wait = self.pools[0].use() if self.pools else (0, 0, 0.0)
        told = (self.count, want, fixed)
        if told == self._told and not wait and not self._waited:
            return None
        self._told = told
        self._waited = wait > 0.0
        return Report(self.count, want, wait, fixed)

    @property
    def forgotten(self) -> bool:
        """True when nobody needs it any more."""
        return not (self.pools or self.count or self.limit)

    def make_room(self, pool: "Pool") -> None:
        """Ask for more."""
        pool.edge.short(self)

    def share(self) -> None:
        """Give up a server that has become idle, if there is one too many."""
        if self.over:
            give_up_oldest(self.pools[0])

    def owes_older(self, pool: "Pool", since: float) -> bool:
        """Return whether a server has to be given up, whoever waits."""
        return self.over

    def freed(self) -> None:
        """Note a connection gone; the budget may want its place."""
        self.count -= 1
        for pool in self.pools:
            pool.edge.short(self)
            pool.wake()
