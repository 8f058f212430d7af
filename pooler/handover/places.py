"""How two processes share a pool's server connections: each place belongs to one of them.

The old process starts with the places of the connections that it has, the new one with the rest of
each pool's size. A place whose connection has ended is given to the other process if that asked for
it, or if nobody here will need it. So PostgreSQL never sees more than `pool_size` connections, nor
more than the limits across pools, which the new process keeps over both.

Both ends are alike; `keeps` says which one is to count what the other has. Messages: `want` (so many
places of a pool, in all) and `give`.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from pooler.handover.channel import Message

if TYPE_CHECKING:
    from pooler.core.pool import Pool
    from pooler.core.routes import Router

Key = tuple[str, str, str]


class Places:
    """One end."""

    def __init__(
        self,
        router: "Router",
        send: Callable[[Message], None],
        needed: Callable[["Pool"], bool],
        *,
        keeps: bool,
    ) -> None:
        self._router = router
        self._send = send
        self._needed = needed
        self._keeps = keeps
        self._wants: dict[Pool, int] = {}  # what the other end was asked for
        self._due: set[Pool] = set()
        self._on = False

    def start(self) -> None:
        """Begin: from now on nothing is opened in places of the other process."""
        self._on = True
        if not self._keeps:
            for pool in self._router.pools.values():
                self._start(pool)

    def _start(self, pool: "Pool") -> None:
        """In the old process: what a pool has not opened is the new one's."""
        pool.elsewhere = pool.settings.pool_size - pool.total

    def end(self) -> None:
        """All places are ours: the other process has gone."""
        self._on = False
        for pool in self._router.pools.values():
            pool.owe(0)
            if self._keeps:
                pool.lend(0)
            else:
                pool.elsewhere = 0
                pool.wake()

    def added(self, pool: "Pool") -> None:
        """A pool of the old process that the new one has not been told of has no place."""
        if self._on and not self._keeps:
            self._start(pool)

    def wake(self, pool: "Pool") -> None:
        """Look at a pool soon: somebody waits there, or a place has become free."""
        if self._on and pool not in self._due:
            self._due.add(pool)
            asyncio.get_running_loop().call_soon(self._look, pool)

    def _look(self, pool: "Pool") -> None:
        self._due.discard(pool)
        key = self._key(pool)
        if not self._on or key is None:
            return
        needed = self._needed(pool)
        if not needed:  # whatever becomes free here is the other's
            pool.owe(pool.total)
        free = pool.settings.pool_size - pool.elsewhere - pool.total
        give = min(free, pool.owed) if needed else free
        if give > 0:
            pool.owe(max(0, pool.owed - give))
            self._set(pool, pool.elsewhere + give)
            self._send({"is": "give", "pool": key, "places": give})
        elif needed:
            self._ask(pool, key, max(0, free))

    def _ask(self, pool: "Pool", key: Key, free: int) -> None:
        """Ask for what those who wait here lack; for a place of another pool, under a full limit."""
        short = 0
        if pool.elsewhere > 0 and pool.someone_waits():
            coming = free + pool.supply.dialing + pool.opening
            short = pool.count_waiting(pool.elsewhere + coming) - coming
        self._want(pool, key, max(0, short))
        if not pool.someone_waits():
            return
        for gauge in pool.gauges:
            if gauge.full:
                for other in gauge.pools:
                    if other is not pool and other.elsewhere > 0 and not self._wants.get(other):
                        other_key = self._key(other)
                        if other_key is not None:
                            self._want(other, other_key, 1)
                        break

    def _want(self, pool: "Pool", key: Key, places: int) -> None:
        if self._wants.get(pool, 0) != places:
            self._wants[pool] = places
            self._send({"is": "want", "pool": key, "places": places})

    def _set(self, pool: "Pool", places: int) -> None:
        if self._keeps:
            pool.lend(max(0, places))
        else:
            pool.elsewhere = places

    def wanted(self, message: Message) -> None:
        """Take a `want`."""
        pool = self._pool(message)
        if pool is not None:
            pool.owe(message["places"])
            self.wake(pool)

    def given(self, message: Message) -> None:
        """Take a `give`."""
        pool = self._pool(message)
        if pool is not None:
            places = message["places"]
            self._wants[pool] = max(0, self._wants.get(pool, 0) - places)
            self._set(pool, pool.elsewhere - places)
            pool.wake()

    def _pool(self, message: Message) -> "Pool | None":
        database, user, purpose = message["pool"]
        return self._router.pools.get((database, user, purpose))

    def _key(self, pool: "Pool") -> Key | None:
        key = (pool.database, pool.user, pool.purpose)
        return key if self._router.pools.get(key) is pool else None
