"""One budget for several worker processes: which may open how many server connections.

Each worker has an allotment for each of its pools: the connections that it may have. It never has
more, and the allotments of a pool together are never more than `pool_size`, so no limit is exceeded
even for a moment. What is taken from a worker counts as its own until it says that the connection
has ended. Knows no process and no clock: what workers report comes in, allotments go out.

Who gets what: a worker with clients that wait gets what is free, the longest wait first. When
nothing is free, a worker that has more than it has use for gives it up; when all have use for what
they have, those whose clients wait longest get a connection from those whose clients wait least,
one at a time (`rebalance`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

PATIENCE: Final = 0.02
"""Seconds that a client waits before a connection is moved to its worker for it: its own worker's
connections become free in less, as a rule. A worker without any connection is not asked for it."""

UNFAIR: Final = 2.0
"""How many times as long clients of one worker wait as those of another before the other gives up a
connection that it has use for."""

PoolName = tuple[str, str, str]
"""Database, user, kind of replication: the router's key."""


@dataclass(frozen=True)
class Limits:
    """What a pool's workers may have together."""

    size: int
    reserve: int = 0
    reserve_after: float = 0.0
    """Seconds that a client has waited before the reserve may be used."""
    groups: tuple[tuple[str, int], ...] = ()
    """Names and limits that hold for several pools; 0 is no limit."""


NO_LIMITS: Final = Limits(0)


@dataclass
class Report:
    """What a worker says of one of its pools."""

    count: int
    """Server connections, those being opened or closed included."""
    want: int
    """How many it has use for; fewer than `count` if some are idle."""
    wait: float = 0.0
    """Seconds that the first in its line has waited, 0.0 if nobody waits."""
    fixed: int = 0
    """How many of its connections it cannot give up soon: they are pinned to their clients."""


@dataclass
class Share:
    """What one worker has of one pool."""

    allotment: int = 0
    held: int = 0
    """Connections that count: the allotment, and what is above it and has not ended."""
    round: int = 0
    """Number of the last allotment; a report that answers an earlier one says nothing of it."""
    want: int = 0
    wait: float = 0.0
    fixed: int = 0

    @property
    def short(self) -> bool:
        """True while it has use for more than it may have."""
        return self.want > self.allotment

    @property
    def spare(self) -> int:
        """What it has no use for."""
        return self.allotment - self.want


@dataclass
class _Pool:
    limits: Limits
    shares: dict[int, Share] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return sum(share.held for share in self.shares.values())

    @property
    def coming(self) -> int:
        """Connections given up that have not ended."""
        return sum(share.held - share.allotment for share in self.shares.values())


@dataclass
class _Place:
    """A worker's share of a pool, and where it is."""

    name: PoolName
    pool: _Pool
    worker: int
    share: Share


_Pools = list[tuple[PoolName, _Pool]]


Tell = Callable[[int, PoolName, int, int], None]
"""Tells a worker its allotment for a pool, and the round's number."""


