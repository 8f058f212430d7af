"""The channels that clients of an upgrade listen to: both processes hear them for a while.

The old process asks the new one to listen to a pool's channels (a round); when its ear does, the
new one marks that for both by a notification. See `core.following`.
"""

import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pooler.core.following import Following

if TYPE_CHECKING:
    from pooler.core.budget import PoolName
    from pooler.core.client import Client
    from pooler.core.pool import Pool

Tell = Callable[["PoolName", str, int, list[str]], None]
"""Asks the new process: the pool, its marker, the number of the round, and its channels."""


class Channels:
    """Those of the old process."""

    def __init__(self, tell: Tell, marked: Callable[["Pool"], None]) -> None:
        self._tell = tell
        self._marked = marked
        self._pools: dict[Pool, Following] = {}
        self._rounds = 0

    def position(self, client: "Client") -> dict[str, int] | None:
        """Return how much was heard of a client's channels; None: not before they are marked."""
        if not client.listening:
            return {}
        pool = client.pool
        following = self._pools.get(pool)
        if following is None:
            following = Following(
                pool.broadcast,
                f"pooler_upgrade_{secrets.token_hex(8)}",
                partial(self._ready, pool),
                lambda: self._marked(pool),
            )
            self._pools[pool] = pool.broadcast.following = following
        lacks = following.lacks(client.listening)
        if lacks:
            self._rounds += 1
            following.follow(self._rounds, lacks)
        return following.position(client.listening)

    def _ready(self, pool: "Pool", number: int, channels: frozenset[str]) -> None:
        """We hear a round's channels, and the marker: the new process may follow."""
        name = (pool.database, pool.user, "")
        self._tell(name, self._pools[pool].marker, number, sorted(channels))

    def end(self) -> None:
        """Follow nothing any more."""
        for pool in self._pools:
            pool.broadcast.following = None
            pool.broadcast.attend()
        self._pools.clear()


class Followers:
    """Those of the new process."""

    def __init__(self) -> None:
        self._pools: dict[Pool, Following] = {}

    def follow(self, pool: "Pool", marker: str, number: int, channels: list[str]) -> None:
        """Listen to a round's channels, and mark when that is so."""
        if not pool.broadcast.possible:
            return  # who listens stays where he is
        following = self._pools.get(pool)
        if following is None:
            following = Following(
                pool.broadcast,
                marker,
                lambda number, _: pool.broadcast.say(marker, str(number)),
                lambda: None,
            )
            self._pools[pool] = pool.broadcast.following = following
        following.follow(number, frozenset(channels))

    def end(self) -> None:
        """Follow nothing any more."""
        for pool in self._pools:
            pool.broadcast.following = None
            pool.broadcast.attend()
        self._pools.clear()
