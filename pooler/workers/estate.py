"""What a pooler of several workers has to give to its successor: the supervisor relays it.

A source is a worker's serial number.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from pooler.channel import ChannelLost
from pooler.core.budget import Budget, Report
from pooler.core.errors import PoolerError
from pooler.core.keys import SLOTS
from pooler.handover import Kind
from pooler.handover.channels import Rounds
from pooler.handover.giver import IDENT_GAP, Giver
from pooler.handover.shares import name_of
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core import moving
    from pooler.handover.shares import News
    from pooler.workers.crew import Process
    from pooler.workers.supervisor import Supervisor


class WorkersEstate:
    """That of one supervisor."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._giver: Giver
        self._early: list[tuple[int, list[News]]] | None = []  # until the successor may hear them
        self._lost = False
        self.rounds = Rounds(
            lambda: [worker.serial for worker in supervisor.crew.workers.values()],
            partial(supervisor.crew.tell_all, "round"),
            lambda *what: self._giver.tell("follow", *what),
        )

    def begin(self, giver: Giver) -> None:
        """Be given by this giver."""
        self._giver = giver

    @property
    def stopping(self) -> bool:
        """Whether the pooler is to end."""
        return self._supervisor.stopping

    async def offer(self) -> tuple[dict[str, Any], list[tuple[Kind, list[int]]]]:
        """Return what a successor needs to prepare: plain data, and descriptors that listen."""
        supervisor = self._supervisor
        belongings = await supervisor.crew.call_all("belongings")
        try:
            sockets = await supervisor.open_sockets()
        except ChannelLost:
            belongings = []
        if not belongings:
            raise PoolerError(codes.CANNOT_CONNECT_NOW, "a worker has just ended")
        welcome = {
            "idents": max(idents for idents, _ in belongings) + IDENT_GAP,
            "slot": (supervisor.slot + supervisor.crew.count - 1) % SLOTS,
            "holds": belongings[0][1],
            "overlay": supervisor.pairs(),
        }
        return welcome, sockets

    async def suspend(self) -> dict[str, Any]:
        """Accept nobody, share all places; return what a successor needs to serve."""
        supervisor = self._supervisor
        supervisor.crew.no_restarts()
        supervisor.close_offered()
        supervisor.budget = Budget(supervisor.limits, lambda *allotment: None)  # not ours now
        workers = list(supervisor.crew.workers.values())
        answers = await asyncio.gather(
            *(worker.channel.call("suspend") for worker in workers), return_exceptions=True
        )
        pools: list[dict[str, Any]] = []
        for worker, answer in zip(workers, answers, strict=True):
            if isinstance(answer, ChannelLost):  # it has ended
                continue
            if isinstance(answer, BaseException):
                raise answer
            pools += ({**pool, "source": worker.serial} for pool in answer)
        asyncio.get_running_loop().call_soon(self._tell_early)  # behind what we return
        return {"pools": pools, "clients": supervisor.census.counts()}

    def _tell_early(self) -> None:
        early, self._early = self._early, None
        for serial, news in early or ():
            self.share(serial, news)

    async def resume(self) -> tuple[int, int]:
        """Be as before; return how many clients are lost, and how many were taken back."""
        supervisor = self._supervisor
        lost = taken_back = 0
        uses: list[tuple[int, list[Any]]] = []
        for worker in list(supervisor.crew.workers.values()):
            try:
                answer = await worker.channel.call("resume")
            except ChannelLost:  # it has ended
                continue
            except (PoolerError, TimeoutError):  # what it has is not known
                worker.process.kill()
                continue
            lost += answer["lost"]
            taken_back += answer["taken_back"]
            uses += ((worker.serial, use) for use in answer["uses"])
        budget = supervisor.own_budget()  # from here on it knows of all that there is
        for serial, (name, *report) in uses:
            budget.adopt(serial, name_of(name), Report(*report))
        supervisor.crew.restarts()
        return lost, taken_back

    async def leave(self) -> bool:
        """Have every worker move its clients; when all have, they end.

        One of them may listen for the clients that another still has.
        """
        workers = list(self._supervisor.crew.workers.values())
        answers = await asyncio.gather(
            *(worker.channel.call("leave", within=None) for worker in workers),
            return_exceptions=True,
        )
        if self._lost or self.stopping or not all(_is_over(answer) for answer in answers):
            return False
        self._supervisor.crew.tell_all("end")
        await asyncio.gather(*(worker.process.wait() for worker in workers))
        return not self._lost

    def lost(self) -> None:
        """The successor has gone."""
        self._lost = True
        for worker in self._supervisor.crew.workers.values():
            worker.channel.tell("lost")

    # -- from the workers

    def share(self, serial: int, news: "list[News]") -> None:
        """Tell the successor, which keeps the budget, what a worker has and wants."""
        if self._early is not None:
            self._early.append((serial, news))
        else:
            self._giver.tell("report", serial, news)

    def statement(self, serial: int, statement: "moving.Packed") -> None:
        """Pass a prepared statement on."""
        self._giver.tell("statement", serial, statement)

    def client(self, serial: int, packed: "moving.Packed", files: tuple[int, ...]) -> None:
        """Pass a client on."""
        self._giver.tell("client", serial, packed, files=files)

    def counted(self, counts: list[tuple[str, str, int]]) -> None:
        """Tell the successor how many clients there still are."""
        if self._giver.moving:
            self._giver.tell("clients", counts)

    def left(self, serial: int) -> None:
        """A worker has ended."""
        self.rounds.left(serial)
        self._giver.tell("left", serial)

    # -- from the successor

    def _worker(self, serial: int) -> "Process | None":
        workers = self._supervisor.crew.workers.values()
        return next((worker for worker in workers if worker.serial == serial), None)

    def took(self, source: int, ident: int) -> None:
        """A client is the successor's."""
        worker = self._worker(source)
        if worker is not None:
            worker.channel.tell("took", ident)

    def allot(self, source: int, name: list[str], limit: int, round_: int) -> None:
        """Go by what the budget allots."""
        worker = self._worker(source)
        if worker is not None:
            worker.channel.tell("allot", name, limit, round_)

    def cancel(self, pid: int, secret: str) -> None:
        """Do what the successor was asked for, whose client it is not."""
        self._supervisor.crew.tell_all("cancel", pid, secret)

    def hold(self, holds: list[list[Any]]) -> None:
        """Pause, or go on, as the successor has been told to."""
        self._supervisor.crew.tell_all("hold", holds)

    def stop(self) -> None:
        """End, as the successor has been told to."""
        self._supervisor.stop()


def _is_over(answer: object) -> bool:
    """Return whether a worker has nothing left to do: it has moved all, or is gone."""
    return answer is True or isinstance(answer, ChannelLost)
