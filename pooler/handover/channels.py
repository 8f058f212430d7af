"""The channels that clients of an upgrade listen to: both poolers hear them for a while.

A client of the old pooler lacks channels: they become a round (`Rounds`). Each of its processes
(`Channels`) says when its ear hears them; then the new pooler's are asked to (`Followers`). When
they all do, a notification of ours marks that for all. See `core.following`.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pooler.core.budget import PoolName
from pooler.core.following import Following

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.core.routes import Router

Follow = Callable[[PoolName, str, int, list[str]], None]
"""Has a process follow a round: the pool, its marker, the number of the round, and its channels."""


@dataclass
class _Round:
    name: PoolName
    channels: list[str]
    asked: set[int]
    """Processes that have to hear them."""
    hear: set[int] = field(default_factory=set)


class Rounds:
    """Those of an upgrade; what the old pooler knows of them."""

    def __init__(self, sources: Callable[[], Iterable[int]], ask: Follow, follow: Follow) -> None:
        """`sources` returns the numbers of our processes; `ask` is for these, `follow` for the new
        pooler."""
        self._sources = sources
        self._ask = ask
        self._follow = follow
        self._marker = f"pooler_upgrade_{secrets.token_hex(8)}"
        self._channels: dict[PoolName, set[str]] = {}
        self._rounds: dict[int, _Round] = {}

    def lack(self, name: PoolName, channels: Iterable[str]) -> None:
        """Have channels followed, as far as they are not."""
        known = self._channels.setdefault(name, set())
        new = sorted(set(channels) - known)
        if new:
            known.update(new)
            number = len(self._rounds) + 1
            self._rounds[number] = _Round(name, new, set(self._sources()))
            self._ask(name, self._marker, number, new)

    def hears(self, source: int, number: int) -> None:
        """One of our processes hears a round's channels; perhaps once more, after a loss."""
        self._rounds[number].hear.add(source)
        self._look(number)

    def left(self, source: int) -> None:
        """It has ended."""
        for number, one in self._rounds.items():
            one.asked.discard(source)
            self._look(number)

    def _look(self, number: int) -> None:
        one = self._rounds[number]
        if one.hear and one.asked <= one.hear:
            one.hear.clear()
            self._follow(one.name, self._marker, number, one.channels)


class _Followed:
    """The pools of one process that follow."""

    def __init__(self) -> None:
        self._pools: dict[Pool, Following] = {}

    def _following(
        self,
        pool: "Pool",
        marker: str,
        ready: Callable[[int], None],
        marked: Callable[[], None],
    ) -> Following:
        following = self._pools.get(pool)
        if following is None:
            following = Following(
                pool.broadcast, marker, lambda number, channels: ready(number), marked
            )
            self._pools[pool] = pool.broadcast.following = following
        return following

    def end(self) -> None:
        """Follow nothing any more."""
        for pool in self._pools:
            pool.broadcast.following = None
            pool.broadcast.attend()
        self._pools.clear()


class Channels(_Followed):
    """Those of a process of the old pooler."""

    def __init__(
        self,
        router: "Router",
        lack: Callable[[PoolName, list[str]], None],
        hears: Callable[[int], None],
        marked: Callable[["Pool"], None],
    ) -> None:
        """`lack` and `hears` tell the `Rounds`; `marked` hears of a pool whose clients may go."""
        super().__init__()
        self._router = router
        self._lack = lack
        self._hears = hears
        self._marked = marked

    def position(self, client: "Client") -> dict[str, int] | None:
        """Return how much was heard of a client's channels; None: not before they are marked."""
        if not client.listening:
            return {}
        pool = client.pool
        following = self._pools.get(pool)
        lacks = client.listening if following is None else following.lacks(client.listening)
        if following is None or lacks:
            self._lack((pool.database, pool.user, ""), sorted(lacks))
            return None
        return following.position(client.listening)

    def follow(self, name: PoolName, marker: str, number: int, channels: list[str]) -> None:
        """Listen to a round's channels, and tell when that is so."""
        pool = self._router.pools.get(name)
        if pool is None:  # nobody here
            self._hears(number)
            return
        following = self._following(pool, marker, self._hears, lambda: self._marked(pool))
        following.follow(number, frozenset(channels))


class Followers(_Followed):
    """Those of a process of the new pooler."""

    def follow(
        self,
        pool: "Pool",
        marker: str,
        number: int,
        channels: list[str],
        ready: Callable[[int], None],
    ) -> None:
        """Listen to a round's channels; `ready` hears when that is so."""
        if pool.broadcast.possible:  # else who listens stays where he is
            following = self._following(pool, marker, ready, lambda: None)
            following.follow(number, frozenset(channels))
