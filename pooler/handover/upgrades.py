"""What a service asks of the upgrades that it came by, and goes by, and tells them.

Between upgrades there is nothing to ask.
"""

import asyncio
import socket
from typing import TYPE_CHECKING

from pooler.core.budget import PoolName
from pooler.core.limits import Allotment
from pooler.handover.estate import ServiceEstate
from pooler.handover.heir import ServiceHeir
from pooler.handover.shares import Shares
from pooler.handover.succession import Succession
from pooler.handover.taker import Taker

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.service import Service


class Upgrades(Succession):
    """Those of one service."""

    def __init__(self, service: "Service", taker: Taker | None) -> None:
        super().__init__(taker, lambda: service.router.clients.count)
        self._service = service
        self._estate: ServiceEstate | None = None
        self.heir = ServiceHeir(service, taker) if taker is not None else None

    def estate(self) -> ServiceEstate:
        """Return what there is to give."""
        self._estate = ServiceEstate(self._service)
        return self._estate

    def given(self, *kind: str) -> list[socket.socket]:
        """Return the sockets that the process before has given us for this purpose."""
        return self.taker.sockets(*kind) if self.taker is not None else []

    def depart(self, client: "Client") -> None:
        """Hear of a client that may be at rest."""
        if self._estate is not None:
            self._estate.mover.soon(client)

    def waits(self, pool: "Pool") -> None:
        """Hear of a pool in which somebody may be waiting."""
        if self._estate is not None:
            self._estate.mover.waits(pool.waiting)

    def counted(self, database: str, user: str) -> None:
        """Hear that there are more clients, or fewer."""
        if self.handed_over:  # when they have been counted
            asyncio.get_running_loop().call_soon(self._tell_counts, database, user)

    def _tell_counts(self, database: str, user: str) -> None:
        if self.giver is not None:
            self.giver.tell("clients", self._service.router.client_counts(database, user))

    @property
    def _shares(self) -> Shares | None:
        if self.heir is not None:
            return self.heir.shares
        if self.giver is not None and self.giver.suspended and self._estate is not None:
            return self._estate.shares
        return None

    def allotment(self, name: PoolName) -> Allotment | None:
        """Return what a pool may have while there are two processes."""
        shares = self._shares
        return None if shares is None else shares.allotment(name)

    def short(self, allotment: Allotment) -> None:
        """Hear what has become of an allotment."""
        shares = self._shares
        if shares is not None:
            shares.short(allotment)

    def tick(self) -> None:
        """Tell the budget how long clients have waited by now."""
        shares = self._shares
        if self.heir is not None:
            self.heir.tick()
        elif shares is not None:
            shares.report()

    def configured(self) -> None:
        """Go by new limits."""
        if self.heir is not None:
            self.heir.configure()

    def cancel(self, pid: int, secret: bytes) -> None:
        """Ask the other process, if there is one, to cancel for a client that is not ours."""
        if self.taker is not None:
            self.taker.cancel(pid, secret)
        elif self.giver is not None:
            self.giver.cancel(pid, secret)

    def hold(self) -> None:
        """Have the process before this one hold what we do."""
        if self.taker is not None:
            service = self._service
            self.taker.hold(service.router.holds.packed(service.now()))

    def over(self) -> None:
        """The process before this one has gone."""
        self.taker = self.heir = None
