"""The upgrades of one process: the one that it came by, and the one by which it goes.

What the service asks of either goes through here; between upgrades there is nothing to ask.
"""

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from pooler import logs
from pooler.core.budget import PoolName
from pooler.core.errors import PoolerError
from pooler.core.limits import Allotment
from pooler.handover.giver import Giver, UpgradeFailed
from pooler.handover.shares import Shares
from pooler.handover.taker import Taker

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.service import Service

CONTAINER: Final = 1
"""The process id whose end is that of everything beside it."""


class Upgrades:
    """Those of one service."""

    def __init__(self, service: "Service", taker: Taker | None) -> None:
        self._service = service
        self._asking: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self.taker = taker  # until the process before has gone
        self.giver: Giver | None = None  # since the process after was asked for
        self.replaced = asyncio.Event()
        """Nothing is left to do here: another process has taken over."""

    @property
    def handed_over(self) -> bool:
        """Whether another process is the pooler now."""
        return self.giver is not None and self.giver.moving

    # -- asked for

    def ask(self) -> None:
        """Start a successor, of whose failure the log tells: SIGUSR2."""
        self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        try:
            await self.start()
        except PoolerError as error:
            logs.event(
                logging.ERROR, "upgrade failed", message=error.text, detail=error.detail or None
            )

    async def start(self) -> int:
        """Start a successor; return its process id once it serves. UpgradeFailed: there is none."""
        service = self._service
        if self.taker is not None:
            raise UpgradeFailed(
                f"an upgrade is under way: process {self.taker.pid} still has clients",
                "They leave by themselves, or when its upgrade.timeout is over.",
            )
        if self.giver is not None:
            raise UpgradeFailed(f"an upgrade is under way, to process {self.giver.pid}")
        if service.router.ending is not None:
            raise UpgradeFailed("the pooler is shutting down")
        if os.getpid() == CONTAINER:
            raise UpgradeFailed(
                "the first process of a container cannot be replaced",
                "Replace the container: with peers configured, cancel requests find their client.",
            )
        giver = self.giver = Giver(service)
        logs.event(logging.INFO, "upgrading", clients=service.router.clients.count)
        try:
            pid = await giver.start()
        except BaseException:
            self.giver = None
            raise
        logs.event(logging.INFO, "replaced", successor=pid)
        self._leaving = asyncio.get_running_loop().create_task(self._leave(giver))
        return pid

    async def _leave(self, giver: Giver) -> None:
        if await giver.move_all():
            self.replaced.set()
        elif not self._service.stopping:
            self.giver = None

    # -- for the service

    def given(self, *kind: str) -> list[socket.socket]:
        """Return the sockets that the process before has given us for this purpose."""
        return self.taker.sockets(*kind) if self.taker is not None else []

    def depart(self, client: "Client") -> None:
        """Hear of a client that may be at rest."""
        if self.giver is not None:
            self.giver.soon(client)

    def waits(self, pool: "Pool") -> None:
        """Hear of a pool in which somebody may be waiting."""
        if self.giver is not None:
            self.giver.waits(pool.waiting)

    @property
    def _shares(self) -> Shares | None:
        if self.taker is not None:
            return self.taker.shares
        if self.giver is not None and self.giver.suspended:
            return self.giver.shares
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
        if self.taker is not None:
            self.taker.tick()
        elif self.giver is not None and self.giver.suspended:
            self.giver.shares.report()

    def configured(self) -> None:
        """Go by new limits."""
        if self.taker is not None:
            self.taker.configure()

    def cancel(self, pid: int, secret: bytes) -> None:
        """Ask the other process, if there is one, to cancel for a client that is not ours."""
        if self.taker is not None:
            self.taker.cancel(pid, secret)
        elif self.giver is not None:
            self.giver.cancel(pid, secret)

    def stop(self) -> None:
        """Have the process before this one stop, too."""
        if self.taker is not None:
            self.taker.stop()

    def close(self) -> None:
        """Leave: whatever places there were are the other's."""
        if self.giver is not None:
            self.giver.close()
        if self.taker is not None:
            self.taker.close()
