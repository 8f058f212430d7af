"""What each pool of one process may have while two processes have one budget (`core.budget`).

The new process keeps the budget; both report to it what their pools have and want, and go by what
it allots. So PostgreSQL never sees more than `pool_size`, nor more than the limits across pools.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pooler.core.budget import PoolName
from pooler.core.limits import Allotment

if TYPE_CHECKING:
    from pooler.core.routes import Router

SOON: Final = 0.002
"""Seconds within which what happens to an allotment is told in one message."""

News = list[Any]
"""Of one pool: its name, the round of its allotment, what it has, wants, and how long it waits."""


class Shares:
    """Those of one process."""

    def __init__(self, router: "Router", tell: Callable[[list[News]], None]) -> None:
        self._router = router
        self._tell = tell
        self._allotments: dict[PoolName, Allotment] = {}
        self._reporting = False

    def allotment(self, name: PoolName) -> Allotment:
        """Return what this pool may have; nothing, until the budget says otherwise."""
        if name not in self._allotments:
            self._allotments[name] = Allotment(f"allotment of {name}")
        return self._allotments[name]

    def adopt(self) -> None:
        """Go by allotments in pools that had none: what is idle goes, what is busy counts."""
        for name, pool in self._router.pools.items():
            # those who stay are served; nothing is kept warm for others
            pool.settings = replace(pool.settings, min_pool_size=0, reserve_pool_size=0)
            allotment = self.allotment(name)
            pool.limit_by(allotment)
            allotment.allot(0, 0)

    def release(self) -> None:
        """Go by no allotment any more."""
        for allotment in self._allotments.values():
            for pool in list(allotment.pools):
                pool.unlimit(allotment)
        self._allotments.clear()

    def short(self, allotment: Allotment) -> None:
        """Tell the budget, in one message with what happens at the same time."""
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_later(SOON, self.report)

    def report(self) -> None:
        """Tell the budget what it does not know yet."""
        self._reporting = False
        news: list[News] = []
        for name, allotment in list(self._allotments.items()):
            report = allotment.report()
            if report is not None:
                news.append([name, allotment.round, report.count, report.want, report.wait])
            elif allotment.forgotten:
                del self._allotments[name]
        if news:
            self._tell(news)

    def allot(self, name: PoolName, limit: int, round_: int) -> None:
        """Go by what the budget allots."""
        allotment = self._allotments.get(name)
        if allotment is not None:
            allotment.allot(limit, round_)
            self.short(allotment)


def name_of(raw: Iterable[str]) -> PoolName:
    """Return a pool's name out of a message."""
    database, user, kind = raw
    return database, user, kind
