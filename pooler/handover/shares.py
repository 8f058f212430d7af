"""What each pool of one process may have where several processes have one budget (`core.budget`).

One of them keeps the budget, in an upgrade the new one, among workers the supervisor; all report
to it what their pools have and want, and go by what it allots. So PostgreSQL never sees more than
`pool_size`, nor more than the limits across pools.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any, Final

from pooler.core.budget import NO_LIMITS, Limits, PoolName, Report
from pooler.core.limits import Allotment
from pooler.core.routes import AUTH
from pooler.core.settings import Route
from pooler.handover.secrets import packed_credential

if TYPE_CHECKING:
    from pooler.config import Config
    from pooler.core.routes import Router

SOON: Final = 0.002
"""Seconds within which what happens to an allotment is told in one message."""

News = list[Any]
"""Of one pool: its name, the round of its allotment, and the parts of a `Report`."""


class Shares:
    """Those of one process."""

    def __init__(self, router: "Router", tell: Callable[[list[News]], None]) -> None:
        self._router = router
        self._tell = tell
        self._allotments: dict[PoolName, Allotment] = {}
        self._reporting = False
        self.silent = False
        """Nothing is reported: there is no budget yet."""

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
            if pool not in allotment.pools:
                allotment.add(pool)
            allotment.allot(0, 0)

    def packed(self, source: int) -> list[dict[str, Any]]:
        """Return what another process has to know of each pool; `source` is our number to it."""
        return [
            {
                "source": source,
                "name": name,
                "count": pool.total,
                "want": pool.use()[0],
                "learnt": packed_credential(pool.credentials.learnt),
                "welcome": None if (said := pool.welcome.parameters) is None else dict(said),
            }
            for name, pool in self._router.pools.items()
        ]

    def release(self) -> None:
        """Go by no allotment any more."""
        for allotment in self._allotments.values():
            for pool in list(allotment.pools):
                allotment.remove(pool)
        self._allotments.clear()

    def short(self, allotment: Allotment) -> None:
        """Tell the budget, in one message with what happens at the same time."""
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_later(SOON, self.report)

    def report(self) -> None:
        """Tell the budget what it does not know yet."""
        self._reporting = False
        if self.silent:
            return
        news: list[News] = []
        for name, allotment in list(self._allotments.items()):
            report = allotment.report()
            if report is not None:
                news.append([name, allotment.round, *astuple(report)])
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


def read(news: News) -> tuple[PoolName, int, Report]:
    """Return of one pool its name, the round of its allotment, and what is reported."""
    name, answers, *report = news
    return name_of(name), answers, Report(*report)


def limits_of(config: "Config", name: PoolName) -> Limits:
    """Return what the processes of a pool may have of it together."""
    route = route_of(config, name)
    if route is None:
        return NO_LIMITS
    pool = route.pool
    groups = (
        ("servers", config.limits.max_server_connections),
        (f"database {route.database}", pool.max_db_server_connections),
        (f"user {route.target.user}", pool.max_user_server_connections),
    )
    return Limits(pool.pool_size, pool.reserve_pool_size, pool.reserve_pool_timeout, groups)


def route_of(config: "Config", name: PoolName) -> Route | None:
    """Return where the clients of a pool go; None: nowhere, it is no longer configured."""
    database, user, kind = name
    return (config.auth_route if kind == AUTH else config.resolve)(database, user)


def name_of(raw: Iterable[str]) -> PoolName:
    """Return a pool's name out of a message."""
    database, user, kind = raw
    return database, user, kind