class Budget:
    """All pools of all workers."""

    def __init__(self, limits: Callable[[PoolName], Limits], tell: Tell) -> None:
        self._limits = limits
        self._tell = tell
        self._pools: dict[PoolName, _Pool] = {}
        self._rounds = 0

    def __len__(self) -> int:
        """Return how many pools anybody has connections of, or wants."""
        return len(self._pools)

    def held(self, name: PoolName) -> int:
        """Return how many connections of a pool there may be at this moment."""
        pool = self._pools.get(name)
        return pool.held if pool is not None else 0

    def report(self, worker: int, name: PoolName, answers: int, report: Report) -> None:
        """Take what a worker says; `answers` is the last round that it has heard of."""
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = _Pool(self._limits(name))
        share = pool.shares.setdefault(worker, Share())
        share.want = report.want
        share.wait = report.wait
        share.fixed = report.fixed
        if answers == share.round:
            share.held = max(share.allotment, report.count)
        if not report.want and not report.count:
            if share.allotment:
                self._allot(_Place(name, pool, worker, share), -share.allotment)
            elif not share.held:
                self._remove(worker, name, pool)
        self._serve_all(pool)

    def adopt(self, worker: int, name: PoolName, report: Report) -> None:
        """Leave a worker what it has, which another budget has allotted."""
        if report.count or report.want:
            pool = self._pools.setdefault(name, _Pool(self._limits(name)))
            share = pool.shares[worker] = Share(
                held=report.count, want=report.want, wait=report.wait, fixed=report.fixed
            )
            self._allot(_Place(name, pool, worker, share), report.count)

    def left(self, worker: int) -> None:
        """Take back all that a worker had: it has ended."""
        for name, pool in list(self._pools.items()):
            if worker in pool.shares:
                self._remove(worker, name, pool)
        self.rebalance()

    def _remove(self, worker: int, name: PoolName, pool: _Pool) -> None:
        del pool.shares[worker]
        if not pool.shares:
            del self._pools[name]

    def configure(self) -> None:
        """Go by new limits: what is above them is taken away."""
        for name, pool in self._pools.items():
            pool.limits = self._limits(name)
        for name, pool in self._pools.items():
            self._shrink([(name, pool)], pool.limits.size + pool.limits.reserve)
            for group, limit in pool.limits.groups:
                if limit:
                    self._shrink(self._members(group), limit)
        self.rebalance()

    def _shrink(self, pools: _Pools, limit: int) -> None:
        """Take from whoever has most of these pools until they go by `limit`."""
        while sum(pool.held - pool.coming for _, pool in pools) > limit:
            places = [
                _Place(name, pool, worker, share)
                for name, pool in pools
                for worker, share in pool.shares.items()
            ]
            self._allot(max(places, key=lambda place: place.share.allotment), -1)

    def rebalance(self) -> None:
        """Move what is not where clients wait; to be called several times a second."""
        for place in self._in_need(self._pools.items()):
            self._serve(place)
            if place.share.short:
                scope = self._rivals(place)
                if scope and _may_claim(place, scope):
                    self._even_out(place, scope)

    # -- who gets what

    def _in_need(self, pools: Iterable[tuple[PoolName, _Pool]]) -> list[_Place]:
        """Return the shares that are short, those without anything and the longest wait first."""
        places = [
            _Place(name, pool, worker, share)
            for name, pool in pools
            for worker, share in pool.shares.items()
            if share.short
        ]
        return sorted(places, key=lambda one: (one.share.held > 0, -one.share.wait))

    def _serve_all(self, pool: _Pool) -> None:
        """Give what is free to those in need of this pool, or of one under the same limits."""
        groups = {group for group, limit in pool.limits.groups if limit}
        others = [
            (name, other)
            for name, other in self._pools.items()
            if other is pool or any(group in groups for group, _ in other.limits.groups)
        ]
        for place in self._in_need(others):
            self._serve(place)

    def _serve(self, place: _Place) -> None:
        """Give this worker what is free; or have somebody give up what he does not need."""
        share = place.share
        while share.short:
            rivals = self._rivals(place)
            if rivals is None:
                self._allot(place, +1)
                continue
            waits = share.wait >= PATIENCE or (share.wait > 0.0 and not share.held)
            if waits and _may_claim(place, rivals):
                self._take_spare(place, rivals)
            return

    def _rivals(self, place: _Place) -> _Pools | None:
        """Return the pools that share the limit that is reached, None if there is room."""
        limits = place.pool.limits
        reserve = limits.reserve if place.share.wait >= limits.reserve_after else 0
        if place.pool.held >= limits.size + reserve:
            return [(place.name, place.pool)]
        for group, limit in limits.groups:
            if limit:
                members = self._members(group)
                if sum(pool.held for _, pool in members) >= limit:
                    return members
        return None

    def _members(self, group: str) -> _Pools:
        return [
            (name, pool)
            for name, pool in self._pools.items()
            if any(group == one for one, _ in pool.limits.groups)
        ]

    def _take_spare(self, place: _Place, rivals: _Pools) -> None:
        """Take one from whoever has most that he does not need."""
        others = [other for other in _others(place, rivals) if other.share.spare > 0]
        if others:
            self._allot(max(others, key=lambda other: other.share.spare), -1)

    def _even_out(self, place: _Place, rivals: _Pools) -> None:
        """Take one from those who wait least for one who waits much longer."""
        others = [
            other for other in _others(place, rivals) if other.share.allotment > other.share.fixed
        ]
        if others:
            other = min(others, key=lambda one: (one.share.wait, -one.share.allotment))
            if place.share.wait > UNFAIR * other.share.wait + PATIENCE:
                self._allot(other, -1)

    def _allot(self, place: _Place, change: int) -> None:
        share = place.share
        share.allotment += change
        share.held = max(share.held, share.allotment)
        self._rounds += 1
        share.round = self._rounds
        self._tell(place.worker, place.name, share.allotment, share.round)


def _may_claim(place: _Place, rivals: _Pools) -> bool:
    """Return whether more may be taken for this one: what was taken may be long in coming."""
    return sum(pool.coming for _, pool in rivals) <= int(place.share.wait)


def _others(place: _Place, rivals: _Pools) -> list[_Place]:
    return [
        _Place(name, pool, worker, share)
        for name, pool in rivals
        for worker, share in pool.shares.items()
        if share is not place.share
    ]
