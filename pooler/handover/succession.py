"""The upgrades of one pooler: the one that it came by, and the one by which it goes."""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from pooler import logs
from pooler.core.errors import PoolerError
from pooler.handover.giver import Estate, Giver, UpgradeFailed
from pooler.handover.taker import Taker

CONTAINER: Final = 1
"""The process id whose end is that of everything beside it."""


class Succession:
    """Those of one service, or of one supervisor."""

    def __init__(self, taker: Taker | None, clients: Callable[[], int]) -> None:
        """`clients` returns how many there are."""
        self._clients = clients
        self._asking: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self.taker = taker  # until the process before has gone
        self.giver: Giver | None = None  # since the process after was asked for
        self.replaced = asyncio.Event()
        """Nothing is left to do here: another process has taken over."""

    def estate(self) -> Estate:
        """Return what there is to give."""
        raise NotImplementedError

    @property
    def handed_over(self) -> bool:
        """Whether another process is the pooler now."""
        return self.giver is not None and self.giver.moving

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
        if self.taker is not None:
            raise UpgradeFailed(
                f"an upgrade is under way: process {self.taker.pid} still has clients",
                "They leave by themselves, or when its upgrade.timeout is over.",
            )
        if self.giver is not None:
            raise UpgradeFailed(f"an upgrade is under way, to process {self.giver.pid}")
        estate = self.estate()
        if estate.stopping:
            raise UpgradeFailed("the pooler is shutting down")
        if os.getpid() == CONTAINER:
            raise UpgradeFailed(
                "the first process of a container cannot be replaced",
                "Replace the container: with peers configured, cancel requests find their client.",
            )
        giver = self.giver = Giver(estate)
        logs.event(logging.INFO, "upgrading", clients=self._clients())
        try:
            pid = await giver.start()
        except BaseException:
            self.giver = None
            raise
        logs.event(logging.INFO, "replaced", successor=pid)
        self._leaving = asyncio.get_running_loop().create_task(self._leave(giver))
        return pid

    async def _leave(self, giver: Giver) -> None:
        if await giver.leave():
            self.replaced.set()
        elif not giver.estate.stopping:
            self.giver = None

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
