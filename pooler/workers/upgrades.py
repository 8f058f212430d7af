"""A worker's part of the upgrades of its pooler; the supervisor relays what it gives and takes.

Server connections are always shared out by a budget, the supervisor's, or in an upgrade that of the
new pooler: a worker only hears what it may have.
"""

from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, Any

from pooler.core import moving
from pooler.core.budget import PoolName, Report
from pooler.core.limits import Allotment
from pooler.handover.arrivals import Arrivals
from pooler.handover.channels import Followers
from pooler.handover.mover import Mover
from pooler.handover.shares import News, Shares, name_of
from pooler.handover.upgrades import Upgrades

if TYPE_CHECKING:
    from pooler.channel import Handler
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.workers.worker import Worker


class WorkerUpgrades(Upgrades):
    """Those of one worker."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker, None)
        self._worker = worker
        self.shares = Shares(worker.router, self._report)
        self._mover: Mover | None = None  # while another pooler takes over
        self._leaving_now = False
        self.arrivals: Arrivals | None = None  # while this pooler does
        self._followers = Followers()

    def handlers(self) -> "dict[str, Handler]":
        """Return what answers the messages of the supervisor."""
        return {
            "allot": lambda name, limit, round_: self.shares.allot(name_of(name), limit, round_),
            "suspend": self._suspend,
            "resume": self._resume,
            "leave": self._leave_now,
            "end": self.replaced.set,
            "lost": self._lost,
            "round": self._round,
            "took": self._took,
            "acquaint": self._acquaint,
            "statement": self._statement,
            "client": self._client,
            "follow": self._follow,
            "mark": self._mark,
            "upgraded": self._upgraded,
        }

    @property
    def under_way(self) -> bool:
        """Whether there is another pooler, which counts on our end if the supervisor has gone."""
        return self._mover is not None or self.arrivals is not None

    async def start(self) -> int:
        """Have the supervisor start a successor; return its process id once it serves."""
        pid: int = await self._worker.ask("upgrade")
        return pid

    # -- another pooler takes over

    @property
    def handed_over(self) -> bool:
        """Whether another pooler serves now."""
        return self._leaving_now

    def _report(self, news: list[News]) -> None:
        """Tell whoever keeps the budget: after `suspend`, another than before."""
        self._worker.tell("report" if self._mover is None else "share", news)

    async def _suspend(self) -> list[dict[str, Any]]:
        """Accept nobody, give up what is not in use; return what there is of each pool."""
        await self._worker.suspend()
        tell = self._worker.tell
        self._mover = Mover(self._worker, tell, partial(tell, "lack"), partial(tell, "hears"))
        self.shares.adopt()
        return self.shares.packed(self._worker.number)

    async def _resume(self) -> dict[str, Any]:
        """Be as before; return what there is of each pool, and what became of clients."""
        mover, self._mover = self._mover, None
        self._leaving_now = False
        await self._worker.resume()
        uses = []
        for name, pool in self._worker.router.pools.items():
            want, fixed, wait = pool.use()
            uses.append([name, *astuple(Report(pool.total, want, wait, fixed))])
        taken_back = mover.take_back() if mover is not None else 0
        lost = mover.moved if mover is not None else 0
        return {"uses": uses, "lost": lost, "taken_back": taken_back}

    async def _leave_now(self) -> bool:
        """Move every client that can be; return whether there is nothing left to do."""
        mover = self._mover
        if mover is None:
            return False
        self._leaving_now = True
        return await mover.run()

    def _lost(self) -> None:
        if self._mover is not None:
            self._mover.lost()

    def _took(self, ident: int) -> None:
        if self._mover is not None:
            self._mover.took(ident)

    def _round(self, name: list[str], marker: str, number: int, channels: list[str]) -> None:
        if self._mover is not None:
            self._mover.channels.follow(name_of(name), marker, number, channels)

    # -- this pooler takes over

    def succeed(self) -> None:
        """Expect clients of another pooler."""
        self.arrivals = Arrivals(
            self._worker, lambda source, ident: self._worker.tell("took", source, ident)
        )

    def _acquaint(self, pool: dict[str, Any]) -> None:
        if self.arrivals is not None:
            self.arrivals.acquaint(pool)

    def _statement(self, source: int, statement: moving.Packed) -> None:
        if self.arrivals is not None:
            self.arrivals.statement(source, statement)

    def _client(self, source: int, packed: moving.Packed, files: tuple[int, ...] = ()) -> None:
        if self.arrivals is not None:
            self.arrivals.client(source, packed, files)

    def _follow(self, name: list[str], marker: str, number: int, channels: list[str]) -> None:
        pool = self._worker.router.pool_named(name_of(name))
        if self.arrivals is not None and pool is not None:
            tell = partial(self._worker.tell, "followed")
            self._followers.follow(pool, marker, number, channels, tell)

    def _mark(self, name: list[str], marker: str, number: int) -> None:
        """Mark a round for all, if the ear is here."""
        pool = self._worker.router.pools.get(name_of(name))
        if pool is not None:
            pool.broadcast.say(marker, str(number))

    def _upgraded(self) -> None:
        self.arrivals = None
        self._followers.end()

    # -- for the service

    def depart(self, client: "Client") -> None:
        """Hear of a client that may be at rest."""
        if self._mover is not None:
            self._mover.soon(client)

    def waits(self, pool: "Pool") -> None:
        """Hear of a pool in which somebody may be waiting."""
        if self._mover is not None:
            self._mover.waits(pool.waiting)

    def counted(self, database: str, user: str) -> None:
        """Do nothing: the supervisor counts."""

    def allotment(self, name: PoolName) -> Allotment:
        """Return what a pool may have."""
        return self.shares.allotment(name)

    def short(self, allotment: Allotment) -> None:
        """Hear what has become of an allotment."""
        self.shares.short(allotment)

    def tick(self) -> None:
        """Tell the budget how long clients have waited by now."""
        self.shares.report()

    def cancel(self, pid: int, secret: bytes) -> None:
        """Ask the other workers, and the other pooler if there is one."""
        self._worker.tell("cancel", pid, secret.hex())

    def hold(self) -> None:
        """Have the pooler before this one hold what we do."""
        service = self._worker
        service.tell("held", service.router.holds.packed(service.now()))
