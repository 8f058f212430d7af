"""What a pooler of several workers does with what it takes over.

Each client goes to the worker that gives numbers like its own, so that everybody knows where it is.
"""

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pooler.core import moving
from pooler.core.budget import Report
from pooler.handover.shares import News, name_of, read
from pooler.handover.taker import Counts, Taker

if TYPE_CHECKING:
    from pooler.workers.crew import Process
    from pooler.workers.supervisor import Supervisor


class WorkersHeir:
    """A supervisor. To its budget, sources are the numbers below 0."""

    def __init__(self, supervisor: "Supervisor", taker: Taker) -> None:
        self._supervisor = supervisor
        self._taker = taker
        self.taken = 0
        self._pools: list[dict[str, Any]] = []
        self._statements: list[tuple[int, moving.Packed]] = []
        self._parked: dict[int, list[tuple[int, moving.Packed, int]]] = defaultdict(list)
        self._sources: set[int] = set()
        self._rounds: dict[int, tuple[list[str], str, list[str]]] = {}  # of channels to listen to
        self._hear: defaultdict[int, set[int]] = defaultdict(set)  # workers that do
        taker.begin(self)

    def acquaint(self, pools: list[dict[str, Any]]) -> None:
        """Learn what the old pooler has and knows of each of its pools."""
        self._pools = pools
        for pool in pools:
            use = Report(pool["count"], pool["want"])
            self._sources.add(pool["source"])
            self._supervisor.budget.report(~pool["source"], name_of(pool["name"]), 0, use)

    def elsewhere(self, counts: Counts) -> None:
        """Count clients that the old pooler still has, as so many and no more."""
        self._supervisor.census.elsewhere.take(counts)

    def introduce(self, worker: "Process") -> None:
        """Tell a worker that may serve now what the others know."""
        for pool in self._pools:
            worker.channel.tell("acquaint", pool)
        for source, statement in self._statements:
            worker.channel.tell("statement", source, statement)
        for number, (name, marker, channels) in self._rounds.items():  # all begin to count anew
            self._supervisor.crew.tell_all("follow", name, marker, number, channels)
        for source, packed, file in self._parked.pop(worker.number, ()):
            self._pass_on(worker, source, packed, file)

    # -- clients

    def statement(self, source: int, statement: moving.Packed) -> None:
        """Take a prepared statement, which clients that come will name by its number."""
        self._statements.append((source, statement))
        self._supervisor.crew.tell_all("statement", source, statement)

    def client(self, source: int, packed: moving.Packed, files: tuple[int, ...] = ()) -> None:
        """Give a client, and the one file that is its connection, to its worker."""
        (file,) = files
        number = (packed["ident"] - 1) % self._supervisor.crew.count
        worker = self._supervisor.crew.workers.get(number)
        if worker is None or not worker.introduced:  # it is being started again
            self._parked[number].append((source, packed, file))
        else:
            self._pass_on(worker, source, packed, file)

    def _pass_on(self, worker: "Process", source: int, packed: moving.Packed, file: int) -> None:
        self._supervisor.count_in(worker, packed["database"], packed["user"])
        worker.channel.tell("client", source, packed, files=[file])
        os.close(file)

    def took(self, source: int, ident: int) -> None:
        """Tell the old pooler that a worker has taken a client."""
        self.taken += 1
        self._taker.tell("took", source, ident)

    def follow(self, name: list[str], marker: str, number: int, channels: list[str]) -> None:
        """Have all workers listen to a round's channels, and one of them mark when that is so."""
        self._rounds[number] = name, marker, channels
        self._supervisor.crew.tell_all("follow", name, marker, number, channels)

    def followed(self, worker: int, number: int) -> None:
        """A worker hears a round's channels; perhaps once more, after a loss."""
        self._hear[number].add(worker)
        if len(self._hear[number]) == self._supervisor.crew.count:
            del self._hear[number]
            name, marker, _ = self._rounds[number]
            self._supervisor.crew.tell_all("mark", name, marker, number)

    def cancel(self, pid: int, secret: str) -> None:
        """Do what the old pooler was asked for, whose client it is not."""
        self._supervisor.crew.tell_all("cancel", pid, secret)

    # -- the budget

    def report(self, source: int, news: list[News]) -> None:
        """Hear what the old pooler's pools have and want."""
        self._sources.add(source)
        for one in news:
            self._supervisor.budget.report(~source, *read(one))

    def left(self, source: int) -> None:
        """A process of the old pooler has ended."""
        self._sources.discard(source)
        self._supervisor.budget.left(~source)

    def allot(self, number: int, name: tuple[str, str, str], allotment: int, round_: int) -> None:
        """Tell the old pooler what one of its processes, by our number for it, may have."""
        self._taker.tell("allot", ~number, name, allotment, round_)

    # -- the end

    def end(self) -> None:
        """Be the only pooler."""
        for source in list(self._sources):
            self.left(source)
        for clients in self._parked.values():
            for _, _, file in clients:
                os.close(file)
        self._supervisor.crew.tell_all("upgraded")
        self._supervisor.taken_over()
