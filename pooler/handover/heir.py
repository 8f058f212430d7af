"""What one process does with what it takes over."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pooler.core import moving
from pooler.core.budget import Budget, PoolName, Report
from pooler.core.keys import SLOTS
from pooler.handover.arrivals import Arrivals
from pooler.handover.channels import Followers
from pooler.handover.shares import News, Shares, limits_of, name_of, read
from pooler.handover.taker import Counts, Taker

if TYPE_CHECKING:
    from pooler.service import Service

OWN: Final = -1
"""This process, to the budget; what is not negative is a source."""


class ServiceHeir:
    """A pooler of one process."""

    def __init__(self, service: "Service", taker: Taker) -> None:
        self._service = service
        self._taker = taker
        self._budget = Budget(lambda name: limits_of(service.config, name), self._allot)
        self.shares = Shares(service.router, self._report_own)
        self._arrivals = Arrivals(service, lambda *which: taker.tell("took", *which))
        self._followers = Followers()
        self.shares.silent = True
        taker.begin(self)

    @property
    def taken(self) -> int:
        """Clients that have come."""
        return self._arrivals.taken

    def welcomed(self) -> None:
        """Go on where the old pooler was."""
        welcome, service = self._taker.welcome, self._service
        service.router.number_from(welcome["idents"])
        service.router.holds.take(welcome["holds"], service.now())
        service.router.hold()
        service.router.keys.slot = (welcome["slot"] + 1) % SLOTS

    def acquaint(self, pools: list[dict[str, Any]]) -> None:
        """Learn what the old pooler has and knows of each of its pools."""
        for pool in pools:
            report = Report(pool["count"], pool["want"])
            self._budget.report(pool["source"], name_of(pool["name"]), 0, report)
            self._arrivals.acquaint(pool)
        self.shares.silent = False
        self.shares.report()

    def elsewhere(self, counts: Counts) -> None:
        """Count clients that the old pooler still has, as so many and no more."""
        self._service.router.elsewhere.take(counts)

    # -- clients

    def statement(self, source: int, statement: moving.Packed) -> None:
        """Take a prepared statement, which clients that come will name by its number."""
        self._arrivals.statement(source, statement)

    def client(self, source: int, packed: moving.Packed, files: tuple[int, ...] = ()) -> None:
        """Take a client, and the one file that is its connection."""
        self._arrivals.client(source, packed, files)

    def follow(self, name: list[str], marker: str, number: int, channels: list[str]) -> None:
        """Listen to a round's channels, and mark when that is so."""
        pool = self._service.router.pool_named(name_of(name))
        if pool is not None:
            say = partial(pool.broadcast.say, marker)
            self._followers.follow(pool, marker, number, channels, lambda n: say(str(n)))

    def cancel(self, pid: int, secret: str) -> None:
        """Do what the old pooler was asked for, whose client it is not."""
        self._service.cancel_with(pid, secret)

    # -- the budget

    def tick(self) -> None:
        """Move what is not where clients wait."""
        self.shares.report()
        self._budget.rebalance()

    def configure(self) -> None:
        """Go by new limits."""
        self._budget.configure()

    def _report_own(self, news: list[News]) -> None:
        self.report(OWN, news)

    def report(self, source: int, news: list[News]) -> None:
        """Hear what pools have and want."""
        for one in news:
            self._budget.report(source, *read(one))

    def left(self, source: int) -> None:
        """A process of the old pooler has ended."""
        self._budget.left(source)

    def _allot(self, source: int, name: PoolName, allotment: int, round_: int) -> None:
        if source == OWN:
            self.shares.allot(name, allotment, round_)
        else:
            self._taker.tell("allot", source, name, allotment, round_)

    # -- the end

    def end(self) -> None:
        """Be the only pooler."""
        self._arrivals.end()
        self._followers.end()
        self.shares.release()
        self._service.taken_over()
