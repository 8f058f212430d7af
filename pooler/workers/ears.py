"""One ear for the clients of all workers: which worker has it, and who wants to hear what.

A pool's ear (see `core.broadcast`) takes a server connection for good, so that workers share one.
The worker that asks first has it: a client there holds a server already, and that server becomes
the ear's. It listens to what the others want, too, and what it hears goes to them through here.
When its connection is lost, or its worker, all are told, and the next one to ask has it. What
nobody wants to hear is not remembered.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

Key = tuple[str, str, str]

Tell = Callable[..., None]
"""Tells a worker, by its number, a message and its arguments."""


@dataclass
class _Pool:
    host: int
    wants: dict[int, frozenset[str]] = field(default_factory=dict)
    """What workers want to hear, the host when it asked; there is none that wants nothing."""
    asked: dict[int, int] = field(default_factory=dict)
    """The round in which a worker last changed what it wants: earlier answers say nothing of it."""

    def others(self) -> frozenset[str]:
        """Return what workers without the ear want to hear."""
        wanted = (channels for worker, channels in self.wants.items() if worker != self.host)
        return frozenset().union(*wanted)


class Ears:
    """Those of all pools."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._pools: dict[Key, _Pool] = {}
        self._rounds = 0

    def __len__(self) -> int:
        """Return how many pools are remembered."""
        return len(self._pools)

    def handlers(self, worker: int) -> dict[str, Callable[..., None]]:
        """Return what answers the messages of a worker."""
        return {
            "hear": lambda key, channels: self._hear(worker, _key(key), frozenset(channels)),
            "attending": lambda key, channels, answers: self._attending(
                worker, _key(key), channels, answers
            ),
            "heard": lambda key, channel, body: self._heard(worker, _key(key), channel, body),
            "deaf": lambda key: self._deaf(worker, _key(key)),
        }

    def left(self, worker: int) -> None:
        """A worker has ended."""
        for key, pool in list(self._pools.items()):
            if pool.host == worker:
                self._deaf(worker, key)
            elif pool.wants.pop(worker, None):
                self._attend(key, pool)

    def _hear(self, worker: int, key: Key, channels: frozenset[str]) -> None:
        pool = self._pools.get(key)
        if pool is None:
            if not channels:
                return
            pool = self._pools[key] = _Pool(worker)
        self._rounds += 1
        pool.asked[worker] = self._rounds
        pool.wants[worker] = channels
        if worker == pool.host:
            self._tell(worker, "host", key)
        if worker != pool.host or pool.others():
            self._attend(key, pool)
        if not channels:
            del pool.wants[worker], pool.asked[worker]

    def _attend(self, key: Key, pool: _Pool) -> None:
        self._tell(pool.host, "attend", key, sorted(pool.others()), self._rounds)

    def _attending(self, host: int, key: Key, channels: list[str], answers: int) -> None:
        pool = self._pools.get(key)
        if pool is not None and pool.host == host:
            for worker in pool.wants:
                if worker != host and answers >= pool.asked[worker]:
                    self._tell(worker, "attending", key, channels)

    def _heard(self, host: int, key: Key, channel: str, body: str) -> None:
        pool = self._pools.get(key)
        if pool is not None and pool.host == host:
            for worker, channels in pool.wants.items():
                if worker != host and channel in channels:
                    self._tell(worker, "heard", key, body)

    def _deaf(self, worker: int, key: Key) -> None:
        pool = self._pools.get(key)
        if pool is not None and pool.host == worker:
            del self._pools[key]
            for other in pool.wants:
                if other != worker:
                    self._tell(other, "deaf", key)


def _key(parts: list[str]) -> Key:
    database, user, kind = parts
    return database, user, kind
